"""L3: nothing but the VPN itself may send to the VPN's server: plaintext with its address on it is a fingerprint.

Mullvad MUL-02-002. Every try carries the marker string; the wire tells which tries have left. The router of the cafe is
hostile and answers ARP for every address, so that a socket bound to the link gets as far as it can.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

import pytest

from lab.addresses import SERVER_PORT
from lab.frames import ETH_IPV4
from lab.meter import Meter
from lab.probes import checksum, ipv4_udp, send_frames
from lab.subject import Subject
from lab.topology import Laboratory
from policies.firewall import MARK
from tests.netns.conftest import Layers
from tests.netns.open_machine import open_machine

pytestmark = pytest.mark.netns

MARKER = b"MUL-02-002"
SO_MARK = 36  # <asm-generic/socket.h>


@dataclass(frozen=True)
class Try:
    """One packet of a program on the laptop."""

    protocol: str = "udp"  # or "tcp", "icmp"
    port: int = SERVER_PORT
    target: str = "server4"  # of the plan
    source_port: int = 0
    marked: bool = False  # with our mark, as only a program with CAP_NET_ADMIN may
    bound: bool = False  # to the physical link


UNMARKED = {
    "the exact endpoint": Try(),
    "from the VPN's port": Try(source_port=SERVER_PORT),
    "from the DHCP client's port": Try(source_port=68, port=67),
    "the next port": Try(port=SERVER_PORT + 1),
    "HTTPS over QUIC": Try(port=443),
    "TCP": Try("tcp"),
    "ICMP": Try("icmp"),
    "IPv6": Try(target="server6"),
}
BOUND = {
    "bound: the exact endpoint": Try(bound=True),
    "bound: the next port": Try(port=SERVER_PORT + 1, bound=True),
    "bound: TCP": Try("tcp", bound=True),
    "bound: IPv6": Try(target="server6", bound=True),
}
THE_VPN_ITSELF = {"marked: the exact endpoint": Try(marked=True)}
MARKED = {
    "marked: the next port": Try(port=SERVER_PORT + 1, marked=True),
    "marked: DNS": Try(port=53, marked=True),
    "marked: TCP": Try("tcp", marked=True),
    "marked: ICMP": Try("icmp", marked=True),
    "marked: IPv6, which is not in the profile": Try(target="server6", marked=True),
    "marked: another address": Try(target="internet4", marked=True),
}
ALL = {**UNMARKED, **BOUND, **THE_VPN_ITSELF, **MARKED}
# What leaves the laptop, by what stands in the way. Routing alone does not hold sockets that are marked or bound.
LEAVES = {
    "both": set(THE_VPN_ITSELF),
    "firewall": set(THE_VPN_ITSELF),
    "routing": {*THE_VPN_ITSELF, *MARKED, *BOUND} - {"bound: IPv6"},  # whose rule of its own ends that way
    "neither": set(ALL),
    "wg-quick": set(BOUND),  # its mark is another one, so ours opens nothing there
}


def send(lab: Laboratory, number: int, one: Try) -> None:
    target: IPv4Address | IPv6Address = getattr(lab.plan, one.target)
    four = target.version == 4
    kind, protocol = {
        "udp": (socket.SOCK_DGRAM, 0),
        "tcp": (socket.SOCK_STREAM, 0),
        "icmp": (socket.SOCK_RAW, socket.IPPROTO_ICMP),
    }[one.protocol]
    with lab.laptop.socket(socket.AF_INET if four else socket.AF_INET6, kind, protocol) as sender:
        sender.setblocking(False)
        sender.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if one.marked:
            sender.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
        if one.bound:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wlan0\0")
        # A TCP connection attempt carries no data: its source port says which one it is.
        source_port = 20000 + number if one.protocol == "tcp" else one.source_port
        if source_port:
            sender.bind(("0.0.0.0" if four else "::", source_port))
        with contextlib.suppress(OSError):  # refused, or (TCP) not yet connected
            match one.protocol:
                case "tcp":
                    sender.connect((str(target), one.port))
                    time.sleep(0.01)
                case "icmp":
                    sender.sendto(echo_request(number), (str(target), 0))
                case _:
                    sender.sendto(tag(number), (str(target), one.port))


def tag(number: int) -> bytes:
    return MARKER + b" %02d." % number


def echo_request(number: int) -> bytes:
    """ICMP, RFC 792."""
    data = struct.pack(">BBHHH", 8, 0, 0, 0x7477, number) + tag(number)
    return data[:2] + struct.pack(">H", checksum(data)) + data[4:]


def seen(meter: Meter) -> set[str]:
    """The names of the tries that have left the laptop in the clear."""
    packets = [frame.payload for frame, _ in meter.frames()]
    return {
        name
        for number, (name, one) in enumerate(ALL.items())
        if any(
            packet[0] >> 4 == 4 and packet[9] == 6 and int.from_bytes(packet[20:22]) == 20000 + number
            if one.protocol == "tcp"
            else tag(number) in packet
            for packet in packets
        )
    }


def what_leaves(lab: Laboratory, expected: set[str]) -> set[str]:
    """Try everything, again until what is expected was seen, and once more after that."""
    deadline = time.monotonic() + 15
    with lab.meter() as meter:
        for repeated in range(100):
            for number, one in enumerate(ALL.values()):
                send(lab, number, one)
            time.sleep(0.2)
            found = seen(meter)
            if (found >= expected and repeated) or time.monotonic() > deadline:
                break
        meter.positive_control()
        return found


@pytest.fixture
def hostile(lab: Laboratory) -> Iterator[Laboratory]:
    """At a router that answers ARP for every address."""
    lab.cafe.sysctl(("net/ipv4/conf/lan/proxy_arp", "1"), ("net/ipv4/neigh/lan/proxy_delay", "0"))
    yield lab


def test_l3_only_the_vpn_sends_to_its_server(hostile: Laboratory, layers: Layers) -> None:
    """By address, port, protocol and mark; not one of the four alone."""
    subject = layers()
    hostile.join("cafe")
    subject.wait("connected", 25)
    assert what_leaves(hostile, LEAVES[layers.name]) == LEAVES[layers.name]


def test_l3_also_while_connecting(hostile: Laboratory, subject: Subject) -> None:
    """The exception stands before there is a tunnel to catch what is not the VPN's."""
    hostile.block_server()
    hostile.join("cafe")
    subject.wait(lambda status: status.cause == "server-unreachable", 25)
    with hostile.meter() as meter:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline and not seen(meter):
            for number, one in enumerate(ALL.values()):
                send(hostile, number, one)
        assert seen(meter) == set(THE_VPN_ITSELF), "the exception was open meanwhile, and for nothing else"


def test_l3_control_without_us_every_try_leaves(hostile: Laboratory, subject: Subject) -> None:
    hostile.join("cafe")
    subject.wait("connected", 25)
    open_machine(subject)
    assert what_leaves(hostile, LEAVES["neither"]) == LEAVES["neither"]


def test_l3_control_wg_quick_lets_bound_sockets_send_to_it(hostile: Laboratory, wg_quick: Callable[[], str]) -> None:
    hostile.join("cafe")
    wg_quick()
    assert what_leaves(hostile, LEAVES["wg-quick"]) == LEAVES["wg-quick"]


INBOUND_HOLDS = {"both": True, "firewall": True, "routing": False}


def test_l3_the_exception_is_no_way_in(layers: Layers) -> None:
    """Whoever writes the server's address on a packet reaches no program: only flows that the VPN began come in."""
    lab, subject = layers.lab, layers()
    lab.join("cafe")
    subject.wait("connected", 25)
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as program:
        program.bind(("0.0.0.0", 0))
        program.settimeout(0.05)
        own, port = IPv4Address(lab.laptop.read("/run/lab/lease-wlan0").strip()), program.getsockname()[1]
        packet = ipv4_udp(lab.plan.server4, own, port, b"unasked", source_port=SERVER_PORT)
        header = lab.plan.mac("wlan0") + lab.plan.mac("cafe/lan")
        frame = bytes.fromhex(header.replace(":", "")) + struct.pack(">H", ETH_IPV4) + packet
        reached, deadline = False, time.monotonic() + (1 if INBOUND_HOLDS[layers.name] else 15)
        while not reached and time.monotonic() < deadline:
            send_frames(lab.cafe, "lan", frame)
            with contextlib.suppress(TimeoutError):
                reached = program.recv(100) == b"unasked"
        assert reached is not INBOUND_HOLDS[layers.name]
