"""Every event of a node's log, declared once; docs/operating.md lists them from this file.

A name is `noun.past_participle` and does not change: programs look for it. What a library logs has
the library's own words as its event, and the library's name under `logger`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

DEBUG: Final = "debug"
INFO: Final = "info"
WARNING: Final = "warning"
"""What does not happen in a healthy swarm: worth a look, or a second one if it repeats."""
ERROR: Final = "error"
"""Goes wrong until somebody does something."""


@dataclass(frozen=True, slots=True)
class Event:
    """One kind of line: how much weight it has, what happened, and what an operator does."""

    level: str
    meaning: str
    remedy: str = "nothing"


LIFE: Final[Mapping[str, Event]] = {
    "state.changed": Event(INFO, "the node moved on to another state", "see [States](#states)"),
    "progress.made": Event(INFO, "what a starting node is about"),
    "quiet.begun": Event(
        INFO, "the quiet hours begin: until `until` other caps hold, or nothing is trained"
    ),
    "quiet.ended": Event(INFO, "the quiet hours are over"),
    "state.loaded": Event(INFO, "the parameters that this start began from"),
    "round.closed": Event(
        INFO,
        "a round is over, and how it went for this node; a warning unless it was recorded in time",
        "*skipped* or *late* now and then is a busy machine; always: fewer `--threads`, or a run"
        " with longer rounds",
    ),
    "head.changed": Event(
        INFO, "a record was applied; `rolled_back` counts those that were left for it"
    ),
    "record.finalised": Event(
        INFO,
        "two thirds of the voters have built on this record for long enough: this node will never"
        " leave it",
    ),
    "final.disputed": Event(
        ERROR,
        "`theirs` peers, no fewer than the `ours` on this chain, stand on one that does not contain"
        " what is final here",
        "ask the others; then `demo-node adopt` on one side, see"
        " [Two chains of one run](#two-chains-of-one-run)",
    ),
    "final.undisputed": Event(INFO, "they are fewer by now, or gone, or on this node's chain"),
    "start.moved": Event(
        INFO,
        "replaying did not lead to the others, so their snapshot did; what stood here since the"
        " fork is dropped",
        "nothing; if it repeats, look at the clock and at `demo-node peers`",
    ),
    "snapshot.fetched": Event(
        INFO,
        "the state after a record came from `peers`, none of which gave more than `largest_share`;"
        " `bytes_before` were here already",
    ),
    "snapshot.saved": Event(INFO, "the state after a record is on disk"),
    "momentum.saved": Event(
        INFO, "what this node learned and has not sent yet is on disk, with the local optimizer"
    ),
    "momentum.restored": Event(
        INFO, "a new trainer goes on from there: from `round`, or what is known of later ones"
    ),
    "metrics.served": Event(INFO, "where `/metrics` and the like are"),
    "reach.changed": Event(
        INFO,
        "what is known of whether others can dial this node has changed: `reached` of the `asked`"
        " networks came through, at `addresses`",
        "where `state` is *private*: see [Reached by others](#reached-by-others)",
    ),
    "members.found": Event(
        INFO, "the DHT (`--kad`) named so many `addresses` of nodes of the run that were new here"
    ),
    "port.replaced": Event(
        INFO,
        "a port that was not named is in use; another one is used, also next time",
        "forward that one in your router, or name one with `--listen` or `--metrics-address`",
    ),
    "clock.corrected": Event(INFO, "see [Clock](#clock)"),
    "stamp.begun": Event(
        INFO, "this run wants some work for a join, on average so many `hashes`; it is being done"
    ),
    "stamp.made": Event(INFO, "the work for the join is done"),
    "trainer.ready": Event(
        INFO,
        "the trainer process is up. `codec` is the compiled build that it uses; `torch`, where "
        "none was compiled, takes three times as long for an update",
    ),
    "trainer.unresponsive": Event(
        WARNING,
        "the trainer has not answered `call` for `waited_ms`, 10 s or two rounds more than it may"
        " take; told again only after it has answered. Two minutes without an answer (ten where"
        " parameters are loaded or updated) and it is ended: `trainer.died`",
        "if it was stopped, `kill -CONT` its pid; otherwise the machine is busy, or its disk or"
        " graphics card hangs",
    ),
    "mesh.restarted": Event(
        WARNING,
        "with `--mesh hivemind`: p2pd, or the process that holds hivemind, ended or hung; another"
        " one is started, and peers are dialled again",
        "nothing once; if it repeats, look for the system's out-of-memory killer, or use"
        " `--mesh libp2p`",
    ),
    "trainer.died": Event(
        WARNING,
        "the trainer process ended; another starts at once. `reason` is empty where it was not"
        " this node that ended it",
        "nothing once; if it repeats, look for the system's out-of-memory killer (`exit_code` -9,"
        " no reason), or use `--device cpu`",
    ),
    "states.lost": Event(
        WARNING,
        "the parameters went with the trainer, or are out of reach; they come from a snapshot",
        "as for `trainer.died`",
    ),
    "trainer.micro_batch_halved": Event(
        WARNING,
        "memory ran out; training goes on with fewer samples at once, in more parts",
        "close other programs, or nothing",
    ),
    "training.out_of_memory": Event(
        WARNING,
        "not even one sample fitted; this round has no contribution from here",
        "free memory",
    ),
    "step.skipped": Event(
        WARNING,
        "so many local steps were `skipped`: their gradients or losses were not finite; the rest of"
        " the round counts",
        "nothing: once is bad luck",
    ),
    "training.diverged": Event(
        WARNING,
        "no gradient or loss was finite, or what came of them was not; the round is a heartbeat and"
        " leaves no trace",
        "nothing: once is bad luck",
    ),
    "training.keeps_diverging": Event(
        WARNING,
        "one of these two happened in several rounds in a row",
        "check the graphics card, or leave the stretch with `init --from`",
    ),
    "trainer.known_answer_failed": Event(
        ERROR,
        "this device computes updates wrongly; the CPU applies them, or nothing is contributed",
        "report the device and the driver",
    ),
    "payload.lost": Event(
        WARNING,
        "a payload changed on the disk; it is pulled again",
        "check the disk's health if it repeats",
    ),
    "payload.rejected": Event(WARNING, "a peer's payload is none of this run; it was dropped"),
    "stranger.refused": Event(
        WARNING,
        "somebody dialled this private swarm without its key",
        "nothing; if that is one of yours, give it the `--psk-file`",
    ),
    "message.rejected": Event(
        WARNING, "a peer gossiped what no honest one sends; it was dropped, not passed on"
    ),
    "answer.rejected": Event(
        WARNING, "a peer answered with what no honest one sends; another peer is asked"
    ),
    "peer.banned": Event(
        WARNING,
        "a key or an address is kept out for so many `seconds`: it did what no honest peer does,"
        " `offence` last",
        "nothing: bans end; `demo-node peers` shows them, `demo-node unban` lifts one. Of a peer"
        " that you know: its program or its memory is at fault",
    ),
    "digest.differed": Event(
        WARNING,
        "a peer claims another digest for a record than this node has",
        "`demo-node replay` says who is right",
    ),
    "root.differed": Event(
        WARNING,
        "a record names another root of the parameters than this node computed: it is not followed"
        " here",
        "`demo-node replay` says who is right",
    ),
    "state.doubted": Event(
        WARNING,
        "most headers of a round give another digest than this node for the record of `round`; it"
        " replays from its last snapshot that nobody contradicts",
        "nothing; what follows says who was right",
    ),
    "state.healed": Event(
        WARNING,
        "the replay gave what most others have: memory or a device of this machine had erred once",
        "if it repeats, test the memory; `--device cpu` tells whether it is the graphics card",
    ),
    "state.fault": Event(
        ERROR,
        "the replay did not give what most others have, from `round` on, in `tensor` first: this"
        " node signs nothing more; it follows and serves as a witness",
        "see the runbook, DemoStateFault",
    ),
    "state.fault_cleared": Event(
        INFO, "most others have this node's states again: it takes part again"
    ),
    "key.in_use": Event(
        ERROR,
        "somebody else signs with this node's key",
        "stop one of the two, see [The key](#the-key)",
    ),
    "member.removed": Event(
        WARNING,
        "a record removes a peer: its key signed two messages for one round (`evidence`)",
        "nothing, unless the key is yours: see [The key](#the-key)",
    ),
    "key.removed": Event(
        ERROR,
        "a record removes this node: its key signed two messages for one round. It takes part"
        " again from round `until` on",
        "find the second node with this key, or start with another `--datadir`, see"
        " [The key](#the-key)",
    ),
    "traces.lost": Event(
        WARNING,
        "`--trace-endpoint` takes no traces: they are dropped; told again when it fails after it"
        " has worked",
        "start the collector, or name another; see [Traces](#traces)",
    ),
    "leave.unsent": Event(WARNING, "the leave did not go out in time; peers notice by its silence"),
}
"""The table of the section Log."""

DISK: Final[Mapping[str, Event]] = {
    "snapshot.missed": Event(
        WARNING,
        "the disk took no snapshot, or the trainer could give none; tried again when the next is"
        " due",
        "free space",
    ),
    "momentum.missed": Event(
        WARNING,
        "the disk did not take what was learned and is not sent yet, or the trainer could not give"
        " it; tried again with the next snapshot",
        "free space",
    ),
    "momentum.ignored": Event(
        WARNING,
        "what was learned and not sent before this start is not gone on from, for `reason`; the"
        " node learns on",
        "nothing after a crash; otherwise check the disk's health",
    ),
    "payload.unsaved": Event(
        WARNING, "the disk takes no payloads; they are in memory, and at others", "free space"
    ),
    "final.unsaved": Event(
        WARNING,
        "the disk did not take what is final: after a restart the node may follow others away"
        " from it",
        "free space",
    ),
    "window.shortened": Event(
        WARNING,
        "`--disk-budget-mb` is used up: peers get payloads of fewer rounds from here than the run"
        " asks for",
        "nothing, or a larger budget",
    ),
    "log.repaired": Event(
        WARNING,
        "so many bytes of `chain.log` or `signed.log` were damaged, and now lie in `….damaged`",
        "nothing after a crash; otherwise check the disk's health. Records are fetched again; for"
        " the present round nothing more is signed",
    ),
    "snapshot.skipped": Event(
        WARNING,
        "it is damaged or incomplete; an older one is used",
        "nothing after a crash; otherwise check the disk's health",
    ),
}
"""The table of the section Disk."""

EVENTS: Final[Mapping[str, Event]] = {**LIFE, **DISK}
"""What demo_events_total counts, by name."""

DETAILS: Final[Mapping[str, Event]] = {
    "op.ended": Event(DEBUG, "a part of a phase took so long; `demo_op_seconds` has them all"),
    "message.judged": Event(
        DEBUG, "a gossip message was judged; `demo_gossip_messages_total` has them all"
    ),
}
"""Only with `--log-level debug`; metrics of their own count these."""


def format_events_table(events: Mapping[str, Event]) -> str:
    """Events as a Markdown table of docs/operating.md."""
    rows = ["| event | level | what happened | what to do |", "|---|---|---|---|"]
    for name, event in events.items():
        rows.append(f"| `{name}` | {event.level} | {event.meaning} | {event.remedy} |")
    return "\n".join(rows) + "\n"
