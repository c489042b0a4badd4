"""What was sent comes back if it did not count (rule 24)."""

from dataclasses import dataclass, field

from demo_protocol.effects import Effect, Release, Restore
from demo_protocol.view import View


@dataclass(slots=True)
class Sent:
    """Our headers whose payloads no record has settled yet, by round."""

    view: View
    headers: dict[int, bytes] = field(init=False, default_factory=dict)

    def add(self, round_: int, header: bytes) -> None:
        """A payload was taken from the residual; the header of this hash announces it."""
        self.headers[round_] = header

    def settle(self, before_round: int) -> list[Effect]:
        """After L rounds, or when it is final what the round came to.

        What the chain did not take goes back into the residual.
        """
        final = self.view.final
        settled = before_round if final is None else max(before_round, final.round + 1)
        due = [round_ for round_ in self.headers if round_ < settled]
        effects: list[Effect] = []
        for round_ in due:
            header = self.headers.pop(round_)
            record = self.view.chain.ancestor_before(self.view.head, round_ + 1)
            counted = record.round == round_ and any(h.hash == header for h in record.contributions)
            effects.append(Release(round_) if counted else Restore(round_))
        return effects
