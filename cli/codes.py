"""Exit codes. Scripts rely on them: they are part of the interface (cli/README.md)."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    OK = 0
    FAILED = 1  # refused, or found wrong
    USAGE = 2  # argparse's own
    NOT_RUNNING = 3  # no daemon answers: what the machine lets through is unknown
    NOT_PERMITTED = 4
    TIMED_OUT = 5
    ALARM = 6  # packets may be leaving that should not
    INTERRUPTED = 130  # Ctrl-C
