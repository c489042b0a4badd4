"""A node's momentum, out of its learner into a file and back: nothing is sent twice over that.

The file is older than the node's death where there was no clean end. What was learned since is
lost. What was sent since is known, by this node's own signed headers and payloads, and taken out
of the residual again; where that is not possible the residual begins at zero.
"""

from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from demo_node.learn.adamw import MOMENTS
from demo_node.learn.demo import Encoder, Momentum
from demo_node.learn.faults import is_out_of_memory
from demo_node.learn.local import LocalTrainer
from demo_node.native import decode_payload, encode_payload
from demo_node.ports import AdoptOrder, Fate, SentPayload
from demo_node.trainer.momentum_file import (
    Kept,
    MomentumInfo,
    NotMomentum,
    encode_momentum,
    read_momentum,
)
from demo_protocol.errors import Reject
from demo_protocol.payload import Payload
from demo_protocol.schema import Schema


def save_momentum(
    run_id: bytes, schema: Schema, round_: int, momentum: Momentum, trainer: LocalTrainer
) -> Iterator[memoryview]:
    """The bytes of the file. `round_`: the newest in the residual.

    AdamW's tensors are copied a parameter at a time, each between two steps: training goes on
    meanwhile, and a parameter's moments are of one moment, which is all that AdamW asks.
    """
    moments = trainer.get_moments()
    payloads = [encode_payload(payload, schema) for payload, _ in momentum.sent.values()]
    pasts = [past for _, past in momentum.sent.values()]
    info = MomentumInfo(
        round=round_,
        decays=momentum.decays,
        sent=tuple(zip(momentum.sent, map(len, payloads), pasts, strict=True)),
        has_moments=bool(moments),
    )

    def tensors() -> Iterator[Tensor]:
        yield momentum.residual
        for name in schema.shapes if moments else ():
            with trainer.between_steps:
                copies = _copy(moments[name])
            yield from (copies[key] for key in MOMENTS)
        for payload in payloads:
            yield torch.from_numpy(np.frombuffer(bytearray(payload), np.uint8))

    return encode_momentum(run_id, schema, info, tensors())


def adopt_momentum(
    order: AdoptOrder, run_id: bytes, encoder: Encoder, trainer: LocalTrainer, k_max: int
) -> tuple[int, str]:
    """Go on from a file; returns the newest round that is in the residual now, and what is wrong.

    -1 and nothing where there is no file. One that is no good changes nothing; of one whose
    residual is of no use any more AdamW's moments are taken.
    """
    newest = max((sent.round for sent in order.sent), default=-1)
    try:
        kept = read_momentum(order.path, run_id, encoder.schema)
        if kept.moments:
            trainer.adopt_moments(kept.moments)
        reason = _adopt_residual(kept, order, encoder, k_max)
    except FileNotFoundError:
        return -1, ""
    except (NotMomentum, OSError) as error:
        return newest, str(error)
    except (RuntimeError, MemoryError) as error:
        encoder.adopt(Momentum(encoder.residual.zero_(), 0, {}))
        if not is_out_of_memory(error):
            raise
        return newest, "memory is too short for it"
    return max(newest, kept.info.round), reason and f"of the residual: {reason}"


def _adopt_residual(kept: Kept, order: AdoptOrder, encoder: Encoder, k_max: int) -> str:
    """Go on with the residual of a file; returns why it begins at zero instead, or nothing.

    What was sent before the file and is decided by now comes first, since what went back into the
    residual then may have been sent again later. Of what was sent later only what may have
    counted is taken out.
    """
    past = kept.info.round
    if order.forgotten_until > past:
        return f"what was sent up to round {order.forgotten_until} is not known any more"
    later = [s for s in order.sent if s.round > past and s.fate is not Fate.DROPPED]
    try:
        payloads = [_decode(sent, encoder.schema, k_max) for sent in later]
    except Reject as error:
        return f"a payload that was sent since is not here any more ({error})"
    encoder.adopt(kept.momentum)
    known = {sent.round: sent.fate for sent in order.sent}
    for round_ in kept.momentum.sent:
        _settle(encoder, round_, known.get(round_) or _guess(round_, order.forgotten_until))
    for sent, payload in zip(later, payloads, strict=True):
        encoder.retrace(payload, sent.round, sent.round - past)
        past = sent.round
        _settle(encoder, sent.round, sent.fate)
    return ""


def _guess(round_: int, forgotten_until: int) -> Fate:
    """What became of a payload in the file of which no header is known.

    Where headers were forgotten it may have counted. Else none was signed: it never left.
    """
    return Fate.COUNTED if round_ <= forgotten_until else Fate.DROPPED


def _settle(encoder: Encoder, round_: int, fate: Fate) -> None:
    match fate:
        case Fate.COUNTED:
            encoder.release(round_)
        case Fate.DROPPED:
            encoder.restore(round_)
        case Fate.OPEN:
            pass


def _decode(sent: SentPayload, schema: Schema, k_max: int) -> Payload:
    try:
        return decode_payload(sent.payload, schema, k_max)
    except Reject as error:
        raise Reject(f"round {sent.round}, {error}") from None


def _copy(moments: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: tensor.to("cpu", copy=True) for key, tensor in moments.items()}
