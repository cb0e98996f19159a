"""Logs: one line an event; for journald with its fields, else on standard error. Secrets never get here.

Everything that is logged goes through `deliver`: redacted, to journald or standard error, to the trace while there is
one, and into the last few hundred lines that a report shows.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog

from policies.redact import Redactor

JOURNAL = "/run/systemd/journal/socket"
RECENT_LINES, LINE_CHARACTERS = 500, 2000  # of what a report shows
_FIELD_BYTES = 32 << 10  # of one field; a datagram has a limit
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2, "exception": 3}
_RENDER = structlog.processors.LogfmtRenderer(key_order=["event"], drop_missing=True)

recent: deque[str] = deque(maxlen=RECENT_LINES)
_redact = Redactor()
_trace: Callable[[str, Mapping[str, Any]], None] | None = None
_tracing: Callable[[], bool] = lambda: False  # noqa: E731
_write: Callable[[str, str, Mapping[str, Any]], None]


def configure() -> None:
    """Call once, first."""
    global _write
    _write = Journal(JOURNAL) if _is_the_journal() else _stderr
    structlog.configure(
        processors=[_dropped, structlog.processors.format_exc_info, _delivered], cache_logger_on_first_use=True
    )
    logging.basicConfig(level=logging.INFO, handlers=[_Handler()], force=True)
    logging.getLogger("tunwarden").setLevel(logging.DEBUG)  # no library's: theirs may show whole messages


def trace_to(write: Callable[[str, Mapping[str, Any]], None], on: Callable[[], bool]) -> None:
    """Where a trace goes, and whether there is one: without, what is only for traces is dropped at once."""
    global _trace, _tracing
    _trace, _tracing = write, on


def tracing() -> bool:
    """Whether anybody wants what is only for traces: what takes long to put together need not be, otherwise."""
    return _tracing()


def _dropped(_: Any, method: str, fields: Any) -> Any:
    if method == "debug" and not _tracing():
        raise structlog.DropEvent
    return fields


def _delivered(_: Any, method: str, fields: Any) -> Any:
    try:
        deliver(method, fields)
    except Exception as err:  # whoever guards the network must not stumble over what it says of it
        print(f"an event could not be logged: {type(err).__name__}", file=sys.stderr, flush=True)
    raise structlog.DropEvent  # it has been


def deliver(method: str, fields: Mapping[str, Any]) -> None:
    """One event of this level to everybody who is to have it."""
    if _trace is not None:
        _trace(method, fields)
    if method == "debug":
        return
    clean: dict[str, Any] = _redact.value(dict(fields))
    line = _redact(_RENDER(None, method, dict(clean)))
    recent.append(f"{datetime.now():%Y-%m-%d %H:%M:%S} {method} {line}"[:LINE_CHARACTERS])
    _write(method, line, clean)


class _Handler(logging.Handler):
    """The same for what libraries, and ipc/, log the standard way."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno <= logging.DEBUG and not _tracing():
            return
        try:
            fields = {"event": record.getMessage(), "logger": record.name}
            if record.exc_info and record.exc_info[0] is not None:
                fields["exception"] = "".join(traceback.format_exception(*record.exc_info))
            deliver(record.levelname.lower(), fields)
        except Exception:
            self.handleError(record)


def _stderr(method: str, line: str, _: Mapping[str, Any]) -> None:
    print(f"{datetime.now():%H:%M:%S.%f} level={method} {line}", file=sys.stderr, flush=True)


def _is_the_journal() -> bool:
    """Whether standard error is journald's: systemd.exec(5) names its device and inode."""
    try:
        about = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{about.st_dev}:{about.st_ino}"


class Journal:
    """journald's own protocol (https://systemd.io/JOURNAL_NATIVE_PROTOCOL): a datagram an event, with its fields.

    `journalctl -u tunwarden TUNWARDEN_PHASE=blocked` finds them. What it does not take goes to standard error.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)  # closed in children: PEP 446
        self._socket.setblocking(False)

    def __call__(self, method: str, line: str, fields: Mapping[str, Any]) -> None:
        priority = _PRIORITY.get(method, 6)
        told = {"MESSAGE": line, "PRIORITY": str(priority), "SYSLOG_IDENTIFIER": "tunwardend"}
        told |= {_field_name(key): str(value) for key, value in fields.items() if key != "event" and value is not None}
        try:
            self._socket.sendto(b"".join(_field(name, value) for name, value in told.items()), self._path)
        except OSError:
            # sd-daemon(3): <N> at the very start of a line is the syslog priority; a second line would have none.
            print(f"<{priority}>{line}".replace("\n", "\\n"), file=sys.stderr, flush=True)


def _field_name(key: str) -> str:
    letters = "".join(char if char.isalnum() and char.isascii() else "_" for char in key.upper())
    return f"TUNWARDEN_{letters}"[:64]


def _field(name: str, value: str) -> bytes:
    raw = value.encode(errors="backslashreplace")[:_FIELD_BYTES]
    if b"\n" not in raw:
        return name.encode() + b"=" + raw + b"\n"
    return name.encode() + b"\n" + len(raw).to_bytes(8, "little") + raw + b"\n"
