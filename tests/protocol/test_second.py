"""docs/wire.md is enough: `second.py`, written from it alone, agrees with every vector it reads."""

import ast
import json
import struct
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from tests.protocol import second, second_choice, second_update

FOLDER = Path(__file__).parents[1] / "vectors"


def read(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("part", [second, second_choice, second_update])
def test_it_imports_nothing_of_the_first(part: ModuleType) -> None:
    tree = ast.parse(Path(part.__file__ or "").read_text())
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {
        name
        for node in imports
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
        )
    }
    assert not {name for name in names if name.startswith(("demo", "tests", "google"))}
    assert names & {"struct", "hashlib"}


def test_names_of_messages() -> None:
    case = read("protocol/messages")
    run_id = bytes.fromhex(case["run_id"])
    text = read("protocol/manifest")["manifest"].encode()
    assert second.sha(b"demo-node/run/1\0" + text) == run_id
    kinds = {"header": "header", "join": "membership", "notice": "proposal", "proposal": "proposal"}
    for name, kind in kinds.items():
        body = bytes.fromhex(case[name]["body"])
        assert second.name_message(kind, run_id, body).hex() == case[name]["hash"]


def test_samples() -> None:
    case = read("assignment")
    run_id, root = bytes.fromhex(case["run_id"]), bytes.fromhex(case["data_root"])
    found = [second.sample(run_id, root, case["total"], n) for n in case["numbers"]]
    assert found == case["samples"]
    key = bytes.fromhex(case["probation_key"])
    probes = [second.probation_sample(key, case["round"], case["total"], n) for n in range(8)]
    assert probes == case["probation"]


def test_every_state_of_the_chain() -> None:
    case = read("protocol/chain")
    run_id, manifest = bytes.fromhex(case["run_id"]), json.loads(case["manifest"])
    states = {"genesis": second.State(run_id)}
    for row in case["records"]:
        bundle = bytes.fromhex(row["bundle"])
        state = second.advance(states[row["parent"]], bundle, run_id, manifest)
        assert second.sha(state.encode()).hex() == row["state_sha256"], row["label"]
        members = state.members(manifest["agreement"]["expire_rounds"])
        assert members == {bytes.fromhex(case["peers"][n]) for n in row["members"]}
        states[row["label"]] = state
    assert len(states) == 15


@pytest.mark.parametrize("round_", [41, 42, 43])
def test_order_contributors_and_intervals(round_: int) -> None:
    case = read("protocol/turns")
    state = second.read_state(bytes.fromhex(case["state"]))
    peers = [bytes.fromhex(peer) for peer in case["peers"]]
    members = state.members(case["expire_rounds"])
    key = {peer: known.key for peer, known in state.known.items()}
    row = case["rounds"][str(round_)]
    order = sorted(members, key=lambda p: (second.rank_hash(key[p], round_), p))
    assert [peers.index(p) for p in order] == row["order"]
    waiting = {p for p, k in state.known.items() if not k.left and not k.never_drawn} - members

    def first(label: bytes, among: set[bytes]) -> list[bytes]:
        return sorted(among, key=lambda p: (second.draw(label, key[p], round_), p))

    drawn = first(b"c", members)[:4]
    assert sorted(map(peers.index, drawn + first(b"c", waiting)[:4])) == row["contributors"]
    length = {p: second.interval_length(state.known[p], case["samples_start"]) for p in members}
    half = sum(sorted(length.values())[-4:])
    overlap = case["intervals"]["contributors 4, overlap 1"].get(str(round_), {})
    plain = case["intervals"]["contributors 4, overlap 0"].get(str(round_), {})
    for dealt, at in ((plain, state.cursor), (overlap, state.cursor + half * (round_ % 2))):
        for peer in first(b"d", set(drawn)) if dealt else []:
            assert dealt[str(peers.index(peer))] == [at, length[peer]]
            at += length[peer]
    assert plain or overlap


def test_digest_and_root() -> None:
    case = read("protocol/state")
    bits = {
        name: [i * 2654435761 % 2**32 & 0x3FFFFFFF for i in range(count)]
        for name, count in case["tensors"].items()
    }
    words = bits["a"] + bits["b"]
    assert second.digest(words).hex() == case["digest"]
    text, size = struct.pack(f"<{len(words)}I", *words), case["chunk_bytes"]
    blocks = [text[at : at + size] for at in range(0, len(text), size)]
    leaves = [second.leaf(block) for block in (bytes.fromhex(case["chain_state"]), *blocks)]
    assert [leaf.hex() for leaf in leaves] == case["leaves"]
    assert second.merkle_root(leaves).hex() == case["root"]
    for name, root in case["trees"].items():
        tree = [second.leaf(bytes([n])) for n in range(int(name[0]))]
        assert second.merkle_root(tree).hex() == root


def test_votes_and_signs_of_an_update() -> None:
    case = read("protocol/update")
    chunks = len(case["votes"])
    payloads = [second_update.read_payload(bytes.fromhex(raw), chunks) for raw in case["payloads"]]
    for at, signs in enumerate(case["signs"]):
        votes = second_update.add_votes([payload[at] for payload in payloads])
        assert {str(slot): v for slot, v in enumerate(votes) if v} == case["votes"][at]
        assert second_update.invert(votes) == signs


@pytest.mark.parametrize("case", read("protocol/forkchoice")["cases"], ids=lambda c: c["sentence"])
def test_rule_18(case: dict[str, Any]) -> None:
    rules = json.loads(read("protocol/manifest")["manifest"])["agreement"]
    assert second_choice.Tree(case, rules).choose() == case["head"]


@pytest.mark.parametrize("case", read("protocol/finality")["cases"], ids=lambda c: c["sentence"])
def test_rule_19(case: dict[str, Any]) -> None:
    final = second_choice.find_final(case, read("protocol/finality"))
    assert final == (None if case["final"] is None else int(case["final"]))
