"""Every bound on what comes from outside, each with its reason."""

from typing import Final

HASH_BYTES: Final = 32
"""SHA-256."""

PEER_BYTES: Final = 32
"""An Ed25519 public key is a peer's identity."""

SIGNATURE_BYTES: Final = 64
"""Ed25519."""

DIGEST_BYTES: Final = 8
"""Two 32-bit sums (PROTOCOL.md E12)."""

HEADER_BYTES_MAX: Final = 1 << 10
"""A header is about 300 bytes; anything larger is not one."""

LOSS_MICRONATS_MAX: Final = 2**32 - 1
"""What a header can say of a loss: 4,295 nats per byte. Whatever is larger is said to be this."""

PROPOSAL_BYTES_MAX: Final = 256 << 10
"""CONTRIBUTIONS_MAX hashes, JOINS_MAX wishes and EVIDENCE_MAX pairs, whatever is put into them, are
half of it."""

NOTICE_BYTES_MAX: Final = 1 << 10
"""A signed notice has about 180 bytes."""

MEMBERSHIP_BYTES_MAX: Final = 160
"""A signed join or leave has up to 124 bytes. Proposals carry them whole: JOINS_MAX of them, and
CONTRIBUTIONS_MAX hashes, must fit PROPOSAL_BYTES_MAX whatever strangers put into theirs."""

GOSSIP_BYTES_MAX: Final = 32 << 10
"""The largest message of any topic. Of a longer proposal the notice is gossiped, and the rest is
pulled by hash (rule 15)."""

CONTRIBUTIONS_MAX: Final = 2048
"""Headers in one proposal, late ones included. 2048 scales of at most 31 << 15 fit an int32 sum."""

CONTRIBUTORS_MAX: Final = 1000
"""Drawn in a round: half of CONTRIBUTIONS_MAX, so that late headers have room, too."""

SLOTS_MAX: Final = 16
"""Slots of a round: a manifest has no more (rule 12)."""

JOINS_MAX: Final = 64
"""Joins and leaves in one proposal."""

ALLOWED_MAX: Final = 512
"""Keys on a run's list: 33 kB of its manifest."""

STAMP_BITS_MAX: Final = 32
"""Of a join's stamp. Every bit doubles the work; what takes more than an hour is never done."""

CANDIDATES_MAX: Final = 1024
"""Candidates of a chain: more joins than that wait for their turn."""

JOINS_KEPT_MAX: Final = 4 * JOINS_MAX
"""Joins remembered: of more, those that a hash chooses anew in every round."""

EVIDENCE_MAX: Final = 8
"""Peers that one record removes, by two messages of up to 1 KiB each. The next record removes
more: whoever is removed cannot be accused again meanwhile."""

EVIDENCE_KEPT_MAX: Final = 256
"""Peers against whom a node keeps evidence that is on no chain yet."""

PAYLOAD_BYTES_MAX: Final = 256 << 20
"""No preset comes near it; the manifest and k bound a payload more tightly (rule T8)."""

STATE_CHUNK_BYTES: Final = 256 << 10
"""Leaf of the Merkle tree over a state (rule 21): four seconds of a 0.5 Mbit/s uplink. Measured in
docs/decisions/snapshots.md: smaller ones cost requests, larger ones are lost when a peer leaves."""

CHAIN_STATE_BYTES_MAX: Final = 8 << 20
"""First leaf of that tree: about 150 bytes for every peer that the chain knows."""

BLOB_BYTES_MAX: Final = 1 << 30
"""A snapshot of 250 M fp32 parameters."""

REQUEST_BYTES_MAX: Final = 2 << 10
"""A blob request names a kind and a hash, or some hashes, or says what its author knows."""

KEY_BYTES_MAX: Final = REQUEST_BYTES_MAX - 32
"""What a request asks for."""

HEADERS_PER_REQUEST_MAX: Final = KEY_BYTES_MAX // HASH_BYTES
"""Headers named in one request."""

HEADERS_REPLY_BYTES_MAX: Final = HEADERS_PER_REQUEST_MAX * (HEADER_BYTES_MAX + 8)
"""All of them."""

FINGERPRINT_BYTES: Final = 16
"""Of a set of hashes. Whoever makes two sets of one fingerprint hides messages of its own."""

COMPARED_ROUNDS_MAX: Final = 65
"""The running one and as many as `late_rounds` may be: their fingerprints fit KEY_BYTES_MAX."""

HEADERS_LISTED_MAX: Final = 2048
"""Hashes of headers in one answer: two rounds of a thousand members."""

RECORDS_LISTED_MAX: Final = 32
"""Hashes of records in one answer. Of a round there are hardly more than two."""

SETS_REPLY_BYTES_MAX: Final = (HEADERS_LISTED_MAX + RECORDS_LISTED_MAX + 2) * (HASH_BYTES + 2) + 16
"""All of them, and where the peer stands."""

RECORDS_PER_REPLY_MAX: Final = 64
"""Records of the chain given at once."""

RECORDS_REPLY_BYTES_MAX: Final = 4 << 20
"""Bytes of such a reply."""

MANIFEST_BYTES_MAX: Final = 64 << 10
"""A manifest is about 1.5 kB."""

ACCUSERS_MIN: Final = 3
"""Fewer are not most others (rule 20)."""

TENSORS_MAX: Final = 8192
"""Of one model: 8 for each layer, some more."""

TENSORS_REPLY_BYTES_MAX: Final = TENSORS_MAX * DIGEST_BYTES
"""A digest of each of them."""

REPLAYS_PER_HOUR_MAX: Final = 4
"""Replays because of what others say. A memory that errs more often is to be exchanged."""

PENDING_MAX: Final = 512
"""Proposals waiting for their headers or parent; the oldest is dropped first."""

HEADERS_WAITING_MAX: Final = 1 << 16
"""Headers that wait with the records they came with: of 64 records of a thousand members."""

HEADERS_PER_ROUND_MAX: Final = 2 * CONTRIBUTIONS_MAX
"""Headers remembered per round before a member-only filter sets in."""

K_MAX: Final = 4096
"""Slots of a 64 x 64 chunk."""

STATES_KEPT: Final = 6
"""States kept behind the newest: rollback needs at least 4 records, and memory is parameters."""

ADDRESSES_MAX: Final = 64
"""Addresses in one answer."""

ADDRESS_BYTES_MAX: Final = 256
"""A full multiaddr is about 100 characters."""

PEERS_REPLY_BYTES_MAX: Final = ADDRESSES_MAX * (ADDRESS_BYTES_MAX + 8)
"""All of them."""

PORT_BYTES: Final = 2

REACH_REPLY_BYTES_MAX: Final = 128
"""An address without a key, and one bit."""

HEAD_REPLY_BYTES_MAX: Final = 1 << 10
"""Five hashes and some numbers."""

TIME_REPLY_BYTES_MAX: Final = 16
"""One number."""

PREFIX_DIGITS_MIN: Final = 8
"""So that a prefix names one chain, and a slip of the finger none."""
