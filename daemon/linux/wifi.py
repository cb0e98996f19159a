"""The Wi-Fi networks of this machine, from several sources. The first source that knows a link wins.

A source may also know that a link has joined nothing (None). The sources after it, which may lag behind, cannot then
say otherwise. What the kernel cannot know, whether 802.1X checks the network's server, any source may add.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from daemon.linux.networkmanager import NetworkManager
from daemon.linux.nl80211 import Nl80211
from policies.facts import WifiNetwork
from policies.known_network import has_accounts

log = structlog.get_logger()

RETRY_FIRST, RETRY_LONGEST = 0.1, 5.0  # seconds


class Source(Protocol):
    """As `daemon.host.Wifi`, and it can tell a link that has joined nothing from one it does not know."""

    async def read(self) -> Mapping[str, WifiNetwork | None]:
        """By ifname. None: this source knows the link, and it has joined no network; absent: it does not know it."""
        ...

    async def server_unchecked(self, ifname: str) -> bool | None:
        """Whether 802.1X on this link trusts any server. False where it cannot know; None: not yet, a hint follows."""
        ...

    def watch(self) -> AsyncIterator[None]: ...


def sources() -> tuple[Source, ...]:
    """Primary source first: the kernel's own word, whoever manages the card."""
    return Nl80211(), NetworkManager()


class LinuxWifi:
    """`Wifi` from `sources`, primary first. A source that fails is one that knows nothing."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = tuple(sources)
        self._unchecked: frozenset[str] = frozenset()  # ifnames, for as long as they are joined to something
        self._failures: dict[Source, str] = {}  # what was said last of each that fails: once is enough

    async def read(self) -> Mapping[str, WifiNetwork]:
        """All sources at the same time, so the slowest sets the pace."""
        answers = await asyncio.gather(*(self._read(source) for source in self._sources))
        found: dict[str, WifiNetwork | None] = {}
        for answer in reversed(answers):
            for ifname, network in answer.items():
                found[ifname] = _with_hints(network, found.get(ifname))
        networks = {ifname: network for ifname, network in found.items() if network is not None}
        await self._judge_sign_in(networks)
        return networks

    async def _judge_sign_in(self, networks: dict[str, WifiNetwork]) -> None:
        """Where it is not known yet whether the server is checked, the network is not known yet."""
        asked = [ifname for ifname, network in networks.items() if has_accounts(network.security)]
        # Said of an association it stays said: NetworkManager may end before the association does.
        self._unchecked &= set(asked)
        for ifname in asked:
            answers = [await source.server_unchecked(ifname) for source in self._sources]
            if True in answers:
                self._unchecked |= {ifname}
            if ifname in self._unchecked:
                networks[ifname] = replace(networks[ifname], server_unchecked=True)
            elif None in answers:
                del networks[ifname]

    async def _read(self, source: Source) -> Mapping[str, WifiNetwork | None]:
        try:
            found = await source.read()
        except Exception as err:
            if self._failures.get(source) != repr(err):
                log.error("a Wi-Fi source failed", source=type(source).__name__, error=repr(err))
            self._failures[source] = repr(err)
            return {}
        self._failures.pop(source, None)
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


def _with_hints(network: WifiNetwork | None, other: WifiNetwork | None) -> WifiNetwork | None:
    """The first source's word, with what only another one can know of the same network."""
    if network is None or other is None or network.ssid != other.ssid:
        return network
    return replace(
        network,
        metered=other.metered if network.metered is None else network.metered,
        connectivity=network.connectivity or other.connectivity,
    )


async def _watch(source: Source, changed: asyncio.Event) -> None:
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
