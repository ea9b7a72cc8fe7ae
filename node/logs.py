"""The one logger set-up: structlog, as JSON lines for machines or coloured text for people.

Secrets never reach a log: keys and passwords are objects whose text shows nothing, and event names and fields are
written by us, never taken from a peer's bytes unescaped (structlog's renderers escape).
"""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from typing import Final, TextIO

import structlog


class LogFormat(StrEnum):
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_NUMBERS: Final = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}


def set_up_logs(level: LogLevel, style: LogFormat, stream: TextIO = sys.stderr) -> None:
    """Called once by the program, again when an operator changes the level. Libraries keep to warnings."""
    renderer: structlog.typing.Processor
    if style is LogFormat.JSON:
        renderer = structlog.processors.JSONRenderer(sort_keys=True)
    else:
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty())
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_NUMBERS[level]),
        logger_factory=structlog.PrintLoggerFactory(stream),
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=logging.WARNING, stream=stream, force=True)
