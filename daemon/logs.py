"""Logs: one line an event on standard error, with the priority that journald understands. Secrets never get here."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, cast

import structlog

# sd-daemon(3): <N> at the very start of a line is the syslog priority.
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}


def _prioritised(_: Any, method: str, line: str) -> str:
    return f"<{_PRIORITY.get(method, 6)}>{line}"


class _Prioritised(logging.Formatter):
    """The same for what libraries, and ipc/, log the standard way."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record).replace("\n", "\\n")  # a second line would have no priority
        return _prioritised(None, record.levelname.lower(), text)


def configure() -> None:
    """Call once, first."""
    journald = "JOURNAL_STREAM" in os.environ
    renderer = structlog.processors.LogfmtRenderer(key_order=["timestamp", "event"], drop_missing=True)
    steps: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
    if journald:
        steps += [renderer, cast(structlog.typing.Processor, _prioritised)]  # which gets a line, coming last
    else:
        steps += [structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False), renderer]
    structlog.configure(
        processors=steps,
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    pattern = "%(name)s: %(message)s" if journald else "%(name)s %(levelname)s %(message)s"
    handler.setFormatter(_Prioritised(pattern) if journald else logging.Formatter(pattern))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
