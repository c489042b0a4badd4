"""`demo-node version`."""

import json
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

import click

from demo_node.cli.options import json_option
from demo_protocol.manifest import PROTOCOL_VERSION

PARTS = ("torch", "libp2p", "grpcio", "protobuf", "numpy")
"""Libraries whose version a bug report should name."""


@click.command()
@json_option
def version(as_json: bool) -> None:
    """Show what is installed."""
    document = {
        "schema": 1,
        "version": _installed("demo-node"),
        "protocol": PROTOCOL_VERSION,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "parts": {part: _installed(part) for part in PARTS},
    }
    if as_json:
        click.echo(json.dumps(document))
        return
    parts = ", ".join(f"{part} {_installed(part)}" for part in PARTS)
    click.echo(f"demo-node {document['version']}, protocol {PROTOCOL_VERSION}")
    click.echo(f"Python {document['python']} on {document['platform']}; {parts}")


def _installed(part: str) -> str:
    try:
        return installed(part)  # reads the installed metadata: nothing is imported
    except PackageNotFoundError:
        return "absent"
