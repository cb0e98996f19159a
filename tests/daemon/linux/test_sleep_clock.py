"""Sleeps that nobody tells of, by the clocks (T5). The kernel's part of a resume cannot be had here."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator

from daemon.host import Sleep, Sleeping
from daemon.linux.sleep_clock import SLEPT_S, EverySleep, clock_was_set, slept_so_far

WAIT_S = 20.0


class FakeLogind:
    """Says what it is told to say."""

    def __init__(self) -> None:
        self.says: asyncio.Queue[bool] = asyncio.Queue()

    async def watch(self) -> AsyncIterator[Sleeping]:
        while True:
            yield Sleeping(await self.says.get(), lambda: None)


class Machine:
    """Whose clocks a test moves."""

    def __init__(self) -> None:
        self.logind, self.changes = FakeLogind(), asyncio.Queue[None]()
        self.slept = 100.0
        self.heard: list[bool] = []
        self.more = asyncio.Event()
        self.sleep: Sleep = EverySleep(self.logind, self.clock, lambda: self.slept)

    async def clock(self) -> AsyncGenerator[None, None]:
        while True:
            yield await self.changes.get()

    def sets_clock(self, slept: float = 0.0) -> None:
        self.slept += slept
        self.changes.put_nowait(None)

    async def listen(self) -> None:
        async for sleeping in self.sleep.watch():
            self.heard.append(sleeping.asleep)
            self.more.set()
            sleeping.ready()

    async def until(self, *heard: bool) -> None:
        async with asyncio.timeout(WAIT_S):
            while self.heard != [*heard]:
                await self.more.wait()
                self.more.clear()


@contextlib.asynccontextmanager
async def machine() -> AsyncIterator[Machine]:
    machine = Machine()
    task = asyncio.create_task(machine.listen())
    await asyncio.sleep(0.01)
    yield machine
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def test_a_sleep_that_nobody_told_of_is_said_when_it_is_over() -> None:
    async def work() -> None:
        async with machine() as one:
            one.sets_clock(slept=3600.0)
            await one.until(True, False)
            one.sets_clock(slept=SLEPT_S * 1.1)
            await one.until(True, False, True, False)

    asyncio.run(work())


def test_a_wall_clock_that_somebody_sets_is_no_sleep() -> None:
    async def work() -> None:
        async with machine() as one:
            one.sets_clock()
            one.sets_clock(slept=SLEPT_S * 0.5)
            one.logind.says.put_nowait(True)
            await one.until(True)

    asyncio.run(work())


def test_a_sleep_that_logind_told_of_is_said_once() -> None:
    """The clock is set before logind says that it is over."""

    async def work() -> None:
        async with machine() as one:
            one.logind.says.put_nowait(True)
            await one.until(True)
            one.sets_clock(slept=3600.0)
            await asyncio.sleep(0.01)
            one.logind.says.put_nowait(False)
            await one.until(True, False)
            one.sets_clock()
            one.sets_clock(slept=60.0)
            await one.until(True, False, True, False)

    asyncio.run(work())


def test_the_kernels_timer_is_set_and_waits() -> None:
    """Real: it exists, does not end by itself, and goes away when nobody listens."""

    async def work() -> None:
        changes = clock_was_set()
        task = asyncio.create_task(anext(changes))
        done, _ = await asyncio.wait([task], timeout=0.2)
        assert not done
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await changes.aclose()

    asyncio.run(work())
    assert slept_so_far() >= -SLEPT_S


def test_a_kernel_without_such_timers_leaves_what_logind_tells() -> None:
    async def none() -> AsyncGenerator[None, None]:
        raise OSError(38, "timerfd_create")
        yield

    async def work() -> None:
        logind = FakeLogind()
        logind.says.put_nowait(True)
        watch = EverySleep(logind, none).watch()
        assert (await asyncio.wait_for(anext(watch), WAIT_S)).asleep

    asyncio.run(work())
