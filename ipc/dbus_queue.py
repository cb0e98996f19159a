"""Calls from the bus, answered one at a time for each sender, so that no sender crowds out another.

A call that may have to wait for somebody's password is answered beside the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from dbus_fast import ErrorType, Message, MessageFlag

from ipc.access import Access, Caller
from ipc.dbus_calls import CallError, Target

log = logging.getLogger("tunwarden.ipc")

PENDING_CALLS = 1024  # of one sender
PENDING_BYTES = 8 << 20  # of string arguments, all senders together
ASIDE, ASIDE_ALL = 4, 64  # calls that wait for a password: of one sender, and together
_MANY = "Too many calls are pending."


@dataclass(frozen=True, slots=True)
class Pending:
    """A call that waits for its turn, and what it wants or why it cannot have it."""

    call: Message
    wanted: Target | CallError
    size: int


@dataclass(slots=True)
class Sender:
    """A peer on the bus, kept while it has calls pending: so its credentials are asked for once a burst."""

    pending: deque[Pending] = field(default_factory=deque)
    task: asyncio.Task[None] | None = None


class Queue:
    """`target` says what a call means or raises CallError, `identify` asks the bus who a sender is, `answer` makes the
    reply, `send` returns when it is on its way."""

    def __init__(
        self,
        target: Callable[[Message], Target],
        identify: Callable[[str], Awaitable[Caller]],
        answer: Callable[[Message, Target, Caller], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        self._target, self._identify, self._answer, self._send = target, identify, answer, send
        self._senders: dict[str, Sender] = {}
        self._aside: dict[asyncio.Task[None], str] = {}
        self._bytes = 0

    def put(self, call: Message) -> Message | None:
        """Queue a call. A Message is an immediate answer: the sender has too many calls pending."""
        assert call.sender is not None
        sender = self._senders.setdefault(call.sender, Sender())
        if len(sender.pending) >= PENDING_CALLS:
            return Message.new_error(call, ErrorType.LIMITS_EXCEEDED, _MANY) if _expects_reply(call) else None
        sender.pending.append(self._judged(call))
        if sender.task is None:
            sender.task = asyncio.get_running_loop().create_task(self._answer_all(call.sender, sender))
        return None

    async def close(self) -> None:
        """Drop what is pending."""
        tasks = [*self._aside, *(sender.task for sender in self._senders.values() if sender.task)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _judged(self, call: Message) -> Pending:
        try:
            wanted = self._target(call)
        except CallError as error:
            return Pending(call, error, 0)
        size = sum(len(part) for part in call.body if isinstance(part, str))
        if self._bytes + size > PENDING_BYTES:
            return Pending(call, CallError(ErrorType.LIMITS_EXCEEDED, _MANY), 0)
        self._bytes += size
        return Pending(call, wanted, size)

    async def _answer_all(self, name: str, sender: Sender) -> None:
        caller: Caller | None = None
        try:
            while sender.pending:
                pending = sender.pending.popleft()
                self._bytes -= pending.size
                if caller is None:
                    caller = await self._identified(name)
                if _may_ask(pending):
                    await self._put_aside(name, pending, caller)
                else:
                    await self._answer_one(pending, caller)
                await asyncio.sleep(0)  # others' turn
        except Exception as error:  # the bus is gone, or ends
            log.debug("calls of %s are dropped: %s", name, error)
        finally:
            self._bytes -= sum(pending.size for pending in sender.pending)
            del self._senders[name]

    async def _answer_one(self, pending: Pending, caller: Caller | None) -> None:
        reply = await self._made(pending, caller)
        if _expects_reply(pending.call):
            await self._reply(pending.call, reply)

    async def _put_aside(self, name: str, pending: Pending, caller: Caller | None) -> None:
        if len(self._aside) >= ASIDE_ALL or [*self._aside.values()].count(name) >= ASIDE:
            await self._reply(pending.call, Message.new_error(pending.call, ErrorType.LIMITS_EXCEEDED, _MANY))
            return
        task = asyncio.get_running_loop().create_task(self._answer_one(pending, caller))
        self._aside[task] = name
        task.add_done_callback(self._came_back)

    def _came_back(self, task: asyncio.Task[None]) -> None:
        name = self._aside.pop(task)
        if not task.cancelled() and (error := task.exception()):  # the bus is gone, or ends
            log.debug("a call of %s is dropped: %s", name, error)

    async def _identified(self, name: str) -> Caller | None:
        """None: it has left, or the bus does not tell."""
        try:
            return await self._identify(name)
        except (LookupError, TimeoutError) as error:
            log.debug("nothing is known of %s: %s", name, error)
            return None

    async def _made(self, pending: Pending, caller: Caller | None) -> Message:
        if isinstance(pending.wanted, CallError):
            return Message.new_error(pending.call, pending.wanted.error, pending.wanted.text)
        if caller is None:
            return Message.new_error(pending.call, ErrorType.ACCESS_DENIED, "The bus does not say who you are.")
        try:
            return await self._answer(pending.call, pending.wanted, caller)
        except Exception:  # a defect of ours: it costs this call, and none of those that wait behind it
            log.exception("%s.%s failed", pending.call.interface, pending.call.member)
            return Message.new_error(pending.call, ErrorType.FAILED, "The call failed; the log of tunwardend says why.")

    async def _reply(self, call: Message, reply: Message) -> None:
        try:
            await self._send(reply)
        except Exception:  # a value that D-Bus cannot carry: the sender must still hear something
            log.exception("the answer to %s.%s could not be sent", call.interface, call.member)
            await self._send(Message.new_error(call, ErrorType.FAILED, "The answer could not be sent."))


def _may_ask(pending: Pending) -> bool:
    """Whether polkit may put a question to a person: only where the caller allows it, and never about reading."""
    method = pending.wanted.method if isinstance(pending.wanted, Target) else None
    if method is None or not pending.call.flags & MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION:
        return False
    return method.access is not Access.READ and _expects_reply(pending.call)


def _expects_reply(call: Message) -> bool:
    return not call.flags & MessageFlag.NO_REPLY_EXPECTED
