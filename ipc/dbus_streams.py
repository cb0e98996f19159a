"""Streams on the bus: each reply is a signal to the one peer who asked, until that peer leaves."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

from dbus_fast import Message, MessageType

from ipc import interface
from ipc.access import Caller
from ipc.dbus_values import signature, value
from ipc.describe import Method
from ipc.dispatch import Appeal, Dispatcher
from ipc.errors import Error, ServiceError
from ipc.polkit import BUS, BUS_PATH
from ipc.values import plain

log = logging.getLogger("tunwarden.ipc")

LEFT = "type='signal',sender='org.freedesktop.DBus',member='NameOwnerChanged',arg0='{name}'"


class Streams:
    """`ask` puts a question to the bus, `send` returns when a message is on its way. Close it with the connection."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        ask: Callable[[Message], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self._dispatcher, self._ask, self._send = dispatcher, ask, send
        self._tasks: dict[tuple[str, str], asyncio.Task[None]] = {}  # by peer and method

    async def open(
        self, name: str, method: Method, caller: Caller, given: Mapping[str, object], appeal: Appeal | None = None
    ) -> None:
        """Returns when the stream has begun; twice is harmless. Raises ServiceError, and what `appeal` raises."""
        replies = await self._dispatcher.watch(method, caller, given, appeal)
        key = (name, method.wire_name)
        if key in self._tasks:
            return
        await self._bus("AddMatch", LEFT.format(name=name))
        if (await self._bus("NameHasOwner", name)).body != [True]:  # it left before we could have heard of it
            await self._bus("RemoveMatch", LEFT.format(name=name))
            raise ServiceError(Error.NOT_NOW, f"{method.interface}.{method.name}", "the caller has left the bus.")
        first = await anext(replies)
        if key in self._tasks:  # opened a second time while polkit was asked
            await replies.aclose()
            return
        task = asyncio.get_running_loop().create_task(self._pass_on(name, method, first, replies))
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))

    def received(self, message: Message) -> None:
        """For every signal: a peer that has left gets nothing more."""
        if (message.sender, message.member, message.signature) != (BUS, "NameOwnerChanged", "sss"):
            return
        name, _, owner = message.body
        if not owner:
            for (peer, _), task in self._tasks.items():
                if peer == name:
                    task.cancel()

    async def close(self) -> None:
        """End them all."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _pass_on(self, name: str, method: Method, first: object, replies: AsyncGenerator[object, None]) -> None:
        try:
            async with contextlib.aclosing(replies):
                await self._tell(name, method, first)
                async for reply in replies:
                    await self._tell(name, method, reply)
        except Exception as error:  # the bus is gone, or the reader fell behind
            log.debug("the stream to %s ends: %r", name, error)
        finally:
            with contextlib.suppress(Exception):
                await self._bus("RemoveMatch", LEFT.format(name=name))

    async def _tell(self, name: str, method: Method, reply: object) -> None:
        assert method.returns is not None
        if reply is None:
            return
        kind = method.returns.type
        face = f"{interface.NAME}.{method.interface}"
        await self._send(
            Message(
                message_type=MessageType.SIGNAL, destination=name, path=interface.PATH, interface=face,
                member=method.signal, signature=signature(kind), body=[value(kind, plain(reply))],
            )
        )  # fmt: skip

    async def _bus(self, member: str, argument: str) -> Message:
        message = Message(
            destination=BUS, path=BUS_PATH, interface=BUS, member=member, signature="s", body=[argument]
        )  # fmt: skip
        return await self._ask(message)
