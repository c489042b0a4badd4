import hashlib

from hypothesis import given
from hypothesis import strategies as st

from demo_protocol.merkle import (
    LeafHasher,
    compute_leaf,
    compute_leaves,
    compute_root,
    split_leaves,
)

texts = st.binary(min_size=1, max_size=200)


def test_root_is_a_constant() -> None:
    """Peers of all versions must agree on it: a changed value is a changed protocol."""
    leaves = compute_leaves(b"three blocks of text", 8)
    assert len(leaves) == 3
    assert compute_root(leaves).hex() == (
        "dbe653b41470bdd294302c886b2dad8daa43457cc0b7c74e281ed7ac5fc3e75a"
    )


def test_root_of_three_leaves_follows_the_definition() -> None:
    a, b, c = (compute_leaf(block) for block in (b"a", b"b", b"c"))
    pair = hashlib.sha256(b"demo-node/node/1\0" + a + b).digest()
    assert compute_root([a, b, c]) == hashlib.sha256(b"demo-node/node/1\0" + pair + c).digest()


def test_one_leaf_is_its_own_root() -> None:
    assert compute_root([compute_leaf(b"x")]) == compute_leaf(b"x")


def test_no_leaves_have_a_root_that_no_text_has() -> None:
    assert compute_root([]) not in {compute_leaf(b""), compute_root([compute_leaf(b"")])}


@given(texts, st.integers(1, 16), st.data())
def test_any_changed_byte_changes_the_root(text: bytes, block: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(text) - 1))
    changed = text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
    assert compute_root(compute_leaves(text, block)) != compute_root(compute_leaves(changed, block))


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=20, unique=True))
def test_order_and_number_of_leaves_matter(leaves: list[bytes]) -> None:
    root = compute_root(leaves)
    assert compute_root(leaves[::-1]) != root
    assert compute_root(leaves[:-1]) != root
    assert compute_root([*leaves, leaves[-1]]) != root  # the flaw that duplicating odd nodes has


def test_an_inner_node_cannot_pose_as_a_block() -> None:
    a, b = compute_leaf(b"a"), compute_leaf(b"b")
    assert compute_leaf(a + b) != compute_root([a, b])


@given(st.lists(st.binary(min_size=32, max_size=32), max_size=5))
def test_a_list_of_leaves_survives_concatenation(leaves: list[bytes]) -> None:
    assert split_leaves(b"".join(leaves)) == tuple(leaves)


def test_a_list_of_wrong_length_is_no_list() -> None:
    assert split_leaves(bytes(33)) is None


@given(st.binary(max_size=200), st.integers(1, 50), st.lists(st.integers(1, 90), max_size=5))
def test_leaves_do_not_depend_on_the_pieces_a_text_comes_in(
    text: bytes, block_bytes: int, sizes: list[int]
) -> None:
    hasher, at = LeafHasher(block_bytes), 0
    for size in [*sizes, len(text)]:
        hasher.update(text[at : at + size])
        at += size
    assert hasher.finish() == compute_leaves(text, block_bytes)
