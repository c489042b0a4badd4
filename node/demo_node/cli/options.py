"""Options that several commands share."""

import contextlib
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click

from demo_node.config import find_datadir
from demo_protocol.errors import ConfigError

datadir_option: Callable[[Any], Any] = click.option(
    "--datadir",
    metavar="DIR",
    help="Folder of this node: key, run, snapshots. [default: ~/.local/share/demo-node]",
)

json_option: Callable[[Any], Any] = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document instead."
)


class IntegerRange(click.IntRange):
    """'x' is no "integer range", as click calls what is wanted."""

    name = "integer"


class NumberRange(click.FloatRange):
    """A range that "nan" is not in: click compares, and no comparison refuses that."""

    name = "number"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number. Raises BadParameter."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


@contextlib.contextmanager
def naming(path: Path | None) -> Iterator[None]:
    """What is wrong with what a file says is said with the file's name."""
    try:
        yield
    except ConfigError as error:
        if path is None:
            raise
        raise ConfigError(f"{path}: {error}", exit_code=error.exit_code) from None


def resolve_datadir(flag: str | None) -> Path:
    """The data folder that the command line or the environment names."""
    return find_datadir(flag, os.environ)
