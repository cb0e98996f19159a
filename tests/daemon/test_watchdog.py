"""The service manager's watchdog is fed by whoever owns the state, and by nobody else."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path

import pytest

from daemon.__main__ import fed
from daemon.linux.systemd import Notifier
from policies.states import Event
from tests.daemon.test_loop import Running, run


class Manager:
    """Listens as a service manager does."""

    def __init__(self, patience: float) -> None:
        self.patience, self.heard = patience, list[tuple[str, ...]]()

    def __call__(self, *lines: str) -> None:
        self.heard.append(lines)


def test_an_owner_that_hangs_feeds_nobody(tmp_path: Path) -> None:
    """The event loop goes on all the while: it is not what is asked."""

    async def check(here: Running) -> None:
        manager, stuck = Manager(0.03), asyncio.Event()
        feeding = asyncio.create_task(fed(manager, here.loop))
        try:
            async with asyncio.timeout(20):
                while len(manager.heard) < 3:
                    await here.turn()
            assert manager.heard[-1] == ("WATCHDOG=1", f"STATUS={here.loop.state.phase.value}")

            async def hang() -> Event:
                await stuck.wait()
                raise ValueError

            here.loop.post_command(hang)
            await asyncio.sleep(0.02)
            before = len(manager.heard)
            await asyncio.sleep(0.2)
            assert len(manager.heard) == before
            stuck.set()
            await here.turn()
            assert len(manager.heard) > before
        finally:
            feeding.cancel()

    run(tmp_path, check)


def test_without_a_watchdog_nothing_wakes(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        manager = Manager(0.0)
        await asyncio.wait_for(fed(manager, here.loop), 5)  # returns at once
        assert manager.heard == []

    run(tmp_path, check)


@pytest.mark.parametrize(
    ("usec", "pid", "patience"),
    [("30000000", None, 30.0), ("30000000", "own", 30.0), ("30000000", "1", 0.0), ("", None, 0.0), ("soon", None, 0.0)],
)
def test_what_systemd_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, usec: str, pid: str | None, patience: float
) -> None:
    """sd_watchdog_enabled(3). Nothing of it stays in the environment, so no child speaks in our name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", usec)
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
        if pid:
            monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()) if pid == "own" else pid)
        notify = Notifier()
        assert notify.patience == patience
        assert not {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} & os.environ.keys()
        notify("WATCHDOG=1", "STATUS=idle")
        listener.settimeout(5)
        assert listener.recv(100) == b"WATCHDOG=1\nSTATUS=idle"
