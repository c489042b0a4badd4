"""A replicated state as safetensors bytes, and back; state 0; and the corpus as a tensor."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from demo_node.learn.exact import validate_state
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.initial import compute_initial_state
from demo_protocol.limits import STATE_CHUNK_BYTES
from demo_protocol.manifest import Data, Manifest
from demo_protocol.merkle import LeafHasher
from demo_protocol.schema import Schema


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors bytes of `tensors`: a function of names, shapes and bits alone."""
    return safetensors.torch.save({n: tensors[n].cpu() for n in sorted(tensors)})


def compute_leaves(tensors: Mapping[str, Tensor]) -> tuple[bytes, ...]:
    """Leaf hashes of a state's parameters, in canonical order (rules 21 and E14)."""
    hasher = LeafHasher(STATE_CHUNK_BYTES)
    for name in sorted(tensors):
        words = tensors[name].detach().cpu().contiguous().reshape(-1).numpy()
        # hashlib lets other threads run meanwhile: what trains is not held up.
        hasher.update(words.astype("<f4", copy=False).view(np.uint8).data)
    return hasher.finish()


def decode_tensors(raw: bytes, schema: Schema) -> dict[str, Tensor]:
    """Inverse of `encode_tensors`, for bytes from outside.

    Raises Reject unless they are a state of this model (rules E3, E4 and E6).
    """
    # [REJECT] it is a safetensors file
    try:
        tensors = safetensors.torch.load(raw)
    except SafetensorError as error:
        raise Reject(f"snapshot: not safetensors ({error})") from None
    # [REJECT] it is a state that updates of this model can lead to
    validate_state(tensors, schema)
    return tensors


def make_initial(manifest: Manifest, schema: Schema, path: Path | None) -> dict[str, Tensor]:
    """State 0: from the snapshot file that the manifest names by its hash, else from the seed.

    Raises ConfigError where the file is not that one.
    """
    if not manifest.initial:
        drawn = compute_initial_state(schema, manifest.seed)
        return {name: torch.from_numpy(array) for name, array in drawn.items()}
    if path is None:
        raise ConfigError(f"this run begins from the snapshot {manifest.initial}: it is missing")
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"the initial snapshot {path}: {error.strerror}") from None
    found = hashlib.sha256(raw).hexdigest()
    if found != manifest.initial:
        raise ConfigError(
            f"{path} is not the snapshot that this run begins from: its SHA-256 is {found[:16]},"
            f" the manifest says {manifest.initial[:16]}; remove it and start again"
        )
    try:
        return decode_tensors(raw, schema)
    except Reject as error:
        raise ConfigError(f"{path} does not fit the model of this run: {error}") from None


def read_corpus(path: Path, data: Data) -> Tensor:
    """The corpus file as uint8 [train_bytes + heldout_bytes]. Raises ConfigError.

    Its hash is the store's business; its length is checked since everything indexes by it.
    """
    try:
        text = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    except OSError as error:
        raise ConfigError(f"the corpus {path} cannot be read: {error.strerror}") from None
    expected = data.train_bytes + data.heldout_bytes
    if len(text) != expected:
        raise ConfigError(f"the corpus {path} has {len(text)} bytes, the manifest says {expected}")
    return text
