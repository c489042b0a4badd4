"""What is uploaded and installed: a wheel, and a source distribution that makes the same one."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path

import pytest

from tests.distribution import ROOT, Built, build, copy_tree, install, list_sources

pytestmark = pytest.mark.slow

PACKAGES = {"node/demo_node": "demo_node", "protocol/demo_protocol": "demo_protocol"}


def list_files(wheel: Path) -> set[str]:
    """Those about itself left out."""
    with zipfile.ZipFile(wheel) as opened:
        return {name for name in opened.namelist() if ".dist-info/" not in name}


def read_metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as opened:
        (name,) = (n for n in opened.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(opened.read(name).decode())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("tree")
    copy_tree(folder)
    return build(folder)


def test_the_wheel_has_both_packages_whole_the_codec_and_nothing_else(built: Built) -> None:
    expected = {
        name.replace(folder, package, 1)
        for folder, package in PACKAGES.items()
        for name in list_sources()
        if name.startswith(f"{folder}/")
    }
    compiled = {"demo_node/native/codec.so"} if shutil.which("gcc") else set()
    assert list_files(built.wheel) == expected | compiled


def test_the_source_makes_the_same_wheel(built: Built, tmp_path: Path) -> None:
    with tarfile.open(built.source) as opened:
        opened.extractall(tmp_path, filter="data")
    (folder,) = tmp_path.iterdir()
    again = build(folder)
    assert again.wheel.name == built.wheel.name
    assert list_files(again.wheel) == list_files(built.wheel)


def test_it_says_what_it_is_and_what_it_needs(built: Built) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = read_metadata(built.wheel)
    assert (metadata["Name"], metadata["Version"]) == (project["name"], project["version"])
    assert metadata["License"] == "Apache-2.0"
    assert "Apache License" in (ROOT / "LICENSE").read_text()
    needed = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert len(needed) == len(project["dependencies"])
    assert metadata.get_all("Provides-Extra") == sorted(project["optional-dependencies"])
    # Whatever torch is there stays, and none is fetched over it.
    assert [line for line in needed if line.startswith("torch")] == ["torch>=2.6"]


def test_what_is_installed_from_it_runs(built: Built, tmp_path: Path) -> None:
    install(built.wheel, tmp_path / "site")
    script = "import demo_node.cli; print(demo_node.__file__); demo_node.cli.main()"
    ended = subprocess.run(
        [sys.executable, "-c", script, "simulate", "--nodes", "4", "--rounds", "3", "--seed", "1"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
        check=True,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert ended.stdout.startswith(str(tmp_path / "site"))
    assert "all held" in ended.stdout
