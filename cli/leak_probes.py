"""The probes of `leak-test`: what is sent, and how a frame is recognised. Pure, and shares no code with the daemon."""

from __future__ import annotations

import secrets
import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

ETH_IPV4, ETH_ARP, ETH_IPV6 = 0x0800, 0x0806, 0x86DD  # <linux/if_ether.h>
TCP, ICMPV6, NEIGHBOUR_SOLICITATION = 6, 58, 135
TOKEN_BYTES, MOST_HOPS = 16, 3
DRAWS = 100  # of a random target, before one is used twice

Network = IPv4Network | IPv6Network


class Kind(StrEnum):
    UDP = "udp"
    TCP = "tcp"  # a SYN
    ICMP = "icmp"  # an echo request
    DNS = "dns"  # a question for a name that nobody has


# UDP: where traceroute begins, which administrators know; TCP: what a browser would open.
PORTS = {Kind.UDP: 33434, Kind.TCP: 443, Kind.DNS: 53, Kind.ICMP: 0}


class Verdict(StrEnum):
    KEPT = "kept in"
    TUNNEL = "in the tunnel"
    LEAKED = "LEAKED"
    CHOICE = "left, by choice"  # nobody asked for protection
    UNTESTED = "not tested"


@dataclass(frozen=True, slots=True)
class Probe:
    """One packet. `link`: the socket is bound to it, as a program may; None: the kernel chooses, as it mostly does."""

    kind: Kind
    target: IPv4Address | IPv6Address
    link: str | None
    token: bytes = field(default_factory=lambda: secrets.token_bytes(TOKEN_BYTES))


@dataclass(frozen=True, slots=True)
class Frame:
    """What left over a link, from its network header on."""

    ifname: str  # empty: the link has vanished since
    ethertype: int
    packet: bytes


def probes(links: Sequence[str], networks: Sequence[Network]) -> list[Probe]:
    """Each kind to each network, bound to no link and to each of them. Every probe has its own random target, as far
    as the network has room for that: then even a question for the target's hardware address tells whose it is."""
    taken: set[IPv4Address | IPv6Address] = set()
    found = []
    for link in (None, *links):
        for network in networks:
            for kind in Kind:
                found.append(Probe(kind, target(network, taken), link))
                taken.add(found[-1].target)
    return found


def target(network: Network, taken: Collection[IPv4Address | IPv6Address] = ()) -> IPv4Address | IPv6Address:
    """A random host of the network, not one of `taken` if others are found; its only address if it is a single one."""
    spare = network.num_addresses
    if spare <= 2:
        return network[0]
    drawn = (network[1 + secrets.randbelow(spare - 2)] for _ in range(DRAWS))
    return next((each for each in drawn if each not in taken), network[1])


def payload(probe: Probe) -> bytes:
    """What follows the UDP header, or the whole ICMP message. A SYN has none."""
    match probe.kind:
        case Kind.UDP:
            return b"tunwarden leak-test " + probe.token
        case Kind.DNS:
            # RFC 1035, 4; the top-level domain that never exists (RFC 6761), so that no resolver asks any further.
            label = probe.token.hex().encode()
            name = bytes([len(label)]) + label + b"\7invalid\0"
            return struct.pack(">HHHHHH", secrets.randbits(16), 0x0100, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1)
        case Kind.ICMP:
            echo = 8 if probe.target.version == 4 else 128  # RFC 792, RFC 4443
            # For ICMPv6 the kernel replaces the checksum.
            body = struct.pack(">HH", secrets.randbits(16), 1) + probe.token
            return struct.pack(">BBH", echo, 0, checksum(struct.pack(">BBH", echo, 0, 0) + body)) + body
        case Kind.TCP:
            return b""


def recognises(probe: Probe, frame: Frame, source_port: int | None = None) -> bool:
    """Whether the frame is this probe, or asks the link for the probe's target. `source_port`: of a TCP probe."""
    packet, asked = frame.packet, probe.target.packed
    if probe.token in packet or probe.token.hex().encode() in packet:
        return True
    if frame.ethertype == ETH_ARP:
        return packet[24:28] == asked  # RFC 826: the address that is looked for
    if frame.ethertype == ETH_IPV4 and len(packet) >= 20:
        transport, protocol, hops, goes_to = packet[(packet[0] & 15) * 4 :], packet[9], packet[8], packet[16:20]
    elif frame.ethertype == ETH_IPV6 and len(packet) >= 40:
        transport, protocol, hops, goes_to = packet[40:], packet[6], packet[7], packet[24:40]
    else:
        return False
    if protocol == ICMPV6 and transport[:1] == bytes([NEIGHBOUR_SOLICITATION]):
        return transport[8:24] == asked  # RFC 4861, 4.3
    if probe.kind is not Kind.TCP or protocol != TCP or source_port is None:
        return False
    # A SYN carries no token. Somebody may have changed its target or its hops.
    return transport[:2] == struct.pack(">H", source_port) and (goes_to == asked or hops <= MOST_HOPS)


def control(hardware_address: bytes, token: bytes) -> bytes:
    """An ARP probe (RFC 5227) to show that frames on a link are seen. No firewall of IP packets stops it.

    It asks for an address of the reserved part of 169.254.0.0/16 (RFC 3927, 2.1), which nobody has, and names none of
    ours; the token lies in the padding. So it tells the link nothing that the link does not know.
    """
    asked = bytes([169, 254, 0, 1 + secrets.randbelow(254)])
    arp = struct.pack(">HHBBH", 1, ETH_IPV4, 6, 4, 1) + hardware_address[:6].ljust(6, b"\0") + bytes(4 + 6) + asked
    return arp + token


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return int(~total & 0xFFFF)
