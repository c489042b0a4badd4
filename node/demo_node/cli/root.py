"""The group of all commands, and the one place where errors become exit codes."""

import contextlib
import os
import signal
import sys
import traceback
from typing import Final, NoReturn

import click

from demo_node.cli.adopt import adopt
from demo_node.cli.ask import peers, rounds, status
from demo_node.cli.audit import replay, verify
from demo_node.cli.ban import ban, unban
from demo_node.cli.bench import bench
from demo_node.cli.init import init
from demo_node.cli.key import key
from demo_node.cli.pause import pause, resume
from demo_node.cli.runs import runs
from demo_node.cli.simulate.command import simulate
from demo_node.cli.start import start
from demo_node.cli.swarm.command import swarm
from demo_node.cli.top.command import top
from demo_node.cli.version import version
from demo_protocol.errors import ConfigError

INTERNAL: Final = 70
"""Our bug (sysexits.h: EX_SOFTWARE)."""

INTERRUPTED: Final = 128 + signal.SIGINT
"""Ctrl-C, where a command does nothing else with it."""

UNPRINTED: Final = 74
"""Nobody can read the answer (EX_IOERR)."""

PRINTERS: Final = ("click", "rich")
"""Packages that all commands print through."""


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="demo-node")
def commands() -> None:
    """Train one neural network together with other people's machines.

    Try it on this machine first: demo-node swarm. To open a run of your own: demo-node init,
    then demo-node start, and send others the line it prints. To join a run: paste such a line.
    """


for _command in (
    swarm,
    init,
    start,
    status,
    peers,
    rounds,
    top,
    runs,
    pause,
    resume,
    adopt,
    ban,
    unban,
    key,
    verify,
    replay,
    bench,
    simulate,
    version,
):
    commands.add_command(_command)


def main() -> NoReturn:
    """Run the command line; exit with its code."""
    try:
        code = commands(prog_name="demo-node", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(error.exit_code)
    except click.ClickException as error:
        click.echo(f"demo-node: {_tell(error)}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        click.echo("interrupted", err=True)
        sys.exit(INTERRUPTED)
    except ConfigError as error:
        click.echo(f"demo-node: {error}", err=True)
        sys.exit(error.exit_code)
    except OSError as error:
        if not _came_of_printing(error):
            _end_with_traceback()
        _drop_output()
        click.echo(f"demo-node: cannot write the output: {error.strerror}", err=True)
        sys.exit(UNPRINTED)
    except Exception:  # the outermost door: a bug ends with its traceback and a code of its own
        _end_with_traceback()
    sys.exit(code if isinstance(code, int) else 0)  # of --help and such; commands return nothing


def _tell(error: click.ClickException) -> str:
    """In one line, as our own errors are; of wrong use with the way to the help."""
    message = " ".join(error.format_message().split())
    if not isinstance(error, click.UsageError) or error.ctx is None:
        return message
    end = "" if message.endswith((".", "?")) else "."
    return f"{message}{end} See {error.ctx.command_path} --help"


def _end_with_traceback() -> NoReturn:
    traceback.print_exc()
    sys.exit(INTERNAL)


def _came_of_printing(error: OSError) -> bool:
    """A full disk below `>` is no bug. A pipe whose reader is gone does not come here."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    printer = str(frames[-1].f_globals.get("__name__", "")).partition(".")[0]
    return printer in PRINTERS and error.filename is None


def _drop_output() -> None:
    """What is still to be written would fail once more when Python ends."""
    with contextlib.suppress(OSError, ValueError):  # no real file
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
