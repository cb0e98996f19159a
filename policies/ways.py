"""Where links lead: to a server, to a beacon, to a captive portal, to this machine's own containers."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from policies.decision import Judgement
from policies.facts import Endpoint, Facts, Link, LinkKind, ProfileFacts, Reach


def ways_to(facts: Facts, profile: ProfileFacts | None) -> frozenset[str]:
    """The uplinks over which a packet to one of the servers has a gateway, or the server is a neighbour.

    An attempt without any would lose its first handshake, and WireGuard waits five seconds before the next.
    """
    servers = profile.endpoints if profile else ()
    return frozenset(link.ifname for link in facts.uplinks for server in servers if _leads_to(link, server))


def reached(facts: Facts, profile: ProfileFacts | None) -> frozenset[Endpoint]:
    servers = profile.endpoints if profile else ()
    return frozenset(server for server in servers if any(_leads_to(link, server) for link in facts.uplinks))


def _leads_to(link: Link, server: Endpoint) -> bool:
    version = server.address.version
    return any(gateway.version == version for gateway in link.gateways) or any(
        server.address in address.network for address in link.addresses if address.version == version
    )


def beacons_to_ask(judgements: tuple[Judgement, ...], facts: Facts) -> tuple[tuple[str, Endpoint], ...]:
    """Whom to ask over which link: what a verdict waits for, also when it has not come in time."""
    links = {link.ifname: link for link in facts.uplinks}
    return tuple(
        (each.ifname, server)
        for each in judgements
        if each.classification
        for server in each.classification.beacons
        if _leads_to(links[each.ifname], server)
    )


def portal_in_every_way(ways: frozenset[str], facts: Facts) -> bool:
    """Whether a captive portal is in every way: where one leads elsewhere, or nobody knows, a tunnel is tried."""
    return bool(ways) and all(reach(link, facts) is Reach.PORTAL for link in facts.uplinks if link.ifname in ways)


def reach(link: Link, facts: Facts) -> Reach | None:
    """What is known to be behind a link."""
    found = facts.internet.get(link.ifname)
    return found.reach if found else None


def inside(facts: Facts) -> tuple[tuple[str, IPv4Network | IPv6Network], ...]:
    """Where answers to forwarded traffic go: only to links that reach nothing else, by this machine's addresses."""
    return tuple(
        (link.ifname, address.network)
        for link in sorted(facts.links, key=lambda link: link.ifname)
        if link.kind is LinkKind.VIRTUAL and link.up
        for address in link.addresses
        if address.network.num_addresses > 1 and not address.is_link_local
    )
