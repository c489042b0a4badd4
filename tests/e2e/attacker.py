"""One machine that does to nodes what no honest peer does, all of it at once.

    python -m tests.e2e.attacker MANIFEST NICE SOURCES ADDRESS...

MANIFEST is a run's, ADDRESSes are nodes', SOURCES a JSON object: sort of harm -> the address of
this machine that does it. Each has its own, so that its ban does not spare the nodes the others. It
connects, says `ready`, waits for a line on standard input, makes itself as nice as NICE, and goes
on until the next line. Each sort of harm has a key of its own; who is banned comes back with
another, as somebody who means it would. Every second it prints a JSON document: the keys so far,
and how much of each harm it got rid of. tests/e2e/hostile_run.py has it attack a swarm.
"""

import asyncio
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import uvloop

from demo_node.mesh.guest import Guest
from demo_node.mesh.peer_id import encode_peer_id
from demo_protocol.manifest import Manifest, decode_manifest
from tests.e2e.evil import Attack, Evil
from tests.e2e.harms import CROWDS, crowd, dawdle, forge, garble, knock, lie, make_joins

SESSION_NICE: Final = 5

TELL_S: Final = 1.0

STOCK: Final = 1000
"""Joins made beforehand: more than a node takes at once."""


def lower(nice: int) -> None:
    """Leave others the processors.

    Linux may share them out among sessions first, to which it is nothing how nice a process is:
    among those it is to have a third of what others have, for with less it gets nothing done where
    many want them.
    """
    os.nice(nice)
    with contextlib.suppress(OSError):
        Path("/proc/self/autogroup").write_text(str(min(nice, SESSION_NICE)))


def tell(attack: Attack, evils: Sequence[Evil]) -> None:
    """One line: what was done by now, and by whom."""
    keys = {evil.name: [encode_peer_id(key.public) for key in evil.keys] for evil in evils}
    sys.stdout.write(json.dumps({"keys": keys, "done": attack.done}) + "\n")
    sys.stdout.flush()


async def run(
    manifest: Manifest, nice: int, sources: dict[str, str], addresses: Sequence[str]
) -> None:
    """All of it at once. Raises what it fails by: nothing that a node does to it should."""
    guest = Guest()
    await guest.start()
    attack = Attack(manifest, addresses, guest)
    harm = {"garbage": garble, "forger": forge, "liar": lie, "sloth": dawdle}
    evils = [
        Evil(attack, name, sources[name], joins=name in ("forger", "liar"))
        for name in (*harm, *CROWDS)
        if name in sources
    ]
    for evil in evils:
        await evil.start()
        await evil.stay()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.readline)
    tasks = []
    for evil in evils:
        if evil.name in CROWDS:
            is_author = CROWDS[evil.name]
            stock = make_joins(evil, STOCK, is_author=is_author)
            tasks.append(asyncio.create_task(crowd(evil, stock, is_author=is_author)))
        else:
            tasks.append(asyncio.create_task(harm[evil.name](evil)))
    lower(nice)
    if "knocker" in sources:
        tasks.append(asyncio.create_task(knock(attack, sources["knocker"])))
    ending = asyncio.ensure_future(asyncio.to_thread(sys.stdin.readline))
    while not ending.done():
        done, _ = await asyncio.wait(
            [*tasks, ending], timeout=TELL_S, return_when=asyncio.FIRST_COMPLETED
        )
        for task in done - {ending}:
            task.result()
            raise AssertionError("it was to go on")
        tell(attack, evils)


def main() -> None:
    """See above."""
    path, nice, sources, *addresses = sys.argv[1:]
    manifest = decode_manifest(Path(path).read_bytes())
    try:
        uvloop.run(run(manifest, int(nice), json.loads(sources), addresses))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)  # whatever hangs in it, hangs on purpose


if __name__ == "__main__":
    main()
