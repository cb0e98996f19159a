"""What may pass in a state, as plain data. `daemon/linux/nft.py` and `routes.py` render it; README.md specifies it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import TypedDict, assert_never

from policies.decision import Decision
from policies.facts import Address, Endpoint, External, ProfileFacts, Tunnel
from policies.split import apart
from policies.states import Cause, Phase, State, Target

MARK = 0x74756E77  # "tunw": packets that carry it are the VPN's own handshakes; also the id of our routing table
# Packets of the process tree in which people log in to a captive portal, for as long as they do. A mark of its own, so
# that a socket that outlives the login is nothing to any rule. With MARK, it would reach the VPN server (L3).
LOGIN_MARK = MARK ^ 1
# Packets of programs that never use the tunnel, and of those that use nothing else (docs/split.md).
NEVER_MARK, ONLY_MARK = MARK ^ 2, MARK ^ 3
TUNNEL_IFNAME = "tunwarden0"
PROBE_IFNAME = "tunwarden-probe"  # while servers are measured; it carries nothing else. 15 characters are the most

# What "the local network" means is constant: a hostile DHCP server must not widen it (TunnelCrack LocalNet, L8).
LAN: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(text)
    for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fe80::/10", "fc00::/7")
)
LAN_MULTICAST: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(text)
    for text in (
        "224.0.0.0/24", "239.0.0.0/8", "255.255.255.255/32",
        "ff01::/16", "ff02::/16", "ff03::/16", "ff04::/16", "ff05::/16",
    )
)  # fmt: skip

# What a captive portal and its login need: DNS, HTTP, HTTPS. Protocol and ports; no QUIC, which no portal needs.
LOGIN: tuple[tuple[str, tuple[int, ...]], ...] = (("tcp", (53, 80, 443)), ("udp", (53,)))
TREE_PORTS = (80, 443)  # TCP, of the process tree; its DNS is answered by us


@dataclass(frozen=True, slots=True)
class FirewallPolicy:
    """Everything not named here is rejected (out, forward) or dropped (in).

    Always allowed and therefore not listed: loopback, the DHCPv4/DHCPv6 client, NDP and MLD.
    """

    phase: Phase
    cleared: frozenset[str] = frozenset()  # link names traffic may use freely, DNS included
    servers: tuple[Endpoint, ...] = ()  # out only with MARK, in only established
    engine: External | None = None  # the servers are those of somebody else's tunnel: its packets reach them, no others
    carriers: frozenset[str] = frozenset()  # links by which such packets go
    tunnel: Tunnel | None = None  # out freely, in only established; DNS only to tunnel.resolvers
    guarded: tuple[Address, ...] = ()  # our tunnel's addresses: packets to them on any other link are dropped
    lan: frozenset[str] = frozenset()  # links over which the constant LAN networks may be reached, DNS excepted
    lan_subnets: tuple[IPv4Network | IPv6Network, ...] = ()  # the administrator's own, beside LAN; never public ones
    inside: tuple[tuple[str, IPv4Network | IPv6Network], ...] = ()  # links to containers and VMs, and their networks
    beacons: tuple[tuple[str, Endpoint], ...] = ()  # links, and servers that packets with MARK reach there; replies in
    login: frozenset[str] = frozenset()  # links: packets with MARK may also go to LOGIN, replies to those come in
    tree: frozenset[str] = frozenset()  # links: packets with LOGIN_MARK may go to TREE_PORTS, replies to those come in
    tree_dns: int = 0  # port of the loopback that DNS with LOGIN_MARK is led to, and nobody else reaches
    metered: bool = False  # what goes through the tunnel passes only while its allowance lasts
    never: bool = False  # flows of packets with NEVER_MARK are told apart from others, wherever they may go
    beside: frozenset[str] = frozenset()  # links: packets with NEVER_MARK leave freely, but for DNS; replies come in
    beside_dns: int = 0  # port of the loopback that DNS with NEVER_MARK is led to, and nobody else reaches
    subnets: tuple[IPv4Network | IPv6Network, ...] = ()  # reached over subnet_links beside the tunnel, but for DNS
    subnet_links: frozenset[str] = frozenset()
    only: bool = False  # packets with ONLY_MARK leave over the loopback and the tunnel alone, in every phase
    capture: bool = False  # routing layer: unmarked traffic sees only our table, which ends in `unreachable`

    @property
    def closed(self) -> bool:
        """Whether nothing but the tunnel and its server may be reached."""
        return not self.cleared


def firewall(state: State, decision: Decision) -> FirewallPolicy:
    """What may pass in a state. README.md has the table that this function is."""
    policy = _in_phase(state, decision)
    if policy.capture and state.phase in BESIDE:
        policy = _with_beside(policy, state, decision)
    return replace(
        policy,
        beacons=tuple(each for each in decision.beacons if each[0] not in policy.cleared),
        never=decision.never,
        only=decision.only,
    )


# Where what is excluded goes on: an excluded connection lives from before the tunnel until after it.
BESIDE = frozenset({Phase.CONNECTING, Phase.CONNECTED, Phase.RECONNECTING, Phase.BLOCKED, Phase.DISCONNECTING})


def _with_beside(policy: FirewallPolicy, state: State, decision: Decision) -> FirewallPolicy:
    subnets = excluded(state, decision)[0]
    return replace(
        policy,
        beside=decision.beside if decision.never else frozenset(),
        beside_dns=decision.never_dns if decision.never and decision.beside else 0,
        subnets=subnets if decision.beside else (),
        subnet_links=decision.beside if subnets else frozenset(),
    )


def without_beside(policy: FirewallPolicy) -> FirewallPolicy:
    """The same, and nothing beside the tunnel."""
    return replace(policy, beside=frozenset(), beside_dns=0, subnets=(), subnet_links=frozenset())


def excluded(
    state: State, decision: Decision
) -> tuple[tuple[IPv4Network | IPv6Network, ...], tuple[IPv4Network | IPv6Network, ...]]:
    """The administrator's excluded networks, and those of them that are not, for they belong to the tunnel."""
    profile, tunnel = state.profile or decision.profile, state.tunnel
    if profile is None:
        return (), ()  # nobody knows what would belong to the tunnel
    addresses = (*profile.addresses, *(tunnel.addresses if tunnel else ()))
    resolvers = (*profile.resolvers, *(tunnel.resolvers if tunnel else ()), *decision.resolvers)
    return apart(decision.subnets, addresses, resolvers)  # those of a tunnel that is not up yet, too


def _in_phase(state: State, decision: Decision) -> FirewallPolicy:
    guarded = tuple(address.ip for address in state.profile.addresses) if state.profile else ()
    match state.phase:
        case Phase.IDLE:
            return FirewallPolicy(Phase.IDLE, cleared=decision.usable, guarded=guarded)
        case Phase.HELD:
            return FirewallPolicy(Phase.HELD, guarded=guarded, login=decision.login, capture=True)
        case Phase.PORTAL:
            return FirewallPolicy(
                Phase.PORTAL,
                cleared=_unswitched(state, decision),
                guarded=guarded,
                login=decision.login,
                tree=decision.tree if decision.tree_dns else frozenset(),
                tree_dns=decision.tree_dns if decision.tree else 0,
                capture=not _unswitched(state, decision),
            )
        case Phase.CONNECTING | Phase.RECONNECTING:
            return FirewallPolicy(
                state.phase,
                cleared=_unswitched(state, decision),
                servers=state.servers,
                guarded=guarded,
                lan=decision.lan,
                lan_subnets=decision.lan_subnets,
                inside=decision.inside,
                login=decision.login,
                capture=not _unswitched(state, decision),
            )
        case Phase.CONNECTED:
            return FirewallPolicy(
                Phase.CONNECTED,
                servers=state.servers,
                **_hole(state.profile, decision),
                tunnel=with_resolvers(state.tunnel, decision) if state.tunnel else None,
                metered=decision.metered,
                guarded=_guarded(state, guarded),
                lan=decision.lan,
                lan_subnets=decision.lan_subnets,
                inside=decision.inside,
                capture=True,
            )
        case Phase.BLOCKED | Phase.DISCONNECTING:
            # Whoever brings the tunnel up has to reach its server before there is one.
            away = decision.profile if state.cause is Cause.EXTERNAL_AWAY and not decision.closed else None
            probed = decision.probed if state.cause is Cause.CHOOSING_SERVER else ()
            return FirewallPolicy(
                state.phase,
                cleared=_unswitched(state, decision),
                servers=away.endpoints if away else probed,
                **_hole(away, decision),
                guarded=guarded,
                lan=frozenset() if decision.closed else decision.lan,
                lan_subnets=decision.lan_subnets,
                inside=() if decision.closed else decision.inside,
                login=decision.login if state.phase is Phase.BLOCKED else frozenset(),
                capture=not _unswitched(state, decision),
            )
        case _:
            assert_never(state.phase)


class _Hole(TypedDict, total=False):
    engine: External
    carriers: frozenset[str]


def _hole(profile: ProfileFacts | None, decision: Decision) -> _Hole:
    """Who may reach the servers, where the tunnel is somebody else's."""
    return {"engine": profile.external, "carriers": decision.carriers} if profile and profile.external else {}


def with_resolvers(tunnel: Tunnel, decision: Decision) -> Tunnel:
    """The tunnel with the user's own resolvers, where there are any: they are asked through it, like its own."""
    return replace(tunnel, resolvers=decision.resolvers, open_names=False) if decision.resolvers else tunnel


def _guarded(state: State, configured: tuple[Address, ...]) -> tuple[Address, ...]:
    """With those addresses that the server has given."""
    given = tuple(address.ip for address in state.tunnel.addresses) if state.tunnel else ()
    return tuple(dict.fromkeys((*configured, *given)))


def at_boot(decision: Decision) -> FirewallPolicy | None:
    """What blocks from boot on until a daemon decides (K2); None: nothing, for this machine was never set up.

    Always the same and closed, whatever the target: before the first decision no network is known (N10).
    """
    fresh = not decision.set_up and not decision.lockdown and decision.closed is None
    return None if fresh and decision.target is Target.UNPROTECTED else FirewallPolicy(Phase.BLOCKED)


def _unswitched(state: State, decision: Decision) -> frozenset[str]:
    """With the kill switch off, links stay usable while there is no tunnel: by the user's explicit choice only."""
    if decision.kill_switch or decision.lockdown or decision.closed or state.cause is Cause.STARTING:
        return frozenset()
    return decision.usable
