"""`demo-node version`."""

import json
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Final

import click

from demo_node.cli.options import json_option
from demo_protocol.manifest import PROTOCOL_VERSION

PARTS: Final = ("torch", "libp2p", "grpcio", "protobuf", "numpy")
"""Libraries whose version a bug report should name."""

BUILDS: Final = "https://download.pytorch.org/whl"
"""Where builds of torch come from, each in a folder named like the end of its version."""

CUDA: Final = "cu130"
"""The build for NVIDIA cards that this release was written for."""


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
        "torch_build": name_build(_installed("torch")),
    }
    if as_json:
        click.echo(json.dumps(document))
        return
    parts = ", ".join(f"{part} {_installed(part)}" for part in PARTS)
    click.echo(f"demo-node {document['version']}, protocol {PROTOCOL_VERSION}")
    click.echo(f"Python {document['python']} on {document['platform']}; {parts}")
    click.echo(explain_build(_installed("torch")))


def name_build(torch: str) -> str:
    """Of torch, as its version says: cpu, cu130, rocm6.4, ...; default where it does not."""
    return torch.partition("+")[2] or ("absent" if torch == "absent" else "default")


def explain_build(torch: str) -> str:
    """One line: what this build computes with, and what to run for the other kind."""
    build = name_build(torch)
    if build.startswith(("cu", "rocm", "xpu")):
        kind, other = f"graphics cards ({build})", "cpu"
    else:
        kind = "processors" if build == "cpu" else "what its publisher chose for this system"
        other = CUDA
    number = torch.partition("+")[0]
    line = f"pip install --force-reinstall torch=={number} --index-url {BUILDS}/{other}"
    whom = "processors alone" if other == "cpu" else "NVIDIA cards"
    if build == "absent":
        return f"torch is absent; for processors run: pip install torch --index-url {BUILDS}/cpu"
    return f"this torch is built for {kind}; for {whom} run: {line}"


def _installed(part: str) -> str:
    try:
        return installed(part)  # reads the installed metadata: nothing is imported
    except PackageNotFoundError:
        return "absent"
