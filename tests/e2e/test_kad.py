"""A joiner that knows only a node of another run finds its own run by the DHT; real processes."""

import json
import urllib.request
from pathlib import Path

import pytest

from demo_node.mesh.peer_id import encode_peer_id
from demo_protocol.manifest import compute_run_id, decode_manifest
from tests.e2e.nodes import RunningNode, make_run, started
from tests.mesh.hosts import free_port

pytestmark = [pytest.mark.swarm, pytest.mark.slow, pytest.mark.timeout(240)]

KAD = ("--kad", "--no-mdns", "--no-train")


def read_log(node: RunningNode, event: str) -> list[dict[str, object]]:
    """Its lines of one kind."""
    lines = [json.loads(line) for line in node.stderr.splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_a_node_of_another_run_is_signpost_enough(tmp_path: Path) -> None:
    for name in ("signpost", "member"):
        make_run(tmp_path / name, "--preset", "tiny")
    run_id = compute_run_id(decode_manifest((tmp_path / "member" / "manifest.json").read_bytes()))
    where = f"/ip4/127.0.0.1/tcp/{free_port()}"
    places = ("--listen", where, "--metrics-address", "127.0.0.1:0")
    with started(tmp_path / "signpost", "start", *KAD, places=places) as signpost:
        signpost.metrics_url()  # it has its key by then
        named = ("--peers", f"{where}/p2p/{signpost.status().peer_id}")
        join = ("start", *KAD, *named, "--run-id", run_id.hex())
        with (
            started(tmp_path / "member", "start", *KAD, *named) as member,
            started(tmp_path / "joiner", *join) as joiner,
        ):
            joiner.wait_until_active()
            heard = read_log(joiner, "members.found")
            assert heard
            assert heard[0]["addresses"] == 1
            views = joiner.ask(lambda client: client.peers())
            elsewhere = {encode_peer_id(view.peer): view.elsewhere for view in views}
            assert elsewhere == {member.status().peer_id: False, signpost.status().peer_id: True}
            with urllib.request.urlopen(signpost.metrics_url(), timeout=30) as reply:
                figures = reply.read().decode()
            assert "\ndemo_peers_known 0.0\n" in figures, "PEERS could have told"
