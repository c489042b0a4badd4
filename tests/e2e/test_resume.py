"""A joiner that is killed while its snapshot comes, over thin uplinks, goes on where it was."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from demo_node.store.datadir import DataDir
from demo_protocol.limits import STATE_CHUNK_BYTES
from demo_protocol.manifest import decode_manifest, encode_manifest
from tests.e2e.join_run import is_included, read_events
from tests.e2e.nodes import RunningNode, make_run, started
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(400)]

UPLOAD_KBIT_S = 800
"""Two of these take 21 seconds for the 4.3 MB of the preset `small`."""

EVERY = 4
HERE_BYTES = 6 * STATE_CHUNK_BYTES
"""So much of it is here when the joiner is killed."""

LONG_S = 240.0


def count_here(datadir: Path) -> int:
    """Bytes in the file in which chunks are collected."""
    parts = DataDir(datadir).snapshots.glob("*.part")
    return sum(path.stat().st_size for path in parts)


def make_run_of_many_snapshots(datadir: Path) -> None:
    """A run in which every fourth record carries a root."""
    make_run(datadir, "--preset", "small", "--round-seconds", "3", "--genesis", "+15")
    path = DataDir(datadir).manifest
    usual = decode_manifest(path.read_bytes())
    agreement = replace(usual.agreement, snapshot_every=EVERY)
    path.write_bytes(encode_manifest(replace(usual, agreement=agreement)))


def wait_for_snapshot_under_way(node: RunningNode) -> None:
    """Return when a third of it is here, and not all."""
    wait_until_sync(lambda: count_here(node.datadir) >= HERE_BYTES, LONG_S)
    assert not read_events(node, "snapshot.fetched")


def test_a_joiner_killed_while_its_snapshot_comes_fetches_only_the_rest(tmp_path: Path) -> None:
    upload = ("--upload-kbit-s", str(UPLOAD_KBIT_S))
    make_run_of_many_snapshots(tmp_path / "0")
    with ExitStack() as nodes:
        first = nodes.enter_context(started(tmp_path / "0", "start", *upload))
        second = nodes.enter_context(started(tmp_path / "1", *first.invitation(), *upload))
        second.wait_until_active()
        first.wait_for_status(lambda status: status.height >= 3 * EVERY, LONG_S)
        with started(tmp_path / "late", *first.invitation(), *upload) as joiner:
            wait_for_snapshot_under_way(joiner)
            joiner.process.kill()
            joiner.process.wait()
        with started(tmp_path / "late", *first.invitation(), *upload) as joiner:
            joiner.wait_for_rounds(is_included, LONG_S)
            (fetched,) = read_events(joiner, "snapshot.fetched")
            before, came = int(str(fetched["bytes_before"])), int(str(fetched["bytes"]))
            whole = 4 * joiner.status().parameters
            assert before >= HERE_BYTES - STATE_CHUNK_BYTES
            assert came <= whole - before + STATE_CHUNK_BYTES
            assert fetched["peers"] == 2
            (loaded,) = read_events(joiner, "state.loaded")
            assert loaded["round"] == fetched["round"]
