"""Strangers heard and weighed: who stands where, whom to believe, which snapshot is the run's.

The I/O around `demo_protocol.joining` (rules 21 and 22).
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from demo_node.ports import Clock
from demo_node.pull import Puller
from demo_node.walking import HeadAsker, Heads, Walk, trail_of
from demo_protocol.answers import HeadAnswer
from demo_protocol.errors import Reject
from demo_protocol.finality import Final
from demo_protocol.identity import Verify
from demo_protocol.joining import (
    Answer,
    Choice,
    Offer,
    Refusal,
    choose,
    explain_trust,
    is_built_on,
    is_enough,
)
from demo_protocol.manifest import Manifest, compute_run_id
from demo_protocol.messages import Header, Sealed, decode_header
from demo_protocol.roster import ChainState

LOOK_AGAIN_MS = 200
"""How often a node that waits for a peer looks around."""

Say = Callable[[str], None]
"""Shows one line of progress."""


@dataclass(frozen=True, slots=True)
class Found:
    """Where to go, the records on all ways there, and what each peer said."""

    choice: Choice
    walk: Walk
    answers: Mapping[bytes, HeadAnswer]

    def find_final(self, start: ChainState, named: bytes) -> Final | None:
        """The record `named`, as one that is never left, where it is on the way from `start`."""
        height = start.height
        for link in reversed(list(self.choice.trail.values())):
            height += link.round > start.round
            if link.record == named and link.round > start.round:
                return Final(named, link.round, height)
        return None


class Strangers:
    """What connected peers say, and what to make of it."""

    def __init__(
        self,
        manifest: Manifest,
        puller: Puller,
        clock: Clock,
        say: Say,
        verify: Verify,
        count_known: Callable[[], int],
    ) -> None:
        """`count_known`: how many peers there are to be heard."""
        self._manifest = manifest
        self._run_id = compute_run_id(manifest)
        self._puller = puller
        self._clock = clock
        self._say = say
        self._verify = verify
        self._count_known = count_known
        self._asker = HeadAsker(puller)
        self._said = ""
        self.set_aside: frozenset[bytes] = frozenset()
        """Peers that were not believed."""

    async def ask(self) -> Heads:
        """Where everybody stands."""
        return await self._asker.ask()

    async def wait_for_heads(self, deadline_ms: int, *, needs_many: bool, anchor: bytes) -> Heads:
        """Where peers stand. Waits for one that is level, or for as many as rule 22 asks for.

        One that is syncing itself says nothing of where the run is, but whoever else it knows is
        being dialled meanwhile.
        """
        while True:
            heads = await self.ask()
            level = self._list_answers([(h, a) for h, a in heads if not a.syncing])
            known = self._count_known()
            is_heard = bool(level) and (not needs_many or is_enough(level, known))
            if is_heard or self._clock.now_ms() >= deadline_ms:
                trust = explain_trust(level, known, anchor) if needs_many else ""
                if trust and trust != self._said:
                    self._say(trust)
                    self._said = trust
                return heads
            await self._clock.sleep_until_ms(self._clock.now_ms() + LOOK_AGAIN_MS)

    async def choose(
        self,
        heads: Heads,
        *,
        floor_round: int,
        steps_max: int,
        anchor: bytes = b"",
        named: Collection[bytes] = (),
        through: Final | None = None,
    ) -> Found | Refusal | None:
        """Follow their chains back to `floor_round` or a bit further, and judge them.

        Where records were `named`, only chains that hold one of them are looked at, and only those
        that lead `through` what is final here; None where there is no such.
        """
        walk = Walk(self._puller, self._run_id)
        wanted = {anchor, through.record if through else b""} - {b""}
        forget_rounds = self._manifest.agreement.forget_rounds
        if through is not None:
            steps_max = max(steps_max, forget_rounds)
        await walk.follow(heads, floor_round=floor_round, steps_max=steps_max, wanted=wanted)
        trails = {head.head: trail_of(walk.links, head.head) for _, head in heads}
        if named:
            heads = [(h, a) for h, a in heads if not trails[a.head].keys().isdisjoint(named)]
        if through is not None:
            heads = [
                (h, a) for h, a in heads if leads_through(trails[a.head], through, forget_rounds)
            ]
        if not heads:
            return None
        answers = self._list_answers(heads, walk.carriers())
        choice = choose(answers, walk.links, self._run_id, anchor)
        if isinstance(choice, Refusal):
            return choice
        self.set_aside = frozenset(choice.set_aside)
        if choice.set_aside:
            count = len(choice.set_aside)
            self._say(f"{count} of {len(heads)} peers show another chain and are not believed")
        return Found(choice, walk, dict(heads))

    def _list_answers(
        self, heads: Heads, carriers: Mapping[tuple[bytes, bytes], bytes] | None = None
    ) -> list[Answer]:
        """`carriers` says which records carry which roots."""
        networks, carriers = self._puller.networks(), carriers or {}
        return [
            Answer(
                peer=holder,
                network=networks.get(holder, holder.hex()),
                head=head.head,
                final=head.final,
                snapshot=carriers.get((head.snapshot_record, head.snapshot_root), b""),
                is_syncing=head.syncing,
            )
            for holder, head in heads
        ]

    async def may_take(self, offer: Offer, state: ChainState, walk: Walk) -> bool:
        """Rule 21: two thirds of its voters built on it, or nobody who answered stands elsewhere.

        Those who all agree with each other could have made up the voters as well.
        """
        if offer.is_common:
            return True
        # In a thread: of each voter a signature is checked.
        is_taken = await asyncio.to_thread(self._is_built_on, offer.record, state, walk)
        if not is_taken:
            self._say("a snapshot was refused: less than two thirds of the voters built on it")
        return is_taken

    def _is_built_on(self, record: bytes, state: ChainState, walk: Walk) -> bool:
        headers: list[Sealed[Header]] = []
        for raw in (raw for bundle in walk.bundles.values() for raw in bundle.headers):
            with contextlib.suppress(Reject):  # nobody has looked at it yet
                headers.append(decode_header(raw, self._run_id))
        return is_built_on(
            record,
            state,
            walk.links,
            headers,
            agreement=self._manifest.agreement,
            verify=self._verify,
        )


def leads_through(trail: Mapping[bytes, int | None], final: Final, forget_rounds: int) -> bool:
    """Is our final record on that way? Where the way is known only above it, nobody can tell.

    Then who was away for longer than `forget_rounds` is a joiner; anybody else does not go there.
    """
    if final.record in trail:
        return True
    rounds = [round_ for round_ in trail.values() if round_ is not None]
    if not rounds or min(rounds) <= final.round:
        return False
    return max(rounds) - final.round > forget_rounds
