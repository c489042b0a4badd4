"""A private swarm: who has the key connects, who has not is told so, and so are we."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.io.trio import TrioTCPStream
from nacl.bindings import crypto_secretbox

from demo_node.mesh import private
from demo_node.mesh.libp2p import Libp2pMesh
from demo_node.mesh.private import HELLO, KEY_BYTES, NONCE_BYTES, PrivateStream, compute_subkey
from demo_node.ports import Blob, BlobRequest, Refusal, Topic, Unreachable
from tests.mesh.hosts import Host, guests, link, on_uvloop, seed
from tests.waiting import wait_until

OURS, THEIRS, NONE = bytes([7]) * 32, bytes([8]) * 32, b""
TAG_BYTES = 16


@contextlib.asynccontextmanager
async def meshes(*keys: bytes) -> AsyncIterator[tuple[list[Host], list[tuple[str, str]]]]:
    """A mesh for each swarm key, and whom any of them refused."""
    refused: list[tuple[str, str]] = []

    def on_stranger(host: str, why: str) -> None:
        refused.append((host, why))

    async with guests() as guest:
        made = [
            Host(Libp2pMesh(seed(i + 1), guest=guest, swarm_key=key, on_stranger=on_stranger))
            for i, key in enumerate(keys)
        ]
        await asyncio.gather(*(host.mesh.start() for host in made))
        try:
            await asyncio.gather(*(host.join() for host in made))
            yield made, refused
        finally:
            await asyncio.gather(*(host.mesh.stop() for host in made))


@on_uvloop
async def test_who_is_in_it_is_dialled_back_and_refused_to_nobody() -> None:
    async with meshes(OURS, OURS) as ((a, b), refused):
        await link((a, b))
        found = await b.mesh.dial_back(a.mesh.peer, a.mesh.port())
        assert found is not None
        assert found.reached
        assert not refused


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=24, max_size=24))
def test_the_cipher_is_the_one_of_nacl(key: bytes, nonce: bytes) -> None:
    """NaCl's boxes are XSalsa20 from its 33rd byte on."""
    text = bytes(range(256))
    box = crypto_secretbox(text, nonce, key)
    assert private._make_cipher(key, nonce).encrypt(bytes(32) + text)[32:] == box[TAG_BYTES:]


def test_the_subkey_is_the_one_that_was_published() -> None:
    """Bernstein's NaCl tests, core1: "firstkey" from the shared secret."""
    shared = bytes.fromhex("4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742")
    first = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    assert compute_subkey(shared, bytes(16)) == first


@on_uvloop
async def test_who_has_the_key_takes_part() -> None:
    async with meshes(OURS, OURS) as ((a, b), refused):
        await link((a, b))
        await a.mesh.publish(Topic.HEADERS, b"x")
        await wait_until(lambda: b.messages() == [b"x"])
        a.held[b"k" * 32] = os.urandom(3 << 20)
        got = await b.mesh.request(
            a.mesh.peer, BlobRequest(Blob.PAYLOAD, b"k" * 32), bytes_max=4 << 20, timeout_s=30
        )
        assert got == a.held[b"k" * 32]
        assert a.mesh.counters().bytes_out > 3 << 20, "bytes are still counted"
        assert not refused


@pytest.mark.parametrize(
    ("dialling", "listening", "says", "told"),
    [
        (THEIRS, OURS, "has another pre-shared key; is --psk-file", "has another pre-shared key"),
        (NONE, OURS, "of a private swarm (--psk-file)", "has no pre-shared key"),
        (OURS, NONE, "has no pre-shared key; is --psk-file", None),
    ],
)
@on_uvloop
async def test_who_has_not_is_refused_and_both_sides_can_tell(
    dialling: bytes, listening: bytes, says: str, told: str | None
) -> None:
    async with meshes(dialling, listening) as ((a, b), refused):
        with pytest.raises(Unreachable) as raised:
            await a.mesh.connect(b.address)
        assert says in str(raised.value)
        assert "\n" not in str(raised.value)
        if told:
            await wait_until(lambda: refused)
            assert refused == [("127.0.0.1", told)]
            assert b.mesh.counters().refused == {Refusal.KEY: 1}
        await wait_until(lambda: not b.mesh._tcp.open)
        assert not a.mesh.peers()
        assert not b.mesh.peers()


@on_uvloop
async def test_nothing_on_the_wire_says_what_it_is() -> None:
    seen = bytearray()
    (kind,) = trio.socket.SocketType.__subclasses__()
    send = kind.send

    async def spy(self: trio.socket.SocketType, data: memoryview, flags: int = 0) -> int:
        size = await send(self, data, flags)
        seen.extend(data[:size])
        return size

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kind, "send", spy)
        async with meshes(OURS, OURS) as ((a, b), _):
            await link((a, b))
    assert len(seen) > 500
    for word in (b"multistream", b"noise", b"yamux"):
        assert word not in seen


def test_what_comes_byte_by_byte_is_put_together() -> None:
    async def talk() -> bytes:
        ours, theirs = trio.socket.socketpair()
        a = PrivateStream(TrioTCPStream(trio.SocketStream(ours)), OURS, None)
        b = PrivateStream(TrioTCPStream(trio.SocketStream(theirs)), OURS, None)
        got = b""
        with ours, theirs:
            for piece in (HELLO[:7], HELLO[7:], b"more"):
                await a.write(piece)
            while len(got) < len(HELLO) + 4:
                got += await b.read(1)
        return got

    assert trio.run(talk) == HELLO + b"more"


@pytest.mark.parametrize(
    "sent", [HELLO, HELLO[:10], bytes(10), bytes(NONCE_BYTES + 5), os.urandom(4096), b""]
)
@on_uvloop
async def test_garbage_and_silence_hurt_nobody(sent: bytes) -> None:
    async with meshes(OURS, OURS) as ((a, b), refused):
        host, port = a.address.split("/")[2], int(a.address.split("/")[4])
        with socket.create_connection((host, port)) as stranger:
            stranger.sendall(sent)
            if sent[:20] == HELLO or len(sent) > NONCE_BYTES:
                await wait_until(lambda: refused)
        await wait_until(lambda: not a.mesh._tcp.open)
        await link((a, b))
        assert len(OURS) == KEY_BYTES
