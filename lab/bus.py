"""A private system bus in a laboratory host, and a blocking client of it for tests."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from lab.hosts import Host
from lab.processes import LabError, Process

T = TypeVar("T")

SOCKET = "/run/dbus/system_bus_socket"  # where every D-Bus client looks for the system bus
CONFIGURATION = f"""<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-BUS Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path={SOCKET}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
  </policy>
</busconfig>
"""


def start_bus(host: Host) -> Process:
    """Start dbus-daemon at the usual place of the host's system bus and wait for its socket (about 15 ms)."""
    host.write("/etc/lab/system-bus.conf", CONFIGURATION)
    process = host.start(
        "nice", "-n", "-15", "dbus-daemon", "--nofork", "--nopidfile", "--config-file=/etc/lab/system-bus.conf"
    )
    deadline = time.monotonic() + 20
    while not host.listens(SOCKET):
        if not process.running or time.monotonic() > deadline:
            raise LabError(f"dbus-daemon did not start: {process.output()}")
        time.sleep(0.002)
    return process


def _complain(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """A bus that was killed is no error of ours, to be told when it is collected: in the midst of another test."""
    if not isinstance(context.get("exception"), EOFError | ConnectionError):
        loop.default_exception_handler(context)


class BusClient:
    """Blocking calls over one connection to the host's system bus, from outside, also beside a running event loop.

    The connection lives on a thread of its own. About 1 ms a call.
    """

    def __init__(self, host: Host, timeout: float = 20.0) -> None:
        self._timeout = timeout
        self._loop = asyncio.new_event_loop()
        self._loop.set_exception_handler(_complain)
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"bus-{host.name}", daemon=True)
        self._thread.start()
        self._bus = self._wait(self._connect(f"unix:path={host.path(SOCKET)}"))

    async def _connect(self, address: str) -> MessageBus:
        return await MessageBus(bus_address=address).connect()

    def _wait(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(asyncio.wait_for(work, self._timeout), self._loop).result()

    def call(self, name: str, path: str, member: str, signature: str = "", *body: object) -> list[Any]:
        """Call `interface.Member` of an object; returns the reply's body. Raises LabError with the remote error."""
        interface, _, method = member.rpartition(".")
        message = Message(name, path, interface, method, signature=signature, body=list(body))
        reply = self._wait(self._bus.call(message))
        if reply is None or reply.message_type is MessageType.ERROR:
            raise LabError(f"{name} {path} {member}: {reply and (reply.error_name, reply.body)}")
        return reply.body

    def owned(self, name: str) -> bool:
        """Whether somebody owns the bus name."""
        bus = "org.freedesktop.DBus"
        return bool(self.call(bus, "/org/freedesktop/DBus", f"{bus}.NameHasOwner", "s", name)[0])

    def wait_owned(self, name: str, timeout: float = 30.0) -> None:
        """Raises LabError when nobody owns the name in time."""
        deadline = time.monotonic() + timeout
        while not self.owned(name):
            if time.monotonic() > deadline:
                raise LabError(f"nobody owns {name} on the bus after {timeout} s")
            time.sleep(0.005)

    def close(self) -> None:
        if self._loop.is_closed():
            return
        self._loop.call_soon_threadsafe(self._bus.disconnect)
        self._loop.call_soon_threadsafe(lambda: self._loop.call_later(0.01, self._loop.stop))
        self._thread.join(5)
        self._loop.close()
