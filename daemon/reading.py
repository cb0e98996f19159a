"""Facts from readings: links and Wi-Fi networks as the host tells them now, and what of it outlives a reading.

What was found out about a network is bound to one association: with another carrier it is forgotten.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace

import structlog

from daemon.host import Host, HostError
from daemon.inbox import Inboxed, LinksHint, Overdue, WifiHint
from policies.external_links import marked
from policies.facts import Facts, Link, LinkKind, WifiNetwork

log = structlog.get_logger()

# After an association the Wi-Fi source is asked again even if it stays silent: a link that flaps and returns to the
# same access point may change nothing that NetworkManager would announce. Long enough for it to have noticed.
REREAD_S = 0.3
FIRST_LOOKS, FIRST_LOOK_S = 10, 0.02
GATEWAY_LOOKS, GATEWAY_LOOK_S = 50, 0.05  # for a router's answer: nobody announces it
AGAIN_S = 1.0  # when links cannot be read

Later = Callable[[str, float, Inboxed], None]  # a timer by its name: the same name again replaces it


class Reading:
    """Reads for the loop. `warnings` are the loop's, by topic."""

    def __init__(self, host: Host, later: Later, warnings: dict[str, str], identify_timeout: float) -> None:
        self._host, self._later, self._warnings = host, later, warnings
        self._generations: dict[str, int] = {}  # of a Wi-Fi link: grows with each association
        self._asking = 0  # how often routers were asked for in vain
        self.identify_timeout = identify_timeout  # seconds
        self.moved = False  # the ways out have changed, and the tunnel was not told yet

    async def links(self, facts: Facts) -> Facts:
        links = marked(await self._links(), facts.profiles.values())
        before = {link.ifname: link for link in facts.links}
        same = {link.ifname for link in links if link.is_uplink and same_association(before.get(link.ifname), link)}
        for link in links:
            if link.kind is LinkKind.WIFI and link.is_uplink and link.ifname not in same:
                self.expect(link.ifname)
        self.moved |= _ways(links) != _ways(facts.links)
        # What was known of a former association says nothing about the next one.
        facts = replace(
            facts,
            links=links,
            wifi={ifname: network for ifname, network in facts.wifi.items() if ifname in same},
            overdue=facts.overdue & same,
            beacons={ifname: told for ifname, told in facts.beacons.items() if ifname in same},
            internet={ifname: told for ifname, told in facts.internet.items() if ifname in same},
            probing=facts.probing & same,
            evidence={ifname: told for ifname, told in facts.evidence.items() if ifname in same},
            login=facts.login & same,
        )
        return replace(facts, wifi=self._behind(facts, facts.wifi))  # with the first route a router can be asked for

    async def first_wifi(self, facts: Facts) -> Facts:
        """A restart on a joined network must not cut it off for the moment that its source needs to be reached."""
        for _ in range(FIRST_LOOKS):
            facts = await self.wifi(facts, frozenset())
            joined = {link.ifname for link in facts.uplinks if link.kind is LinkKind.WIFI}
            if joined <= facts.wifi.keys():
                break
            await asyncio.sleep(FIRST_LOOK_S)
        return facts

    async def wifi(self, facts: Facts, awaiting: frozenset[str]) -> Facts:
        """`awaiting`: links of which only a proof is missing; what is overdue there stays so."""
        found = await self._host.wifi.read()
        up = {link.ifname for link in facts.uplinks if link.kind is LinkKind.WIFI}
        wifi = self._behind(facts, {ifname: network for ifname, network in found.items() if ifname in up})
        for ifname in facts.wifi.keys() - wifi.keys():
            self.expect(ifname)  # its source has gone: if nobody else tells in time, it is a strange network
        return replace(facts, wifi=wifi, overdue=facts.overdue - (wifi.keys() - awaiting))

    def expect(self, ifname: str) -> None:
        """Wait for somebody to identify this Wi-Fi link, for so long."""
        generation = self._generations.get(ifname, 0) + 1
        self._asking = 0
        self._generations[ifname] = generation
        self._later(f"overdue {ifname}", self.identify_timeout, Overdue(ifname, generation))
        self._later(f"reread {ifname}", REREAD_S, WifiHint())

    def is_present(self, ifname: str, generation: int) -> bool:
        """Whether this is about the association that the link has now."""
        return self._generations.get(ifname) == generation

    async def _links(self) -> tuple[Link, ...]:
        """All links; none where the kernel does not tell: then nothing is cleared."""
        try:
            links = await self._host.links.read()
        except HostError as err:
            self._warnings["links"] = f"The network links cannot be read, so nothing may pass: {err}"
            log.error("links unreadable", error=str(err))
            self._later("links", AGAIN_S, LinksHint())
            return ()
        self._warnings.pop("links", None)
        return links

    def _behind(self, facts: Facts, wifi: Mapping[str, WifiNetwork]) -> dict[str, WifiNetwork]:
        """With the routers they are behind. One that was told stays told while it is silent, until the link drops."""
        try:
            macs = self._host.links.gateway_macs(link for link in facts.uplinks if link.ifname in wifi)
        except HostError as err:
            log.warning("routers unreadable", error=str(err))
            macs = {}
        told = {ifname: network.gateway_mac for ifname, network in facts.wifi.items()}
        if wifi.keys() - macs.keys() and any(link.gateways for link in facts.uplinks if link.ifname in wifi):
            if self._asking < GATEWAY_LOOKS:
                self._asking += 1
                self._later("gateway", GATEWAY_LOOK_S, WifiHint())
        else:
            self._asking = 0
        return {
            ifname: replace(network, gateway_mac=macs.get(ifname) or told.get(ifname, b""))
            for ifname, network in wifi.items()
        }


def same_association(before: Link | None, now: Link) -> bool:
    """Whether nothing can have been joined in between."""
    return before is not None and before.is_uplink and before.kind is now.kind and before.association == now.association


def _ways(links: tuple[Link, ...]) -> set[tuple[object, ...]]:
    """What a packet to the VPN server may be sent from and through."""
    return {(link.ifindex, link.addresses, link.gateways) for link in links if link.is_uplink}
