"""Whatever ends a command is one line, in one style."""

import re

import click
import pytest

from demo_node.cli import root
from tests.cli.command import demo_node


@pytest.mark.parametrize(
    ("arguments", "wrong", "command"),
    [
        (["statsu"], "statsu", "demo-node"),
        (["status", "--foo"], "--foo", "demo-node status"),
        (["status", "x"], "x", "demo-node status"),
        (["key", "import"], "FILE", "demo-node key import"),
        (["simulate", "--seed=1", "--seeds=1..2"], "--seeds: choose", "demo-node simulate"),
    ],
)
def test_wrong_use_is_one_line_that_names_the_help(
    arguments: list[str], wrong: str, command: str
) -> None:
    done = demo_node(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    line = re.escape(wrong) + rf".*[.?] See {command} --help\n"
    assert re.fullmatch(f"demo-node: .*{line}", done.stderr), done.stderr


def test_help_is_no_error() -> None:
    done = demo_node("status", "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: demo-node status ")
    assert demo_node("--version").returncode == 0


def test_no_command_gets_the_list_of_them() -> None:
    done = demo_node()
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: demo-node ")


@pytest.mark.parametrize("group", ["", "key", "bench"])
def test_lists_of_commands_say_whole_sentences(group: str) -> None:
    """On a terminal of 80 columns, too."""
    listed = demo_node(*group.split(), "--help").stdout.split("\nCommands:\n")[1].splitlines()
    assert listed
    assert [line for line in listed if not line.endswith(".") or line.endswith("...")] == []


def test_ctrl_c_is_told_from_what_a_command_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def waits() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(root, "commands", waits)
    monkeypatch.setattr("sys.argv", ["demo-node"])
    with pytest.raises(SystemExit) as ended:
        root.main()
    assert ended.value.code == 130
    assert capsys.readouterr().err.strip() == "interrupted"
