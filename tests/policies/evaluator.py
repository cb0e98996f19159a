"""What a FirewallPolicy does with a packet, written from the table in policies/README.md and not from the renderer.

Two readers of one specification: the property tests ask this one about every reachable state, and the netns tests
compare it with what the kernel really does with the rendered rules.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from policies.facts import Address, Tunnel
from policies.firewall import LAN, LAN_MULTICAST, LOGIN_MARK, MARK, NEVER_MARK, ONLY_MARK, TUNNEL_IFNAME, FirewallPolicy

LO = "lo"


class Hook(Enum):
    OUT = "out"
    IN = "in"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class Packet:
    """One packet at one hook. `protocol` is udp, tcp, icmp or icmpv6; `icmp_type` counts for the last only."""

    hook: Hook
    source: Address
    destination: Address
    protocol: str = "udp"
    source_port: int = 40000
    destination_port: int = 443
    iifname: str = ""
    oifname: str = ""
    mark: int = 0  # of a packet that comes in: what the packets of its flow went out with
    established: bool = False
    icmp_type: int = 128
    uid: int | None = None  # of the socket that sends it


LINK_LOCAL = ip_network("fe80::/10")
SOLICITED = ip_network("ff02::1:ff00:0/104")
ALL_ROUTERS = ip_address("ff02::2")
MLD_TARGETS = (ip_address("ff02::16"), ip_address("ff02::2"))
MULTICAST6 = ip_network("ff00::/8")
DHCPV6_SERVERS = (ip_address("ff02::1:2"), ip_address("ff05::1:3"))
BROADCAST = ip_address("255.255.255.255")
UNSPECIFIED4, UNSPECIFIED6 = ip_address("0.0.0.0"), ip_address("::")
LOOPBACK = (ip_address("127.0.0.1"), ip_address("::1"))
TREE = (("tcp", 80), ("tcp", 443))  # its DNS is led to the loopback before
LOGIN = (("udp", 53), ("tcp", 53), ("tcp", 80), ("tcp", 443))
NEARBY = tuple(ip_network(text) for text in ("255.255.255.255/32", "224.0.0.0/24", "fe80::/10", "ff02::/16"))


def passes(policy: FirewallPolicy, packet: Packet) -> bool:
    """Whether the packet goes on."""
    match packet.hook:
        case Hook.OUT:
            return _out(policy, packet)
        case Hook.IN:
            return _in(policy, packet)
        case Hook.FORWARD:
            return _forward(policy, packet)


def _out(policy: FirewallPolicy, packet: Packet) -> bool:
    if not _out_split(policy, packet):
        return False
    if packet.protocol == "udp" and packet.destination_port == policy.tree_dns and _on_tree(policy):
        if packet.mark == LOGIN_MARK and packet.destination in LOOPBACK:
            return True
        if packet.oifname == LO and packet.mark != LOGIN_MARK:
            return False
    names = packet.protocol == "udp" and packet.destination_port == policy.beside_dns and bool(_beside(policy))
    if names and packet.mark == NEVER_MARK and packet.destination in LOOPBACK:
        return True
    if packet.oifname == LO or _housekeeping_out(packet):
        return True
    if _is_server(policy, packet) and _is_tunnels_own(policy, packet):
        return True
    if packet.oifname in policy.cleared:
        return True
    if _is_server(policy, packet):
        return False
    on_tunnel = policy.tunnel is not None and packet.oifname == policy.tunnel.ifname
    asks = _is_beacon(policy, packet.oifname, packet.destination, packet.destination_port, packet.protocol)
    if packet.mark == MARK and asks and packet.source not in policy.guarded:
        return True
    told = (packet.protocol, packet.icmp_type) == ("icmpv6", 136) and packet.source not in policy.guarded
    if told and _is_beacons_address(policy, packet.oifname, packet.destination):
        return True
    login = packet.mark == MARK and _on_login(policy, packet.oifname) and packet.source not in policy.guarded
    if login and (packet.protocol, packet.destination_port) in LOGIN:
        return True
    tree = packet.mark == LOGIN_MARK and packet.oifname in _on_tree(policy) and packet.source not in policy.guarded
    if tree and (packet.protocol, packet.destination_port) in TREE:
        return True
    beside = packet.oifname in _beside(policy) and packet.source not in policy.guarded
    asks_names = packet.destination_port == 53 and packet.protocol in ("udp", "tcp")
    if beside and packet.mark == NEVER_MARK:
        return not asks_names and not (policy.tunnel and packet.destination in policy.tunnel.resolvers)
    if beside and packet.mark == MARK and policy.beside_dns and asks_names and packet.protocol == "udp":
        return True
    if _is_dns(packet):
        return on_tunnel and policy.tunnel is not None and _may_be_asked(policy.tunnel, packet.destination)
    if on_tunnel:
        return True
    if packet.source in policy.guarded:
        return False
    apart = policy.tunnel and _beside(policy) and packet.mark == NEVER_MARK
    if apart and policy.tunnel and packet.destination in policy.tunnel.resolvers:
        return False
    return _to_inside(policy, packet) or _to_subnets(policy, packet) or _to_lan(policy, packet)


def _out_split(policy: FirewallPolicy, packet: Packet) -> bool:
    """What the two groups of split tunnelling are kept from, whatever else would let it pass."""
    on_tunnel = policy.tunnel is not None and packet.oifname == policy.tunnel.ifname
    if packet.mark == ONLY_MARK and policy.only:
        return on_tunnel or (packet.oifname == LO and (policy.tunnel is not None or not _is_dns(packet)))
    if packet.mark == NEVER_MARK and policy.never:
        return not on_tunnel and not (packet.oifname == LO and policy.capture and _is_dns(packet))
    names = packet.protocol == "udp" and packet.destination_port == policy.beside_dns and _beside(policy)
    return not (names and packet.oifname == LO and packet.mark != NEVER_MARK)


def _in(policy: FirewallPolicy, packet: Packet) -> bool:
    if packet.iifname == LO:
        return True
    on_tunnel = policy.tunnel is not None and packet.iifname == policy.tunnel.ifname
    if packet.destination in policy.guarded and not on_tunnel:
        return False
    if _housekeeping_in(packet):
        return True
    if packet.established and any(
        (packet.source, packet.source_port, packet.protocol) == (server.address, server.port, server.protocol)
        for server in policy.servers
    ):
        return True
    if packet.iifname in policy.cleared:
        return True
    answers = _is_beacon(policy, packet.iifname, packet.source, packet.source_port, packet.protocol)
    if packet.established and packet.mark == MARK and answers:
        return True
    solicits = (packet.protocol, packet.icmp_type) == ("icmpv6", 135)
    if solicits and _is_beacons_address(policy, packet.iifname, packet.source):
        return True
    login = packet.established and packet.mark == MARK and _on_login(policy, packet.iifname)
    if login and (packet.protocol, packet.source_port) in LOGIN:
        return True
    tree = packet.established and packet.mark == LOGIN_MARK and packet.iifname in _on_tree(policy)
    if tree and (packet.protocol, packet.source_port) in TREE:
        return True
    beside = packet.established and packet.iifname in _beside(policy)
    if beside and packet.mark == NEVER_MARK:
        return True
    if beside and policy.beside_dns and packet.mark == MARK and (packet.protocol, packet.source_port) == ("udp", 53):
        return True
    if on_tunnel:
        return packet.established
    if packet.iifname in _inside_links(policy):
        asks_for_an_address = (packet.protocol, packet.source_port, packet.destination_port) == ("udp", 68, 67)
        return any(
            _within(packet.source, (network, *(LINK_LOCAL,) * (network.version == 6)))
            for link, network in policy.inside
            if link == packet.iifname
        ) or (packet.source == UNSPECIFIED4 and asks_for_an_address)
    if _from_lan(policy, packet) or (packet.established and _from_subnets(policy, packet)):
        return packet.source_port not in (53, 853) or packet.protocol not in ("udp", "tcp")
    return False


def _forward(policy: FirewallPolicy, packet: Packet) -> bool:
    if packet.destination in policy.guarded and not (policy.tunnel and packet.iifname == policy.tunnel.ifname):
        return False
    if packet.iifname in policy.cleared and packet.oifname in policy.cleared:
        return True
    inside = _inside_links(policy)
    if packet.iifname in inside and packet.oifname in inside:
        return True
    if _is_server(policy, packet):
        return False
    if policy.tunnel and packet.oifname == policy.tunnel.ifname:
        return not _is_dns(packet) or _may_be_asked(policy.tunnel, packet.destination)
    if _is_dns(packet):
        return False
    if policy.tunnel and packet.iifname == policy.tunnel.ifname:
        return packet.established
    if packet.iifname in inside and _to_subnets(policy, packet):
        return True
    if packet.established and _from_subnets(policy, packet) and packet.oifname in inside:
        return True
    if packet.iifname in policy.lan | inside and _to_lan(policy, packet):
        return True
    return _from_lan(policy, packet) and _to_inside(policy, packet)


def _beside(policy: FirewallPolicy) -> frozenset[str]:
    return policy.beside - {TUNNEL_IFNAME, policy.tunnel and policy.tunnel.ifname}


def _subnet_links(policy: FirewallPolicy) -> frozenset[str]:
    return policy.subnet_links - {TUNNEL_IFNAME, policy.tunnel and policy.tunnel.ifname}


def _to_subnets(policy: FirewallPolicy, packet: Packet) -> bool:
    return packet.oifname in _subnet_links(policy) and _within(packet.destination, policy.subnets)


def _from_subnets(policy: FirewallPolicy, packet: Packet) -> bool:
    return packet.iifname in _subnet_links(policy) and _within(packet.source, policy.subnets)


def _on_tree(policy: FirewallPolicy) -> frozenset[str]:
    return policy.tree - {TUNNEL_IFNAME, policy.tunnel and policy.tunnel.ifname}


def _on_login(policy: FirewallPolicy, ifname: str) -> bool:
    return ifname in policy.login and ifname not in (TUNNEL_IFNAME, policy.tunnel and policy.tunnel.ifname)


def _is_beacon(policy: FirewallPolicy, ifname: str, address: Address, port: int, protocol: str) -> bool:
    return ifname not in (TUNNEL_IFNAME, policy.tunnel and policy.tunnel.ifname) and any(
        (ifname, address, port, protocol) == (link, server.address, server.port, server.protocol)
        for link, server in policy.beacons
    )


def _is_beacons_address(policy: FirewallPolicy, ifname: str, address: Address) -> bool:
    """A neighbour solicits us with the address that it answers with (RFC 4861, 7.2.2), and is told ours."""
    return any(
        server.address == address and _is_beacon(policy, ifname, address, server.port, server.protocol)
        for _, server in policy.beacons
    )


def _inside_links(policy: FirewallPolicy) -> frozenset[str]:
    return frozenset(link for link, _ in policy.inside)


def _to_inside(policy: FirewallPolicy, packet: Packet) -> bool:
    """To a container or virtual machine, or what a link to them hears itself: DHCP answers, multicast of the link."""
    return any(
        packet.oifname == link
        and packet.destination.version == network.version
        and _within(packet.destination, (network, *NEARBY))
        for link, network in policy.inside
    )


def _to_lan(policy: FirewallPolicy, packet: Packet) -> bool:
    local = (*LAN, *LAN_MULTICAST, *policy.lan_subnets)
    return packet.oifname in policy.lan and _within(packet.destination, local)


def _from_lan(policy: FirewallPolicy, packet: Packet) -> bool:
    return packet.iifname in policy.lan and _within(packet.source, (*LAN, *policy.lan_subnets))


def _is_server(policy: FirewallPolicy, packet: Packet) -> bool:
    there = (packet.destination, packet.destination_port, packet.protocol)
    return any(there == (server.address, server.port, server.protocol) for server in policy.servers)


def _is_tunnels_own(policy: FirewallPolicy, packet: Packet) -> bool:
    """Whether the tunnel itself sends it: ours, or the program that brings up somebody else's, by an uplink."""
    if policy.engine is None:
        return packet.mark == MARK
    by = packet.uid == policy.engine.uid if policy.engine.fwmark is None else packet.mark == policy.engine.fwmark
    inner = {TUNNEL_IFNAME, policy.tunnel and policy.tunnel.ifname}
    return by and packet.oifname in policy.carriers and packet.oifname not in inner


def _may_be_asked(tunnel: Tunnel, resolver: Address) -> bool:
    return tunnel.open_names or resolver in tunnel.resolvers


def _is_dns(packet: Packet) -> bool:
    return packet.protocol in ("udp", "tcp") and packet.destination_port in (53, 853)


def _within(address: Address, networks: Iterable[IPv4Network | IPv6Network]) -> bool:
    return any(address in network for network in networks if network.version == address.version)


def _housekeeping_out(packet: Packet) -> bool:
    """The DHCP client, NDP and MLD."""
    to, ports = packet.destination, (packet.source_port, packet.destination_port)
    if packet.protocol == "udp" and isinstance(to, IPv4Address):
        return ports == (68, 67) and to == BROADCAST
    if packet.protocol == "udp" and isinstance(to, IPv6Address):
        return ports == (546, 547) and packet.source in LINK_LOCAL and to in DHCPV6_SERVERS
    if packet.protocol != "icmpv6":
        return False
    match packet.icmp_type:
        case 133:
            return to == ALL_ROUTERS
        case 135:
            return to in SOLICITED or to in LINK_LOCAL
        case 136:
            return to in LINK_LOCAL or to == ip_address("ff02::1")
        case 131 | 132 | 143:
            return to in MULTICAST6
        case _:
            return False


def _housekeeping_in(packet: Packet) -> bool:
    ports = (packet.source_port, packet.destination_port)
    if packet.protocol == "udp" and isinstance(packet.source, IPv4Address):
        return ports == (67, 68)
    if packet.protocol == "udp":
        return ports == (547, 546) and packet.source in LINK_LOCAL and packet.destination in LINK_LOCAL
    if packet.protocol != "icmpv6":
        return False
    match packet.icmp_type:
        case 134 | 137 | 135 | 130:
            return packet.source in LINK_LOCAL or (packet.icmp_type == 135 and packet.source == UNSPECIFIED6)
        case 136:
            return True
        case _:
            return False
