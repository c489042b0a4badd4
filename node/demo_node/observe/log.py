"""The node's log: one line per event, on standard error, configured once per process.

Every line, also a library's, goes through one chain: level, the round by the clock, the time, the
limit on what repeats, no secrets, and then JSON or a line for people.
"""

import logging
import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from demo_node.observe.limits import RepeatLimit
from demo_node.observe.redact import redact

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_LONG_HEX: Final = re.compile(r"[0-9a-f]{9,}")

_DETAILS: Final = ("record", "samples", "payload_bytes")
"""Keys of a round's line that a person at a terminal does without; JSON lines have them."""

PATH_MAX: Final = 60
"""Characters of a path on a terminal: its end says which file it is."""


class NodeLog:
    """What writes lines. `round` is the round by the clock; below 0 there is none yet.

    One cell for the whole process: a context variable would be stale in every task that began in
    an earlier round.
    """

    def __init__(
        self,
        out: TextIO,
        level: str,
        renderers: Sequence[Processor],
        time_stamper: Processor,
        monotonic: Callable[[], float],
    ) -> None:
        self.round = -1
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
) -> NodeLog:
    """The log of this process, for libraries too.

    "auto" means readable lines on a terminal and JSON lines anywhere else.
    """
    out = stream or sys.stderr
    if format_ == "console" or (format_ == "auto" and out.isatty()):
        no_padding = 0  # of the event; the argument's name differs between structlog's versions
        render = structlog.dev.ConsoleRenderer(
            no_padding, colors=out.isatty(), timestamp_key="ts", pad_level=False, sort_keys=False
        )
        local = structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False, key="ts")
        log = NodeLog(out, level, [_shorten, render], local, monotonic)
    else:
        utc = structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts")
        log = NodeLog(out, level, [structlog.processors.JSONRenderer()], utc, monotonic)
    _route_libraries(log)
    return log


def _shorten(logger: WrappedLogger, method: str, line: EventDict) -> EventDict:
    """For people: first digits of hashes, seconds, nothing empty, one line for a round."""
    name = line["event"]
    if name == "head.changed" and not line.get("rolled_back"):
        raise structlog.DropEvent  # its round's line says so too
    left_out = _DETAILS if name == "round.closed" else ()
    return dict(
        _shorten_field(key, value)
        for key, value in line.items()
        if key not in left_out and value not in ("", None)
    )


def _shorten_field(key: str, value: object) -> tuple[str, object]:
    if key.endswith("_ms") and isinstance(value, int | float):
        seconds = value / 1000
        return key.removesuffix("_ms"), f"{round(seconds, 2 if abs(seconds) >= 1 else 3):g}s"
    if isinstance(value, str) and _LONG_HEX.fullmatch(value):
        return key, value[:8]
    if key == "path" and len(str(value)) > PATH_MAX:
        return key, "…" + str(value)[-PATH_MAX:]
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
