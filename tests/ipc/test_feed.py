from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from ipc.feed import BACKLOG, Feed, TooSlowError
from tests.ipc.fake_service import IDLE


def test_first_a_snapshot_then_every_change() -> None:
    async def check() -> None:
        feed = Feed(IDLE)
        feed.publish(replace(IDLE, state="held"))
        watcher = feed.watch()
        first = await anext(watcher)
        assert (first.state, first.sequence) == ("held", 2)
        for count in range(BACKLOG):
            feed.publish(replace(IDLE, rx_bytes=count + 1))
        assert [(await anext(watcher)).sequence for _ in range(BACKLOG)] == list(range(3, 3 + BACKLOG))
        await watcher.aclose()

    asyncio.run(check())


def test_an_equal_status_is_not_published() -> None:
    async def check() -> None:
        feed = Feed(IDLE)
        feed.publish(replace(IDLE, sequence=99))
        assert feed.status.sequence == 1

    asyncio.run(check())


def test_a_slow_watcher_is_dropped_and_holds_nobody_up() -> None:
    async def check() -> None:
        feed = Feed(IDLE)
        slow, quick = feed.watch(), feed.watch()
        await anext(slow), await anext(quick)
        for count in range(BACKLOG + 10):
            feed.publish(replace(IDLE, rx_bytes=count + 1))
            assert (await anext(quick)).rx_bytes == count + 1
        seen = []
        with pytest.raises(TooSlowError):
            async with asyncio.timeout(20):
                async for status in slow:
                    seen.append(status.sequence)
        assert seen == list(range(2, 2 + BACKLOG))  # what it got has no gap
        await quick.aclose()
        assert feed._watchers == set()

    asyncio.run(check())
