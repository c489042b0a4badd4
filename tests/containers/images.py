"""Images without a registry: Debian by debootstrap, Python packages from wheels made here."""

import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.cli.command import ROOT
from tests.containers.engine import Engine

BASE: Final = "localhost/debian:12"

BUILD_S: Final = 500.0
"""At most; the first build takes some 100 s where nothing else runs, most of them for torch."""


def make_base(engine: Engine, folder: Path) -> None:
    """BASE: a bare Debian 12 with Python, as python:3.11-slim-bookworm is one."""
    root = folder / "debian"
    packages = "python3,python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", root]
    subprocess.run(list(map(str, command)), check=True, stdout=subprocess.DEVNULL, timeout=BUILD_S)
    archive = folder / "debian.tar"
    left_out = ["--exclude=./proc/*", "--exclude=./sys/*"]
    subprocess.run(["tar", "-C", root, *left_out, "-cf", archive, "."], check=True)
    engine.docker("import", archive, BASE)
    shutil.rmtree(root)
    archive.unlink()


def make_wheels(folder: Path) -> Path:
    """Of all that an installation needs, and of what builds our own; the folder they are in."""
    constraints = ROOT / "deploy" / "constraints.txt"
    wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--constraint", constraints]
    wheel += ["--wheel-dir", folder, "torch==2.13.0", "hatchling", "setuptools", ROOT]
    subprocess.run(list(map(str, wheel)), check=True, capture_output=True, timeout=BUILD_S)
    for own in folder.glob("demo_node-*"):
        own.unlink()
    return folder


@dataclass(frozen=True, slots=True)
class Images:
    """Names of all that deploy/compose.yaml asks for, but for Grafana's."""

    node: str
    prometheus: str
    alertmanager: str


def build_images(engine: Engine, tree: Path, wheels: Path) -> Images:
    """All of them."""
    return Images(
        _build_node(engine, tree, wheels),
        _build_watcher(engine, "prometheus"),
        _build_watcher(engine, "prometheus-alertmanager"),
    )


def _build_node(engine: Engine, tree: Path, wheels: Path) -> str:
    """deploy/Dockerfile, as anybody builds it, but with packages from wheels."""
    name, context = "localhost/demo-node", tree.with_name("context")
    shutil.copytree(tree, context)
    for each in wheels.iterdir():
        (context / "deploy" / "wheels" / each.name).hardlink_to(each)
    arguments = {"BASE": BASE, "TORCH": "torch==2.13.0", "PIP_NO_INDEX": "1"}
    _build(engine, name, context / "deploy" / "Dockerfile", context, arguments)
    shutil.rmtree(context)
    return name


def _build_watcher(engine: Engine, program: str) -> str:
    """The image of Debian's `program`."""
    folder = ROOT / "tests" / "containers"
    name = f"localhost/{program}"
    arguments = {"BASE": BASE, "PROGRAM": program}
    _build(engine, name, folder / "watchers.Dockerfile", folder, arguments)
    return name


def _build(engine: Engine, name: str, file: Path, context: Path, arguments: dict[str, str]) -> None:
    chosen = [part for each in arguments.items() for part in ("--build-arg", "=".join(each))]
    # On the machine's own network: the engine's does not know every machine's name servers.
    options = ("--network", "host", "--quiet", "--tag", name, "--file", file, *chosen)
    engine.docker("build", *options, context, timeout_s=BUILD_S)
