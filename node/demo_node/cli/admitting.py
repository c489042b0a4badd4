"""`demo-node init --admission`: who may join the new run (rule 26)."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import click

from demo_node.mesh.peer_id import decode_peer_id, encode_peer_id
from demo_protocol.limits import ALLOWED_MAX, PEER_BYTES
from demo_protocol.manifest import Agreement, join_allowed, list_allowed

STAMP_BITS = 20
"""A million hashes: a second or two of one core for every hour in which a node asks to join."""


@dataclass(frozen=True, slots=True)
class Admission:
    """What was chosen. `allow` holds public keys."""

    kind: str | None
    stamp_bits: int | None
    allow: tuple[bytes, ...]

    def apply(self, agreement: Agreement, old: Agreement | None, own: bytes) -> Agreement:
        """The agreement of the new run: as chosen, else as in the `old` one.

        Whoever opens the run with the key `own` is on its list.
        """
        if self.kind is None:
            source = old or agreement
            return replace(
                agreement,
                admission=source.admission,
                stamp_bits=source.stamp_bits,
                allowlist=source.allowlist,
            )
        stamp_bits = (self.stamp_bits or STAMP_BITS) if self.kind == "stamp" else 0
        listed = join_allowed([own, *self.allow]) if self.kind == "allowlist" else ""
        return replace(agreement, admission=self.kind, stamp_bits=stamp_bits, allowlist=listed)


def parse_admission(kind: str | None, stamp_bits: int | None, allow: Sequence[str]) -> Admission:
    """What the options say. Raises click.UsageError where they do not fit together."""
    if stamp_bits is not None and kind != "stamp":
        raise click.UsageError("--stamp-bits belongs to --admission stamp")
    if allow and kind != "allowlist":
        raise click.UsageError("--allow belongs to --admission allowlist")
    if kind == "allowlist" and not allow:
        raise click.UsageError("--admission allowlist wants --allow KEY for everybody else's node")
    if len(allow) >= ALLOWED_MAX:
        raise click.UsageError(f"--allow: a run lists at most {ALLOWED_MAX} keys, its own included")
    return Admission(kind, stamp_bits, tuple(parse_key(text) for text in allow))


def parse_key(text: str) -> bytes:
    """A public key from its peer id or its 64 hexadecimal digits."""
    if len(text) == 2 * PEER_BYTES:
        try:
            return bytes.fromhex(text)
        except ValueError:
            pass
    try:
        return decode_peer_id(text)
    except ValueError:
        raise click.BadParameter(
            f"{text!r} is neither a peer id (12D3Koo...) nor a public key in hexadecimal; see"
            " demo-node key show",
            param_hint="--allow",
        ) from None


def describe_admission(agreement: Agreement) -> list[str]:
    """Lines for people."""
    if agreement.admission == "stamp":
        return [f"stamp, {agreement.stamp_bits} bits"]
    if agreement.admission == "allowlist":
        peers = sorted(list_allowed(agreement.allowlist))
        return [f"allowlist, {len(peers)} keys", *map(encode_peer_id, peers)]
    return ["open"]
