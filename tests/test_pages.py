"""Every page speaks only of what there is: files, names, commands, options, headings."""

import fnmatch
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from tests.pages import (
    COMMANDS,
    PAGES,
    ROOT,
    find_quoted,
    find_shell_lines,
    list_anchors,
    list_options,
)

FOLDERS: Final = ("deploy", "docs", "node", "proto", "protocol", "tests")

FILES: Final = [
    path.relative_to(ROOT).as_posix()
    for place in (ROOT / folder for folder in FOLDERS)
    for path in sorted(place.rglob("*"))
    if "__pycache__" not in path.parts
] + [path.name for path in sorted(ROOT.iterdir())]

A_FILE: Final = re.compile(
    r"([\w.*/-]+\.(?:json|md|png|proto|py|safetensors|sh|svg|toml|yml))(?:::?[\w.…]+)?"
)

MADE: Final = {
    "config.toml",
    "deploy/prometheus/targets/swarm.json",
    "initial.safetensors",
    "manifest.json",
    "momentum.safetensors",
    "peers.json",
}
"""By a node or a command, or by whoever runs one: no files of this repository."""

FOREIGN: Final = {"muxer_preference", "python_"}
"""Names of other people's programs that ours do not have."""

FOREIGN_OPTIONS: Final = {"--build-arg", "--scale"}
"""Docker's."""

SPELLING: Final = (
    *(".json", ".proto", ".py", ".pyi", ".service", ".sh", ".toml", ".yaml", ".yml"),
    "Dockerfile",
)
"""Files whose words are names that a page may use."""

WORDS: Final = set(
    re.findall(
        r"\w+",
        "\n".join(
            (ROOT / name).read_text()
            for name in FILES
            if name.endswith(SPELLING) and name != "tests/test_pages.py"
        ),
    )
)
STEMS: Final = {Path(name).stem for name in FILES}

each_page: Final = pytest.mark.parametrize(
    "page", PAGES, ids=[path.relative_to(ROOT).as_posix() for path in PAGES]
)


def find_given(text: str) -> list[str]:
    """Commands and parts of them, wherever they stand."""
    return [*find_quoted(text), *find_shell_lines(text)]


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), link
        assert not anchor or anchor in list_anchors(target.read_text()), link


@each_page
def test_files_it_names_exist(page: Path) -> None:
    text = page.read_text()
    named = {match[1] for code in find_quoted(text) if (match := A_FILE.fullmatch(code))}
    words = {word for given in find_given(text) for word in given.split()}
    named |= {
        word.rstrip("/") for word in words if re.fullmatch(rf"({'|'.join(FOLDERS)})/[\w./]+", word)
    }
    for name in named - MADE:
        assert any(fnmatch.fnmatch(f"/{path}", f"*/{name}") for path in FILES), name


@each_page
def test_names_it_uses_exist(page: Path) -> None:
    for code in find_quoted(page.read_text()):
        if match := re.fullmatch(r"(demo_\w+(?:\.\w+)+)(?:\(\))?", code):
            assert pkgutil.resolve_name(match[1])
        for word, more in re.findall(r"\b([A-Za-z_]\w*)(…?)", code):
            if "_" not in word and not re.search("[a-z][A-Z]", word):
                continue  # a word of everybody's
            begun = bool(more) and any(known.startswith(word) for known in WORDS)
            assert begun or word in WORDS | STEMS | FOREIGN, code


def find_commands_given(text: str) -> Iterator[tuple[str, list[str]]]:
    """Every `demo-node …` with its options; `make swarm ARGS="…"` is one, too."""
    for given in find_given(text):
        line = re.sub(r'make swarm(?: ARGS="(.*)")?', r"demo-node swarm \1", given)
        for name, rest in re.findall(r"demo-node ([a-z-]+(?: [a-z]+)?)([^|;&]*)", line):
            first = f"demo-node {name.split()[0]}"
            is_group = isinstance(COMMANDS.get(first), click.Group)
            yield (
                f"demo-node {name}" if is_group else first,
                re.findall(r"(?<![\w-])--[a-z][a-z-]*", rest),
            )


@each_page
def test_commands_and_options_it_names_exist(page: Path) -> None:
    text = page.read_text()
    for name, options in find_commands_given(text):
        assert name in COMMANDS, name
        assert set(options) <= list_options(COMMANDS[name]) | {"--help"}, (name, options)
    alone = {code for code in find_quoted(text) if re.fullmatch(r"--[a-z-]+", code)}
    assert alone <= FOREIGN_OPTIONS.union(*map(list_options, COMMANDS.values())), alone


@each_page
def test_what_else_it_tells_to_run_exists(page: Path) -> None:
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for given in find_given(page.read_text()):
        if match := re.match(r"make (\w+)", given):
            assert match[1] in targets, given
        if match := re.search(r"python -m ([\w.]+)", given):
            assert f"{match[1].replace('.', '/')}.py" in FILES, given
