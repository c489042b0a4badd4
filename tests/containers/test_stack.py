"""The compose swarm for real: an engine, images, six nodes, and what befalls them."""

import math
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.containers.engine import Engine
from tests.containers.images import build_images
from tests.containers.stack import PAGE, PRE_STOP, PROJECT, STEP_S, Stack, find_ports
from tests.monitoring.boards import fill_in, targets
from tests.pages import take_line
from tests.waiting import wait_until_sync

pytestmark = [pytest.mark.containers, pytest.mark.slow, pytest.mark.timeout(720)]

QUIET = {"Warnings in the log"}
"""Panels that show nothing where nothing is wrong."""


@pytest.fixture(scope="module")
def stack(engine: Engine, tree: Path, wheels: Path) -> Iterator[Stack]:
    """Its nodes, four of which train, have records, and all of them the same."""
    made = Stack(engine, build_images(engine, tree, wheels))
    made.up(3)
    try:
        made.wait_agreed(made.nodes(), 3)
        yield made
    finally:
        made.down("--volumes", "--timeout", "30")


def test_the_image_has_no_compiler_and_no_root(engine: Engine, stack: Stack) -> None:
    node = stack.nodes()[-1]
    assert engine.docker("exec", node, "id", "-u").strip() == "10001"
    looked_for = "for name in gcc cc pip python3; do command -v $name || true; done"
    found = engine.docker("exec", node, "sh", "-c", looked_for)
    assert [Path(name).name for name in found.split()] == ["python3"]
    denied = engine.docker("exec", node, "sh", "-c", "touch /opt/demo-node/x 2>&1 || echo no")
    assert denied.splitlines()[-1] == "no"
    show = ("ps", "--filter", f"name={node}", "--format", "{{.Status}}")
    wait_until_sync(lambda: "(healthy)" in engine.docker(*show), STEP_S)


def test_replicas_that_come_later_are_nodes_of_their_own(stack: Stack) -> None:
    stack.up(5)
    nodes = stack.nodes()
    assert len(nodes) == 7
    stack.wait_agreed(nodes, 2)
    peers = {stack.status(node)["peer_id"] for node in nodes}
    assert len(peers) == 7


def test_who_was_killed_comes_back_as_who_it_was(engine: Engine, stack: Stack) -> None:
    node, *others = (name for name in stack.nodes() if "_node_" in name)
    before = stack.status(node)
    engine.docker("kill", node)
    stack.wait_agreed(others, 2)
    engine.docker("start", node)
    stack.wait_agreed(stack.nodes())
    assert stack.status(node)["peer_id"] == before["peer_id"]


def test_a_hook_before_the_end_lets_a_node_leave(engine: Engine, stack: Stack) -> None:
    node = next(name for name in stack.nodes() if "_node_" in name)
    engine.docker("exec", node, *PRE_STOP, fails=True)  # it ends with the container
    assert engine.docker("wait", node).strip() == "0"
    engine.docker("start", node)
    stack.wait_agreed(stack.nodes())


def test_who_was_paused_catches_up(engine: Engine, stack: Stack) -> None:
    node, *others = (name for name in stack.nodes() if "_node_" in name)
    engine.docker("pause", node)
    stack.wait_agreed(others, 3)
    engine.docker("unpause", node)
    stack.wait_agreed(stack.nodes())


def test_who_was_cut_off_takes_the_others_records(engine: Engine, stack: Stack) -> None:
    node, *others = (name for name in stack.nodes() if "_node_" in name)
    network = f"{PROJECT}_swarm"
    engine.docker("network", "disconnect", network, node)
    stack.wait_agreed(others, 3)
    engine.docker("network", "connect", "--alias", "node", network, node)
    stack.wait_agreed(stack.nodes())


def test_prometheus_finds_them_all_and_every_panel_has_something_to_draw(stack: Stack) -> None:
    def is_found() -> bool:
        return len(stack.ask('up{job="demo-node"} == 1')) == len(stack.nodes())

    wait_until_sync(is_found, STEP_S)
    wait_until_sync(lambda: stack.ask("demo_heldout_loss > 0"), STEP_S)
    digests = {one["metric"]["service"] for one in stack.ask("demo_head_height > 0")}
    assert digests == {"bootstrap", "node", "archive"}
    now_s, empty = time.time(), set()
    for _, title, query in targets():
        series = stack.ask_range(fill_in(query), now_s - 300, now_s)
        values = [float(value) for one in series for _, value in one["values"]]
        if not any(map(math.isfinite, values)):
            empty.add(title)
    assert empty <= QUIET


def test_nodes_are_asked_as_the_page_says(engine: Engine, stack: Stack) -> None:
    def ask(line: str) -> str:
        return engine.compose(line.replace(" exec ", " exec -T "), stack.settings)  # no terminal

    status = take_line(PAGE, "docker compose -f deploy/compose.yaml exec bootstrap")
    top = take_line(PAGE, "docker compose -f deploy/compose.yaml exec --index 2 node")
    assert "active" in ask(status)
    assert "latency" in ask(top)


def test_cards_are_asked_for_as_compose_knows_them(engine: Engine, stack: Stack) -> None:
    line = take_line(PAGE, "docker compose -f deploy/compose.yaml -f deploy/gpu.yaml up")
    shown = yaml.safe_load(engine.compose(line.replace(" up", " config"), stack.settings))
    node = shown["services"]["node"]
    (device,) = node["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert node["environment"]["DEMO_NODE_DEVICE"] == "cuda"


def test_somebody_joins_from_another_network(engine: Engine, stack: Stack) -> None:
    shown = take_line(PAGE, "PEERS=")
    line = shown[shown.index("docker compose") :]
    with pytest.raises(AssertionError, match="name whom to join"):
        engine.compose(line, {})
    opened = stack.status(stack.nodes()[1])
    settings = {
        "COMPOSE_PROJECT_NAME": "demojoin",
        "IMAGE": stack.images.node,
        "PEERS": f"{stack.address}/p2p/{opened['peer_id']}",
        "RUN_ID": opened["run_id"],
        **dict(zip(("PORT", "METRICS_PORT"), map(str, find_ports(2)), strict=True)),
    }
    engine.compose(line, settings, "--detach", "--no-build")
    try:
        joined, members = "demojoin_node_1", opened["members"] + 1
        wait_until_sync(lambda: stack.status(joined).get("members") == members, STEP_S)
        stack.wait_agreed([*stack.nodes(), joined])
    finally:
        engine.compose(line.replace(" up", " down"), settings, "--volumes")


def test_down_and_up_goes_on_with_the_same_run_and_the_same_nodes(stack: Stack) -> None:
    before = stack.wait_agreed(stack.nodes())
    peers = {stack.status(node)["peer_id"] for node in stack.nodes()}
    stack.down()
    assert not stack.nodes()
    stack.up(5)
    after = stack.wait_agreed(stack.nodes())
    assert after["height"] > before["height"]
    assert after["run_id"] == before["run_id"]
    assert {stack.status(node)["peer_id"] for node in stack.nodes()} == peers
