"""The meter's judge, against frames built by scapy and against any bytes whatever."""

from __future__ import annotations

import logging
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # scapy looks at this machine's routes when imported
from scapy.layers.dhcp import BOOTP, DHCP  # noqa: E402
from scapy.layers.dhcp6 import DHCP6_Solicit  # noqa: E402
from scapy.layers.dns import DNS, DNSQR  # noqa: E402
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment  # noqa: E402
from scapy.layers.inet6 import (  # noqa: E402
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NS,
    ICMPv6ND_RS,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    fragment6,
)
from scapy.layers.l2 import ARP, LLC, STP, Dot1Q, Ether  # noqa: E402
from scapy.packet import Packet, Raw  # noqa: E402

from lab.frames import Expect, Judge, Kind, classify, classify_payload  # noqa: E402
from lab.probes import dns_query, ipv4_udp, ipv6_udp  # noqa: E402

SERVER4, SERVER6, PORT = "198.51.100.2", "2001:db8:1:c::2", 51820
EXPECT = Expect(frozenset({(ip_address(SERVER4), PORT), (ip_address(SERVER6), PORT)}))
OTHER4, OTHER6 = "203.0.113.129", "2001:db8:1:f::1"
DATA = Raw(b"x" * 32)

CASES: list[tuple[str, Packet, Kind]] = [
    ("tunnel over IPv4", IP(dst=SERVER4) / UDP(dport=PORT) / DATA, Kind.TUNNEL),
    ("tunnel over IPv6", IPv6(dst=SERVER6) / UDP(dport=PORT) / DATA, Kind.TUNNEL),
    ("tunnel with IP options", IP(dst=SERVER4, options=b"\x94\x04\0\0") / UDP(dport=PORT) / DATA, Kind.TUNNEL),
    ("tunnel in a VLAN", Dot1Q(vlan=7) / IP(dst=SERVER4) / UDP(dport=PORT) / DATA, Kind.TUNNEL),
    ("first fragment of the tunnel", IP(dst=SERVER4, flags="MF") / UDP(dport=PORT) / DATA, Kind.TUNNEL),
    ("later fragment", IP(dst=SERVER4, frag=100, proto=17) / Raw(b"\x00\x01\xca\x6c" * 8), Kind.CLEAR4),
    ("another port of the server", IP(dst=SERVER4) / UDP(dport=PORT + 1) / DATA, Kind.CLEAR4),
    ("another protocol to the server", IP(dst=SERVER4) / TCP(dport=PORT), Kind.CLEAR4),
    ("from the server's port", IP(dst=OTHER4) / UDP(sport=PORT, dport=4000) / DATA, Kind.CLEAR4),
    ("another host, the same port", IP(dst=OTHER4) / UDP(dport=PORT) / DATA, Kind.CLEAR4),
    ("clear UDP", IP(dst=OTHER4) / UDP(sport=4000, dport=7) / DATA, Kind.CLEAR4),
    ("clear TCP", IP(dst=OTHER4) / TCP(dport=443), Kind.CLEAR4),
    ("ping", IP(dst=OTHER4) / ICMP(), Kind.CLEAR4),
    ("clear UDP6", IPv6(dst=OTHER6) / UDP(sport=4000, dport=7) / DATA, Kind.CLEAR6),
    ("clear TCP6", IPv6(dst=OTHER6) / TCP(dport=443), Kind.CLEAR6),
    ("ping6", IPv6(dst=OTHER6) / ICMPv6EchoRequest(), Kind.CLEAR6),
    ("clear behind options", IPv6(dst=OTHER6) / IPv6ExtHdrDestOpt() / UDP(dport=7), Kind.CLEAR6),
    ("DNS", IP(dst=OTHER4) / UDP(sport=4000) / DNS(qd=DNSQR(qname="a.test")), Kind.DNS),
    ("DNS over TCP", IP(dst=OTHER4) / TCP(dport=53), Kind.DNS),
    ("DNS over TLS", IP(dst=OTHER4) / TCP(dport=853), Kind.DNS),
    ("DNS to the VPN server's address", IP(dst=SERVER4) / UDP(sport=4000, dport=53) / DATA, Kind.DNS),
    ("DNS over IPv6", IPv6(dst=OTHER6) / UDP(sport=4000, dport=53) / DATA, Kind.DNS),
    ("DNS behind a fragment header", IPv6(dst=OTHER6) / IPv6ExtHdrFragment() / UDP(dport=53), Kind.DNS),
    ("DHCP", IP(dst="255.255.255.255") / UDP(sport=68, dport=67) / BOOTP() / DHCP(), Kind.DHCP),
    ("not a DHCP client", IP(dst=OTHER4) / UDP(sport=4000, dport=67) / DATA, Kind.CLEAR4),
    ("DHCPv6", IPv6(dst="ff02::1:2") / UDP(sport=546, dport=547) / DHCP6_Solicit(), Kind.DHCP),
    ("DHCPv6 to the internet", IPv6(dst=OTHER6) / UDP(sport=546, dport=547) / DATA, Kind.CLEAR6),
    ("solicitation of a neighbour", IPv6(dst="ff02::1:ff00:1", hlim=255) / ICMPv6ND_NS(), Kind.NDP),
    ("solicitation of routers", IPv6(dst="ff02::2", hlim=255) / ICMPv6ND_RS(), Kind.NDP),
    ("forged neighbour discovery", IPv6(dst=OTHER6, hlim=64) / ICMPv6ND_NS(), Kind.CLEAR6),
    ("MLDv2", IPv6(dst="ff02::16", hlim=1) / IPv6ExtHdrHopByHop() / ICMPv6MLReport2(), Kind.MLD),
    ("forged MLD", IPv6(dst=OTHER6, hlim=64) / ICMPv6MLReport2(), Kind.CLEAR6),
    ("ARP", ARP(), Kind.ARP),
    ("spanning tree", LLC() / STP(), Kind.OTHER),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "kind"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_scapy_frames(packet: Packet, kind: Kind) -> None:
    assert classify(bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / packet), EXPECT) is kind


@given(st.binary(max_size=120))
def test_any_bytes_are_judged(frame: bytes) -> None:
    assert classify(frame, EXPECT) in Kind


@given(st.sampled_from([0x0800, 0x86DD, 0x8100]), st.binary(max_size=120))
def test_any_payload_is_judged(ethertype: int, payload: bytes) -> None:
    assert classify_payload(ethertype, payload, EXPECT) in Kind


@given(st.sampled_from(CASES), st.integers(min_value=0, max_value=120))
def test_a_frame_cut_short_is_never_taken_for_the_tunnel(case: tuple[str, Packet, Kind], length: int) -> None:
    whole = bytes(Ether(src="02:00:00:00:00:01", dst="02:00:00:00:00:02") / case[1])
    if classify(whole[:length], EXPECT) is Kind.TUNNEL:
        assert case[2] is Kind.TUNNEL


@given(st.integers(min_value=0, max_value=65535), st.integers(min_value=0, max_value=2**32 - 1))
def test_only_the_exact_address_and_port_are_the_tunnel(port: int, address: int) -> None:
    destination = ip_address(address)
    frame = bytes(Ether(type=0x0800)) + ipv4_udp(ip_address("192.0.2.10"), destination, port, b"x")  # type: ignore[arg-type]
    exact = (destination, port) in EXPECT.servers
    assert (classify(frame, EXPECT) is Kind.TUNNEL) is exact


def test_hand_made_probes_are_what_scapy_would_build() -> None:
    """The positive control must be a packet a real stack would send: checksums included."""
    query = dns_query("leak.test", 1)
    four = IP(ipv4_udp(ip_address("192.0.2.10"), ip_address(OTHER4), 53, query))  # type: ignore[arg-type]
    six = IPv6(ipv6_udp(ip_address("2001:db8::1"), ip_address(OTHER6), 53, query))  # type: ignore[arg-type]
    for packet in (four, six):
        assert packet[DNS].qd[0].qname == b"leak.test."
        sums = packet[UDP].chksum, getattr(packet, "chksum", None)
        again = packet.copy()
        del again[UDP].chksum
        if packet is four:
            del again.chksum
        rebuilt = type(packet)(bytes(again))
        assert sums == (rebuilt[UDP].chksum, getattr(rebuilt, "chksum", None))


def pieces(destination: str, port: int) -> list[tuple[int, bytes]]:
    """One datagram of 3,000 bytes, as a link of 1280 bytes takes it."""
    load = UDP(sport=4000, dport=port) / Raw(bytes(3000))
    if ":" in destination:
        whole = IPv6(dst=destination) / IPv6ExtHdrFragment(id=7) / load
        return [(0x86DD, bytes(each)) for each in fragment6(whole, 1280)]
    return [(0x0800, bytes(each)) for each in fragment(IP(dst=destination, id=7) / load, 1256)]


@pytest.mark.parametrize("server", [SERVER4, SERVER6])
def test_fragments_of_the_tunnel_in_their_order_are_the_tunnel(server: str) -> None:
    judge, cut = Judge(), pieces(server, PORT)
    assert len(cut) >= 3
    assert [judge(*each, EXPECT) for each in cut * 2] == [Kind.TUNNEL] * 2 * len(cut)


@pytest.mark.parametrize(("server", "other"), [(SERVER4, OTHER4), (SERVER6, OTHER6)])
def test_other_fragments_are_not(server: str, other: str) -> None:
    clear = Kind.CLEAR6 if ":" in server else Kind.CLEAR4
    first, second, *_, last = pieces(server, PORT)
    for sent, kinds in (
        ([second], [clear]),  # without the first
        ([first, last], [Kind.TUNNEL, clear]),  # with a gap
        ([first, second, second], [Kind.TUNNEL, Kind.TUNNEL, clear]),
        ([first, *pieces(other, PORT)[1:]], [Kind.TUNNEL, clear, clear]),  # to another address
        (pieces(server, PORT + 1), [clear] * 3),  # of something else to the server
        ([first, *pieces(server, PORT + 1)], [Kind.TUNNEL, *[clear] * 3]),  # the same number, begun anew
    ):
        judge = Judge()
        assert [judge(*each, EXPECT) for each in sent] == kinds


@given(st.lists(st.tuples(st.sampled_from([0x0800, 0x86DD, 0x8100]), st.binary(max_size=60))))
def test_any_payloads_are_judged_in_any_order(sent: list[tuple[int, bytes]]) -> None:
    judge = Judge()
    assert all(judge(*each, EXPECT) in Kind for each in sent)
