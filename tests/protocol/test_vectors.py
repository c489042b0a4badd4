"""tests/vectors/protocol/: they are what the code makes, and reading them gives what they say.

`python -m tests.write_vectors` writes them again; the diff says what has changed for everybody.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from demo_node.learn.exact import apply_update
from demo_node.store.key import NodeKey, verify
from demo_protocol.admission import is_admitted
from demo_protocol.answers import (
    decode_bundle,
    decode_chain_state,
    decode_head,
    encode_chain_state,
)
from demo_protocol.chain import Chain
from demo_protocol.digest import compute_digest
from demo_protocol.evidence import check_offence, open_evidence
from demo_protocol.finality import find_final
from demo_protocol.forkchoice import choose_head
from demo_protocol.fp32 import Step
from demo_protocol.identity import Kind, compute_hash, signing_bytes
from demo_protocol.manifest import compute_run_id, decode_manifest
from demo_protocol.messages import (
    Evidence,
    check_signature,
    decode_header,
    decode_membership,
    decode_notice,
    decode_proposal,
)
from demo_protocol.payload import decode_payload
from demo_protocol.roster import compute_rank, genesis_state, get_contributors, get_member_names
from demo_protocol.schema import TensorSpec, build_schema
from demo_protocol.sets import decode_difference
from tests.protocol_vectors.choices import build, count_votes, name_of
from tests.protocol_vectors.files import CASES, write_text
from tests.protocol_vectors.making import MANIFEST, STAMPED

FOLDER = Path(__file__).parents[1] / "vectors/protocol"


def read(name: str) -> Any:
    return json.loads((FOLDER / f"{name}.json").read_text())


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_what_the_code_makes(name: str) -> None:
    assert (FOLDER / f"{name}.json").read_text() == write_text(name), (
        "python -m tests.write_vectors"
    )


def test_there_are_no_other_files() -> None:
    assert {path.stem for path in FOLDER.iterdir()} == set(CASES)


def test_manifest_and_keys() -> None:
    case = read("manifest")
    run_id = compute_run_id(decode_manifest(case["manifest"].encode()))
    tagged = b"demo-node/run/1\0" + case["manifest"].encode()
    assert run_id.hex() == case["run_id"] == hashlib.sha256(tagged).hexdigest()
    for key in case["keys"]:
        assert NodeKey(bytes.fromhex(key["seed"])).public.hex() == key["peer"]


@pytest.mark.parametrize(
    ("name", "decode"),
    [
        ("header", decode_header),
        ("heartbeat", decode_header),
        ("join", decode_membership),
        ("join, never drawn", decode_membership),
        ("leave", decode_membership),
        ("stamp", decode_membership),
        ("notice", decode_notice),
        ("proposal", decode_proposal),
    ],
)
def test_messages_are_signed_and_named_as_they_say(name: str, decode: Any) -> None:
    case = read("messages")
    message = case[name]
    run_id = bytes.fromhex(message.get("run_id", case["run_id"]))
    sealed = decode(bytes.fromhex(message["raw"]), run_id)
    check_signature(sealed, verify)
    body = bytes.fromhex(message["body"])
    assert sealed.signed == signing_bytes(sealed.kind, run_id, body)
    assert compute_hash(sealed.kind, run_id, body).hex() == message["hash"] == sealed.hash.hex()
    assert sealed.signature.hex() == message["signature"]
    fields = message["fields"]
    assert (sealed.body.round, sealed.body.peer.hex()) == (fields["round"], fields["peer"])


def test_a_stamp_is_good_in_its_run_and_hour_alone() -> None:
    stamp = read("messages")["stamp"]
    run_id = bytes.fromhex(stamp["run_id"])
    wish = decode_membership(bytes.fromhex(stamp["raw"]), run_id).body
    work = bytes.fromhex(stamp["seed"]) + wish.nonce.to_bytes(8, "big")
    assert int.from_bytes(hashlib.sha256(work).digest(), "big") < 1 << (256 - stamp["bits"])
    assert is_admitted(wish, STAMPED, run_id)
    assert not is_admitted(replace(wish, round=wish.round + 360), STAMPED, run_id)


def test_evidence_shows_an_offence_of_each_kind() -> None:
    case = read("messages")
    run_id = bytes.fromhex(case["run_id"])
    for name, kind in (("of headers", Kind.HEADER), ("of proposals", Kind.PROPOSAL)):
        first, second = (bytes.fromhex(case["evidence"][name][k]) for k in ("first", "second"))
        offence = open_evidence(Evidence(kind, first, second), run_id)
        check_offence(offence, verify)
        assert offence.peer.hex() == case["header"]["fields"]["peer"]


def test_the_chain_is_replayed_from_its_bundles() -> None:
    case = read("chain")
    run_id = bytes.fromhex(case["run_id"])
    chain = Chain(decode_manifest(case["manifest"].encode()), run_id, genesis_state(run_id))
    for row in case["records"]:
        bundle = decode_bundle(bytes.fromhex(row["bundle"]))
        headers = [decode_header(raw, run_id) for raw in bundle.headers]
        for header in headers:
            check_signature(header, verify)
        record = chain.add(
            decode_proposal(bundle.proposal, run_id), {h.hash: h for h in headers}, verify
        )
        assert (record.hash.hex(), record.rank) == (row["record"], row["rank"])
        encoded = encode_chain_state(record.state)
        assert hashlib.sha256(encoded).hexdigest() == row["state_sha256"], row["label"]
        assert row.get("state", encoded.hex()) == encoded.hex()
        assert [case["peers"][n] for n in row["members"]] == sorted(
            (p.hex() for p in record.members), key=case["peers"].index
        )
        assert encode_chain_state(decode_chain_state(encoded)) == encoded
    assert len(case["records"]) == 14


def test_turns_follow_from_the_encoded_state() -> None:
    case = read("turns")
    state = decode_chain_state(bytes.fromhex(case["state"]))
    agreement = replace(MANIFEST.agreement, contributors=4)
    peers = [bytes.fromhex(peer) for peer in case["peers"]]
    assert {peers[n] for n in case["members"]} == get_member_names(state, agreement)
    for round_, row in case["rounds"].items():
        drawn = get_contributors(state, int(round_), agreement)
        assert drawn is not None
        assert set(drawn) == {peers[n] for n in row["contributors"]}
        for rank, number in enumerate(row["order"]):
            assert compute_rank(state, peers[number], int(round_), agreement) == rank
            assert row["slots"][str(number)] == rank >> (int(round_) - state.round - 1)


@pytest.mark.parametrize("case", read("forkchoice")["cases"], ids=lambda case: case["sentence"])
def test_rule_18_the_head_follows_from_a_case(case: dict[str, Any]) -> None:
    rows = [tuple(row.values()) for row in case["records"]]
    run = replace(
        MANIFEST, agreement=replace(MANIFEST.agreement, overlap_rounds=case["overlap_rounds"])
    )
    chosen = choose_head(
        build(rows, case["members"], run),
        name_of(case["head_before"]),
        count_votes([(v, r, label) for v, r, label in case["votes"]], case["equivocators"]),
        usable=lambda record: record not in {name_of(label) for label in case["unusable"]},
        covered=lambda record: record.hash not in {name_of(label) for label in case["uncovered"]},
        final=name_of(case["final"]) if case["final"] else None,
    )
    assert chosen == name_of(case["head"])


@pytest.mark.parametrize("case", read("finality")["cases"], ids=lambda case: case["sentence"])
def test_rule_19_what_is_final_follows_from_a_case(case: dict[str, Any]) -> None:
    rows = [
        (str(h), str(h - 1) if h > 1 else "genesis", h - 1, 0, 1)
        for h in range(1, int(case["head"]) + 1)
    ]
    run = replace(
        MANIFEST, agreement=replace(MANIFEST.agreement, contributors=case["contributors"])
    )
    due = {int(round_): names for round_, names in case["due"].items()}
    chain = build(rows, case["members"], run, former=case["former_members"], due=due)
    votes = count_votes([(v, r, label) for v, r, label in case["votes"]], case["equivocators"])
    found = find_final(chain, name_of(case["head"]), votes, None)
    assert (None if found is None else str(found.height)) == case["final"]


def test_an_update_follows_from_its_payloads() -> None:
    case = read("update")
    schema = build_schema(TensorSpec(name, tuple(shape)) for name, shape in case["tensors"].items())
    payloads = [decode_payload(bytes.fromhex(raw), schema, 5) for raw in case["payloads"]]
    before = {name: torch.full(tuple(shape), 0.5) for name, shape in case["tensors"].items()}
    step = Step(lr_bits=case["lr_bits"], decay_bits=case["decay_bits"])
    after = {n: t.numpy() for n, t in apply_update(before, payloads, schema, step).items()}
    assert compute_digest(after).hex() == case["digest_after"]
    for row, chunk in (
        (case["signs"][0], after["matrix"]),
        (case["signs"][1][:3], after["vector"]),
    ):
        moved = np.float32(0.5) * np.float32(step.decay)
        signs = np.array(["-0+".index(sign) - 1 for sign in row], dtype=np.float32)
        assert (chunk.reshape(-1) == moved - signs * np.float32(step.lr)).all()


def test_answers_are_read_back() -> None:
    replies = {name: bytes.fromhex(raw) for name, raw in read("asking")["replies"].items()}
    for raw in replies.values():
        assert len(raw) == 9 + int.from_bytes(raw[1:9], "big")
    assert decode_head(replies["head"][9:]).height == 4
    assert decode_difference(replies["sets"][9:]).round == 5
