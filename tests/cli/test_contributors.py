import csv
from dataclasses import replace

from demo_node.cli.show import format_status
from demo_node.cli.show_contributors import (
    COLUMNS,
    Contributors,
    describe_contributors,
    format_contributors,
    format_contributors_csv,
)
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.views import ContributorView, Standing
from tests.control.fake_node import CONTRIBUTOR, status_view

GENESIS_MS = 1_795_269_720_000
"""2026-11-21 14:02:00 UTC."""

STATUS = status_view(
    genesis_ms=GENESIS_MS - 9_000,
    round_ms=3_000,
    contribution=replace(CONTRIBUTOR, rounds=12, samples=3_456, share=0.2478, first_round=3),
)
OTHER = ContributorView(
    peer=b"\x07" * 32,
    standing=Standing.LEFT,
    rounds=40,
    samples=10_490,
    share=0.7522,
    first_round=0,
    last_round=39,
)
STRANGER = replace(
    OTHER,
    peer=b"\x08" * 32,
    standing=Standing.CANDIDATE,
    rounds=0,
    samples=0,
    share=0.0,
    first_round=-1,
    last_round=-1,
)
TABLE = Contributors(STATUS, [OTHER, STATUS.contribution, STRANGER])


def test_status_says_what_this_node_contributed() -> None:
    line = (
        "contributed 12 rounds, 3,456 samples, 24.8% of all, since round 3 (2026-11-21 14:02 UTC)"
    )
    assert line in format_status(STATUS).splitlines()
    fresh = replace(STATUS, contribution=replace(STRANGER, peer=STATUS.peer))
    assert "contributed nothing that counted yet" in format_status(fresh).splitlines()


def test_the_table_marks_whose_it_is() -> None:
    header, first, mine, last = format_contributors(TABLE).splitlines()
    assert header.split()[:3] == ["peer", "standing", "rounds"]
    assert first.startswith(encode_peer_id(OTHER.peer))
    assert " you " in mine
    assert " you " not in first + last
    assert "round 3 (2026-11-21 14:02 UTC)" in mine
    assert last.split()[1:] == ["candidate", "0", "0", "0.0%", "-", "-"]
    assert "no peer" in format_contributors(Contributors(STATUS, []))


def test_the_csv_can_be_read_back_and_agrees_with_the_json_document() -> None:
    text = format_contributors_csv(TABLE)
    rows = list(csv.DictReader(text.splitlines()))
    assert text.splitlines()[0] == ",".join(COLUMNS)
    documents = describe_contributors(TABLE)["peers"]
    for row, document in zip(rows, documents, strict=True):
        assert row == {**{k: str(v) for k, v in document.items()}, "you": row["you"]}
        assert row["you"] == ("yes" if document["you"] else "no")
    assert [row["you"] for row in rows] == ["no", "yes", "no"]
    assert [row["since"] for row in rows] == [
        "2026-11-21T14:01:51Z",
        "2026-11-21T14:02:00Z",
        "",
    ]
    assert [float(row["share"]) for row in rows] == [0.7522, 0.2478, 0.0]
