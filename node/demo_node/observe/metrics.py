"""Every metric of a node, declared once; docs/operating.md lists them from this file.

A remote peer, an address, a hash, a round number or an error's text is never a label: churn would
make each a new series for ever. All label values are declared, so that every series exists from
the start and a rate over it is right from the first event on.
"""

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from demo_node.observe.buckets import FAST_S, NETWORK_S, OF_A_ROUND, OP_S, ROUND_S
from demo_node.observe.declared import OPEN, Declared
from demo_node.observe.events import EVENTS
from demo_node.observe.network_metrics import NETWORK
from demo_node.views import NodeState, Outcome, Phase

PHASES: Final = tuple(phase for phase in Phase if phase is not Phase.NONE)
OPS: Final = ("encode", "pull", "verify", "decode", "apply", "snapshot", "evaluate")

NODE: Final = (
    Declared(
        Gauge,
        "demo_build_info",
        "Always 1: what is installed.",
        {"version": OPEN, "python": OPEN, "torch": OPEN, "protocol": OPEN},
    ),
    Declared(
        Gauge,
        "demo_node_info",
        "Always 1: this node's own identity.",
        {"peer_id": OPEN, "run_id": OPEN, "run_name": OPEN},
    ),
    Declared(
        Gauge,
        "demo_node_state",
        "1 for the state the node is in, 0 for all others.",
        {"state": tuple(NodeState)},
    ),
    Declared(
        Gauge,
        "demo_node_archive",
        "1 where this node is an archive: it keeps everything, and neither trains nor votes.",
    ),
    Declared(Gauge, "demo_ready", "1 while /readyz says yes."),
    Declared(
        Counter,
        "demo_events_total",
        "Events of the log, also those that a limit kept out of it.",
        {"event": tuple(EVENTS)},
    ),
    Declared(
        Histogram,
        "demo_event_loop_lag_seconds",
        "How late the event loop wakes a sleeper, at ten random moments a second.",
        buckets=FAST_S,
    ),
    Declared(
        Gauge,
        "demo_queue_depth",
        "What waits: signed messages to be sent, payloads being pulled, pulls being answered.",
        {"queue": ("outbox", "pulls", "serving")},
    ),
    Declared(
        Counter,
        "demo_control_requests_total",
        "Requests on the control socket: answered, refused for what they ask or when, failed by a"
        " bug.",
        {"result": ("ok", "refused", "failed")},
    ),
)

ROUNDS: Final = (
    Declared(Gauge, "demo_round_current", "The round by the clock; negative before genesis."),
    Declared(Gauge, "demo_round_length_seconds", "Length of a round of this run."),
    Declared(Gauge, "demo_head_round", "The round of the head record; -1 before the first."),
    Declared(Gauge, "demo_head_height", "Records between genesis and the head."),
    Declared(
        Gauge,
        "demo_final_height",
        "Records between genesis and the newest that this node will never leave; 0 before it.",
    ),
    Declared(
        Gauge,
        "demo_final_conflict",
        "Peers on a chain that does not contain what is final here, where they are no fewer than"
        " those on ours; 0: none.",
    ),
    Declared(
        Histogram,
        "demo_round_latency_seconds",
        "From the start of a round by the clock until its update is applied here.",
        buckets=ROUND_S,
    ),
    Declared(
        Histogram,
        "demo_round_latency_ratio",
        "That latency over the length of a round; above 1 the update came late.",
        buckets=OF_A_ROUND,
    ),
    Declared(
        Histogram,
        "demo_round_exchange_seconds",
        "From the train boundary of a round until its update is applied here.",
        buckets=ROUND_S,
    ),
    Declared(
        Histogram,
        "demo_round_phase_seconds",
        "Parts of a round's latency, which they add up to: until our local work was done, our"
        " header announced, a valid proposal here, its update applied. Where nothing was trained,"
        " train is its phase by the clock.",
        {"phase": PHASES},
        ROUND_S,
    ),
    Declared(
        Gauge,
        "demo_round_slack_seconds",
        "Of the newest round: what was left of a phase, by the clock, when its work was done;"
        " below 0, it was late; NaN where it was not done, and of train where nothing was trained.",
        {"phase": PHASES},
    ),
    Declared(Histogram, "demo_op_seconds", "Parts of phases.", {"op": OPS}, OP_S),
    Declared(
        Counter,
        "demo_rounds_total",
        "Rounds by how they had ended here a round later; what comes of one after that is only in"
        " its latency.",
        {"outcome": tuple(Outcome)},
    ),
    Declared(
        Counter,
        "demo_rounds_included_total",
        "Rounds whose record lists our contribution; each counts once, also where it was replaced.",
    ),
    Declared(Counter, "demo_rounds_sent_total", "Rounds in which this node sent a contribution."),
    Declared(Gauge, "demo_round_participants", "Contributions in the last record applied."),
    Declared(Gauge, "demo_round_due", "Members whose turn it was in the last record applied."),
    Declared(Gauge, "demo_round_heard", "Peers whose header of the newest round came; us too."),
)

AGREEMENT: Final = (
    Declared(
        Counter,
        "demo_digests_total",
        "Headers of others by what they say of the parameters: the digest that this node has for"
        " the same record, or another one. Those of a round count once.",
        {"verdict": ("equal", "different")},
    ),
    Declared(
        Counter,
        "demo_comparisons_total",
        "Comparisons with a random peer, one a round: nothing was missing here, something was, or"
        " the peer gave no answer.",
        {"result": ("equal", "different", "failed")},
    ),
    Declared(
        Counter,
        "demo_comparison_missing_total",
        "What a peer had then and this node had not, and was pulled from it.",
        {"kind": ("header", "record")},
    ),
    Declared(
        Gauge,
        "demo_state_fault",
        "1 while this node computes other states than most, though it replayed: it signs nothing.",
    ),
    Declared(
        Counter,
        "demo_replays_total",
        "Replays because most headers of a round gave another digest than this node.",
    ),
    Declared(Counter, "demo_forks_total", "Times the head moved to another branch."),
    Declared(
        Counter,
        "demo_records_total",
        "Records that came onto our chain as its head, and that left it for another branch.",
        {"change": ("applied", "rolled_back", "replayed")},
    ),
    Declared(Gauge, "demo_members", "Members of the run at the head."),
    Declared(Gauge, "demo_candidates", "Candidates of the run at the head."),
    Declared(
        Counter,
        "demo_membership_changes_total",
        "Members that came and went, by the chain.",
        {"change": ("joined", "left", "expired", "removed")},
    ),
    Declared(
        Gauge,
        "demo_clock_offset_seconds",
        "By how much peers correct this machine's clock; 0 while they do not.",
    ),
    Declared(
        Gauge,
        "demo_clock_error_seconds",
        "Most clocks are within this of the corrected one; 0 while nobody can tell.",
    ),
    Declared(Gauge, "demo_clock_verified", "1 while enough peers vouch for the clock."),
)

LEARNING: Final = (
    Declared(Gauge, "demo_parameters", "Parameters of the model."),
    Declared(Gauge, "demo_train_loss", "Training loss of the last round, in nats per byte."),
    Declared(
        Gauge,
        "demo_heldout_loss",
        "Held-out loss of a recent head, in nats per byte; NaN before the first look.",
    ),
    Declared(
        Gauge, "demo_heldout_round", "The round whose record that loss is of; -1 before the first."
    ),
    Declared(Gauge, "demo_learning_rate", "Learning rate of updates in this round."),
    Declared(
        Gauge,
        "demo_gradient_norm",
        "Mean norm of gradients in the last round, before they were clipped.",
    ),
    Declared(
        Gauge,
        "demo_delta_norm",
        "Norm of what the last round's local work changed.",
    ),
    Declared(
        Gauge,
        "demo_residual_norm",
        "Norm of the residual after the last payload was taken from it.",
    ),
    Declared(
        Gauge,
        "demo_residual_norm_ratio",
        "That norm over the one before: the part of the momentum that was not sent.",
    ),
    Declared(Counter, "demo_train_tokens_total", "Tokens this node has trained on."),
    Declared(Counter, "demo_train_samples_total", "Samples this node has trained on."),
    Declared(Counter, "demo_train_steps_total", "Local optimizer steps of this node."),
    Declared(
        Counter,
        "demo_train_seconds_total",
        "Time inside forward, backward and the local optimizer's step.",
    ),
    Declared(
        Counter,
        "demo_train_nonfinite_total",
        "What was NaN or infinite in local work: gradients, whose step is skipped, or with"
        ' `local = "accumulate"` the contribution; deltas, whose contribution always is.',
        {"kind": ("gradient", "delta")},
    ),
    Declared(
        Histogram,
        "demo_train_step_seconds",
        "Mean local step of a round.",
        buckets=NETWORK_S,
    ),
    Declared(Gauge, "demo_trainer_micro_batch", "Samples the trainer takes at once."),
    Declared(
        Counter,
        "demo_trainer_cpu_seconds_total",
        "Processor time of the trainer process, and of those that it replaced.",
    ),
    Declared(
        Gauge,
        "demo_trainer_memory_bytes",
        "Memory of the trainer process, and of its graphics card.",
        {"kind": ("process", "device")},
    ),
)

STORE: Final = (
    Declared(
        Histogram,
        "demo_sync_seconds",
        "From the start of the node, its imports done, until it was level with its run.",
        buckets=ROUND_S,
    ),
    Declared(
        Gauge,
        "demo_snapshot_last_success_timestamp_seconds",
        "When this process last wrote a snapshot; 0 before the first.",
    ),
    Declared(Gauge, "demo_snapshot_bytes", "Size of the newest snapshot; 0 before the first."),
    Declared(
        Gauge,
        "demo_momentum_file_bytes",
        "Size of the file with what a restart would lose; 0 while there is none.",
    ),
    Declared(
        Gauge,
        "demo_snapshot_fetch_ratio",
        "How much is here of the snapshot that is being fetched; 0 while none is.",
    ),
    Declared(Gauge, "demo_snapshot_fetch_sources", "Peers that give chunks of it."),
    Declared(Gauge, "demo_payload_store_bytes", "Payloads kept."),
    Declared(
        Gauge,
        "demo_datadir_free_bytes",
        "Room on the data folder's disk; NaN where that does not say.",
    ),
)

METRICS: Final = (*NODE, *ROUNDS, *AGREEMENT, *LEARNING, *NETWORK, *STORE)


def format_metrics_table() -> str:
    """All of METRICS as the Markdown table of docs/operating.md."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for metric in METRICS:
        labels = "; ".join(
            f"{name} = {', '.join(values)}" if values else name
            for name, values in metric.labels.items()
        )
        kind = metric.kind.__name__.lower()
        rows.append(f"| `{metric.name}` | {kind} | {labels or '–'} | {metric.meaning} |")
    return "\n".join(rows) + "\n"
