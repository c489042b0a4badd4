import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import Ed25519PublicKey, create_new_key_pair
from libp2p.crypto.secp256k1 import create_new_key_pair as create_secp256k1
from libp2p.peer.id import ID

from demo_node.mesh.peer_id import (
    decode_peer_id,
    decode_peer_id_bytes,
    encode_peer_id,
    encode_peer_id_bytes,
)


@given(st.binary(min_size=32, max_size=32))
def test_decoding_is_the_inverse_of_encoding(key: bytes) -> None:
    assert decode_peer_id(encode_peer_id(key)) == key
    assert decode_peer_id_bytes(encode_peer_id_bytes(key)) == key


@given(st.binary(min_size=32, max_size=32))
def test_ids_are_those_of_libp2p(seed: bytes) -> None:
    public = create_new_key_pair(seed).public_key
    theirs = ID.from_pubkey(public)
    assert isinstance(public, Ed25519PublicKey)
    assert encode_peer_id(public.to_bytes()) == theirs.to_base58()
    assert encode_peer_id_bytes(public.to_bytes()) == theirs.to_bytes()


def test_a_known_id() -> None:
    assert encode_peer_id(bytes(32)) == "12D3KooW9pNAk8aiBuGVQtWRdbkLmo5qVL3e2h5UxbN2Nz9ttwiw"


@given(st.text(max_size=80))
def test_garbage_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        decode_peer_id(text)


def test_other_keys_are_refused() -> None:
    other = ID.from_pubkey(create_secp256k1().public_key).to_base58()
    for text in (other, "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N", "1" * 64, "2" * 1000):
        with pytest.raises(ValueError, match=r".+"):
            decode_peer_id(text)
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        encode_peer_id(bytes(31))


def test_what_the_command_line_and_the_simulator_need_does_not_import_libp2p() -> None:
    code = (
        "import sys, demo_node.mesh.peer_id, demo_node.mesh.addresses, demo_node.mesh.memory;"
        "print([m for m in ('libp2p', 'trio', 'multiaddr', 'torch') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
