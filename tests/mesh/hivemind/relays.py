"""What p2pds grant who asks them for a reservation, as JSON; in a process that has no libp2p.

python -m tests.mesh.hivemind.relays
"""

import asyncio
import json
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from demo_node.mesh.hivemind.p2pd import P2pd, P2pdSettings, decode_reservation, start_p2pd
from demo_node.mesh.hivemind.relay import start_relay
from demo_node.mesh.peer_id import encode_peer_id_bytes

RELAYS = 5
"""About every second p2pd would be one that carries next to nothing."""

ANSWERS = {  # what p2pds answered, but for the reservation
    "next to nothing": "22060878108080082864",
    "4 GiB": "2209088e10108080808010" + "2864",
    "without a limit": "2864",
    "refused": "28c801",
}
NO_ANSWERS = ("22", "2206", "28", "29" + "00" * 8, "220180", "2201ff", "28" + "ff" * 10, "2a00")


def settings(number: int, *, is_relay: bool) -> P2pdSettings:
    here = ("/ip4/127.0.0.1/tcp/0",)
    return P2pdSettings(seed=bytes([number]) * 32, listen=here, announce=(), is_relay=is_relay)


async def grants(p2pd: P2pd, number: int, asking: P2pd) -> bool:
    key = Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32).public_key()
    peer_id = encode_peer_id_bytes(key.public_bytes_raw())
    await asking.connect(peer_id, await p2pd.identify(), 5)
    return await asking.reserve(peer_id)


def is_answer(raw: bytes) -> bool:
    try:
        decode_reservation(raw)
    except ValueError:
        return False
    return True


async def main() -> None:
    async with AsyncExitStack() as stack:

        def folder() -> Path:
            return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="p2pd-")))

        async def start(number: int, *, is_relay: bool) -> P2pd:
            begin = start_relay if is_relay else start_p2pd
            p2pd = await begin(settings(number, is_relay=is_relay), folder())
            stack.push_async_callback(p2pd.close)
            return p2pd

        asking = await start(1, is_relay=False)
        relays = [await start(2 + number, is_relay=True) for number in range(RELAYS)]
        other = await start(99, is_relay=False)
        found = {
            "relays": [await grants(relay, 2 + n, asking) for n, relay in enumerate(relays)],
            "other": await grants(other, 99, asking),
            "answers": {n: decode_reservation(bytes.fromhex(h)) for n, h in ANSWERS.items()},
            "no answers": [text for text in NO_ANSWERS if is_answer(bytes.fromhex(text))],
        }
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main())
