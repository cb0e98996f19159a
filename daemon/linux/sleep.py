"""Suspend and resume, as systemd-logind announces them (T5).

What is guaranteed, and what is not:

- `Sleeping(True)` comes before the machine sleeps, and logind waits for `ready`: we hold a *delay* inhibitor. logind
  waits InhibitDelayMaxSec at most, 5 s as a rule. Where it refuses the lock, sleep is announced and not delayed.
- Every `Sleeping(True)` is followed by a `Sleeping(False)`, also when logind or the bus ends before it has said so:
  whoever is awake to notice that is awake.
- No logind, no bus, one that restarts: nothing is told meanwhile, and `watch` goes on. Only root's logind is believed.
- A sleep that logind did not begin (`echo mem >/sys/power/state`) is noticed by the clocks: see sleep_clock.py.

The lock is a file descriptor, and a connection that accepts descriptors accepts them from everybody, while dbus-fast
leaks those of messages that nobody handles. So the lock is fetched over a connection of its own, which lives for that
one call and closes every other descriptor it is sent. The one that hears signals accepts none.

Sources: org.freedesktop.login1(5), https://systemd.io/INHIBITOR_LOCKS.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import structlog
from dbus_fast import BusType, Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus

from daemon.host import Sleeping

log = structlog.get_logger()

NAME, PATH = "org.freedesktop.login1", "/org/freedesktop/login1"
MANAGER = f"{NAME}.Manager"
BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"
MATCHES = (
    f"type='signal',sender='{BUS}',member='NameOwnerChanged',arg0='{NAME}'",
    f"type='signal',sender='{NAME}',path='{PATH}',interface='{MANAGER}',member='PrepareForSleep'",
)
LOCK = ("sleep", "tunwarden", "Closes the firewall before the network may change", "delay")  # what, who, why, mode

TIMEOUT = 5.0  # seconds for the bus or logind to answer
RETRY_FIRST, RETRY_LONGEST = 0.05, 5.0  # seconds


class LogindSleep:
    """Implements `daemon.host.Sleep`. `address`: of another bus than the system's. One `watch` at a time."""

    def __init__(self, address: str | None = None) -> None:
        self._address = address

    async def watch(self) -> AsyncIterator[Sleeping]:
        """Never raises. That the machine is about to sleep may be said twice, that it is awake never."""
        asleep, delay = False, RETRY_FIRST
        while True:
            session = _Session(self._address)
            try:
                await session.begin()
                delay = RETRY_FIRST
                async with contextlib.aclosing(session.changes()) as changes:
                    async for now, ready in changes:
                        if now or asleep:
                            asleep = now
                            yield Sleeping(now, ready)
            except Exception as err:  # the library raises what it likes, and this never ends
                log.info("nobody tells of sleep", error=repr(err), again_in_s=delay)
            finally:
                await session.close()
            if asleep:
                asleep = False
                yield Sleeping(False, _nothing_waits)
            await asyncio.sleep(delay)
            delay = min(2 * delay, RETRY_LONGEST)


class _Lock:
    """An inhibitor lock. `release` lets the machine sleep, and is harmless the second time."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Owner:
    """Who is logind now: a unique bus name, or None."""

    name: str | None


class _Session:
    """One connection to the bus. `begin`, `changes`, and in any case `close`."""

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._bus = MessageBus(bus_address=address, bus_type=BusType.SYSTEM, negotiate_unix_fd=False)
        self._heard: asyncio.Queue[bool | _Owner | None] = asyncio.Queue()  # None: the bus is gone
        self._owner: str | None = None
        self._owner_heard = False
        self._lock = _Lock(None)
        self._end: asyncio.Task[None] | None = None

    async def begin(self) -> None:
        """Subscribe first, then ask: an owner that comes in between is signalled, and the signal is the newer word."""
        async with asyncio.timeout(TIMEOUT):
            await self._bus.connect()
            self._end = asyncio.get_running_loop().create_task(self._wait_for_end())
            self._bus.add_message_handler(self._on_message)
            for rule in MATCHES:
                await self._call(BUS, BUS_PATH, BUS, "AddMatch", "s", rule)
            with contextlib.suppress(_Refused):
                owner = str((await self._call(BUS, BUS_PATH, BUS, "GetNameOwner", "s", NAME))[0])
                if not self._owner_heard:
                    self._owner = owner
                    self._heard.put_nowait(_Owner(owner))

    async def close(self) -> None:
        self._lock.release()
        if self._bus.connected:
            self._bus.disconnect()
        if self._end is not None:
            await self._end

    async def changes(self) -> AsyncGenerator[tuple[bool, Callable[[], None]], None]:
        """(asleep, what lets the machine sleep), until the bus is gone. Repeats itself."""
        while (heard := await self._heard.get()) is not None:
            if isinstance(heard, _Owner):
                self._lock.release()
                if heard.name is None or heard.name != self._owner:
                    yield False, _nothing_waits
                    continue
                heard = await self._arrived(heard.name)
                yield heard, self._lock.release
            elif heard:
                yield True, self._lock.release
            else:
                yield False, _nothing_waits
                if self._owner is not None:
                    await self._take_lock(self._owner)

    async def _arrived(self, owner: str) -> bool:
        """Take the lock of a logind that has come, and ask whether the machine is on its way to sleep already."""
        async with asyncio.timeout(TIMEOUT):
            try:
                uid = (await self._call(BUS, BUS_PATH, BUS, "GetConnectionUnixUser", "s", owner))[0]
            except _Refused:  # gone again: the signal is on its way
                return False
        if uid != 0:
            log.error("logind is not run by root: not believed", uid=uid)
            self._owner = None
            return False
        await self._take_lock(owner)
        try:
            async with asyncio.timeout(TIMEOUT):
                ask = "org.freedesktop.DBus.Properties", "Get", "ss", MANAGER, "PreparingForSleep"
                value = (await self._call(owner, PATH, *ask))[0]
        except (_Refused, TimeoutError) as err:
            log.warning("logind does not say whether the machine is about to sleep", error=repr(err))
            return False
        return isinstance(value, Variant) and value.value is True

    async def _take_lock(self, owner: str) -> None:
        self._lock.release()
        try:
            self._lock = _Lock(await _inhibit(self._address, owner))
        except Exception as err:  # the next sleep is not delayed, but it is announced
            log.warning("logind will not wait for us before the machine sleeps", error=repr(err))

    async def _call(self, to: str, path: str, interface: str, member: str, signature: str, *body: object) -> list[Any]:
        """The body of the reply. Raises _Refused for an error reply."""
        # dbus-fast writes to the file descriptor it had, which may be somebody else's by now.
        if not self._bus.connected:
            raise _Refused("the bus is gone")
        # NO_AUTOSTART: asking must not start a logind that is not wanted.
        flags = MessageFlag.NO_AUTOSTART
        reply = await self._bus.call(
            Message(to, path, interface, member, flags=flags, signature=signature, body=[*body])
        )
        if reply is None or reply.message_type is MessageType.ERROR or reply.sender != to:
            raise _Refused(str(reply.error_name) if reply is not None else "no reply")
        return list(reply.body)

    def _on_message(self, message: Message) -> None:
        """Only the bus and logind are heard: any process may send a signal to us alone."""
        if message.message_type is not MessageType.SIGNAL:
            return
        if message.sender == BUS:
            if message.member == "NameOwnerChanged" and message.body[0] == NAME:
                self._owner, self._owner_heard = message.body[2] or None, True
                self._heard.put_nowait(_Owner(self._owner))
        elif (
            message.sender is not None
            and message.sender == self._owner
            and (message.path, message.interface, message.member) == (PATH, MANAGER, "PrepareForSleep")
            and message.signature == "b"
        ):
            self._heard.put_nowait(message.body[0])

    async def _wait_for_end(self) -> None:
        with contextlib.suppress(Exception):
            await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]
        self._heard.put_nowait(None)


class _Refused(Exception):
    """An error reply, or an answer of somebody else."""


async def _inhibit(address: str | None, owner: str) -> int:
    """The file descriptor that is the lock. Raises whatever dbus-fast raises, _Refused and TimeoutError."""
    bus = MessageBus(bus_address=address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
    answer: asyncio.Future[Message] = asyncio.get_running_loop().create_future()

    def on_message(message: Message) -> bool:
        reply = message.message_type in (MessageType.METHOD_RETURN, MessageType.ERROR)
        if reply and message.sender == owner and not answer.done():
            answer.set_result(message)
            return True
        _close(message.unix_fds)
        return message.sender != BUS

    bus.add_message_handler(on_message)
    gone: asyncio.Future[None] | None = None
    try:
        try:
            async with asyncio.timeout(TIMEOUT):
                await bus.connect()
                gone = asyncio.ensure_future(bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
                flags = MessageFlag.NO_AUTOSTART
                await bus.send(Message(owner, PATH, MANAGER, "Inhibit", flags=flags, signature="ssss", body=[*LOCK]))
                await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            if bus.connected:
                bus.disconnect()
            if gone is not None:
                with contextlib.suppress(Exception):
                    await gone
        if not answer.done():
            raise _Refused("the bus is gone")
        reply = answer.result()
        if reply.message_type is MessageType.ERROR or reply.signature != "h" or len(reply.unix_fds) != 1:
            raise _Refused(f"{reply.error_name} {reply.body}" if reply.error_name else "no file descriptor")
    except BaseException:
        if answer.done():
            _close(answer.result().unix_fds)
        raise
    (descriptor,) = reply.unix_fds
    os.set_inheritable(descriptor, False)
    return descriptor


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _nothing_waits() -> None:
    """For `ready`, where no lock is held."""
