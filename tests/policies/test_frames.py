"""The parsers of what anybody near by may send: scapy's frames read right, and no bytes that raise anything."""

from __future__ import annotations

import logging
from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.frames import ArpClaim, DhcpAnswer, Route, RouterAdvertisement, parse
from policies.hostile import Finding, Question, Watch

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # scapy looks at this machine's routes when imported
from scapy.layers.dhcp import BOOTP, DHCP  # noqa: E402
from scapy.layers.inet import IP, UDP  # noqa: E402
from scapy.layers.inet6 import (  # noqa: E402
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptRouteInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether  # noqa: E402
from scapy.packet import Packet  # noqa: E402

MAC, OTHER = "02:00:00:00:00:01", "02:00:00:00:00:02"
GATEWAY, RESOLVER, CLIENT = "192.168.7.1", "192.168.7.53", "192.168.7.20"


def packed(address: str) -> bytes:
    return ip_address(address).packed


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def arp(address: str = GATEWAY, at: str = MAC, op: int = 2) -> bytes:
    return bytes(Ether(src=at, dst=OTHER) / ARP(op=op, hwsrc=at, psrc=address, hwdst=OTHER, pdst=CLIENT))


def dhcp(*options: object, at: str = MAC, server: str = GATEWAY, kind: str = "offer", **fields: object) -> bytes:
    said = [("message-type", kind), ("server_id", server), *options, "end"]
    bootp = BOOTP(**{"op": 2, "yiaddr": CLIENT, "siaddr": server, **fields}) / DHCP(options=said)
    return bytes(Ether(src=at, dst="ff:ff:ff:ff:ff:ff") / IP(src=server, dst=CLIENT) / UDP(sport=67, dport=68) / bootp)


def advertisement(
    *options: Packet, at: str = MAC, router: str = "fe80::1", lifetime: int = 1800, preference: int = 0, hops: int = 255
) -> bytes:
    frame = Ether(src=at, dst="33:33:00:00:00:01") / IPv6(src=router, dst="ff02::1", hlim=hops)
    frame /= ICMPv6ND_RA(routerlifetime=lifetime, prf=preference)
    for option in options:
        frame /= option
    return bytes(frame)


def route(text: str) -> bytes:
    """Of option 121: network/length router."""
    network, router = text.split()
    address, length = network.split("/")
    return bytes([int(length)]) + packed(address)[: (int(length) + 7) // 8] + packed(router)


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [1, 2])
def test_requests_and_replies_claim_their_senders_address(op: int) -> None:
    assert parse(arp(op=op)) == ArpClaim(packed(GATEWAY), mac(MAC))


def test_dhcp() -> None:
    routes = b"".join(map(route, ("0.0.0.0/1 192.168.7.9", "128.0.0.0/1 192.168.7.9", "10.1.2.0/23 192.168.7.1")))
    read = parse(dhcp(("router", GATEWAY), ("name_server", RESOLVER, "9.9.9.9"), (121, routes), (249, routes[:6])))
    assert read == DhcpAnswer(
        mac(MAC), packed(GATEWAY), frozenset({packed(GATEWAY)}), frozenset({packed(RESOLVER), packed("9.9.9.9")}),
        (
            Route(0, 1, packed("192.168.7.9")), Route(1 << 31, 1, packed("192.168.7.9")),
            Route(int(ip_address("10.1.2.0")), 23, packed(GATEWAY)), Route(0, 1, packed("192.168.7.9")),
        ),
    )  # fmt: skip


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_route_that_is_cut_short_is_none(cut: int) -> None:
    whole = route("0.0.0.0/1 192.168.7.9")
    frame = dhcp(("router", GATEWAY), (121, whole + whole[:-cut]))
    read = parse(frame)
    assert isinstance(read, DhcpAnswer) and len(read.routes) == 1
    assert len(Watch().seen(frame, 0.0)) == 1
    assert not Watch().seen(dhcp(("router", GATEWAY), (121, whole[:-cut])), 0.0)


def test_dhcp_static_routes_of_1997() -> None:
    read = parse(dhcp((33, packed("198.51.100.7") + packed(GATEWAY))))
    assert isinstance(read, DhcpAnswer)
    assert read.routes == (Route(int(ip_address("198.51.100.7")), 32, packed(GATEWAY)),)


def test_dhcp_options_in_other_fields_and_in_parts() -> None:
    """RFC 2132 9.3, RFC 3396: clients read them, so an attacker may hide there."""
    whole = route("0.0.0.0/1 192.168.7.9")
    hidden = bytes([121, len(whole)]) + whole + b"\xff"
    for overload, fields in ((1, {"file": hidden}), (2, {"sname": hidden}), (3, {"file": hidden})):
        read = parse(dhcp((52, bytes([overload])), **fields))
        assert isinstance(read, DhcpAnswer) and len(read.routes) == 1
    read = parse(dhcp((121, whole[:3]), (121, whole[3:])))
    assert isinstance(read, DhcpAnswer) and len(read.routes) == 1
    read = parse(dhcp(file=hidden))
    assert isinstance(read, DhcpAnswer) and not read.routes


@pytest.mark.parametrize("kind", ["discover", "request", "nak", "inform"])
def test_only_offers_and_grants_count(kind: str) -> None:
    assert parse(dhcp(("router", GATEWAY), kind=kind)) is None


def test_dhcp_without_a_server_identifier_is_its_senders() -> None:
    frame = dhcp(server=RESOLVER).replace(b"\x36\x04" + packed(RESOLVER), b"\0" * 6)
    read = parse(frame)
    assert isinstance(read, DhcpAnswer) and read.server == packed(RESOLVER)


def test_router_advertisement() -> None:
    read = parse(
        advertisement(
            ICMPv6NDOptSrcLLAddr(lladdr=OTHER), ICMPv6NDOptMTU(mtu=1400),
            ICMPv6NDOptPrefixInfo(prefix="2001:db8:7::", prefixlen=64, validlifetime=600),
            ICMPv6NDOptPrefixInfo(prefix="2001:db8:8::", prefixlen=64, validlifetime=0),
            ICMPv6NDOptRDNSS(dns=["2001:db8:7::53", "fe80::53"], lifetime=600),
            ICMPv6NDOptRouteInfo(prefix="2000::", plen=3, prf=1, rtlifetime=600),
            preference=1,
        )
    )  # fmt: skip
    assert read == RouterAdvertisement(
        mac(MAC), packed("fe80::1"), 1800, 1, frozenset({(packed("2001:db8:7::"), 64)}),
        frozenset({packed("2001:db8:7::53"), packed("fe80::53")}), frozenset({(packed("2000::"), 3)}),
    )  # fmt: skip


@pytest.mark.parametrize(("sent", "read"), [(0, 0), (1, 1), (2, 0), (3, -1)])
def test_preferences(sent: int, read: int) -> None:
    found = parse(advertisement(preference=sent))
    assert isinstance(found, RouterAdvertisement) and found.preference == read


@pytest.mark.parametrize("header", [IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt])
def test_headers_in_front_hide_no_advertisement(header: type[Packet]) -> None:
    """How router-advertisement guards of switches are passed by (RFC 7113)."""
    frame = Ether(src=MAC) / IPv6(src="fe80::1", dst="ff02::1", hlim=255)
    options = header(options=[PadN(optdata=b"\0" * 4)]) / header(options=[PadN(optdata=b"\0" * 12)])
    assert isinstance(parse(bytes(frame / options / ICMPv6ND_RA(routerlifetime=1800))), RouterAdvertisement)
    assert parse(bytes(frame / IPv6ExtHdrFragment(m=1) / ICMPv6ND_RA(routerlifetime=1800))) is None


@pytest.mark.parametrize(
    "frame",
    [
        advertisement(hops=254),
        advertisement(router="2001:db8::1"),
        bytes(Ether() / IPv6(src="fe80::1", hlim=255) / ICMPv6ND_NS()),
        bytes(Ether(src=MAC) / Dot1Q(vlan=3) / ARP(psrc=GATEWAY, hwsrc=MAC)),
        arp(at="00:00:00:00:00:00"),
        arp(address="0.0.0.0"),
        bytes(Ether(src=MAC) / IP(src=GATEWAY) / UDP(sport=68, dport=67) / BOOTP(op=1) / DHCP(options=["end"])),
        bytes(Ether(src=MAC) / IP(src=GATEWAY, flags="MF") / UDP(sport=67, dport=68) / (b"x" * 300)),
        b"",
    ],
    ids=["routed", "global", "ns", "vlan", "no mac", "probe", "client", "fragment", "empty"],
)
def test_what_says_nothing_that_matters(frame: bytes) -> None:
    assert parse(frame) is None


# --- whatever comes ---------------------------------------------------------------------------------------------------

SOUND = [
    arp(),
    dhcp(("router", GATEWAY), ("name_server", RESOLVER), (121, route("0.0.0.0/1 192.168.7.9")), (52, b"\x03")),
    advertisement(
        ICMPv6NDOptPrefixInfo(prefix="2001:db8:7::", prefixlen=64), ICMPv6NDOptRDNSS(dns=["2001:db8::1"]),
        ICMPv6NDOptRouteInfo(prefix="2000::", plen=3),
    ),
]  # fmt: skip


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A sound frame with bytes changed, cut off, repeated or put in."""
    frame = bytearray(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(0, 8))):
        at = draw(st.integers(0, max(0, len(frame) - 1)))
        match draw(st.integers(0, 3)):
            case 0 if frame:
                frame[at] = draw(st.integers(0, 255))
            case 1:
                frame = frame[:at]
            case 2:
                frame[at:at] = draw(st.binary(max_size=20))
            case _:
                frame[at:at] = frame[at : at + draw(st.integers(0, 60))]
    return bytes(frame)


@given(
    st.lists(damaged() | st.binary(max_size=2048), max_size=20), st.lists(st.floats(0, 100), min_size=20, max_size=20)
)
@example([SOUND[1][:42] + b"\x02" + SOUND[1][43:], SOUND[2][:54]], [0.0] * 20)
def test_nothing_is_raised_and_everything_is_bounded(frames: list[bytes], times: list[float]) -> None:
    watch, now = Watch(), 0.0
    for frame, passed in zip(frames, times, strict=False):
        now += passed
        for said in watch.seen(frame, now):
            assert isinstance(said, Finding | Question)
            if isinstance(said, Finding):
                assert said.what.isascii() and said.what.isprintable() and len(said.what) < 200


@given(st.binary(max_size=2048))
def test_options_that_are_all_strangers(noise: bytes) -> None:
    """Every parser behind its header, with nothing but noise."""
    message = SOUND[1][: 14 + 20 + 8 + 240]
    whole = bytearray(message + noise)
    whole[16:18], whole[38:40] = (len(whole) - 14).to_bytes(2, "big"), (len(whole) - 34).to_bytes(2, "big")
    parse(bytes(whole))
    advertised = bytearray(SOUND[2][: 14 + 40 + 16] + noise)
    advertised[18:20] = (16 + len(noise)).to_bytes(2, "big")
    read = parse(bytes(advertised))
    assert isinstance(read, RouterAdvertisement)
    for length in range(0, len(advertised), 7):
        parse(bytes(advertised[:length]))
        parse(bytes(whole[:length]))
