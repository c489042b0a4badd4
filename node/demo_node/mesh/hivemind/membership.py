"""Who takes part in a run: records in hivemind's DHT. Part of the process beside the node.

Each member has one record, under the run's key and its own public key as subkey: its addresses,
signed by it, and gone RECORD_S after it was last renewed. Records of anything else are refused.
"""

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import Sequence
from typing import Any, Final

import pydantic.v1 as pydantic  # hivemind's schemas are pydantic 1 (trap 22)
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hivemind.dht.node import DHTNode
from hivemind.dht.routing import DHTID
from hivemind.dht.schema import SchemaValidator
from hivemind.dht.validation import CompositeValidator, DHTRecord, RecordValidatorBase
from hivemind.p2p import P2P, PeerID
from hivemind.utils import MSGPackSerializer, get_dht_time
from hivemind.utils.multiaddr import Multiaddr

from demo_node.mesh.hivemind.limits import ADDRESSES_MAX, FOUND_MAX, PLACE_BYTES_MAX, RECORD_S

logging.getLogger("hivemind").setLevel(logging.CRITICAL)

RECORD_BYTES_MAX: Final = 4096
"""Of one record: hivemind breaks at 60 KB (trap 19), and ours take 2 KB."""

MEMBERS_MAX: Final = 4096
"""Members whose records are kept here; later ones are refused while so many live."""

SIGNATURE_BYTES: Final = 64
DOMAIN: Final = b"demo-node hivemind member\0"

ASK_S: Final = 10.0
"""For anything that is asked of the DHT: when p2pd dies, its calls hang for ever (trap 20)."""


class OwnedRecords(RecordValidatorBase):  # type: ignore[misc]  # hivemind has no types
    """Members of the run have records, each its own: signed by the key that it stands under."""

    priority = 10  # before anything reads what a stranger wrote

    def __init__(self, key: str, seed: bytes) -> None:
        self._key = DHTID.generate(source=key).to_bytes()
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self._members: dict[bytes, float] = {}

    def sign_value(self, record: DHTRecord) -> bytes:
        """What is stored: the value, and the signature of it, of its place and of its end."""
        return bytes(record.value) + self._private.sign(_signed_bytes(record))

    def strip_value(self, record: DHTRecord) -> bytes:
        """The value without its signature."""
        return bytes(record.value[:-SIGNATURE_BYTES])

    def validate(self, record: DHTRecord) -> bool:
        """Is it a member's own record?"""
        if record.key != self._key or len(record.value) > RECORD_BYTES_MAX:
            return False
        if record.expiration_time > get_dht_time() + 2 * RECORD_S:
            return False
        try:
            owner = MSGPackSerializer.loads(record.subkey)
        except Exception:  # of any kind: a stranger wrote it
            return False
        if not isinstance(owner, bytes) or len(owner) != 32 or not self._has_room(owner):
            return False
        signature = record.value[-SIGNATURE_BYTES:]
        content = dataclasses.replace(record, value=self.strip_value(record))
        try:
            Ed25519PublicKey.from_public_bytes(owner).verify(signature, _signed_bytes(content))
        except (InvalidSignature, ValueError):
            return False
        self._members[owner] = record.expiration_time
        return True

    def _has_room(self, owner: bytes) -> bool:
        if owner in self._members or len(self._members) < MEMBERS_MAX:
            return True
        now_s = get_dht_time()
        self._members = {o: end for o, end in self._members.items() if end > now_s}
        return len(self._members) < MEMBERS_MAX


class Membership:
    """This node's part of the DHT, for one run."""

    def __init__(self, node: DHTNode, key: str, peer: bytes) -> None:
        self._node = node
        self._key = key
        self._peer = peer

    @classmethod
    async def create(cls, p2pd_address: str, run_id: bytes, seed: bytes) -> "Membership":
        """Take part. Raises whatever hivemind does when p2pd is gone; bounded in time."""
        key = make_key(run_id)
        validator = CompositeValidator([make_schema(run_id), OwnedRecords(key, seed)])
        async with asyncio.timeout(ASK_S):
            p2p = await P2P.replicate(Multiaddr(p2pd_address))
            node = await DHTNode.create(p2p, record_validator=validator, strict=False)
        public = Ed25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
        return cls(node, key, public)

    async def meet(self, peer_id: bytes) -> bool:
        """Know a connected peer's part of the DHT, and be known to it. False: it has none."""
        async with asyncio.timeout(ASK_S):
            return await self._node.protocol.call_ping(PeerID(peer_id)) is not None

    async def announce(self, addresses: Sequence[str]) -> bool:
        """Store or renew our record. False where nobody took it."""
        async with asyncio.timeout(ASK_S):
            return bool(
                await self._node.store(
                    self._key,
                    list(addresses[:ADDRESSES_MAX]),
                    expiration_time=get_dht_time() + RECORD_S,
                    subkey=self._peer,
                )
            )

    async def find(self) -> dict[bytes, list[str]]:
        """Members and their addresses, ourselves left out; the youngest records first."""
        async with asyncio.timeout(ASK_S):
            found = await self._node.get(self._key, latest=True)
        entries = found.value if found is not None else {}
        if not isinstance(entries, dict):
            return {}
        entries.pop(self._peer, None)
        youngest = sorted(entries, key=lambda owner: -entries[owner].expiration_time)
        return {owner: list(entries[owner].value) for owner in youngest[:FOUND_MAX]}

    async def close(self) -> None:
        """Leave, as far as p2pd still takes part."""
        self._node.is_alive = False
        with contextlib.suppress(Exception):  # it may be dead: that is why this is called
            async with asyncio.timeout(1):
                await self._node.shutdown()
        with contextlib.suppress(Exception):
            await self._node.p2p.shutdown()


def make_key(run_id: bytes) -> str:
    """The DHT's key of a run's members."""
    return f"{_prefix(run_id)}_members"


def make_schema(run_id: bytes) -> RecordValidatorBase:
    """Public keys and addresses, few and short; nothing else can be stored."""

    class Members(pydantic.BaseModel):
        members: dict[
            pydantic.conbytes(min_length=32, max_length=32),  # type: ignore[valid-type]
            pydantic.conlist(  # type: ignore[valid-type]
                pydantic.constr(strict=True, max_length=PLACE_BYTES_MAX),
                max_items=ADDRESSES_MAX,
            ),
        ]

    return SchemaValidator(Members, allow_extra_keys=False, prefix=_prefix(run_id))


def _prefix(run_id: bytes) -> str:
    return f"demo/{run_id.hex()}"


def _signed_bytes(record: Any) -> bytes:
    parts = (record.key, record.subkey, record.value, record.expiration_time)
    return DOMAIN + bytes(MSGPackSerializer.dumps(parts))
