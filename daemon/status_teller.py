"""The status as it is told: to every watcher when it changes, and with the bytes to whoever asks."""

from __future__ import annotations

import math
import time
from dataclasses import replace

from daemon import status as tell
from daemon.host import Counters, HostError
from daemon.loop import Loop
from ipc import structs
from ipc.feed import Feed
from policies.states import State

COUNTED_S = 0.1  # so old may the bytes be that are told


class StatusTeller:
    """`feed` goes to the watchers; `publish` is called when the kernel has agreed."""

    def __init__(self, loop: Loop, version: str) -> None:
        self._loop, self._version = loop, version
        self._entered: tuple[State, int] = (loop.state, int(time.time()))
        self._listed: tuple[object, ...] = ()
        self._lists = 0  # grows when what is listed has changed
        self._counted: tuple[State, float, Counters | None] = (loop.state, -math.inf, None)  # when, and what it was
        self.feed = Feed(self._status())

    def publish(self) -> None:
        """Tell every watcher what is true now."""
        if self._entered[0].phase is not self._loop.state.phase:
            self._entered = (self._loop.state, int(time.time()))
        self.feed.publish(self._status())

    def _status(self) -> structs.Status:
        loop = self._loop
        profile = loop.decision.profile
        # Whoever changes one of these puts another object in its place.
        listed = (loop.known, loop.settings, loop.profiles, loop.intent.profile, profile and profile.name)
        if len(self._listed) != len(listed) or any(a is not b for a, b in zip(listed, self._listed, strict=True)):
            self._listed = listed
            self._lists += 1
        return tell.status(
            loop.state,
            loop.decision,
            loop.facts,
            loop.enforcer.enforced,
            loop.enforcer.blocking,
            since=self._entered[1],
            warnings=tuple(loop.warnings.values()),
            alarm=" ".join(loop.alarms.values()) or None,
            lists=self._lists,
            sequence=0,
            version=self._version,
            outside=loop.splits.outside,
            detail=loop.traffic.detail,
            mtu=loop.mtus.mtu or 0,
            mtu_source=loop.mtus.source.value,
        )

    async def now(self) -> structs.Status:
        """With the bytes through the tunnel."""
        counters = await self._counters()
        return replace(self.feed.status, rx_bytes=counters.rx, tx_bytes=counters.tx) if counters else self.feed.status

    async def _counters(self) -> Counters | None:
        """Asking the tunnel takes a millisecond of its process: many callers at once get one answer."""
        now, (state, when, counters) = time.monotonic(), self._counted
        if state is self._loop.state and now - when < COUNTED_S:
            return counters
        try:
            counters = self._counted_by_link() or await self._loop.host.tunnel.counters()
        except HostError:  # it is going away at this moment
            counters = None
        self._counted = (self._loop.state, now, counters)
        return counters

    def _counted_by_link(self) -> Counters | None:
        """Of a tunnel that somebody else brought up, since then. Raises HostError."""
        loop, tunnel = self._loop, self._loop.state.tunnel
        link = loop.facts.link(tunnel.ifname) if tunnel else None
        counts = loop.host.link_counters.read(link.ifindex) if link and link.external else None
        return Counters(counts.rx_bytes, counts.tx_bytes, None) if counts else None
