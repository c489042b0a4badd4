from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo_node.store.disk import FileDisk
from demo_node.store.key import (
    NodeKey,
    create_key,
    decode_key,
    encode_key,
    generate_key,
    load_key,
    verify,
)
from demo_protocol.errors import ConfigError

DISK = FileDisk()

LIBP2P = bytes.fromhex(
    "080112407e0830617c4a7de83925dfb2694556b12936c477a0e1feb2e148ec9da60fee7d"
    "1ed1e8fae2c4a144b8be8fd4b47bf3d3b34b871c3cacf6010f0e42d474fce27e"
)
"""The Ed25519 private key of the libp2p specification, peer-ids/peer-ids.md, "Test vectors"."""


def test_file_is_what_libp2p_specifies() -> None:
    key = decode_key(LIBP2P)
    assert key is not None
    assert key.seed == LIBP2P[4:36]
    assert key.public == LIBP2P[36:]
    assert encode_key(key) == LIBP2P


def test_a_saved_key_signs_the_same(tmp_path: Path) -> None:
    key = generate_key()
    create_key(DISK, tmp_path / "node.key", key)
    loaded = load_key(DISK, tmp_path / "node.key")
    assert (loaded.seed, loaded.public) == (key.seed, key.public)
    assert loaded.sign(b"m") == key.sign(b"m")
    assert len(key.sign(b"m")) == 64
    assert (tmp_path / "node.key").stat().st_mode & 0o777 == 0o600


def test_an_existing_key_is_never_overwritten(tmp_path: Path) -> None:
    create_key(DISK, tmp_path / "node.key", NodeKey(bytes(32)))
    with pytest.raises(ConfigError, match="nothing is overwritten"):
        create_key(DISK, tmp_path / "node.key", generate_key())
    assert load_key(DISK, tmp_path / "node.key").seed == bytes(32)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o601])
def test_a_key_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "node.key"
    create_key(DISK, path, generate_key())
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"run: chmod 600 '{path}'") as caught:
        load_key(DISK, path)
    assert caught.value.exit_code == 77


def test_a_missing_key_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run: demo-node key new"):
        load_key(DISK, tmp_path / "node.key")


@given(st.integers(0, len(LIBP2P) * 8 - 1))
def test_no_flipped_bit_gives_another_key(bit: int) -> None:
    flipped = bytearray(LIBP2P)
    flipped[bit // 8] ^= 1 << bit % 8
    assert decode_key(bytes(flipped)) is None


def test_a_damaged_key_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    path.write_bytes(LIBP2P[:-1])
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="not an Ed25519 key"):
        load_key(DISK, path)


def test_verify_takes_only_the_right_signature() -> None:
    key, other = NodeKey(bytes(32)), generate_key()
    signature = key.sign(b"message")
    assert verify(key.public, b"message", signature)
    assert not verify(key.public, b"messagf", signature)
    assert not verify(other.public, b"message", signature)


@given(st.binary(max_size=40), st.binary(max_size=70))
def test_verify_calls_garbage_false(public_key: bytes, signature: bytes) -> None:
    assert not verify(public_key, b"message", signature)


def test_the_seed_is_not_in_the_repr() -> None:
    key = generate_key()
    assert key.seed.hex() not in repr(key)
    assert key.public.hex() in repr(key)
