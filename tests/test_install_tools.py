"""deploy/install-tools.sh on a machine that has nothing, with what it calls replaced."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.needs import PROGRAMS

SCRIPT = Path(__file__).parents[1] / "deploy" / "install-tools.sh"
PACKAGES = {
    *("prometheus", "prometheus-alertmanager", "nodejs", "npm"),
    *("docker.io", "docker-compose", "debootstrap", "nftables", "iproute2", "iputils-ping"),
}


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """A folder for PATH with what the script itself needs; its user is not root."""
    for name in ("sort", "tr"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    add_program(tmp_path, "id", "echo 1000")
    return tmp_path


def add_program(folder: Path, name: str, does: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{does}\n")
    (folder / name).chmod(0o755)


def install(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    bash = shutil.which("bash")
    assert bash
    replaced = {"PATH": folder, "POLICY_RC_D": folder / "policy", "FONT": folder / "font"}
    environment = {**os.environ, **{name: str(value) for name, value in replaced.items()}}
    return subprocess.run(
        [bash, SCRIPT, *arguments], env=environment, capture_output=True, text=True, check=False
    )


def test_what_is_missing_is_named(bare: Path) -> None:
    result = install(bare, "--check")
    assert result.returncode == 1
    assert set(result.stdout.removeprefix("not installed: ").split()) >= PACKAGES


def test_only_what_is_missing_is_named(bare: Path) -> None:
    for program in PROGRAMS:
        if program != "npm":
            add_program(bare, program, "")
    result = install(bare, "--check")
    assert result.returncode == 1
    assert "npm" in result.stdout
    assert not PACKAGES - {"npm"} & set(result.stdout.split())


@pytest.mark.parametrize(("option", "says"), [((), "nothing to install\n"), (("--check",), "")])
def test_where_all_is_there_only_make_hears_nothing(
    bare: Path, option: tuple[str, ...], says: str
) -> None:
    (bare / "font").touch()
    for program in PROGRAMS:
        add_program(bare, program, "")
    result = install(bare, *option)
    assert (result.returncode, result.stdout, result.stderr) == (0, says, "")


@pytest.mark.parametrize("line", [("--chek",), ("--check", "now"), ("npm",)])
def test_what_it_does_not_know_is_refused(bare: Path, line: tuple[str, ...]) -> None:
    add_program(bare, "id", "echo 0")
    add_program(bare, "apt-get", f"echo called > {bare}/called")
    result = install(bare, *line)
    assert result.returncode == 2
    assert result.stderr == "usage: install-tools.sh [--check]\n"
    assert not (bare / "called").exists()


def test_nothing_is_installed_by_who_may_not(bare: Path) -> None:
    add_program(bare, "apt-get", f"echo called > {bare}/called")
    result = install(bare)
    assert result.returncode == 1
    assert result.stderr.endswith("run: sudo bash deploy/install-tools.sh\n")
    assert not (bare / "called").exists()


def test_a_machine_without_apt_is_told_what_to_install(bare: Path) -> None:
    result = install(bare)
    assert result.returncode == 1
    assert "no apt-get" in result.stderr


def test_services_that_came_along_do_not_start_with_the_machine(bare: Path) -> None:
    for program in PROGRAMS:
        if program not in ("prometheus", "promtool"):
            add_program(bare, program, "")
    add_program(bare, "id", "echo 0")
    installed = f'case "$*" in *install*) cp {bare}/npm {bare}/prometheus ;; esac'
    add_program(bare, "apt-get", installed)
    add_program(bare, "systemctl", f'echo "$*" >> {bare}/asked')
    for name in ("cp", "rm", "chmod"):
        found = shutil.which(name)
        assert found
        (bare / name).symlink_to(found)
    install(bare)
    assert (bare / "asked").read_text() == "--quiet disable prometheus\n"
    assert not (bare / "policy").exists(), "only while it installs"
