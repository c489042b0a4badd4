"""A node's momentum over a restart, its own or its trainer's (rules T3 and 24).

Saved with the snapshots; a trainer that is new goes on from it before it trains. It is told then
what became of all that was sent: what the chain took stays out of the residual, what it did not
take goes back, and what is open the round machine decides later.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator

from demo_node.observer import Figure, RoundObserver
from demo_node.ports import AdoptOrder, Fate, Learner, LearnerLost, RoundStore, SentPayload
from demo_node.store.momentum import MomentumFile
from demo_protocol.errors import ConfigError
from demo_protocol.identity import Kind
from demo_protocol.messages import Header, Sealed, decode_header
from demo_protocol.round import Round


class MomentumKeeping:
    """Saves and adopts. `deciding` is held while one is adopted: nothing is decided meanwhile."""

    def __init__(
        self,
        machine: Round,
        learner: Learner,
        store: RoundStore,
        file: MomentumFile,
        observer: RoundObserver,
        wait_written: Callable[[], Coroutine[None, None, None]],
    ) -> None:
        """`wait_written`: returns when all that was signed is in `store`."""
        self.deciding = asyncio.Lock()
        self._machine = machine
        self._learner = learner
        self._store = store
        self._file = file
        self._observer = observer
        self._wait_written = wait_written
        self._saving = asyncio.Lock()
        self._is_unwritable = False
        self._is_deadly = False

    def figures(self) -> Iterator[Figure]:
        """What lies on disk."""
        yield Figure("demo_momentum_file_bytes", self._file.file_bytes)

    async def save(self) -> None:
        """Write what a restart would lose, if anything was learned here. Never raises for that."""
        async with self._saving:
            begin_s = asyncio.get_running_loop().time()
            try:
                if self._learner.needs_momentum:
                    return  # it has not taken over yet what lies there
                size = await self._file.save(self._learner.momentum())
            except (LearnerLost, ConfigError) as error:
                if not self._is_unwritable:
                    self._observer.on_event("momentum.missed", reason=str(error))
                self._is_unwritable = isinstance(error, ConfigError)
                return
            self._is_unwritable = self._is_deadly = False
            if size:
                ms = round((asyncio.get_running_loop().time() - begin_s) * 1000)
                self._observer.on_event("momentum.saved", bytes=size, ms=ms)

    async def adopt(self) -> None:
        """Have a trainer that is new go on from what was saved. Raises LearnerLost."""
        async with self.deciding:
            if not self._learner.needs_momentum:
                return
            order = await self._make_order()
            self._is_deadly = order is not None
            await self._learner.adopt(order)
            self._is_deadly = False

    async def _make_order(self) -> AdoptOrder | None:
        """None where there is nothing to go on from."""
        if not self._file.file_bytes:
            return None
        if self._is_deadly:
            self._observer.on_event("momentum.ignored", reason="a trainer died over it")
            return None
        await self._wait_written()
        run_id = self._machine.view.run_id
        try:
            saved = await asyncio.to_thread(self._file.read_round)
        except ConfigError as error:
            self._observer.on_event("momentum.ignored", reason=str(error))
            return None
        floor, headers = await asyncio.to_thread(read_contributions, self._store, run_id)
        sent = []
        for sealed, fate in zip(headers, self._judge(headers), strict=True):
            header, payload = sealed.body, b""
            if saved is not None and header.round > saved and fate is not Fate.DROPPED:
                payload = await self._store.read_payload(header.payload_hash) or b""
            sent.append(SentPayload(round=header.round, fate=fate, payload=payload))
        return AdoptOrder(path=self._file.path, forgotten_until=floor, sent=tuple(sent))

    def _judge(self, headers: list[Sealed[Header]]) -> list[Fate]:
        """What became of our contributions, as `sent.Sent` decides, by our own chain.

        Where the chain does not reach back that far they are taken to have counted: learning that
        is lost does less harm than learning that is sent twice.
        """
        chain, head = self._machine.view.chain, self._machine.view.head
        oldest = min((sealed.body.round for sealed in headers), default=0)
        records = {}
        for step in chain.ancestors(head):
            if step.round < oldest:
                break
            records[step.round] = {contribution.hash for contribution in step.contributions}
        fates = []
        for sealed in headers:
            round_ = sealed.body.round
            if round_ in self._machine.sent.headers:
                fates.append(Fate.OPEN)
            elif round_ <= chain.root.round or sealed.hash in records.get(round_, ()):
                fates.append(Fate.COUNTED)
            else:
                fates.append(Fate.DROPPED)
        return fates


def read_contributions(store: RoundStore, run_id: bytes) -> tuple[int, list[Sealed[Header]]]:
    """The round up to which it is forgotten what was signed; our headers with a payload since."""
    floor, raws = store.list_signed(Kind.HEADER)
    headers = [decode_header(raw, run_id) for raw in raws]
    return floor, [sealed for sealed in headers if sealed.body.k]
