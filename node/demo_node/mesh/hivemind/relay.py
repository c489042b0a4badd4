"""What p2pd carries for peers that nobody can dial: it has two relays, and one of them serves.

Wherever circuits are known (`-relay=1`) p2pd begins a relay with libp2p's usual limits: 128 KiB
each way, and two minutes. Where it is to be one for others (`-relayService=1`) it begins another
with limits of its own: 4 GiB, and half an hour. Both answer to one name, and whichever begins last
serves (daemon.go and p2pd/main.go of hivemind's p2pd). So who is a relay looks which one that is,
and whoever asks for a reservation takes only one that is worth something.
"""

import contextlib
import tempfile
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from demo_node.mesh.hivemind.p2pd import P2pd, P2pdError, P2pdSettings, start_p2pd
from demo_node.mesh.peer_id import encode_peer_id_bytes

PROBE_SEED: Final = b"p2pd: which of its relays serves"
"""Nobody's key: that of a p2pd which listens on the loopback, for a second."""

TRIES: Final = 16
"""Starts, each of which goes wrong for about every second p2pd."""

CONNECT_S: Final = 5.0


async def start_relay(settings: P2pdSettings, folder: Path) -> P2pd:
    """Start one p2pd after the other, until one carries what it is told to. Raises P2pdError."""
    probing = P2pdSettings(
        seed=PROBE_SEED, listen=("/ip4/127.0.0.1/tcp/0",), announce=(), is_relay=False
    )
    key = Ed25519PrivateKey.from_private_bytes(settings.seed)
    peer_id = encode_peer_id_bytes(key.public_key().public_bytes_raw())
    with tempfile.TemporaryDirectory(prefix="p2pd-") as name:
        probe = await start_p2pd(probing, Path(name))
        try:
            for _ in range(TRIES):
                p2pd = await start_p2pd(settings, folder)
                try:
                    if await _carries(p2pd, peer_id, probe):
                        return p2pd
                except BaseException:
                    await p2pd.close()
                    raise
                await p2pd.close()
        finally:
            await probe.close()
    raise P2pdError(f"of {TRIES} starts as a relay none had the limits that were asked for")


async def _carries(p2pd: P2pd, peer_id: bytes, probe: P2pd) -> bool:
    with contextlib.suppress(P2pdError):
        await probe.disconnect(peer_id)
    await probe.connect(peer_id, await p2pd.identify(), CONNECT_S)
    return await probe.reserve(peer_id)
