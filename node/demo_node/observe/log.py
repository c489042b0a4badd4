"""The node's log: one line per event, on standard error, configured once per process.

Every line, also a library's, goes through one chain: level, the round by the clock, the time, the
limit on what repeats, no secrets, and then JSON or a line for people.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from demo_node.observe.limits import RepeatLimit
from demo_node.observe.redact import redact
from demo_node.views import Outcome

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_LONG_HEX: Final = re.compile(r"[0-9a-f]{9,}")

_ROUND: Final = {"participants": "from", "included": "ours"}
"""Keys of a round's line as `demo-node rounds` names them, for a terminal."""

_ROUND_DETAILS: Final = ("record", "digest", "due", "samples", "payload_bytes")
"""What a person at a terminal does without; JSON lines have them."""

PATH_MAX: Final = 60
"""Characters of a path on a terminal: its end says which file it is."""


class NodeLog:
    """What writes lines. `round` is the round by the clock; below 0 there is none yet.

    One cell for the whole process: a context variable would be stale in every task that began in
    an earlier round. `context` is what every JSON line has besides: whose it is.
    """

    def __init__(
        self,
        out: TextIO,
        level: str,
        renderers: Sequence[Processor],
        time_stamper: Processor,
        monotonic: Callable[[], float],
        context: dict[str, str],
    ) -> None:
        self.round = -1
        self.context = context
        self._limit = RepeatLimit(monotonic)
        renderers = [redact, *renderers]
        first: list[Processor] = [
            structlog.processors.add_log_level,
            self._name_round,
            time_stamper,
            self._limit,
        ]
        self._logger = _make_logger(out, LEVELS[level], [*first, *renderers])
        self._late = _make_logger(out, logging.DEBUG, renderers)

    def write(self, level: str, event: str, **fields: object) -> None:
        """One line, unless its level is left out or its kind repeats. From any thread."""
        self._logger.log(LEVELS[level], event, **fields)

    def close(self) -> None:
        """Tell all that was held back: the process is about to end."""
        self.write_held(at_end=True)

    def write_held(self, *, at_end: bool = False) -> None:
        """Tell what was held back where nothing came after it. Call it now and then."""
        for line in self._limit.take_due(at_end=at_end):
            self._late.info(**line)

    def _name_round(self, logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
        if self.round >= 0:
            line.setdefault("round", self.round)
        return line


def _make_logger(
    out: TextIO, level: int, processors: Sequence[Processor]
) -> structlog.typing.FilteringBoundLogger:
    logger: structlog.typing.FilteringBoundLogger = structlog.wrap_logger(
        structlog.WriteLogger(out),
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    return logger


def open_log(
    format_: str = "auto",
    level: str = "info",
    stream: TextIO | None = None,
    monotonic: Callable[[], float] = time.monotonic,
    folder: Path | None = None,
) -> NodeLog:
    """The log of this process, for libraries too.

    "auto" means readable lines on a terminal and JSON lines anywhere else. A terminal is not told
    `folder` again and again: paths below it come without.
    """
    out = stream or sys.stderr
    context: dict[str, str] = {}
    renderers: list[Processor]
    if format_ == "console" or (format_ == "auto" and out.isatty()):
        no_padding = 0  # of the event; the argument's name differs between structlog's versions
        render = structlog.dev.ConsoleRenderer(
            no_padding, colors=out.isatty(), timestamp_key="ts", pad_level=False, sort_keys=False
        )
        renderers = [_Shorten(folder), render]
        stamp = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="ts")
    else:
        renderers = [_Arrange(context), structlog.processors.JSONRenderer()]
        stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts")
    log = NodeLog(out, level, renderers, stamp, monotonic, context)
    _route_libraries(log)
    return log


class _Arrange:
    """For programs: when, how grave, what and whose come first."""

    def __init__(self, context: Mapping[str, str]) -> None:
        self._context = context

    def __call__(self, logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
        first = {key: line[key] for key in ("ts", "level", "event") if key in line}
        return {**first, **self._context, **line}


class _Shorten:
    """For people: first digits of hashes, seconds, nothing empty, one line for a round."""

    def __init__(self, folder: Path | None) -> None:
        self._below = f"{folder}/" if folder else ""

    def __call__(self, logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
        name = line["event"]
        if name == "record.finalised" or (name == "head.changed" and not line.get("rolled_back")):
            raise structlog.DropEvent  # every round has one; its line says enough
        if name == "round.closed":
            line = _shorten_round(line)
        if "path" in line:
            line = {**line, "path": self._shorten_path(str(line["path"]))}
        return dict(
            _shorten_field(key, value) for key, value in line.items() if value not in ("", None)
        )

    def _shorten_path(self, path: str) -> str:
        below = path.removeprefix(self._below)
        return below if len(below) <= PATH_MAX else "…" + below[-PATH_MAX:]


def _shorten_round(line: EventDict) -> EventDict:
    """A usual round in 80 columns: what goes without saying is left out."""
    kept = {_ROUND.get(key, key): value for key, value in line.items() if key not in _ROUND_DETAILS}
    if line["outcome"] == Outcome.RECORDED:
        del kept["outcome"]
    if not line["record"]:
        del kept["from"], kept["ours"], kept["latency_ms"]  # there is no record to say it of
    elif line["included"] or not line["due"]:
        del kept["ours"]
    else:
        kept["ours"] = "no"
    return kept


def _shorten_field(key: str, value: object) -> tuple[str, object]:
    if key.endswith("_ms") and isinstance(value, int | float):
        seconds = value / 1000
        return key.removesuffix("_ms"), f"{round(seconds, 2 if abs(seconds) >= 1 else 3):g}s"
    if isinstance(value, str) and _LONG_HEX.fullmatch(value):
        return key, value[:8]
    return key, value


class _LibraryHandler(logging.Handler):
    """What libraries log comes out in the same form, from warnings on."""

    def __init__(self, level: int, log: NodeLog) -> None:
        super().__init__(level)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        fields: dict[str, object] = {"logger": record.name}
        if record.exc_info:
            fields["exception"] = logging.Formatter().formatException(record.exc_info)
        level = "error" if record.levelno >= logging.ERROR else "warning"
        self._log.write(level, record.getMessage(), **fields)


def _route_libraries(log: NodeLog) -> None:
    root = logging.getLogger()
    root.handlers[:] = [_LibraryHandler(logging.WARNING, log)]
    root.setLevel(logging.WARNING)
    # py-libp2p logs each dropped connection as an error, with a traceback; peers drop all the time.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
