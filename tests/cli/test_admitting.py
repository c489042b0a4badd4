"""`demo-node init --admission`: who may join the new run (rule 26)."""

from pathlib import Path

import click
import pytest

from demo_node.cli.admitting import STAMP_BITS, describe_admission, parse_admission, parse_key
from demo_node.mesh.peer_id import encode_peer_id
from demo_node.sim.keys import peer_name
from demo_node.store.datadir import DataDir
from demo_node.store.disk import FileDisk
from demo_node.store.key import load_key
from demo_protocol.limits import ALLOWED_MAX
from demo_protocol.manifest import Agreement, Manifest, decode_manifest, list_allowed
from tests.cli.command import demo_node

OWN, FRIEND = peer_name(0), peer_name(1)


def opened(folder: Path, *flags: str) -> tuple[Manifest, str]:
    """(the new run's manifest, what was shown)."""
    done = demo_node("init", "--datadir", folder, *flags)
    assert done.returncode == 0, done.stderr
    return decode_manifest(DataDir(folder).manifest.read_bytes()), done.stdout


def test_a_run_takes_anybody_unless_it_says_otherwise() -> None:
    chosen = parse_admission(None, None, ())
    assert chosen.apply(Agreement(), None, OWN) == Agreement()
    assert describe_admission(Agreement()) == ["open"]


def test_a_stamp_has_twenty_bits_unless_it_says_otherwise() -> None:
    for bits, expected in ((None, STAMP_BITS), (7, 7)):
        agreement = parse_admission("stamp", bits, ()).apply(Agreement(), None, OWN)
        assert (agreement.admission, agreement.stamp_bits) == ("stamp", expected)
        assert describe_admission(agreement) == [f"stamp, {expected} bits"]


def test_who_opens_the_run_is_on_its_list_whichever_way_the_others_are_named() -> None:
    for text in (encode_peer_id(FRIEND), FRIEND.hex(), FRIEND.hex().upper()):
        agreement = parse_admission("allowlist", None, (text,)).apply(Agreement(), None, OWN)
        assert list_allowed(agreement.allowlist) == {OWN, FRIEND}
    shown = describe_admission(agreement)
    assert shown[0] == "allowlist, 2 keys"
    assert set(shown[1:]) == {encode_peer_id(OWN), encode_peer_id(FRIEND)}


def test_what_is_not_chosen_is_as_in_the_run_that_it_goes_on_from() -> None:
    old = Agreement(admission="stamp", stamp_bits=9)
    assert parse_admission(None, None, ()).apply(Agreement(), old, OWN) == old
    assert parse_admission("open", None, ()).apply(Agreement(), old, OWN) == Agreement()


@pytest.mark.parametrize(
    ("kind", "bits", "allow", "says"),
    [
        (None, 5, (), "--stamp-bits belongs to --admission stamp"),
        ("allowlist", 5, (FRIEND.hex(),), "--stamp-bits belongs to --admission stamp"),
        ("open", None, (FRIEND.hex(),), "--allow belongs to --admission allowlist"),
        ("allowlist", None, (), "wants --allow KEY"),
        ("allowlist", None, (FRIEND.hex(),) * ALLOWED_MAX, "at most"),
        ("allowlist", None, ("somebody",), "neither a peer id"),
        ("allowlist", None, ("z" * 64,), "neither a peer id"),
    ],
)
def test_what_does_not_fit_together_is_refused(
    kind: str | None, bits: int | None, allow: tuple[str, ...], says: str
) -> None:
    with pytest.raises(click.UsageError, match=says):
        parse_admission(kind, bits, allow)


def test_a_key_is_a_peer_id_or_hexadecimal() -> None:
    assert parse_key(encode_peer_id(FRIEND)) == parse_key(FRIEND.hex()) == FRIEND


def test_init_writes_the_list_and_shows_it_as_peer_ids(tmp_path: Path) -> None:
    manifest, shown = opened(
        tmp_path / "run", "--admission", "allowlist", "--allow", encode_peer_id(FRIEND)
    )
    own = load_key(FileDisk(), DataDir(tmp_path / "run").key).public
    assert list_allowed(manifest.agreement.allowlist) == {own, FRIEND}
    for peer in (own, FRIEND):
        assert encode_peer_id(peer) in shown


def test_init_refuses_in_one_line_and_writes_nothing(tmp_path: Path) -> None:
    done = demo_node("init", "--datadir", tmp_path / "run", "--stamp-bits", "5")
    assert done.returncode == 2
    assert done.stderr == (
        "demo-node: --stamp-bits belongs to --admission stamp. See demo-node init --help\n"
    )
    assert not (tmp_path / "run").exists()
