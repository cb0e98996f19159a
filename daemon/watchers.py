"""What the host says may have changed, as hints for the loop's inbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

import structlog

from daemon.host import Host, QuotaSpent, Sleeping, Touch
from daemon.inbox import Inboxed, LinksHint, QuotaHint, ResolverHint, SleepHint, TamperHint, WifiHint

log = structlog.get_logger()

T = TypeVar("T")

AGAIN_S = 1.0  # when a watch has ended that never should


class Watchers:
    """One task for each watch, from `begin` to `end`."""

    def __init__(self, host: Host, post: Callable[[Inboxed], None]) -> None:
        self._host, self._post = host, post
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self) -> None:
        self._tasks = [
            asyncio.create_task(self._hint(self._host.links.watch, lambda _: LinksHint())),
            asyncio.create_task(self._hint(self._host.wifi.watch, lambda _: WifiHint())),
            asyncio.create_task(self._hint(self._host.resolver.watch, lambda _: ResolverHint())),
            asyncio.create_task(self._hint(self._host.tamper.watch, _tamper_hint)),
            asyncio.create_task(self._hint(self._host.sleep.watch, _sleep_hint)),
        ]

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _hint(self, watch: Callable[[], AsyncIterator[T]], hint: Callable[[T | None], Inboxed]) -> None:
        """A watch never ends; one that does all the same must not leave us blind. `hint` gets None then."""
        while True:
            try:
                async for what in watch():
                    self._post(hint(what))
                log.error("a watch has ended", watch=watch.__qualname__)
            except Exception:
                log.exception("a watch has failed", watch=watch.__qualname__)
            self._post(hint(None))
            await asyncio.sleep(AGAIN_S)


def _tamper_hint(touch: Touch | QuotaSpent | None) -> Inboxed:
    """A watch that has ended saw nothing: then it is a hint to look."""
    if isinstance(touch, QuotaSpent):
        return QuotaHint()
    return TamperHint(touch.what, touch.foreign) if touch else TamperHint("unseen")


def _sleep_hint(said: Sleeping | None) -> Inboxed:
    """A watch that has ended tells nothing: then it is a hint to look."""
    return SleepHint(said.asleep, said.ready) if said else LinksHint()
