"""For tests of suspend and resume: the watch, iterated over as the daemon does, and small ways to wait."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from daemon.host import Sleeping
from daemon.linux.sleep import LogindSleep
from lab.bus import SOCKET
from lab.hosts import Host


class Watched:
    """The watch, iterated over as the daemon does."""

    def __init__(self, host: Host) -> None:
        self.address = f"unix:path={host.path(SOCKET)}"
        self.said: list[Sleeping] = []
        self._new = asyncio.Event()
        self._pump = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for said in LogindSleep(self.address).watch():
            if self.said and self.said[-1].asleep is said.asleep:
                self.said.pop()  # the property and the signal may both have told it
            self.said.append(said)
            self._new.set()

    async def until(self, *asleep: bool) -> Sleeping:
        """Wait until this was said since the beginning, and nothing else; the last of it."""
        async with asyncio.timeout(20):
            while len(self.said) < len(asleep):
                self._new.clear()
                await self._new.wait()
        assert tuple(each.asleep for each in self.said) == asleep
        return self.said[-1]

    async def close(self) -> None:
        self._pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pump


@contextlib.asynccontextmanager
async def watching(host: Host) -> AsyncIterator[Watched]:
    watched = Watched(host)
    try:
        yield watched
    finally:
        await watched.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(60):
            await work()

    asyncio.run(limited())


async def aside(call: Callable[..., Any], *args: object) -> Any:
    """A blocking call of the laboratory."""
    return await asyncio.to_thread(call, *args)


async def until(done: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not done():  # noqa: ASYNC110  nobody tells
            await asyncio.sleep(0.02)


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
