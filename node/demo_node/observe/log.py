"""The node's log: one line per event, on standard error, configured once per process."""

import logging
import sys
from typing import Final, TextIO

import structlog

LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}

_SHARED: Final[list[structlog.typing.Processor]] = [
    structlog.contextvars.merge_contextvars,
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
    structlog.processors.format_exc_info,
]


def configure_log(
    format_: str = "auto", level: str = "info", stream: TextIO | None = None
) -> structlog.typing.FilteringBoundLogger:
    """Set up structlog and the standard library's log alike; returns the node's logger.

    "auto" means readable lines on a terminal and JSON lines anywhere else.
    """
    out = stream or sys.stderr
    console = format_ == "console" or (format_ == "auto" and out.isatty())
    render: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=out.isatty(), timestamp_key="ts")
        if console
        else structlog.processors.JSONRenderer()
    )
    structlog.configure(
        processors=[*_SHARED, render],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=out),
        cache_logger_on_first_use=False,
    )
    _route_libraries(out, render)
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def _route_libraries(out: TextIO, render: structlog.typing.Processor) -> None:
    """What libraries log comes out in the same form, from warnings on."""
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*_SHARED, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    # py-libp2p logs each dropped connection as an error, with a traceback; peers drop all the time.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
