"""One connection to the bus: takes the name, answers calls, announces changes."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping

from dbus_fast import BusType, ErrorType, Message, MessageFlag, MessageType, NameFlag, RequestNameReply, Variant
from dbus_fast.aio import MessageBus

from ipc import dbus_calls, interface
from ipc.access import Access, Caller, Transport
from ipc.dbus_objects import MANAGER, Changes, Objects
from ipc.dbus_queue import Queue
from ipc.dbus_streams import Streams
from ipc.dbus_writer_guard import guard
from ipc.dispatch import Dispatcher
from ipc.feed import TooSlowError
from ipc.polkit import BUS, BUS_PATH, Polkit, Word
from ipc.structs import Status

TIMEOUT = 10.0  # seconds for the bus to answer
COALESCE = 0.05  # seconds between two PropertiesChanged


class NameTakenError(Exception):
    """Another daemon owns the name on the bus."""


class Session:
    """`open`, `serve`, and in any case `close`."""

    def __init__(self, dispatcher: Dispatcher, address: str | None) -> None:
        self._dispatcher = dispatcher
        # File descriptors are never negotiated: the library leaks one for each that comes with an unhandled message.
        self._bus = MessageBus(bus_address=address, bus_type=BusType.SYSTEM, negotiate_unix_fd=False)
        self._streams = Streams(dispatcher, self._ask, self._send)
        self._polkit = Polkit(self._ask)
        self._objects = Objects()
        self._lists = -1  # of the status whose lists `_objects` shows
        self._queue = Queue(
            lambda call: dbus_calls.target(call, self._objects), self._identify, self._answer, self._send
        )
        self._status: Status | None = None
        self._changed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Connect, learn the status, take the name. Raises NameTakenError, or what the library raises."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(TIMEOUT):
            await self._bus.connect()
            guard(self._bus)
            self._bus.add_message_handler(self._received)
            self._tasks.append(loop.create_task(self._follow()))
            await self._changed.wait()
            assert self._status is not None
            await self._grown(self._status)
            reply = await self._bus.request_name(interface.NAME, NameFlag.DO_NOT_QUEUE)
        if reply is not RequestNameReply.PRIMARY_OWNER:
            raise NameTakenError(f"another process owns {interface.NAME}: is tunwardend already running?")
        self._tasks.append(loop.create_task(self._announce()))

    async def serve(self) -> None:
        """Returns when the bus is gone; raises when it went with an error, or when something of ours failed."""
        gone = asyncio.ensure_future(self._bus.wait_for_disconnect())  # type: ignore[no-untyped-call]
        try:
            done, _ = await asyncio.wait((gone, *self._tasks), return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                await task
        finally:
            gone.cancel()

    async def close(self) -> None:
        """Leave the bus; harmless in any state."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._queue.close()
        await self._streams.close()
        if self._bus.connected:
            self._bus.disconnect()
            with contextlib.suppress(Exception):
                async with asyncio.timeout(1):
                    await self._bus.wait_for_disconnect()  # type: ignore[no-untyped-call]

    def _received(self, message: Message) -> Message | bool:
        """For every message, synchronously. False: the library shall look at it; a Message is sent as the answer."""
        if message.message_type in (MessageType.METHOD_RETURN, MessageType.ERROR):
            return message.sender not in (BUS, self._polkit.owner)  # we ask nobody else: anybody else's is forged
        if message.message_type is MessageType.SIGNAL:
            self._streams.received(message)
            return False
        if message.message_type is not MessageType.METHOD_CALL or message.interface == f"{BUS}.Peer":
            return False
        return self._queue.put(message) or True

    async def _identify(self, name: str) -> Caller:
        """Who owns a unique name, as the bus learnt from the kernel. Raises LookupError or TimeoutError."""
        reply = await self._ask(
            Message(
                destination=BUS,
                path=BUS_PATH,
                interface=BUS,
                member="GetConnectionCredentials",
                signature="s",
                body=[name],
            )
        )
        if reply.message_type is not MessageType.METHOD_RETURN:
            raise LookupError(f"{name}: {reply.error_name}")
        known: dict[str, Variant] = reply.body[0]
        groups = known["UnixGroupIDs"].value if "UnixGroupIDs" in known else ()
        pid = known["ProcessID"].value if "ProcessID" in known else 0
        return Caller(known["UnixUserID"].value, frozenset(groups), pid, Transport.DBUS)

    async def _ask(self, question: Message, seconds: float = TIMEOUT) -> Message:
        """What the bus, or polkit, answers. Raises TimeoutError, ConnectionError."""
        self._check_connected()
        async with asyncio.timeout(seconds):
            answer = await self._bus.call(question)
        if answer is None:
            raise ConnectionError("no answer was asked for")
        return answer

    async def _answer(self, call: Message, wanted: dbus_calls.Target, caller: Caller) -> Message:
        assert self._status is not None  # the name is taken only once it is known

        async def appeal(access: Access) -> bool:
            interactive = bool(call.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION)
            word = await self._polkit.may(call.sender or "", access, interactive=interactive)
            if word is Word.CHALLENGE:
                raise dbus_calls.CallError(
                    ErrorType.INTERACTIVE_AUTHORIZATION_REQUIRED,
                    "This needs a password: call again and allow interactive authorization, or use sudo.",
                )
            return word is Word.YES

        return await dbus_calls.answer(
            call, wanted, caller, self._dispatcher, self._status, self._objects, self._streams, appeal
        )

    async def _send(self, message: Message) -> None:
        self._check_connected()
        await self._bus.send(message)

    def _check_connected(self) -> None:
        """Asked to send, a dead connection of the library takes its old descriptor off the loop, whosever it is now."""
        if not self._bus.connected:
            raise ConnectionError("the bus is gone")

    async def _follow(self) -> None:
        """Keep `_status` the present one. It never waits for the bus, so it does not fall behind."""
        while True:
            with contextlib.suppress(TooSlowError):
                async with contextlib.aclosing(self._dispatcher.follow()) as statuses:
                    async for status in statuses:
                        self._status = status
                        self._changed.set()
            await asyncio.sleep(COALESCE)

    async def _announce(self) -> None:
        """PropertiesChanged with what differs from the last one; at first all, for those who knew our predecessor."""
        shown: dict[str, Variant] = {}
        while True:
            await self._changed.wait()
            self._changed.clear()
            assert self._status is not None
            grown = await self._grown(self._status)
            now = dbus_calls.shown_properties(self._status)
            changed = {name: value for name, value in now.items() if shown.get(name) != value}
            shown = now
            if changed:
                await self._send(_properties_changed(interface.PATH, dbus_calls.MANAGER, changed))
            for changes in grown:
                for message in _announced(changes):
                    await self._send(message)
            await asyncio.sleep(COALESCE)

    async def _grown(self, status: Status) -> list[Changes]:
        """Bring the tree of objects up to this status."""
        grown = [self._objects.links(status.networks)]
        if status.lists != self._lists:
            profiles, known = await self._dispatcher.lists()
            self._lists = status.lists
            grown += [self._objects.profiles(profiles), self._objects.known(known)]
        return grown


def _announced(changes: Changes) -> Iterator[Message]:
    for path, face in changes.removed.items():
        yield Message.new_signal(interface.PATH, MANAGER, "InterfacesRemoved", "oas", [path, [face]])
    for path, new in changes.added.items():
        body = [path, {new.face: new.properties}]
        yield Message.new_signal(interface.PATH, MANAGER, "InterfacesAdded", "oa{sa{sv}}", body)
    for path, (face, properties) in changes.changed.items():
        yield _properties_changed(path, face, properties)


def _properties_changed(path: str, face: str, properties: Mapping[str, Variant]) -> Message:
    body = [face, properties, []]
    return Message.new_signal(path, dbus_calls.PROPERTIES, "PropertiesChanged", "sa{sv}as", body)
