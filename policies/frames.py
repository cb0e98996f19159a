"""Ethernet frames that anybody near by may send → what they claim, or None.

Every byte is checked for its bounds and nothing is raised, whatever the bytes are. What is damaged is read as far as it
goes, for so do the programs that are to be deceived by it.

Sources: RFC 826 (ARP), RFC 2131, RFC 2132, RFC 3396 and RFC 3442 (DHCP), RFC 4861, RFC 4191 and RFC 8106 (router
advertisements), RFC 8200 (extension headers).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

ETHERNET = 14  # bytes of the header
ARP, IPV4, IPV6 = 0x0806, 0x0800, 0x86DD
UDP, ICMPV6 = 17, 58
EXTENSIONS = frozenset({0, 43, 60})  # hop-by-hop, routing, destination: hosts read past them to the advertisement
DHCP_SERVER, DHCP_CLIENT = 67, 68
ROUTER_ADVERTISEMENT = 134
OFFER, ACK = 2, 5
COOKIE = b"\x63\x82\x53\x63"
MOST = 64  # of anything that one frame names


@dataclass(frozen=True, slots=True)
class ArpClaim:
    """Somebody says that an IPv4 address is at a hardware address."""

    address: bytes  # 4 bytes
    mac: bytes  # 6 bytes


@dataclass(frozen=True, slots=True)
class Route:
    network: int  # IPv4
    length: int  # 0 to 32
    router: bytes  # 4 bytes


@dataclass(frozen=True, slots=True)
class DhcpAnswer:
    """A server offers or grants an address, to whomever."""

    mac: bytes  # who sent the frame: the server, or its relay
    server: bytes  # 4 bytes: the server identifier
    routers: frozenset[bytes]  # 4 bytes each
    resolvers: frozenset[bytes]
    routes: tuple[Route, ...]


@dataclass(frozen=True, slots=True)
class RouterAdvertisement:
    mac: bytes  # who sent the frame
    router: bytes  # 16 bytes: its link-local address
    lifetime: int  # seconds as a default router; 0: it is none
    preference: int  # -1, 0 or 1
    prefixes: frozenset[tuple[bytes, int]]  # networks it gives addresses in
    resolvers: frozenset[bytes]  # 16 bytes each
    routes: frozenset[tuple[bytes, int]]  # networks it offers a way to, beside the default


Claim = ArpClaim | DhcpAnswer | RouterAdvertisement


def parse(frame: bytes) -> Claim | None:
    """What an Ethernet frame claims; None where it claims nothing that matters, or is damaged."""
    if len(frame) < ETHERNET or frame[6:12] == bytes(6):
        return None
    mac, kind, payload = frame[6:12], _u16(frame, 12), frame[ETHERNET:]
    if kind == ARP:
        return _arp(payload)
    if kind == IPV4:
        return _dhcp(mac, payload)
    if kind == IPV6:
        return _advertisement(mac, payload)
    return None


def _arp(packet: bytes) -> ArpClaim | None:
    # Ethernet, IPv4, their lengths, a request or a reply: each says where its sender is.
    if len(packet) < 28 or packet[:6] != b"\x00\x01\x08\x00\x06\x04" or _u16(packet, 6) not in (1, 2):
        return None
    mac, address = packet[8:14], packet[14:18]
    return None if mac == bytes(6) or address == bytes(4) else ArpClaim(address, mac)


def _dhcp(mac: bytes, packet: bytes) -> DhcpAnswer | None:
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != UDP or _u16(packet, 6) & 0x3FFF:
        return None  # a fragment is no answer: the ports are in the first one only
    start = 4 * (packet[0] & 0xF)
    datagram = packet[start : _u16(packet, 2)]
    if (_u16(datagram, 0), _u16(datagram, 2)) != (DHCP_SERVER, DHCP_CLIENT):
        return None
    message = datagram[8 : _u16(datagram, 4)]
    if len(message) < 240 or message[0] != 2 or message[236:240] != COOKIE:
        return None
    options = _options(message)
    if options.get(53) not in (bytes([OFFER]), bytes([ACK])):
        return None
    server = options.get(54, b"")
    return DhcpAnswer(
        mac,
        server if len(server) == 4 else packet[12:16],
        _addresses(options.get(3, b""), 4),
        _addresses(options.get(6, b""), 4),
        (*_routes(options.get(121, b"")), *_routes(options.get(249, b"")), *_old_routes(options.get(33, b""))),
    )


def _options(message: bytes) -> dict[int, bytes]:
    """By code; of a code that comes again the parts together (RFC 3396)."""
    found: dict[int, bytes] = {}
    _read_options(message[240:], found)
    overload = found.get(52, b"\0")[:1]
    if overload in (b"\x01", b"\x03"):
        _read_options(message[108:236], found)
    if overload in (b"\x02", b"\x03"):
        _read_options(message[44:108], found)
    return found


def _read_options(field: bytes, found: dict[int, bytes]) -> None:
    at = 0
    while at < len(field) and field[at] != 255:
        if field[at] == 0:
            at += 1
            continue
        if at + 2 > len(field):
            return
        code, length = field[at], field[at + 1]
        found[code] = found.get(code, b"") + field[at + 2 : at + 2 + length]
        at += 2 + length


def _routes(option: bytes) -> Iterator[Route]:
    """RFC 3442: the length of a prefix, as many of its bytes as count, the router."""
    at = 0
    for _ in range(MOST):
        if at >= len(option) or option[at] > 32:
            return
        length = option[at]
        size = (length + 7) // 8
        router = option[at + 1 + size : at + 5 + size]
        if len(router) < 4:
            return
        network = int.from_bytes(option[at + 1 : at + 1 + size].ljust(4, b"\0"), "big")
        yield Route(network & ~((1 << (32 - length)) - 1), length, router)
        at += 5 + size


def _old_routes(option: bytes) -> Iterator[Route]:
    """RFC 2132, 5.8: destination and router; clients take the destination for one host, or its class."""
    for at in range(0, min(len(option) - 7, 8 * MOST), 8):
        yield Route(int.from_bytes(option[at : at + 4], "big"), 32, option[at + 4 : at + 8])


def _advertisement(mac: bytes, packet: bytes) -> RouterAdvertisement | None:
    # From a link-local address, and by its hop limit from this link: hosts take no other.
    if len(packet) < 40 or packet[0] >> 4 != 6 or packet[7] != 255 or _u16(packet, 8) & 0xFFC0 != 0xFE80:
        return None
    router, following, at = packet[8:24], packet[6], 40
    packet = packet[: 40 + _u16(packet, 4)]
    for _ in range(MOST):
        if following not in EXTENSIONS or at + 2 > len(packet):
            break
        following, at = packet[at], at + 8 * (packet[at + 1] + 1)
    message = packet[at:]
    if following != ICMPV6 or len(message) < 16 or message[:2] != bytes([ROUTER_ADVERTISEMENT, 0]):
        return None
    prefixes, resolvers, routes = set(), frozenset[bytes](), set()
    for kind, option in _neighbour_options(message[16:]):
        if kind == 3 and len(option) >= 32 and option[2] <= 128:  # with a lifetime: else it is withdrawn
            if option[4:8] != bytes(4):
                prefixes.add((option[16:32], option[2]))
        elif kind == 24 and len(option) >= 8 and option[2] <= 128:
            if option[4:8] != bytes(4):
                routes.add((option[8:24].ljust(16, b"\0"), option[2]))
        elif kind == 25 and len(option) >= 24 and option[4:8] != bytes(4):
            resolvers |= _addresses(option[8:], 16)
    preference = {1: 1, 3: -1}.get(message[5] >> 3 & 3, 0)  # 2 is reserved and counts as 0
    return RouterAdvertisement(
        mac, router, _u16(message, 6), preference, frozenset(prefixes), resolvers, frozenset(routes)
    )


def _neighbour_options(field: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    for _ in range(MOST):
        if at + 2 > len(field) or field[at + 1] == 0:
            return
        size = 8 * field[at + 1]
        yield field[at], field[at : at + size]
        at += size


def _addresses(option: bytes, size: int) -> frozenset[bytes]:
    return frozenset(option[at : at + size] for at in range(0, min(len(option) - size + 1, size * MOST), size))


def _u16(data: bytes, at: int) -> int:
    """Big-endian, as everything on a network."""
    return int.from_bytes(data[at : at + 2], "big")
