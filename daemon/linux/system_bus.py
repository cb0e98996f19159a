"""A connection to the system bus that comes and goes with it: calls that end in time, and hints that something changed.

Hints are never believed: any process may send a signal to us alone. Whoever hears one reads again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import structlog
from dbus_fast import BusType, Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

log = structlog.get_logger()

BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
PROPERTIES = "org.freedesktop.DBus.Properties"
PATIENCE = 2.0  # seconds for an answer
RETRY_FIRST, RETRY_LONGEST = 0.05, 30.0  # seconds


class BusError(Exception):
    """No answer, or an error instead of one. `name`: the D-Bus error, "" where nobody answered."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name


class SystemBus:
    """Connects when it is first needed, and again when the bus was gone. `address`: of another bus than the system's.

    `matches`: rules for the signals that are hints. `properties`: the names that a PropertiesChanged must tell of.
    """

    def __init__(
        self,
        matches: Sequence[str] = (),
        properties: frozenset[str] = frozenset(),
        address: str | None = None,
        patience: float = PATIENCE,
    ) -> None:
        self._matches, self._properties = matches, properties
        self._address, self.patience = address, patience
        self._bus: MessageBus | None = None
        self._connecting = asyncio.Lock()
        self._hinted = asyncio.Event()
        self.hints = 0  # how many there were: equal numbers mean that nothing was heard in between

    async def call(self, to: str, path: str, member: str, signature: str = "", *body: object) -> list[Any]:
        """Call `interface.Member`; the body of the reply. Starts nobody. Raises BusError."""
        interface, _, method = member.rpartition(".")
        try:
            async with asyncio.timeout(self.patience):
                return await self._call(await self._connected(), to, path, interface, method, signature, *body)
        except BusError:
            raise
        except TimeoutError as err:
            raise BusError("", f"{to} has not answered within {self.patience:g} s") from err
        except Exception as err:  # the library raises what it likes
            raise BusError("", f"the system bus: {err}") from err

    async def get(self, to: str, path: str, interface: str) -> dict[str, Any]:
        """All properties of one of an object's interfaces. Raises BusError."""
        body = await self.call(to, path, f"{PROPERTIES}.GetAll", "s", interface)
        if not body or not isinstance(found := body[0], dict):
            raise BusError("", f"{to} answered with something else than properties")
        return {name: value.value for name, value in found.items() if isinstance(value, Variant)}

    async def owned(self, name: str) -> bool:
        """Whether somebody owns that name. Raises BusError."""
        return bool((await self.call(BUS, BUS_PATH, f"{BUS}.NameHasOwner", "s", name))[0])

    async def watch(self) -> AsyncGenerator[None, None]:
        """Yields at a hint, also when the bus has come or gone; several are one. Never ends. One at a time."""
        delay = RETRY_FIRST
        try:
            while True:
                if self._bus is None or not self._bus.connected:
                    try:
                        async with asyncio.timeout(self.patience):
                            await self._connected()
                    except Exception as err:  # the library raises what it likes, and this never ends
                        log.debug("no system bus", error=repr(err), again_in_s=delay)
                        with contextlib.suppress(TimeoutError):
                            async with asyncio.timeout(delay):
                                await self._hinted.wait()
                        delay = min(2 * delay, RETRY_LONGEST)
                        if not self._hinted.is_set():
                            continue
                    else:
                        delay = RETRY_FIRST
                        self.hint()
                await self._hinted.wait()
                self._hinted.clear()
                yield
        finally:
            if self._bus is not None and self._bus.connected:
                self._bus.disconnect()

    def hint(self) -> None:
        """Also for others who have noticed something."""
        self.hints += 1
        self._hinted.set()

    async def _connected(self) -> MessageBus:
        async with self._connecting:
            if self._bus is not None and self._bus.connected:
                return self._bus
            bus = MessageBus(bus_address=self._address, bus_type=BusType.SYSTEM, negotiate_unix_fd=False)
            await bus.connect()
            try:
                bus.add_message_handler(self._on_message)
                for rule in self._matches:
                    await self._call(bus, BUS, BUS_PATH, BUS, "AddMatch", "s", rule)
            except BaseException:
                bus.disconnect()
                raise
            self._bus = bus
            self._end = asyncio.create_task(self._wait_for_end(bus))
            return bus

    async def _wait_for_end(self, bus: MessageBus) -> None:
        with contextlib.suppress(Exception):
            await bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self.hint()

    async def _call(
        self, bus: MessageBus, to: str, path: str, interface: str, member: str, signature: str, *body: object
    ) -> list[Any]:
        # dbus-fast writes to the file descriptor it had, which may be somebody else's by now.
        if not bus.connected:
            raise BusError("", "the system bus is gone")
        flags = MessageFlag.NO_AUTOSTART  # asking must not start what somebody has stopped
        reply = await bus.call(Message(to, path, interface, member, flags=flags, signature=signature, body=[*body]))
        if reply is None or reply.message_type is MessageType.ERROR:
            name = (reply and reply.error_name) or ""
            raise BusError(name, str(reply.body[0]) if reply is not None and reply.body else name)
        return list(reply.body)

    def _on_message(self, message: Message) -> None:
        if message.message_type is not MessageType.SIGNAL or message.sender is None:
            return
        if message.member == "NameOwnerChanged":
            self.hint()
        elif message.member == "PropertiesChanged" and message.signature == "sa{sv}as":
            _, changed, dropped = message.body
            if not self._properties.isdisjoint({*changed, *dropped}):
                self.hint()
