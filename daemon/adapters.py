"""Picks the one implementation of an operating system. The only run-time platform test there is."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from daemon.host import Host
from policies.settings import Settings


def host(settings: Settings, state_folder: Path) -> Host:
    """What the daemon needs of this operating system. Raises SystemExit where there is no implementation."""
    if sys.platform == "linux":
        from daemon.linux.host import linux_host

        return linux_host(settings, state_folder)
    raise SystemExit(f"tunwardend: no implementation for {sys.platform} yet")


class Notify(Protocol):
    """Tells the service manager `READY=1` and the like, where there is one that listens."""

    patience: float  # seconds within which it wants to hear WATCHDOG=1; 0: it does not

    def __call__(self, *lines: str) -> None: ...


def notifier() -> Notify:
    """Made once, before the environment is cleared."""
    if sys.platform == "linux":
        from daemon.linux.systemd import Notifier

        return Notifier()
    else:  # noqa: RET505  without it, mypy calls this unreachable on Linux
        return _NobodyListens()


def listeners() -> dict[str, socket.socket]:
    """Sockets at which the service manager listens for us, by name. Asked once, before the environment is cleared."""
    if sys.platform == "linux":
        from daemon.linux import systemd

        return systemd.listeners()
    else:  # noqa: RET505  as above. launchd has none for us: the daemon makes its own
        return {}


async def on_change(file: Path, drop_ins: Path, changed: Callable[[], None]) -> None:
    """Calls `changed` whenever somebody has written a settings file and is done; where nobody tells, never. Endless."""
    if sys.platform == "linux":
        from daemon.linux.watch_files import watch

        await watch(file, drop_ins, changed)


class _NobodyListens:
    patience = 0.0

    def __call__(self, *lines: str) -> None:
        return None
