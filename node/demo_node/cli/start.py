"""`demo-node start`: run a node in the foreground until it is told to leave."""

import os
import sys

import click

from demo_node.cli.options import IntegerRange, datadir_option
from demo_node.config import (
    ANNOUNCE_EXAMPLE,
    DEFAULT_LISTEN,
    DEFAULT_METRICS_ADDRESS,
    DEFAULT_TRACE_EVERY,
    LOG_FORMATS,
    LOG_LEVELS,
    MESHES,
    ROLES,
    TRACE_EXAMPLE,
    find_registry,
    resolve_config,
)
from demo_protocol.limits import K_MAX


@click.command()
@datadir_option
@click.option(
    "--peers",
    multiple=True,
    metavar="MULTIADDR",
    help="A peer to join by, as its own start line shows it, or /dnsaddr/HOST, whose TXT records"
    " list some. May be given several times.",
)
@click.option(
    "--listen",
    multiple=True,
    metavar="MULTIADDR",
    help="Where other peers may connect. May be given several times."
    f" [default: {DEFAULT_LISTEN[0]}, or a free port if that one is in use]",
)
@click.option(
    "--announce",
    multiple=True,
    metavar="MULTIADDR",
    help="Where others reach this node, if not where it listens: a host name, another port of a"
    f" router, such as {ANNOUNCE_EXAMPLE}. May be given several times. [default: where it listens]",
)
@click.option(
    "--psk-file",
    metavar="FILE",
    help="The key of a private swarm (see demo-node key psk): only nodes that have it connect."
    " [default: none, a swarm that anybody may connect to]",
)
@click.option(
    "--mdns/--no-mdns",
    default=None,
    help="Whether to find nodes of the run on this LAN, and be found by them: with --run-id, no"
    " --peers are needed there. [default: mdns]",
)
@click.option(
    "--kad/--no-kad",
    default=None,
    help="Whether to find nodes of the run by a DHT (libp2p's kad) that nodes of all runs keep, and"
    " be found there by anybody: with --run-id, --peers may name a node of another run that has it,"
    " too. [default: no-kad]",
)
@click.option("--run-id", metavar="HEX", help="Take part in this run only, whatever peers offer.")
@click.option(
    "--anchor",
    metavar="HEX",
    help="A record that is on the run's chain, as somebody you trust sees it in demo-node status"
    " --json (head or final_record). Peers whose chain lacks it are not believed while this node"
    " has no chain of its own.",
)
@click.option(
    "--role",
    type=click.Choice(ROLES),
    help="member trains and votes; archive does neither, keeps every record, payload and"
    " snapshot, and serves them to joiners. [default: member]",
)
@click.option(
    "--mesh",
    type=click.Choice(MESHES),
    help="What carries bytes between nodes, the same for all of a run: py-libp2p in this process,"
    " or hivemind's Go libp2p in processes of its own, which needs demo-node[hivemind] and Linux on"
    " x86-64. [default: libp2p]",
)
@click.option(
    "--relay/--no-relay",
    default=None,
    help="Carry bytes between members that nobody can dial, if others can dial this node. Each"
    " circuit may carry 1 GiB in an hour, all of it once down and once up your line; 32 at once."
    " --upload-kbit-s caps them, too. With --mesh hivemind: those who name it with --peers, up to 4"
    " GB a connection, without that cap. [default: no-relay]",
)
@click.option(
    "--manifest",
    metavar="FILE",
    help="The run's manifest. [default: the one in the data folder, else the peers']",
)
@click.option(
    "--metrics-address",
    metavar="HOST:PORT",
    help="Where /metrics, /livez and /readyz are served."
    f" [default: {DEFAULT_METRICS_ADDRESS}, or a free port if that one is in use]",
)
@click.option(
    "--device",
    metavar="NAME",
    help="What to train on: auto, cpu, cuda, cuda:N or mps. [default: auto]",
)
@click.option(
    "--threads",
    type=IntegerRange(min=0),
    help="Processor threads to train with. [default: 0, all that this process may use]",
)
@click.option(
    "--nice",
    type=IntegerRange(0, 19),
    help="How readily training gives way to other programs, 19 the most. [default: 10]",
)
@click.option(
    "--train-percent",
    type=IntegerRange(1, 100),
    help="How much of the time that a round has for training to train; the rest it is idle."
    " [default: 100]",
)
@click.option(
    "--gpu-memory-mb",
    type=IntegerRange(min=0),
    help="MiB of a graphics card's memory to use at most. [default: 0, all]",
)
@click.option(
    "--disk-budget-mb",
    type=IntegerRange(min=0),
    help="MiB of disk for payloads and older snapshots. [default: 0, what the run asks for]",
)
@click.option(
    "--upload-kbit-s",
    type=IntegerRange(min=0),
    help="Kilobits a second to send at most. [default: 0, no limit]",
)
@click.option(
    "--download-kbit-s",
    type=IntegerRange(min=0),
    help="Kilobits a second to receive at most. [default: 0, no limit]",
)
@click.option(
    "--metered",
    is_flag=True,
    default=None,
    help="Traffic costs money here: send a quarter of what others do, and leave it to others to"
    " give newcomers what they need.",
)
@click.option(
    "--quiet-hours",
    metavar="HH:MM-HH:MM",
    help="Hours by this machine's clock in which it does not train, or in which other caps hold,"
    " where there are any: see the next two. [default: none]",
)
@click.option(
    "--quiet-upload-kbit-s",
    type=IntegerRange(min=0),
    help="What --upload-kbit-s is in the quiet hours. [default: 0, the same]",
)
@click.option(
    "--quiet-download-kbit-s",
    type=IntegerRange(min=0),
    help="What --download-kbit-s is in the quiet hours. [default: 0, the same]",
)
@click.option(
    "--k",
    type=IntegerRange(1, K_MAX),
    help="Coefficients of each chunk to send, up to the run's. [default: as many as the uplink"
    " carries in time]",
)
@click.option(
    "--rounds",
    type=IntegerRange(min=0),
    help="Stop training after this many rounds of the run, but stay. [default: 0, never]",
)
@click.option(
    "--evaluate-every",
    type=IntegerRange(min=0),
    metavar="ROUNDS",
    help="Compute the held-out loss after every so many rounds. [default: 10; 0: never]",
)
@click.option(
    "--train/--no-train",
    default=None,
    help="Whether to train; without, the node only keeps and serves, and where contributors are"
    " drawn it says in its join that it is not to be. [default: train]",
)
@click.option(
    "--trace-endpoint",
    metavar="URL",
    help=f"Where an OTLP collector takes traces over HTTP, such as {TRACE_EXAMPLE}; needs"
    " demo-node[otel]. [default: none]",
)
@click.option(
    "--trace-every",
    type=IntegerRange(min=1),
    metavar="ROUNDS",
    help="Trace rounds that this number divides: the same number at all nodes, the same rounds."
    f" [default: {DEFAULT_TRACE_EVERY}]",
)
@click.option(
    "--log-format",
    type=click.Choice(LOG_FORMATS),
    help="Short lines for people, or JSON. [default: auto, by whether it goes to a terminal]",
)
@click.option(
    "--log-level",
    type=click.Choice(LOG_LEVELS),
    help="Leave out of the log what is of less weight. [default: info]",
)
@click.option("--wait-manifest", is_flag=True, default=None, hidden=True)
@click.option("--clock-offset", metavar="SECONDS", hidden=True)
def start(**flags: object) -> None:
    """Run a node until Ctrl-C or SIGTERM. A second one ends it at once.

    The node takes part in the run of its data folder (see demo-node init) or, with --peers, in
    the run of those peers. It prints the line that others paste to join.

    Every option can also stand in config.toml in the data folder (metrics_address = "...") or in
    the environment (DEMO_NODE_METRICS_ADDRESS); options win over both.
    """
    given = {key: None if value == () else value for key, value in flags.items()}
    config = resolve_config(given, os.environ)
    from demo_node.store.registry import remember_folder
    from demo_node.versions import check_versions

    check_versions()
    # Not a folder that will be refused, nor those of demo-node swarm: gone in a minute.
    if not config.wait_manifest and (config.peers or config.datadir.exists()):
        remember_folder(find_registry(os.environ), config.datadir)
    from demo_node.daemon import run_daemon  # libp2p and more: a second of imports

    sys.exit(run_daemon(config, click.echo))
