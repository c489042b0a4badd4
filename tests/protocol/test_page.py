"""docs/protocol.md says every rule once, and names only what exists; docs/wire.md every byte."""

import ast
import re
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest

from demo_node.ports import Blob
from demo_protocol import limits
from demo_protocol.manifest import Manifest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/protocol.md").read_text()
WIRE = (ROOT / "docs/wire.md").read_text()
NAMES = sorted(set(re.findall(r"`(demo_\w+/[\w/]+\.py):([\w.]+)`", PAGE + WIRE)))
RULES = [*(f"T{n}" for n in range(1, 9)), *map(str, range(1, 27)), *(f"E{n}" for n in range(1, 16))]


def defined(path: Path) -> set[str]:
    """Functions, classes and constants of a file; of a class also its own."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        for name in _named(node):
            found.add(name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{name}" for inner in node.body for name in _named(inner)}
    return found


def _named(node: ast.stmt) -> list[str]:
    match node:
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            return [node.name]
        case ast.AnnAssign(target=ast.Name(id=name)):
            return [name]
        case _:
            return []


def manifest_keys(kind: type, prefix: str = "") -> set[str]:
    keys = set()
    for field in fields(kind):
        wanted = get_type_hints(kind)[field.name]
        name = prefix + field.name
        if isinstance(wanted, type) and is_dataclass(wanted):
            keys |= manifest_keys(wanted, name + ".")
        else:
            keys.add(name)
    return keys


@pytest.mark.parametrize(("path", "name"), NAMES)
def test_everything_the_page_names_exists(path: str, name: str) -> None:
    folder = "protocol" if path.startswith("demo_protocol") else "node"
    assert name in defined(ROOT / folder / path)


def test_every_rule_is_on_the_page_once_and_in_order() -> None:
    assert re.findall(r"\*\*([TE]?\d+)\.? ?", PAGE) == RULES


def test_every_rule_names_what_enforces_it() -> None:
    rules = re.split(r"\n\*\*(?=T?\d+\.)", PAGE.split("## Exactness")[0])[1:]
    assert len(rules) == 34
    for rule in rules:
        assert "`demo_" in rule, rule.split(".")[0]


def test_the_page_lists_the_manifests_keys_and_no_others() -> None:
    table = WIRE.split("## The manifest")[1]
    assert set(re.findall(r"^\| `([\w.]+)` \|", table, re.MULTILINE)) == manifest_keys(Manifest)


def test_every_domain_of_a_hash_is_named() -> None:
    """What the protocol hashes or draws by; those of a node's own files are its own affair."""
    sources = "".join(path.read_text() for path in (ROOT / "protocol/demo_protocol").glob("*.py"))
    tags = set(re.findall(r'b"(demo-node/[\w/-]+)', sources)) - {"demo-node/known-answer/1"}
    assert len(tags) > 10
    for tag in tags - {"demo-node/"}:
        assert f'"{tag}' in WIRE, tag


def test_every_kind_of_question_is_named_with_its_number() -> None:
    rows = re.findall(r"^\| (\d+) \| (\w+) \|", WIRE, re.MULTILINE)
    assert [(int(number), name) for number, name in rows] == [(k.value, k.name) for k in Blob]


def test_the_bounds_that_decide_validity_are_those_of_the_code() -> None:
    for bound in (
        limits.HEADER_BYTES_MAX,
        limits.MEMBERSHIP_BYTES_MAX,
        limits.PROPOSAL_BYTES_MAX,
        limits.GOSSIP_BYTES_MAX,
        limits.GOSSIP_BYTES_MAX - limits.NOTICE_BYTES_MAX,
        limits.CONTRIBUTIONS_MAX,
        limits.CANDIDATES_MAX,
        limits.REQUEST_BYTES_MAX,
        limits.KEY_BYTES_MAX,
    ):
        assert f"{bound:,}" in WIRE, bound
