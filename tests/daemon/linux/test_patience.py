"""An answer that was there in time is heard, however late we come to it; silence ends."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable

import pytest

from daemon.linux.patience import within

PATIENCE_S, STALL_S = 0.25, 0.5


async def ask(answerer: socket.socket, asker: socket.socket) -> bytes:
    """Two questions, one after the other; before the first is answered, nothing of this process runs for a while."""
    running = asyncio.get_running_loop()

    def answer_and_stall() -> None:
        answerer.send(b"1")
        time.sleep(STALL_S)

    running.call_soon(answer_and_stall)
    first = await running.sock_recv(asker, 1)
    running.call_soon(answerer.send, b"2")
    return first + await running.sock_recv(asker, 1)


async def at_once(seconds: float, work: Awaitable[bytes]) -> bytes:
    async with asyncio.timeout(seconds):
        return await work


async def stalled(wait: Callable[..., Awaitable[bytes]]) -> bytes:
    answerer, asker = socket.socketpair()
    with answerer, asker:
        asker.setblocking(False)
        return await wait(PATIENCE_S, ask(answerer, asker))


def test_a_stall_of_ours_is_no_silence() -> None:
    assert asyncio.run(stalled(within)) == b"12"


def test_the_control_a_single_time_limit_is_over() -> None:
    with pytest.raises(TimeoutError):
        asyncio.run(stalled(at_once))


def test_silence_ends_and_the_question_with_it() -> None:
    ended: list[bool] = []

    async def silent() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with pytest.raises(TimeoutError):
        asyncio.run(within(0.05, silent()))
    assert ended == [True]


def test_what_it_raises_is_passed_on() -> None:
    async def fails() -> None:
        raise ValueError("no such link")

    with pytest.raises(ValueError, match="no such link"):
        asyncio.run(within(5, fails()))


def test_whoever_waits_may_be_cancelled() -> None:
    ended: list[bool] = []

    async def silent() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    async def cancelled() -> None:
        task = asyncio.create_task(within(60, silent()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert task.cancelled()

    asyncio.run(cancelled())
    assert ended == [True]
