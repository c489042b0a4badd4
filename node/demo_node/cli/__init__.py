"""The `demo-node` command. Importing it is cheap: torch, libp2p and such come inside commands."""

from demo_node.cli.root import main

__all__ = ["main"]
