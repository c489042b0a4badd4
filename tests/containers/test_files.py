"""What can be said of the image and of the compose files without an engine."""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.command import ROOT
from tests.containers.stack import PRE_STOP

DEPLOY = ROOT / "deploy"
COMPOSE = sorted(DEPLOY.glob("*.yaml"))
NODES = DEPLOY / "k8s" / "demo-node.yaml"
SCRIPTS = sorted((DEPLOY / "container").glob("*.sh"))


def load(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((DEPLOY / name).read_text())
    return document


def run(*command: object) -> str:
    """What a checker has to say: nothing, where all is well."""
    ended = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    return ended.stdout + ended.stderr if ended.returncode else ""


def test_hadolint_has_nothing_to_say() -> None:
    assert run(Path(sys.executable).with_name("hadolint"), DEPLOY / "Dockerfile") == ""


def test_the_dockerfile_needs_no_buildkit() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    assert not re.search(r"^#\s*syntax=|--mount|--link|--chmod|<<", text, re.MULTILINE)


def test_compose_files_are_as_the_specification_says() -> None:
    checker = Path(sys.executable).with_name("check-jsonschema")
    assert run(checker, "--builtin-schema", "vendor.compose-spec", *COMPOSE) == ""
    for file in COMPOSE:
        assert "name" not in load(file.name), "docker-compose 1.29 refuses it"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_plain_shell_and_may_be_run(script: Path) -> None:
    assert run("sh", "-n", script) == ""
    assert script.stat().st_mode & 0o111 == 0o111
    dash = shutil.which("dash")
    assert dash is None or run(dash, "-n", script) == ""


def test_kubernetes_knows_every_field() -> None:
    checker = Path(sys.executable).with_name("kubernetes-validate")
    assert run(checker, "--strict", NODES) == ""


def test_a_pod_is_the_image_as_it_is_and_may_leave_in_peace() -> None:
    service, nodes, budget = yaml.safe_load_all(NODES.read_text())
    pod = nodes["spec"]["template"]
    (node,) = pod["spec"]["containers"]
    assert nodes["spec"]["serviceName"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert budget["spec"]["selector"] == {"matchLabels": pod["metadata"]["labels"]}
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    identity = pod["spec"]["securityContext"]
    assert f"USER {identity['runAsUser']}:{identity['runAsGroup']}" in dockerfile
    assert {port["containerPort"] for port in node["ports"]} == {4001, 9464}
    probes = (node[f"{name}Probe"]["httpGet"]["path"] for name in ("startup", "liveness"))
    assert set(probes) == {"/livez"}
    assert node["readinessProbe"]["httpGet"]["path"] == "/readyz"
    assert node["lifecycle"]["preStop"]["exec"]["command"] == PRE_STOP
    assert pod["spec"]["terminationGracePeriodSeconds"] == 90


def test_the_operators_prometheus_finds_the_job_that_the_rules_look_for() -> None:
    monitor = yaml.safe_load((DEPLOY / "k8s" / "servicemonitor.yaml").read_text())
    service, *_ = yaml.safe_load_all(NODES.read_text())
    labels = service["metadata"]["labels"]
    assert monitor["spec"]["selector"]["matchLabels"] == labels
    assert labels[monitor["spec"]["jobLabel"]] == "demo-node"
    assert monitor["spec"]["endpoints"][0]["port"] in {
        port["name"] for port in service["spec"]["ports"]
    }


def test_nothing_but_this_machine_reaches_the_stack() -> None:
    services = load("compose.yaml")["services"]
    ports = [port for service in services.values() for port in service.get("ports", ())]
    assert len(ports) == 4
    assert all(port.startswith(("127.0.0.1:", "${MESH:-127.0.0.1:")) for port in ports)


def test_who_joins_others_is_reached_by_them_and_its_metrics_by_nobody() -> None:
    mesh, metrics = load("join.yaml")["services"]["node"]["ports"]
    assert mesh == "${PORT:-4001}:4001"
    assert metrics.startswith("127.0.0.1:")


def test_every_container_may_leave_in_peace() -> None:
    for name in ("compose.yaml", "join.yaml"):
        for service, settings in load(name)["services"].items():
            if service in ("bootstrap", "node", "archive"):
                assert settings["stop_grace_period"] == "90s"


def test_the_image_takes_in_all_that_is_compiled_and_nothing_that_is_secret() -> None:
    taken = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if "!" in line}
    assert taken >= {"pyproject.toml", "node", "protocol", "deploy/build_codec.py"}
    assert not taken & {".git", "tests", "deploy"}
