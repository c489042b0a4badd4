"""Numbers of the libp2p mesh, each with its reason; demo_protocol.limits bounds the messages."""

from typing import Final

from demo_node.ports import Blob, Topic
from demo_protocol.limits import (
    GOSSIP_BYTES_MAX,
    HEADER_BYTES_MAX,
    JOINS_MAX,
    MEMBERSHIP_BYTES_MAX,
)

TOPIC_BYTES_MAX: Final = {
    Topic.HEADERS: HEADER_BYTES_MAX,
    Topic.PROPOSALS: GOSSIP_BYTES_MAX,
    Topic.MEMBERSHIP: MEMBERSHIP_BYTES_MAX,
}
"""Checked before anything else is done with a message."""

CONNECTIONS_MAX: Final = 256
"""Sockets in both directions. A gossip mesh needs 12 links a topic; the rest is room for pulls."""

INBOUND_MAX: Final = CONNECTIONS_MAX - 32
"""Of these, how many others may have opened: whoever fills our room leaves us our own dials."""

INBOUND_PER_NETWORK_MAX: Final = 32
"""From one /24 of IPv4, or one /56 of IPv6. Whoever would fill our room needs seven networks; a lab
with more nodes than that finds each other, and needs twelve links a node."""

INBOUND_PER_SHARED_NETWORK_MAX: Final = 128
"""From a loopback or private /24 or /56: behind a proxy or a container's bridge all come from one.
What comes from elsewhere keeps 96 places."""

HANDSHAKES_MAX: Final = 64
"""Inbound sockets whose key is not known yet: each costs three scalar products, and may stall for
ten seconds."""

HANDSHAKES_PER_NETWORK_MAX: Final = 16
HANDSHAKES_PER_SHARED_NETWORK_MAX: Final = 48
"""Of one network, as above: sixteen are there for others."""

DIALS_MAX: Final = 32
"""Addresses dialled at once; more wait for their turn."""

CONNECTIONS_PER_PEER_MAX: Final = 3
"""Two that dialled each other at once have two; one more is a reconnect not yet noticed."""

STREAMS_MAX: Final = 4096
"""Open streams of all connections: 16 a connection, of which gossip, ping and identify take 5."""

NEGOTIATION_BYTES_MAX: Final = 1024
"""One line of a negotiation: the longest of ours has 31 bytes. Other implementations agree."""

STREAMS_PER_CONNECTION_MAX: Final = 128
"""Open streams of one connection: honest peers have about 30, most of them pulls."""

UNREAD_BYTES_MAX: Final = 64 << 20
"""Received on one connection and not read yet; we read at once, so this is a flood."""

UNREAD_BYTES_TOTAL_MAX: Final = 2 * UNREAD_BYTES_MAX
"""Of all connections together; then the one with the most goes."""

BULK: Final = frozenset({Blob.PAYLOAD, Blob.INITIAL, Blob.CORPUS_BLOCK, Blob.STATE_CHUNK})
"""What is large, or waits until it is here. All else is small, or what nodes agree by, and soon."""

BULK_SERVED_MAX: Final = 128
"""Of these served at once. Each holds its bytes in memory while it is written."""

BULK_SERVED_PER_PEER_MAX: Final = 16
"""Of these served to one peer at once."""

BLOB_STREAMS_MAX: Final = BULK_SERVED_MAX + 32
BLOB_STREAMS_PER_PEER_MAX: Final = BULK_SERVED_PER_PEER_MAX + 4
"""Requests served at once, of whatever kind: the time and headers wait for no payload."""

COPIES_AT_ONCE: Final = 8
"""Peers that are sent one payload at once: more wait until one has all, and may give it on.

Not fewer: two that receive slowly would keep all others waiting, however fast we are."""

BULK_PULLS_PER_PEER_MAX: Final = 12
SMALL_PULLS_PER_PEER_MAX: Final = 4
"""Blobs pulled from one peer at once, those in BULK and all others; below what it serves, so that
honest peers never hit that.

Yamux would hang, without an error, at the 257th stream nobody closes (trap 15)."""

PIECE_BYTES: Final = 256 << 10
"""One read or write of a stream: yamux's first window (trap 16)."""

HANDSHAKE_S: Final = 10.0
"""Of others with us, from the first byte to yamux; a stalled one holds one of HANDSHAKES_MAX."""

NEGOTIATION_S: Final = 10.0
"""To choose a protocol on a stream of its own."""

CONNECT_S: Final = 15.0
"""TCP, Noise, yamux and back, over a slow link; a black hole would take 127 s of SYN retries."""

DIAL_BACK_S: Final = 8.0
"""TCP and Noise for somebody who asked for it; a black hole answers nothing."""

PUBLISH_S: Final = 5.0
"""Publishing only queues; longer means that the mesh is stuck."""

REQUEST_FRAME_S: Final = 10.0
"""From the opening of a stream to its request: one frame of at most 1 KiB."""

ANSWER_S: Final = 30.0
"""For this node to find the bytes it was asked for: a disk read."""

TURN_S: Final = 20.0
"""For others to take their copies of a payload; then it is sent beside theirs."""

STALL_S: Final = 20.0
"""A pull that got no byte for this long is given up, whatever time it has left."""

SERVE_S: Final = 60.0
SERVE_BYTES_PER_S_MIN: Final = 16 << 10
"""A reply must be taken within SERVE_S plus its length at this rate, about 128 kbit/s."""

RESET_S: Final = 1.0
"""To say goodbye to a stream that failed, or to a port; what failed may be the connection."""

WRITE_STALL_S: Final = 15.0
"""A socket that takes no byte for this long belongs to a frozen peer: it is closed.

Yamux holds a lock while it writes and wants the same lock to close, so without this one frozen
peer with full buffers would hang the health monitor, hence the detection of all others."""

INBOUND_GRACE_S: Final = 15.0
"""How long a closed inbound connection's handler may tidy up before it is cancelled (trap 26)."""

HEALTH_INTERVAL_S: Final = 1.0
HEALTH_SILENT_MAX: Final = 3
HEALTH_STUCK_MAX: Final = 8
"""A frozen peer is dropped after 4 to 5 s without a byte (trap 11): seconds, because its uplink may
be full of payloads. After 9 to 10 s where its machine has not even got what we sent: then it may be
our own uplink that is full, in which a ping waits."""

PROBE_S: Final = 3.0
"""To answer a ping on an old connection, when the same key has made a new one."""

CROSSING_S: Final = 5.0
"""Two connections of one peer, one dialled by each side, not further apart than this in age:
both dialled at the same moment."""

CONTROL_BYTES_MAX: Final = 1 << 20
"""Frames without data that wait for their turn, on one connection; 12 bytes each."""

READ_AHEAD_BYTES: Final = 64 << 10
"""Taken from a socket at once: a Noise message."""

UNSENT_BYTES: Final = 128 << 10
"""What the kernel holds of a connection beyond what is on the way.

Its default is megabytes: on a slow uplink gossip and pings would wait behind them."""

GOSSIP_DEGREE: Final = 6
GOSSIP_DEGREE_LOW: Final = 4
GOSSIP_DEGREE_HIGH: Final = 12
"""Links per topic; smaller numbers can isolate a node (trap 4)."""

GOSSIP_HEARTBEAT_S: Final = 1
"""The library's default is two minutes (trap 3)."""

GOSSIP_PRUNE_BACK_OFF_S: Final = 10
"""How long a pruned link stays away; the default of 60 s can isolate a node (trap 4)."""

GOSSIP_LOOK_S: Final = 2.5
GOSSIP_EMPTY_S: Final = 15.0
GOSSIP_EMPTY_MAX_S: Final = 240.0
"""A topic with no link while peers are connected is looked at so often, and mended after so long:
longer than a back-off. Each time in vain the pause doubles: they may be no peers of this run."""

GOSSIP_FRAMES_PER_S: Final = 256
GOSSIP_FRAMES_BURST: Final = 4096
"""Messages and frames taken from one peer: so many at once, then so many a second; for more it has
to wait. Two rounds of a thousand members may come in one moment. Each costs two signatures."""

OWN_MESSAGES_PER_S: Final = 32
OWN_MESSAGES_BURST: Final = 1024
"""Messages that a peer itself publishes: a node has about three a round to say."""

OWN_MESSAGES_BEYOND: Final = 256
"""So many more than that are a flood."""

JOINS_PER_S: Final = 16
JOINS_BURST: Final = 4 * JOINS_MAX
"""Joins and leaves taken and passed on: so many at once, then so many a second, of one peer and of
all together; what is more is dropped unread. Each costs a node and its links 2 ms, anybody can make
them by the thousand, and a record has room for 64. Whose is dropped asks again later."""

JOINS_BEYOND: Final = 128
"""So many more from one peer are a flood: who passes on what it takes has hardly any."""

GOSSIP_QUEUE_MAX: Final = 256
"""Messages waiting for one link; what does not fit is dropped in silence (trap 30).

The library's 32 is less than the headers of a large run at one moment; these are 8 MB at worst."""

SUBSCRIPTIONS_PER_PEER_MAX: Final = 32
"""Topics remembered of one peer: three a run, and some runs."""

KAD_STREAMS_PER_PEER_MAX: Final = 2
"""On which one peer asks the DHT at once; the library takes 12 of all."""

KAD_SERVE_S: Final = 30.0
"""For all that is asked on one stream; an honest question takes a round trip."""

KAD_MESSAGES_PER_S: Final = 2.0
KAD_MESSAGES_BURST: Final = 32
"""Taken from one peer: so many at once, then so many a second; for more it waits. A question goes
through the table and costs a millisecond."""

KAD_QUERY_S: Final = 30.0
"""For one question of ours to the DHT, all that it leads to included; one is asked at a time."""

KAD_ASKED_MAX: Final = 32
"""Streams opened for one question."""

KAD_DIALS_MAX: Final = 8
"""Peers dialled for one question, because others named them: a liar costs us no more."""

KAD_FOUND_MAX: Final = 64
"""Addresses that one question may yield, as many as of PEERS."""

KAD_PEERS_MAX: Final = 1024
"""Whose addresses are remembered of what the DHT says: 0.5 MB."""

KAD_PEER_S: Final = 3600.0
"""For how long."""

KAD_BUCKETS_MAX: Final = 16
"""Of the table, with 20 peers each."""

KAD_RECORDS_MAX: Final = 2048
"""Kept of who is in which run, 20 of one run; where there is no room, newcomers have to wait."""

KAD_RECORDS_PER_NETWORK_MAX: Final = 128
KAD_RECORDS_PER_NETWORK_AND_KEY_MAX: Final = 5
"""Of these from one /16 or /32, and of one run: else one machine could be all that is found."""

KAD_KEYS_PER_PEER_MAX: Final = 4
"""Runs that one key may be in; a node is in one."""

KAD_RECORD_S: Final = 3600
"""How long such a record lasts. Nodes repeat theirs every ten minutes."""

RESERVATIONS_MAX: Final = 32
"""Peers that a relay is there for at once."""

RESERVATION_S: Final = 1800
"""How long one lasts; it is renewed when half of that is left."""

RESERVES_BURST: Final = 64
RESERVES_PER_S: Final = 0.5
"""Requests for one that a relay hears, of all peers; of one an eighth of that."""

CONNECTS_PER_S: Final = 1.0
CONNECTS_BURST: Final = 64
"""Circuits that are asked for, of all peers; of one an eighth."""

ASKING_PEERS_PART: Final = 8
"""Nobody uses up what is there for all."""

CIRCUITS_MAX: Final = 32
"""Carried at once by a relay; and held at once by whoever is carried, of those others opened."""

CIRCUITS_PER_PEER_MAX: Final = 8
"""Of these, at either end of which is one peer."""

CIRCUIT_BYTES_MAX: Final = 1 << 30
"""Both ways together; then its ends make another one."""

CIRCUIT_S: Final = 3600.0
"""The longest that one lasts; as above."""

CIRCUIT_IDLE_S: Final = 30.0
"""One on which nothing comes from either side: its ends ping every second."""

HOP_S: Final = 15.0
"""To ask for a reservation or a circuit, and for the peer at its other end to take it."""
