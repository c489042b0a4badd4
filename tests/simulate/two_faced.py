"""Dishonest members that tell each side of a cut what it wants to hear."""

import functools
from collections import Counter
from dataclasses import dataclass

from demo_node.sim.keys import cheap_sign, peer_name
from demo_node.sim.world import World
from demo_protocol.identity import Kind
from demo_protocol.messages import Header, seal_header
from demo_protocol.schedule import train_end_ms


@dataclass(frozen=True)
class TwoFaced:
    """Members `indices` have no node: their keys are in one hand, which reaches both `sides`."""

    world: World
    indices: range
    sides: tuple[range, range]

    def speak_in_rounds(self, rounds: range) -> None:
        """In each of these rounds every one of them votes for the head of each side, there."""
        for round_ in rounds:
            ms = train_end_ms(self.world.manifest.schedule, round_) + 50
            self.world.timeline.at(ms, functools.partial(self._speak, round_))

    def _speak(self, round_: int) -> None:
        for side in self.sides:
            actors = [self.world.actors[index] for index in side]
            heads = Counter(actor.view.head for actor in actors)
            head = max(heads, key=lambda name: (heads[name], name))
            digest = next(a.view.digests[head] for a in actors if a.view.head == head)
            for index in self.indices:
                header = Header(
                    round=round_,
                    peer=peer_name(index),
                    base=head,
                    digest=digest,
                    vote=head,
                    payload_hash=b"",
                    payload_bytes=0,
                    k=0,
                    samples=0,
                    loss_micronats=0,
                )
                sign = cheap_sign(peer_name(index))
                raw = seal_header(header, self.world.run_id, sign).raw
                for actor in actors:
                    actor.hear([(Kind.HEADER, raw, peer_name(index))])
