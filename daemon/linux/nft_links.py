"""Which links of a policy a rule is for, as nft's elements: never the tunnel's, which has rules of its own.

That is the tunnel in use, and always the name of ours.
"""

from __future__ import annotations

from collections.abc import Iterator

from daemon.linux.nft_words import Network, elements, quoted
from policies.facts import Endpoint
from policies.firewall import TUNNEL_IFNAME, FirewallPolicy
from policies.states import Phase


def clears(policy: FirewallPolicy) -> bool:
    """In idle the rules are there even while the set is empty: filling it is then a cheap change of elements."""
    return policy.phase is Phase.IDLE or bool(policy.cleared)


def lan(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links of the local network; private addresses at the other end of the tunnel are not that."""
    return elements(policy.lan - _tunnels(policy))


def login(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links of a captive portal's login."""
    return elements(policy.login - _tunnels(policy))


def asked(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links over which we ask somebody with our mark: a portal, a beacon, resolvers beside the tunnel."""
    asking = policy.beside if policy.beside_dns else frozenset()
    return elements(policy.login.union(asking, (ifname for ifname, _ in policy.beacons)) - _tunnels(policy))


def beacons(policy: FirewallPolicy) -> Iterator[tuple[str, Endpoint]]:
    """Links, as elements, and the servers that may be asked there for a proof."""
    for ifname, beacon in policy.beacons:
        for link in elements({ifname} - _tunnels(policy)):
            yield link, beacon


def tree(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links over which the process tree of such a login may go."""
    return elements(policy.tree - _tunnels(policy))


def beside(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links over which programs that never use the tunnel leave."""
    return elements(policy.beside - _tunnels(policy))


def subnets(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links over which the excluded networks are reached."""
    return elements(policy.subnet_links - _tunnels(policy)) if policy.subnets else ()


def inside(policy: FirewallPolicy) -> dict[str, list[Network]]:
    """Links to containers and virtual machines, as elements, with their networks."""
    links: dict[str, list[Network]] = {}
    for ifname, network in policy.inside:
        for link in elements({ifname} - _tunnels(policy) - policy.lan):
            links.setdefault(link, []).append(network)
    return links


def carriers(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links over which somebody else's tunnel reaches its server."""
    return elements(policy.carriers - _tunnels(policy))


def own(policy: FirewallPolicy) -> str:
    """The tunnel's link itself. Raises ValueError."""
    return quoted(policy.tunnel.ifname if policy.tunnel else TUNNEL_IFNAME)


def _tunnels(policy: FirewallPolicy) -> frozenset[str]:
    return frozenset({TUNNEL_IFNAME, *([policy.tunnel.ifname] if policy.tunnel else [])})
