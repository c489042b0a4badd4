"""The node's log: one line per event, on standard error, configured once per process."""

import logging
import re
import sys
from typing import Final, TextIO

import structlog

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_LONG_HEX: Final = re.compile(r"[0-9a-f]{9,}")

_DETAILS: Final = ("record", "samples", "payload_bytes")
"""Keys of a round's line that a person at a terminal does without; JSON lines have them."""


def configure_log(
    format_: str = "auto", level: str = "info", stream: TextIO | None = None
) -> structlog.typing.FilteringBoundLogger:
    """Set up structlog and the standard library's log alike; returns the node's logger.

    "auto" means readable lines on a terminal and JSON lines anywhere else.
    """
    out = stream or sys.stderr
    console = format_ == "console" or (format_ == "auto" and out.isatty())
    processors = _console(colors=out.isatty()) if console else _json()
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    _route_libraries(out, processors)
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def _json() -> list[structlog.typing.Processor]:
    """Everything, for programs."""
    return [*_shared("iso", utc=True), structlog.processors.JSONRenderer()]


def _console(*, colors: bool) -> list[structlog.typing.Processor]:
    """One line of a terminal's width or little more, in local time."""
    no_padding = 0  # of the event; the argument's name differs between structlog's versions
    render = structlog.dev.ConsoleRenderer(
        no_padding, colors=colors, timestamp_key="ts", pad_level=False, sort_keys=False
    )
    return [*_shared("%H:%M:%S", utc=False), _shorten, render]


def _shared(time_format: str, *, utc: bool) -> list[structlog.typing.Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt=time_format, utc=utc, key="ts"),
        structlog.processors.format_exc_info,
    ]


def _shorten(
    logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Hashes by their first 8 digits, nothing that is empty, one line for a round."""
    name = event.get("event")
    if name == "head.changed" and not event.get("rolled_back"):
        raise structlog.DropEvent  # its round's line says so too
    left_out = _DETAILS if name == "round.closed" else ()
    return {
        key: value[:8] if isinstance(value, str) and _LONG_HEX.fullmatch(value) else value
        for key, value in event.items()
        if key not in left_out and value not in ("", None)
    }


def _route_libraries(out: TextIO, processors: list[structlog.typing.Processor]) -> None:
    """What libraries log comes out in the same form, from warnings on."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*processors[:-1], structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, processors[-1]],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # py-libp2p logs each dropped connection as an error, with a traceback; peers drop all the time.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
