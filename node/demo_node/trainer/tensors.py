"""A replicated state as safetensors bytes, and back; and the corpus as a tensor."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from demo_node.learn.exact import validate_state
from demo_protocol.errors import ConfigError, Reject
from demo_protocol.manifest import Data
from demo_protocol.schema import Schema


def encode_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors bytes of `tensors`: a function of names, shapes and bits alone."""
    return safetensors.torch.save({n: tensors[n].cpu() for n in sorted(tensors)})


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
