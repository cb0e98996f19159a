"""L2, L9: strangers on the local network ask for the tunnel's address, and learn nothing.

Each test says which layer holds. The controls are the other layer's run, the laptop without both, and wg-quick.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, IPv6Address

import pytest

from lab.frames import ETH_ARP, ETH_IPV6, Kind
from lab.probes import Ear, send_frames
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from lab.vpn_server import LINK as SERVER_LINK
from tests.netns.conftest import Layers
from tests.netns.open_machine import open_machine

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # scapy looks at this machine's routes when imported
from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import (  # noqa: E402
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import ARP, Ether  # noqa: E402
from scapy.packet import Packet, Raw  # noqa: E402

pytestmark = pytest.mark.netns

ALLOWED = SETTINGS + "\n[protection]\nallow_lan = true\n"  # else nobody here could send or be sent anything at all
ROUTER_ULA, LAPTOP_ULA = IPv6Address("fd00:7477::1"), IPv6Address("fd00:7477::2")
EVERYBODY = "ff:ff:ff:ff:ff:ff"
SYN_PORT, SYN_ACK_PORT, UDP_PORT = 2001, 2002, 2003
Answers = set[tuple[str, str]]  # what was asked, and who seemed to ask


@pytest.fixture
def lab() -> Iterator[Laboratory]:
    """With a local network in 192.168.0.0/16 and unique local addresses (RFC 4193), which may be allowed."""
    with Laboratory(1002, private_lan=True) as lab:
        lab.cafe.ip(f"address add {ROUTER_ULA}/64 dev lan")
        yield lab


def join(lab: Laboratory) -> None:
    lab.join("cafe")
    lab.laptop.ip(f"address add {LAPTOP_ULA}/64 dev wlan0 nodad")


@pytest.fixture
def protected(lab: Laboratory) -> Subject:
    """Connected, with the local network allowed."""
    return connect(Subject(lab, ALLOWED))


def connect(subject: Subject) -> Subject:
    if subject.process is None:
        subject.start(20)
        subject.set_up()
    join(subject.lab)
    subject.wait("connected", 25)
    return subject


def from_the_cafe(lab: Laboratory, to: str) -> Ether:
    return Ether(src=lab.plan.mac("cafe/lan"), dst=to)


def frame_mac(lab: Laboratory) -> str:
    return lab.plan.mac("wlan0")


# --- L2: packets to the tunnel's address ------------------------------------------------------------------------------


class Prober:
    """Another host at the cafe that forges packets to the tunnel's address, and whoever could see an answer."""

    def __init__(self, lab: Laboratory) -> None:
        self.lab, plan = lab, lab.plan
        self.own = plan.tunnel_client
        # As a neighbour, whose answer would go over the link; and as a server that the laptop talks to (the CVE's way).
        self.askers: dict[str, tuple[IPv4Address, IPv6Address]] = {
            "neighbour": (plan.cafe.host4(1), ROUTER_ULA),
            "server": (plan.internet4, plan.internet6),
        }

    def probes(self) -> Iterator[bytes]:
        for asker4, asker6 in self.askers.values():
            for layer in (IP(src=str(asker4), dst=str(self.own[0])), IPv6(src=str(asker6), dst=str(self.own[1]))):
                echo = ICMP() if layer.version == 4 else ICMPv6EchoRequest()
                for transport in (
                    TCP(sport=443, dport=SYN_PORT, flags="S", seq=1),
                    TCP(sport=443, dport=SYN_ACK_PORT, flags="SA", seq=1, ack=1),
                    UDP(sport=443, dport=UDP_PORT) / Raw(b"probe"),
                    echo,
                ):
                    yield bytes(from_the_cafe(self.lab, frame_mac(self.lab)) / layer / transport)

    def answer(self, packet: bytes) -> tuple[str, str] | None:
        """What a packet of the laptop tells a prober."""
        found: Packet = IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)
        version = found.version
        who = next((who for who, pair in self.askers.items() if found.dst == str(pair[version == 6])), None)
        if who is None or found.src != str(self.own[version == 6]):
            return None
        if TCP in found:
            asked = {SYN_PORT: "SYN", SYN_ACK_PORT: "SYN-ACK"}.get(found[TCP].sport)
            return (f"{asked}{version}", who) if asked else None
        if version == 4 and ICMP in found:
            return {0: "echo4", 3: "UDP4"}.get(found[ICMP].type, "?"), who
        return ("echo6" if ICMPv6EchoReply in found else "UDP6"), who

    def ask(self, wanted: int) -> tuple[Answers, Answers]:
        """Answers in the clear, and answers through the tunnel, whose size and time a stranger sees all the same.

        `wanted`: how many to wait for. With 0 it waits until the laptop has answered something sent later.
        """
        lab = self.lab
        with lab.meter() as meter, Ear(lab.server, SERVER_LINK) as ear, Ear(lab.cafe, "lan") as lan:
            clear: Answers = set()
            inside: Answers = set()
            deadline = time.monotonic() + 20
            for repeated in range(100):
                send_frames(lab.cafe, "lan", *self.probes())
                send_frames(lab.cafe, "lan", who_has(lab, own_address(lab)))
                assert lan.hears(arp_reply_for(own_address(lab))), "the laptop is not there at all"
                time.sleep(0.3)
                frames = [frame.payload for frame, kind in meter.frames() if kind in (Kind.CLEAR4, Kind.CLEAR6)]
                clear |= {found for packet in frames if (found := self.answer(packet))}
                inside |= {found for _, packet in ear.heard() if (found := self.answer(packet))}
                enough = len(clear | inside) >= wanted
                if (enough and repeated) or time.monotonic() > deadline:
                    break
            meter.positive_control()
            return clear, inside


ALL: Answers = {
    (f"{asked}{version}", who)
    for asked in ("SYN", "SYN-ACK", "UDP", "echo")
    for version in (4, 6)
    for who in ("neighbour", "server")
}
L2_HOLDS = {"both": True, "firewall": True, "routing": False}


def test_l2_the_tunnels_address_is_not_probeable_from_the_lan(layers: Layers) -> None:
    """CVE-2019-14899: no answer, in the clear or through the tunnel, also not where neighbours may talk to the laptop.

    Routing alone leads the answers to neighbours over the link, and the others into the tunnel.
    """
    subject = connect(layers(ALLOWED))
    answered: Answers = set() if L2_HOLDS[layers.name] else ALL
    clear = {(asked, who) for asked, who in answered if who == "neighbour"}
    assert Prober(subject.lab).ask(len(answered)) == (clear, answered - clear)


def test_l2_control_without_us_every_probe_is_answered_in_the_clear(protected: Subject) -> None:
    open_machine(protected)
    assert Prober(protected.lab).ask(len(ALL)) == (ALL, set())


def test_l2_wg_quick_drops_them_too(lab: Laboratory, wg_quick: Callable[[], str]) -> None:
    """It learnt the same lesson in 2019, and loses what it learnt with its table: then answers leave in the clear."""
    join(lab)
    wg_quick()
    assert Prober(lab).ask(0) == (set(), set())
    lab.laptop.run("nft", "flush", "ruleset")
    clear, _ = Prober(lab).ask(len(ALL))
    assert {who for _, who in clear} == {"neighbour"}, "its routes send answers to neighbours over the link"


def test_l2_also_while_the_server_is_gone(protected: Subject) -> None:
    """The link and its address are still there when the tunnel is lost."""
    lab = protected.lab
    lab.block_server()
    protected.cli("reconnect")
    protected.wait("reconnecting")
    assert Prober(lab).ask(0) == (set(), set())


# --- L9: ARP and neighbour discovery ----------------------------------------------------------------------------------


def own_address(lab: Laboratory) -> IPv4Address:
    """The laptop's address at the cafe."""
    return IPv4Address(lab.laptop.read("/run/lab/lease-wlan0").strip())


def who_has(lab: Laboratory, target: IPv4Address, asker: str | None = None) -> bytes:
    asker = str(lab.plan.cafe.host4(1)) if asker is None else asker
    request = ARP(op=1, hwsrc=lab.plan.mac("cafe/lan"), psrc=asker, pdst=str(target))
    return bytes(from_the_cafe(lab, EVERYBODY) / request)


def arp_reply_for(address: IPv4Address) -> Callable[[int, bytes], bool]:
    return lambda ethertype, packet: ethertype == ETH_ARP and packet[6:8] == b"\0\2" and packet[14:18] == address.packed


def solicitation(lab: Laboratory, target: IPv6Address) -> bytes:
    """Straight to the laptop, so that no multicast filter stands in between."""
    asker = "fe80::1"  # the firewall takes neighbour discovery from link-local addresses only
    question = IPv6(src=str(asker), dst=str(target), hlim=255) / ICMPv6ND_NS(tgt=str(target))
    return bytes(from_the_cafe(lab, frame_mac(lab)) / question / ICMPv6NDOptSrcLLAddr(lladdr=lab.plan.mac("cafe/lan")))


def advertised(address: IPv6Address) -> Callable[[int, bytes], bool]:
    def is_it(ethertype: int, packet: bytes) -> bool:
        if ethertype != ETH_IPV6:
            return False
        found = IPv6(packet)
        return ICMPv6ND_NA in found and found[ICMPv6ND_NA].tgt == str(address)

    return is_it


def answers_arp(lab: Laboratory) -> bool:
    """Whether ARP for the tunnel's address is answered, asked from the network, as a probe, and from its own subnet.

    Every time the laptop must answer for its address at the cafe, which was asked for after that.
    """
    target, own = lab.plan.tunnel_client[0], own_address(lab)
    askers = (str(lab.plan.cafe.host4(1)), "0.0.0.0", str(lab.plan.tunnel.host4(1)))
    with Ear(lab.cafe, "lan") as ear:
        for asker in askers:
            send_frames(lab.cafe, "lan", who_has(lab, target, asker))
        send_frames(lab.cafe, "lan", who_has(lab, own))
        assert ear.hears(arp_reply_for(own)), "the laptop answers no ARP at all"
        return ear.hears(arp_reply_for(target), 0.5)


L9_HOLDS = {"both": True, "firewall": False, "routing": True}


def test_l9_arp_does_not_reveal_the_tunnels_address(layers: Layers) -> None:
    """MLLVD-CR-24-03. ARP passes no inet hook: the sysctl does it, which belongs to routing."""
    subject = connect(layers(ALLOWED))
    assert answers_arp(subject.lab) is not L9_HOLDS[layers.name]


def test_l9_control_without_us_arp_is_answered(protected: Subject) -> None:
    open_machine(protected)
    protected.lab.laptop.sysctl(("net/ipv4/conf/all/arp_ignore", "0"))
    assert answers_arp(protected.lab)


def test_l9_control_wg_quick_answers_arp(lab: Laboratory, wg_quick: Callable[[], str]) -> None:
    join(lab)
    wg_quick()
    assert answers_arp(lab)


@pytest.mark.parametrize("where", ["all", "wlan0"])
@pytest.mark.parametrize("value", ["1", "3", "4"])
def test_l9_whatever_the_machine_had_set_before(lab: Laboratory, where: str, value: str) -> None:
    """The kernel takes the greater of the two; 3 answers for all but host addresses, and 4 to 7 for everything."""
    lab.laptop.sysctl((f"net/ipv4/conf/{where}/arp_ignore", value))
    connect(Subject(lab, ALLOWED))
    assert not answers_arp(lab)


def test_l9_it_is_put_back_when_somebody_changes_it(protected: Subject) -> None:
    """At the next event: the kernel says nothing of it. systemd-sysctl may do so when a link appears."""
    lab = protected.lab
    for _ in range(20):  # an event of its own, such as a router's advertisement, may come first
        lab.laptop.sysctl(("net/ipv4/conf/all/arp_ignore", "0"))
        if answers_arp(lab):
            break
    else:
        pytest.fail("it was never answered: the change does nothing")
    lab.laptop.ip("address add 192.0.2.250/32 dev lo")
    deadline = time.monotonic() + 20
    while answers_arp(lab) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not answers_arp(lab)


L9_DISCOVERY_HOLDS = {"both": True, "firewall": True, "routing": True, "neither": True}


@pytest.mark.parametrize("control", [False, True], ids=["with us", "neither"])
def test_l9_neighbour_discovery_does_not_reveal_the_tunnels_address(protected: Subject, control: bool) -> None:
    """IPv6 answers for the addresses of a link on that link only (RFC 4861, 7.2.3): nothing of ours is needed."""
    lab = protected.lab
    if control:
        open_machine(protected)
    own, target = lab.card.address6("wlan0", lab.plan.cafe), lab.plan.tunnel_client[1]
    assert own is not None
    with Ear(lab.cafe, "lan") as ear:
        send_frames(lab.cafe, "lan", solicitation(lab, target), solicitation(lab, own))
        assert ear.hears(advertised(own)), "the laptop answers no solicitation at all"
        assert not ear.hears(advertised(target), 0.5)


def tells_by_asking(lab: Laboratory) -> bool:
    """Whether a program bound to the tunnel's address and the link makes the laptop ask the network in that name."""
    neighbour, own = lab.plan.cafe.host4(7), lab.plan.tunnel_client[0]
    lab.laptop.run("ip", "neighbour", "flush", "dev", "wlan0")
    with lab.meter() as meter:
        with lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind((str(own), 0))
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wlan0\0")
            for _ in range(5):
                with contextlib.suppress(OSError):
                    sender.sendto(b"who are you?", (str(neighbour), 7))
                time.sleep(0.05)
        asked = [frame for frame, kind in meter.frames() if kind is Kind.ARP and frame.payload[14:18] == own.packed]
        meter.positive_control()
    return bool(asked)


L9_REQUEST_HOLDS = {"both": True, "firewall": True, "routing": False}


def test_l9_arp_requests_do_not_reveal_it_either(layers: Layers) -> None:
    """The kernel asks in the name of the packet's source (arp_announce 0). The firewall refuses before it asks.

    The neighbour is of an allowed network: from another source address it could be sent something.
    """
    subject = connect(layers(ALLOWED))
    assert tells_by_asking(subject.lab) is not L9_REQUEST_HOLDS[layers.name]
