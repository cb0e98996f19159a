"""The Wi-Fi networks of this machine, from several sources. The first source that knows a link wins."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence

import structlog

from daemon.host import Wifi
from daemon.linux.networkmanager import NetworkManager
from policies.facts import WifiNetwork

log = structlog.get_logger()

RETRY_FIRST, RETRY_LONGEST = 0.1, 5.0  # seconds


def sources() -> tuple[Wifi, ...]:
    """Primary source first."""
    return (
        # nl80211 goes here: the kernel's own word, also without NetworkManager. What it calls not associated must then
        # not be taken from the sources below, which may lag behind it.
        NetworkManager(),
    )


class LinuxWifi:
    """`Wifi` from `sources`, primary first. A source that fails is one that knows nothing."""

    def __init__(self, sources: Sequence[Wifi]) -> None:
        self._sources = tuple(sources)

    async def read(self) -> Mapping[str, WifiNetwork]:
        """All sources at the same time, so the slowest sets the pace."""
        answers = await asyncio.gather(*(_read(source) for source in self._sources))
        found: dict[str, WifiNetwork] = {}
        for answer in reversed(answers):
            found.update(answer)
        return found

    async def watch(self) -> AsyncIterator[None]:
        """Yields at once and then after a hint of any source; hints that wait are one. Never ends."""
        changed = asyncio.Event()
        watchers = [asyncio.create_task(_watch(source, changed)) for source in self._sources]
        try:
            yield
            while True:
                await changed.wait()
                changed.clear()  # before the yield: what changes during the read is another hint
                yield
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)


async def _read(source: Wifi) -> Mapping[str, WifiNetwork]:
    try:
        return await source.read()
    except Exception as err:
        log.error("a Wi-Fi source failed", source=type(source).__name__, error=repr(err))
        return {}


async def _watch(source: Wifi, changed: asyncio.Event) -> None:
    """Pass hints on for ever; begin again when the source fails or ends, which it should not."""
    delay = RETRY_FIRST
    while True:
        try:
            async for _ in source.watch():
                changed.set()
                delay = RETRY_FIRST
            log.error("a Wi-Fi source stopped watching", source=type(source).__name__)
        except Exception as err:
            log.error("a Wi-Fi source failed", source=type(source).__name__, error=repr(err))
        await asyncio.sleep(delay)
        delay = min(2 * delay, RETRY_LONGEST)
