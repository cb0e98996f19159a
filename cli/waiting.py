"""Waiting for the tunnel, with the reasons told on the way."""

from __future__ import annotations

import time

from cli.codes import Exit
from cli.output import Output, safe
from cli.progress import Progress
from cli.words import headline, show
from ipc.client import Client
from ipc.structs import Status
from ipc.values import plain

# What no waiting cures: somebody has to do something first.
HOPELESS = frozenset({"no-profile", "no-server", "settings-broken", "store-broken"})


def until_connected(folder: str, profile: str | None, seconds: float, out: Output) -> int:
    """Follow the status until the tunnel is up, protection is given up, it is hopeless, or the time is over."""
    deadline = time.monotonic() + seconds
    last: Status | None = None
    with Client(folder, seconds) as client, Progress(out) as step:
        step("Asking the daemon")
        told: str | None = None
        try:
            for status in client.watch(lambda: deadline - time.monotonic()):
                last = status
                if status.protected and status.state == "connected" and profile in (None, status.profile):
                    code = Exit.OK
                    break
                if status.target != "protected" or status.cause in HOPELESS:
                    code = Exit.FAILED
                    break
                step(_step(status))
                if status.cause_text and status.cause_text != told and not out.as_json and not step.visible:
                    told = status.cause_text
                    out.note(safe(told))
        except TimeoutError:
            if last is None:
                raise
            code = Exit.TIMED_OUT
    assert last is not None, "a watch ends with an exception only"
    if code is Exit.TIMED_OUT:
        out.note(f"tunwarden: not connected after {seconds:g} s; it goes on trying")
    out.data(plain(last))
    show(last, out)
    return code


def _step(status: Status) -> str:
    """What is going on, for the line that shows it."""
    what = headline(status)[1].partition(":")[0].rstrip(".")
    return f"{what}: {status.cause_text}" if status.cause_text else what
