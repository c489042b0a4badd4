"""The metrics of who is connected, and of what goes over the network."""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from demo_node.observe.buckets import BYTES, NETWORK_S
from demo_node.observe.declared import Declared
from demo_node.ports import (
    Blob,
    DialResult,
    Direction,
    Offence,
    PeerChange,
    PullResult,
    Refusal,
    Topic,
    Use,
)
from demo_protocol.reach import Reachability

VERDICTS: Final = ("accepted", "ignored", "rejected")

NETWORK: Final = (
    Declared(
        Histogram,
        "demo_payload_bytes",
        "Sizes of payloads: ours of a round, and those that came.",
        {"direction": ("sent", "received")},
        BYTES,
    ),
    Declared(
        Gauge,
        "demo_k",
        "Coefficients of each chunk that this node sends: by its uplink, unless --k says; 0 before"
        " its first round.",
    ),
    Declared(
        Gauge,
        "demo_uplink_bytes_per_second",
        "What this node's uplink carries: the median of the last rounds' fastest quarter of a"
        " second; 0 while nothing large was sent.",
    ),
    Declared(
        Counter,
        "demo_payloads_total",
        "Payloads of others: sound, malformed, or given by nobody as long as they were wanted.",
        {"verdict": ("accepted", "rejected", "missing")},
    ),
    Declared(
        Counter,
        "demo_payload_sources_total",
        "Payloads that came, by who gave them: their author, or another that had them first.",
        {"source": ("author", "other")},
    ),
    Declared(
        Counter,
        "demo_payload_hedges_total",
        "Second requests for a payload, because the first holder was slow.",
    ),
    Declared(
        Counter,
        "demo_payload_requests_total",
        "Requests for payloads, by what came of them; busy: others are to be asked first,"
        " called_off: another was quicker, or time was up.",
        {"result": ("given", "not_held", "busy", "unreachable", "wrong", "called_off")},
    ),
    Declared(
        Counter,
        "demo_payload_copies_total",
        "Payloads that were given to peers: this node's own, and others'.",
        {"whose": ("own", "other")},
    ),
    Declared(
        Counter,
        "demo_network_bytes_total",
        "Bytes on the mesh's sockets: gossip, payloads, what nodes catch up with (records,"
        " snapshots, text), and all the rest: handshakes, framing, encryption, small questions."
        " Counted when a frame is complete.",
        {"direction": tuple(Direction), "protocol": tuple(Use)},
    ),
    Declared(
        Counter,
        "demo_pulls_total",
        "Requests to one peer, by what was asked for and what came of it.",
        {
            "kind": tuple(blob.name.lower() for blob in Blob),
            "result": tuple(PullResult),
        },
    ),
    Declared(
        Counter,
        "demo_gossip_messages_total",
        "Gossip messages from peers, by what was made of them.",
        {"topic": tuple(Topic), "verdict": VERDICTS},
    ),
    Declared(
        Gauge,
        "demo_gossip_mesh_peers",
        "Links of the gossip mesh.",
        {"topic": tuple(Topic)},
    ),
    Declared(
        Histogram,
        "demo_gossip_arrival_seconds",
        "From the train boundary until a header, from the end of contribute until a proposal, of"
        " the same round came from others; 0 where it was early.",
        {"topic": (Topic.HEADERS, Topic.PROPOSALS)},
        NETWORK_S,
    ),
    Declared(Gauge, "demo_peers", "Connected peers."),
    Declared(
        Gauge,
        "demo_reachability",
        "1 for what is known of whether others can dial this node, 0 for the rest.",
        {"state": tuple(Reachability)},
    ),
    Declared(
        Gauge,
        "demo_relay_reservations",
        "Peers that nobody can dial and that this relay is there for.",
    ),
    Declared(Gauge, "demo_relay_circuits", "Connections of others that this relay carries."),
    Declared(
        Counter,
        "demo_relay_bytes_total",
        "Bytes that this relay took from one peer and gave to another.",
    ),
    Declared(
        Counter,
        "demo_relay_refusals_total",
        "Requests for a reservation or a circuit that this relay answered with no.",
    ),
    Declared(Gauge, "demo_peers_known", "Addresses this node might dial."),
    Declared(Counter, "demo_kad_queries_total", "Questions of this node to the DHT (--kad)."),
    Declared(Counter, "demo_kad_found_total", "Addresses that the DHT named for the run."),
    Declared(Counter, "demo_kad_dials_total", "Peers dialled to ask the DHT."),
    Declared(Gauge, "demo_kad_table", "Peers in this node's part of the DHT's table."),
    Declared(Gauge, "demo_kad_records", "Records of who is in which run, kept here for the DHT."),
    Declared(
        Gauge,
        "demo_peer_connections",
        "Connected peers by who dialled.",
        {"direction": tuple(Direction)},
    ),
    Declared(
        Counter,
        "demo_peer_changes_total",
        "Peers that connected and that went.",
        {"change": tuple(PeerChange)},
    ),
    Declared(
        Counter,
        "demo_offences_total",
        "What no honest peer does, of all peers.",
        {"offence": tuple(Offence)},
    ),
    Declared(
        Gauge,
        "demo_bans",
        "Who is kept out now: keys, and addresses from which no handshake is taken.",
        {"kind": ("key", "address")},
    ),
    Declared(
        Counter,
        "demo_refusals_total",
        "Sockets closed before any handshake: their address is banned, as many as may be are"
        " connected from that network or in all, or as many handshakes are under way.",
        {"reason": tuple(Refusal)},
    ),
    Declared(
        Histogram,
        "demo_peer_rtt_seconds",
        "Round trips of questions for the time to peers.",
        buckets=NETWORK_S,
    ),
    Declared(
        Counter,
        "demo_dials_total",
        "Dials by how they ended.",
        {"result": tuple(DialResult)},
    ),
)
