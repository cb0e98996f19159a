"""What a frame on the laptop's wire is. Pure: bytes in, a `Kind` out, for any bytes whatever.

It decides leaks, so it shares no code with the daemon, and doubt counts against the daemon: whatever is not exactly one
of the few things the policy allows is `CLEAR4`, `CLEAR6`, `DNS` or `OTHER`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv6Address

ETH_IPV4, ETH_ARP, ETH_IPV6, ETH_VLAN, ETH_QINQ = 0x0800, 0x0806, 0x86DD, 0x8100, 0x88A8  # <linux/if_ether.h>
TCP, UDP, ICMPV6 = 6, 17, 58
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60  # IPv6 extension headers, RFC 8200
DNS_PORTS = frozenset({53, 853})
NDP_TYPES = frozenset({133, 134, 135, 136, 137})  # RFC 4861
MLD_TYPES = frozenset({130, 131, 132, 143})  # RFC 2710, RFC 3810


class Kind(StrEnum):
    TUNNEL = "tunnel"  # UDP, or TCP where told so, to the VPN server's exact address and port
    DHCP = "dhcp"  # a DHCPv4 or DHCPv6 client's message
    NDP = "ndp"
    MLD = "mld"
    ARP = "arp"
    CLEAR4 = "clear4"  # any other IPv4
    CLEAR6 = "clear6"
    DNS = "dns"  # to port 53 or 853, UDP or TCP, outside the tunnel
    OTHER = "other"  # not IP at all, or too damaged to tell


LEAKS = frozenset({Kind.CLEAR4, Kind.CLEAR6, Kind.DNS, Kind.OTHER})


@dataclass(frozen=True, slots=True)
class Expect:
    """The VPN servers: each an address and a UDP port, or a TCP port."""

    servers: frozenset[tuple[IPv4Address | IPv6Address, int]]
    tcp_servers: frozenset[tuple[IPv4Address | IPv6Address, int]] = frozenset()

    def __contains__(self, end: tuple[int, IPv4Address | IPv6Address, int]) -> bool:
        """Whether a packet of that transport protocol to that address and port is the tunnel's."""
        protocol, *place = end
        known = {UDP: self.servers, TCP: self.tcp_servers}.get(protocol, frozenset())
        return tuple(place) in known


def classify(frame: bytes, expect: Expect) -> Kind:
    """Judge an Ethernet frame (without its checksum), which may be cut short after its headers."""
    if len(frame) < 14:
        return Kind.OTHER
    return classify_payload(_u16(frame, 12), frame[14:], expect)


def classify_payload(ethertype: int, payload: bytes, expect: Expect) -> Kind:
    """Judge what an Ethernet frame of that type carries. Never raises."""
    for _ in range(2):  # at most two VLAN tags
        if ethertype in (ETH_VLAN, ETH_QINQ) and len(payload) >= 4:
            ethertype, payload = _u16(payload, 2), payload[4:]
    if ethertype == ETH_ARP:
        return Kind.ARP
    if ethertype == ETH_IPV4:
        return _ipv4(payload, expect)
    if ethertype == ETH_IPV6:
        return _ipv6(payload, expect)
    return Kind.OTHER


class Judge:
    """Judges payloads in their order, so that the later fragments of a tunnel's packet are the tunnel's, too.

    A later fragment has no ports. It is the tunnel's when the fragments before it were seen without a gap and the first
    of them was: the kernel sends them in order. Every other one stays what `classify_payload` makes of it.
    """

    def __init__(self) -> None:
        self._next: dict[bytes, int] = {}  # addresses, protocol and identification -> where the next one begins

    def __call__(self, ethertype: int, payload: bytes, expect: Expect) -> Kind:
        """The same as `classify_payload`, for one that remembers. Never raises."""
        kind = classify_payload(ethertype, payload, expect)
        piece = _piece(ethertype, payload)
        if piece is None:
            return kind
        begun = self._next.pop(piece.packet, None)
        known = kind is Kind.TUNNEL if piece.begin == 0 else begun == piece.begin
        if known and piece.more:
            self._next[piece.packet] = piece.end
        return Kind.TUNNEL if known else kind


@dataclass(frozen=True, slots=True)
class _Piece:
    """One fragment: of which packet, the bytes it carries, and whether more follow."""

    packet: bytes
    begin: int
    end: int
    more: bool


def _piece(ethertype: int, payload: bytes) -> _Piece | None:
    """None for a whole packet; of IPv6 only what the kernel itself sends, with the fragment header first."""
    if ethertype == ETH_IPV4 and len(payload) >= 20 and payload[0] >> 4 == 4:
        flags, header = _u16(payload, 6), (payload[0] & 15) * 4
        begin, more, length = (flags & 0x1FFF) * 8, bool(flags & 0x2000), _u16(payload, 2) - header
        packet = payload[12:20] + payload[9:10] + payload[4:6]
    elif ethertype == ETH_IPV6 and len(payload) >= 48 and payload[0] >> 4 == 6 and payload[6] == FRAGMENT:
        flags = _u16(payload, 42)
        begin, more, length = flags & 0xFFF8, bool(flags & 1), _u16(payload, 4) - 8
        packet = payload[8:40] + payload[40:41] + payload[44:48]
    else:
        return None
    return _Piece(packet, begin, begin + length, more) if (begin or more) and length > 0 else None


def _ipv4(packet: bytes, expect: Expect) -> Kind:
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return Kind.OTHER
    header = (packet[0] & 15) * 4
    if header < 20 or len(packet) < header:
        return Kind.OTHER
    destination = IPv4Address(packet[16:20])
    fragment = _u16(packet, 6) & 0x1FFF
    if fragment:
        return Kind.CLEAR4  # a later fragment has no ports to prove what it is: see `Judge`
    transport = packet[header:]
    ports = _ports(packet[9], transport)
    if ports is None:
        return Kind.CLEAR4
    if (packet[9], destination, ports[1]) in expect:
        return Kind.TUNNEL
    # RFC 2131, 4.1: from the client's port to the server's; only a renewal goes to a single server.
    if packet[9] == UDP and ports == (68, 67):
        return Kind.DHCP
    return Kind.DNS if ports[1] in DNS_PORTS else Kind.CLEAR4


def _ipv6(packet: bytes, expect: Expect) -> Kind:
    if len(packet) < 40 or packet[0] >> 4 != 6:
        return Kind.OTHER
    destination, hop_limit = IPv6Address(packet[24:40]), packet[7]
    found = _ipv6_transport(packet[6], packet[40:])
    if found is None:
        return Kind.CLEAR6
    protocol, transport = found
    if protocol == ICMPV6:
        return _icmpv6(transport, destination, hop_limit)
    ports = _ports(protocol, transport)
    if ports is None:
        return Kind.CLEAR6
    if (protocol, destination, ports[1]) in expect:
        return Kind.TUNNEL
    if protocol == UDP and ports == (546, 547) and (destination.is_multicast or destination.is_link_local):
        return Kind.DHCP  # RFC 8415, 7
    return Kind.DNS if ports[1] in DNS_PORTS else Kind.CLEAR6


def _icmpv6(message: bytes, destination: IPv6Address, hop_limit: int) -> Kind:
    """Neighbour discovery proves itself by hop limit 255 (RFC 4861, 6.1), listener reports by multicast and 1."""
    if not message:
        return Kind.CLEAR6
    if message[0] in NDP_TYPES and hop_limit == 255:
        return Kind.NDP
    if message[0] in MLD_TYPES and hop_limit == 1 and destination.is_multicast:
        return Kind.MLD
    return Kind.CLEAR6


def _ipv6_transport(protocol: int, rest: bytes) -> tuple[int, bytes] | None:
    """Skip extension headers; None for a later fragment, an unknown header or a packet cut short."""
    for _ in range(8):
        if protocol in (HOP_BY_HOP, ROUTING, DESTINATION):
            if len(rest) < 8 or len(rest) < (length := (rest[1] + 1) * 8):
                return None
            protocol, rest = rest[0], rest[length:]
        elif protocol == FRAGMENT:
            if len(rest) < 8 or _u16(rest, 2) & 0xFFF8:
                return None
            protocol, rest = rest[0], rest[8:]
        else:
            return protocol, rest
    return None


def _ports(protocol: int, transport: bytes) -> tuple[int, int] | None:
    if protocol not in (TCP, UDP) or len(transport) < 4:
        return None
    return _u16(transport, 0), _u16(transport, 2)


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset : offset + 2])
