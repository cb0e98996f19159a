"""Logs: one line an event on standard error, with the priority that journald understands. Secrets never get here."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import structlog

# sd-daemon(3): <N> at the start of a line is the syslog priority.
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}


def _prioritised(_: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["event"] = f"<{_PRIORITY.get(method, 6)}>{event['event']}"
    return event


def configure() -> None:
    """Call once, first."""
    journald = "JOURNAL_STREAM" in os.environ
    steps: list[structlog.typing.Processor] = [structlog.processors.format_exc_info]
    if not journald:
        steps.insert(0, structlog.processors.TimeStamper(fmt="%H:%M:%S.%f", utc=False))
    else:
        steps.append(_prioritised)
    structlog.configure(
        processors=[*steps, structlog.processors.LogfmtRenderer(key_order=["timestamp", "event"], drop_missing=True)]
        if not journald
        else [*steps, structlog.processors.KeyValueRenderer(key_order=["event"])],
        logger_factory=structlog.PrintLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(name)s %(levelname)s %(message)s")
