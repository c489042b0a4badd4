"""Which records of the DHT are taken; a program of its own, for it imports hivemind.

Prints one line of JSON: by case, whether the validators that every member has took it.
"""

import dataclasses
import json
import sys
from collections.abc import Iterator
from typing import Any

from demo_node.mesh.hivemind import standin

standin.prepare_imports()

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: E402
from hivemind.dht.routing import DHTID  # noqa: E402
from hivemind.dht.validation import CompositeValidator, DHTRecord  # noqa: E402
from hivemind.utils import MSGPackSerializer, get_dht_time  # noqa: E402

from demo_node.mesh.hivemind.membership import (  # noqa: E402
    MEMBERS_MAX,
    OwnedRecords,
    make_key,
    make_schema,
)

RUN, SEED, OTHER = bytes(range(32)), b"\1" * 32, b"\2" * 32
PLACES = ["/ip4/192.0.2.1/tcp/4001"]


def make(seed: bytes = SEED, owner: bytes = SEED, run: bytes = RUN, **changes: Any) -> DHTRecord:
    """A record that `seed` signed, in the place of `owner`."""
    key = make_key(run)
    public = Ed25519PrivateKey.from_private_bytes(owner).public_key().public_bytes_raw()
    record = DHTRecord(
        DHTID.generate(source=key).to_bytes(),
        MSGPackSerializer.dumps(changes.get("subkey", public)),
        MSGPackSerializer.dumps(changes.get("value", PLACES)),
        get_dht_time() + changes.get("lives_s", 30),
    )
    return dataclasses.replace(record, value=OwnedRecords(key, seed).sign_value(record))


def cases() -> Iterator[tuple[str, DHTRecord]]:
    """What a member says, and what others could try."""
    good = make()
    yield "good", good
    yield "of another", make(OTHER, OTHER)
    yield "signed by another", make(OTHER, SEED)
    yield "unsigned", dataclasses.replace(good, value=good.value[:-64])
    yield "empty", dataclasses.replace(good, value=b"")
    yield "changed", dataclasses.replace(good, value=b"\x90" + good.value[1:])
    yield "prolonged", dataclasses.replace(good, expiration_time=good.expiration_time + 5)
    yield "moved", dataclasses.replace(make(OTHER, OTHER), subkey=good.subkey)
    yield "of another run", make(run=bytes(32))
    yield "for ever", make(lives_s=10_000)
    yield "no key", make(subkey="name")
    yield "short key", make(subkey=b"short")
    yield "garbage for a key", dataclasses.replace(good, subkey=b"\xc1\xff")
    yield "a dictionary", dataclasses.replace(good, subkey=b"")
    yield "numbers", make(value=[1, 2])
    yield "text", make(value="place")
    yield "many places", make(value=PLACES * 9)
    yield "a long place", make(value=["x" * 257])
    yield "long", make(value=["x" * 5000])


def main() -> None:
    """Judge them all; then as many members as there may be, and one more."""
    owned = OwnedRecords(make_key(RUN), SEED)
    validator = CompositeValidator([make_schema(RUN), owned])
    verdicts = {name: validator.validate(record) for name, record in cases()}
    end = get_dht_time() + 30
    owned._members = {number.to_bytes(32): end for number in range(MEMBERS_MAX)}
    verdicts["one too many"] = validator.validate(make())
    owned._members = {number.to_bytes(32): 0.0 for number in range(MEMBERS_MAX)}
    verdicts["after others left"] = validator.validate(make())
    sys.stdout.write(json.dumps(verdicts))


if __name__ == "__main__":
    main()
