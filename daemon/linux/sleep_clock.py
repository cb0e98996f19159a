"""That the machine has slept, where nobody tells: CLOCK_BOOTTIME goes on meanwhile, and CLOCK_MONOTONIC does not.

When the machine wakes up, the kernel sets its wall clock, and a timer that is to end then (timerfd_create(2),
TFD_TIMER_CANCEL_ON_SET) says so at once. So nothing wakes up for this while nothing happens. A wall clock that somebody
sets ends it too: the two others tell that apart.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable

import structlog

from daemon.host import Sleep, Sleeping

log = structlog.get_logger()

SLEPT_S = 0.5  # what the two clocks may differ by without a sleep; they are read some microseconds apart
CLOCK_REALTIME, TFD_TIMER_ABSTIME, TFD_TIMER_CANCEL_ON_SET = 0, 1, 2  # <sys/timerfd.h>, <linux/timerfd.h>
FAR = 1 << 40  # seconds since 1970: the timer never ends by itself
_libc = ctypes.CDLL(None, use_errno=True)


def slept_so_far() -> float:
    """Seconds that the machine has slept since it was booted."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)


async def clock_was_set() -> AsyncGenerator[None, None]:
    """Yields whenever the wall clock was set, as it is after a sleep. Raises OSError: the kernel has no such timer."""
    timer: int = _libc.timerfd_create(CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC)
    if timer < 0:
        raise OSError(ctypes.get_errno(), "timerfd_create")
    changed, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(timer, changed.set)
    try:
        while True:
            flags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET
            if _libc.timerfd_settime(timer, flags, struct.pack("@4q", 0, 0, FAR, 0), None) < 0:
                raise OSError(ctypes.get_errno(), "timerfd_settime")
            await changed.wait()
            changed.clear()
            with contextlib.suppress(OSError):  # ECANCELED: that is the news
                os.read(timer, 8)
            yield
    finally:
        loop.remove_reader(timer)
        os.close(timer)


class EverySleep:
    """Implements `daemon.host.Sleep`: what `told` says, and what the clocks say of sleeps that nobody told of.

    Of those it is said when they are over, for before that nobody knew. `clock` and `slept` may be others' in tests.
    """

    def __init__(
        self,
        told: Sleep,
        clock: Callable[[], AsyncGenerator[None, None]] = clock_was_set,
        slept: Callable[[], float] = slept_so_far,
    ) -> None:
        self._told, self._clock, self._slept = told, clock, slept

    async def watch(self) -> AsyncIterator[Sleeping]:
        """Never ends, like `told.watch`."""
        said: asyncio.Queue[Sleeping | None] = asyncio.Queue()  # None: look at the clocks
        tasks = [asyncio.create_task(self._listen(said)), asyncio.create_task(self._look(said))]
        asleep, known = False, self._slept()
        try:
            while True:
                sleeping = await said.get()
                if sleeping is not None:
                    asleep, known = sleeping.asleep, self._slept()
                    yield sleeping
                elif not asleep and self._slept() - known > SLEPT_S:
                    log.warning("the machine has slept, and nobody said so", seconds=round(self._slept() - known, 1))
                    known = self._slept()
                    yield Sleeping(True, _nothing_waits)
                    yield Sleeping(False, _nothing_waits)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _listen(self, said: asyncio.Queue[Sleeping | None]) -> None:
        async for sleeping in self._told.watch():
            said.put_nowait(sleeping)

    async def _look(self, said: asyncio.Queue[Sleeping | None]) -> None:
        try:
            async with contextlib.aclosing(self._clock()) as changes:
                async for _ in changes:
                    said.put_nowait(None)
        except OSError as err:
            log.warning("sleeps that nobody tells of are not noticed", error=str(err))


def _nothing_waits() -> None:
    """As `Sleeping.ready`."""
