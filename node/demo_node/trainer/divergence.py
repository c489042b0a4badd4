"""Tells of rounds in which gradients, or what came of them, were not finite."""

from typing import Final

from demo_node.ports import Trained
from demo_node.trainer.settings import OnEvent

OFTEN: Final = 3
"""Such rounds in a row: no bad batch explains them any more."""


class Divergence:
    """Counts such rounds in a row. on_event: step.skipped, training.diverged and .keeps_diverging.

    A round without work says nothing about the next one.
    """

    def __init__(self, on_event: OnEvent) -> None:
        self._on_event = on_event
        self._in_a_row = 0

    def note(self, trained: Trained, samples: int) -> None:
        """A round is over. `samples`: what it learned from, also where nothing is sent."""
        if not trained.nonfinite_gradients and not trained.nonfinite_deltas:
            if samples:
                self._in_a_row = 0
            return
        self._in_a_row += 1
        round_, times = trained.round, self._in_a_row
        if samples and not trained.nonfinite_deltas:
            skipped = trained.nonfinite_gradients
            self._on_event("step.skipped", round=round_, in_a_row=times, skipped=skipped)
        else:
            what = "what training changed" if trained.nonfinite_deltas else "every gradient or loss"
            reason = f"{what} is not finite"
            self._on_event("training.diverged", round=round_, in_a_row=times, reason=reason)
        if times % OFTEN == 0:
            self._on_event(
                "training.keeps_diverging",
                detail=f"{times} rounds in a row had numbers that are not finite; if others train"
                " well, this machine's memory or graphics card may be faulty: try --device cpu",
            )
