"""The MTU of the tunnel's link (T7): looked for beside the traffic whenever the way to the server is another one.

A tunnel is up before anything is looked for, and nothing waits for it. What was found on a way holds for an hour there.
A profile that names an MTU is believed, and a tunnel over TCP has no packets that could be too large.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from enum import StrEnum
from typing import assert_never

import structlog

from daemon.host import HostError, PathMtu
from policies.decision import Decision
from policies.facts import Endpoint, Facts, Tunnel
from policies.firewall import TUNNEL_IFNAME, with_resolvers
from policies.mtu import Answer, fitting, path, sizes, top
from policies.profiles import Profile
from policies.states import Changed, Event, Phase, State

log = structlog.get_logger()

HOLDS_S = 3600.0  # what was found on a way
MOST_KEPT = 64  # ways
LOOK_AGAIN_S = 30.0  # at least, between two searches for connections that stall
TOO_SMALL = (
    "This network does not carry packets as large as IPv6 needs: programs may hang. Another network, or a profile "
    "without IPv6 and with a smaller MTU, helps."
)


class Source(StrEnum):
    """Where the MTU of a tunnel comes from."""

    PROFILE = "profile"  # it says so, or leaves nothing to look for
    SEARCH = "search"  # packets of this size were answered, larger ones were not or are not needed
    DEFAULT = "default"  # nobody answered, or not yet


class PathMtus:
    """Follows the state. `command`, `warn`: as for Servers."""

    def __init__(
        self,
        host: PathMtu,
        command: Callable[[Callable[[], Awaitable[Event]]], Awaitable[None]],
        warn: Callable[[str, str | None], None],
    ) -> None:
        self._host, self._command, self._warn = host, command, warn
        self.mtu: int | None = None  # of the tunnel's link, in bytes; None: there is no tunnel of ours
        self.source = Source.DEFAULT
        self._attempt = -1  # the state's, whose link it is
        self._own = 0  # what that link was made with
        self._way: tuple[object, ...] = ()
        self._joined: frozenset[tuple[int, int]] = frozenset()  # the associations of the uplinks
        self._doubt = False
        self._looked = (-LOOK_AGAIN_S, 0)  # when a stall was last seen, and how many there were
        self._found: dict[tuple[object, ...], tuple[float, int]] = {}  # by way: when, and what; the latest last
        self._searching: asyncio.Task[None] | None = None

    def follow(self, facts: Facts, decision: Decision, state: State, profiles: Mapping[str, Profile]) -> None:
        """Called after each event, when the kernel has agreed. Returns at once."""
        tunnel, profile = state.tunnel, profiles.get(state.profile.name) if state.profile else None
        if state.phase is not Phase.CONNECTED or tunnel is None or profile is None or tunnel.ifname != TUNNEL_IFNAME:
            self._forget()
            return
        server = state.servers[0] if state.servers else None
        way = (*path(facts, decision.network), server, profile.name)
        joined = way, frozenset(link.association for link in facts.uplinks)
        same = state.attempt == self._attempt
        if same and not self._doubt and (joined == (self._way, self._joined) or not decision.routable):
            return
        if not same:
            self._forget()
            self._own = self._host.read(tunnel.ifname) or 0
        if not self._own:
            return  # gone meanwhile: its loss is told soon
        doubt, self._attempt, self._doubt = self._doubt, state.attempt, False
        self._way, self._joined = joined
        self._begin(facts, with_resolvers(tunnel, decision), profile, server, doubt)

    def look(self, now: float) -> bool:
        """Told now and then with the seconds of a steady clock. Whether large packets may vanish: then post Changed.

        Connections that wait in vain for an answer are what it looks like when the way has become narrower.
        """
        at, before = self._looked
        stalls = self._host.stalls()
        if self.source is Source.PROFILE or self.mtu is None or stalls == before or now - at < LOOK_AGAIN_S:
            return False
        self._looked = now, stalls
        return self.again()

    def again(self) -> bool:
        """Something speaks for large packets that vanish: those of the present size are tried with the next event."""
        self._doubt = self._attempt >= 0 and (self._searching is None or self._searching.done())
        return self._doubt

    async def abandon(self) -> None:
        """End the search."""
        if task := self._cancelled():
            await asyncio.gather(task, return_exceptions=True)

    def _forget(self) -> None:
        self._cancelled()
        self.mtu, self.source, self._attempt, self._own = None, Source.DEFAULT, -1, 0
        self._way, self._joined, self._doubt = (), frozenset(), False
        self._warn("mtu", None)

    def _cancelled(self) -> asyncio.Task[None] | None:
        task, self._searching = self._searching, None
        if task is not None:
            task.cancel()
        return task

    def _begin(self, facts: Facts, tunnel: Tunnel, profile: Profile, server: Endpoint | None, doubt: bool) -> None:
        self._cancelled()
        if is_settled(profile, server):
            self.mtu, self.source = self._own, Source.PROFILE
            return
        ipv6 = any(address.version == 6 for address in tunnel.addresses)
        under = [mtu for link in facts.uplinks if (mtu := self._host.read(link.ifname)) is not None]
        highest = top(self._own, min(under, default=None), ipv6)
        if self._way in self._found and time.monotonic() - self._found[self._way][0] >= HOLDS_S:
            del self._found[self._way]
            doubt = False  # nothing is known any more
        if self._way in self._found or not doubt:
            self._take(self._found.get(self._way, (0.0, None))[1], highest, ipv6)
        # Larger ones than the link takes cannot be tried; whether those that it takes still pass, can.
        largest = min(self.mtu or highest, highest)
        self._searching = asyncio.create_task(self._search(self._way, tunnel, largest, ipv6))

    async def _search(self, way: tuple[object, ...], tunnel: Tunnel, highest: int, ipv6: bool) -> None:
        try:
            result = await self._host.search(tunnel.ifname, tunnel.resolvers, sizes(highest))
        except HostError as err:
            log.warning("cannot search for the MTU", why=str(err))
            return
        except Exception:  # a defect of ours: the tunnel works without
            log.exception("search for the MTU")
            return
        log.info("searched for the MTU", answer=result.answer.value, mtu=result.mtu or None, largest=highest)
        if result.answer is not Answer.FOUND:
            return

        async def take() -> Event:
            if way == self._way:
                at, before = self._found.pop(way, (0.0, 0))  # larger ones are tried again an hour after the first time
                self._found[way] = at if before == result.mtu else time.monotonic(), result.mtu
                while len(self._found) > MOST_KEPT:
                    del self._found[next(iter(self._found))]
                self._take(result.mtu, highest, ipv6)
            return Changed()

        await self._command(take)

    def _take(self, found: int | None, highest: int, ipv6: bool) -> None:
        """Give the link the MTU that was found, else the highest."""
        self.source = Source.DEFAULT if found is None else Source.SEARCH
        self.mtu = highest if found is None else min(highest, fitting(found, ipv6))
        self._warn("mtu", TOO_SMALL if found is not None and found < self.mtu else None)
        try:
            if self._host.read(TUNNEL_IFNAME) != self.mtu:
                self._host.set(TUNNEL_IFNAME, self.mtu)
        except HostError as err:  # it is going away at this moment, or somebody keeps us from it
            self._warn("mtu", f"Large packets may get lost: {err}")


def is_settled(profile: Profile, server: Endpoint | None) -> bool:
    """Whether there is nothing to look for: the profile says it, or the tunnel is one TCP connection."""
    if server is not None and server.protocol == "tcp":
        return True
    match profile.kind:
        case "wireguard":
            return profile.mtu is not None
        case "openvpn":
            return any(words[0] == "tun-mtu" for words in profile.options)
        case "external":
            return True  # it is not our link
        case _:
            assert_never(profile.kind)
