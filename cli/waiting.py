"""Waiting for the tunnel, with the reasons told on the way."""

from __future__ import annotations

import time

from cli.codes import Exit
from cli.output import Output, safe
from cli.words import show
from ipc.client import Client
from ipc.interface import Status
from ipc.values import plain

# What no waiting cures: somebody has to do something first.
HOPELESS = frozenset({"no-profile", "settings-broken", "store-broken"})


def until_connected(folder: str, profile: str | None, seconds: float, out: Output) -> int:
    """Follow the status until the tunnel is up, protection is given up, it is hopeless, or the time is over."""
    deadline = time.monotonic() + seconds
    told: str | None = None
    last: Status | None = None
    with Client(folder, seconds) as client:
        statuses = client.watch(lambda: deadline - time.monotonic())
        try:
            for status in statuses:
                last = status
                if status.protected and status.state == "connected" and profile in (None, status.profile):
                    return _end(status, Exit.OK, out)
                if status.target != "protected" or status.cause in HOPELESS:
                    return _end(status, Exit.FAILED, out)
                if status.cause_text and status.cause_text != told and not out.as_json:
                    told = status.cause_text
                    out.note(safe(told))
        except TimeoutError:
            if last is None:
                raise
            out.note(f"tunwarden: not connected after {seconds:g} s; it goes on trying")
            return _end(last, Exit.TIMED_OUT, out)
    raise AssertionError("a watch ends with an exception only")


def _end(status: Status, code: Exit, out: Output) -> int:
    out.data(plain(status))
    show(status, out)
    return code
