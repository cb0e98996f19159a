"""The systemd-logind stand-in: python-dbusmock plays org.freedesktop.login1 for a laptop that goes to sleep.

Nothing here sleeps: whoever drives the stand-in freezes the programs. The bus, the signals, the inhibitor locks (real
file descriptors) and their order are logind's: org.freedesktop.login1(5), https://systemd.io/INHIBITOR_LOCKS.
"""

from __future__ import annotations

import time

from dbus_fast import Variant

from lab.bus import BusClient
from lab.hosts import Host
from lab.processes import Process

NAME, PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
MANAGER = f"{NAME}.Manager"
INHIBIT_DELAY_MAX_S = 5.0  # logind.conf(5)


class LogindStandIn:
    """`start()` needs the host's bus and waits for the name (about 300 ms); `suspend()`, then `resume()`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._client: BusClient | None = None
        self.process: Process | None = None

    def start(self, wait: bool = True) -> None:
        """Also after `kill`. `wait=False` returns before the name is there."""
        self.process = self._host.start("/usr/bin/python3", "-m", "dbusmock", "--system", "--template", "logind")
        if wait:
            self.client.wait_owned(NAME)

    @property
    def client(self) -> BusClient:
        """The connection to the laptop's system bus; tests may use it for calls of their own."""
        if self._client is None:
            self._client = BusClient(self._host)
        return self._client

    def delays(self) -> list[tuple[str, str]]:
        """(who, why) of each lock that delays sleep now."""
        locks = self.client.call(NAME, PATH, f"{MANAGER}.ListInhibitors")[0]
        return [(who, why) for what, who, why, mode, _, _ in locks if "sleep" in what.split(":") and mode == "delay"]

    def wait_lock(self, timeout: float = 15.0) -> bool:
        """Whether somebody holds a lock in time."""
        return self._wait(True, timeout)

    def suspend(self, timeout: float = INHIBIT_DELAY_MAX_S) -> bool:
        """Announce sleep and wait for the locks as logind does; whether all were released in time. Then freeze."""
        self.prepare(True)
        return self._wait(False, timeout)

    def resume(self) -> None:
        """Announce that the machine is awake, which logind does some time after it is."""
        self.prepare(False)

    def prepare(self, asleep: bool) -> None:
        """Only the property and the signal."""
        value = Variant("b", asleep)
        # In this order: whoever hears the signal and asks must get the same answer.
        self.client.call(NAME, PATH, "org.freedesktop.DBus.Properties.Set", "ssv", MANAGER, "PreparingForSleep", value)
        self.client.call(
            NAME, PATH, "org.freedesktop.DBus.Mock.EmitSignal", "sssav", MANAGER, "PrepareForSleep", "b", [value]
        )

    def kill(self) -> None:
        """SIGKILL: the name vanishes from the bus, and nobody ever says that the machine is awake."""
        assert self.process is not None
        self.process.kill()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _wait(self, locked: bool, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while bool(self.delays()) is not locked:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        return True
