"""L1: with the local network allowed, its resolvers are still not: the DNS drop comes before the local network.

Mullvad 2018.5 and 2020.2 leaked here. The controls are the run with routing alone, and the laptop without both layers.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from lab.frames import Kind
from lab.meter import Meter
from lab.probes import A, Ear, dns_query, pings, resolve, sockaddr
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from tests.netns.conftest import Layers
from tests.netns.open_machine import open_machine

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # scapy looks at this machine's routes when imported
from scapy.layers.inet import IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import IPv6  # noqa: E402

pytestmark = pytest.mark.netns

ALLOWED = SETTINGS + "\n[protection]\nallow_lan = true\n"
ROUTER_ULA, LAPTOP_ULA = IPv6Address("fd00:7477::1"), IPv6Address("fd00:7477::2")
HIGH_PORT = 40001
# Routing lets go whatever is for the local network: only the firewall tells DNS from the rest.
HOLDS = {"both": True, "firewall": True, "routing": False}

Asked = set[tuple[str, str, int]]  # address, protocol, port


@pytest.fixture
def lab() -> Iterator[Laboratory]:
    """With local networks in 192.168.0.0/16, and unique local addresses (RFC 4193) at the cafe."""
    with Laboratory(1001, private_lan=True) as lab:
        lab.cafe.ip(f"address add {ROUTER_ULA}/64 dev lan")
        yield lab


@dataclass
class Resolvers:
    """The cafe's resolver at its three addresses of the local network."""

    lab: Laboratory

    def __post_init__(self) -> None:
        text = self.lab.cafe.inside(lambda: Path("/proc/thread-self/net/if_inet6").read_text(encoding="ascii"))
        lines = [line.split() for line in text.splitlines()]
        (local,) = (IPv6Address(bytes.fromhex(line[0])) for line in lines if line[5] == "lan" and line[3] == "20")
        self.addresses = (self.lab.plan.cafe.host4(1), ROUTER_ULA, IPv6Address(f"{local}%wlan0"))

    def everything(self) -> Asked:
        return {
            (bare(address), protocol, port)
            for address in self.addresses
            for protocol in ("udp", "tcp")
            for port in (53, 853)
        }

    def asked(self, meter: Meter) -> Asked:
        """Which questions have left the laptop."""
        found: Asked = set()
        for frame, kind in meter.frames():
            if kind is Kind.DNS:
                packet = IP(frame.payload) if frame.payload[0] >> 4 == 4 else IPv6(frame.payload)
                layer = TCP if TCP in packet else UDP
                found.add((packet.dst, layer.__name__.lower(), packet[layer].dport))
        return found

    def ask(self, meter: Meter, expected: Asked) -> Asked:
        """Ask them all; what has left, once that is what was expected or for long enough."""
        deadline = time.monotonic() + 10
        for repeated in range(100):
            for address in self.addresses:
                for port in (53, 853):
                    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                        self._ask(address, port, kind)
            time.sleep(0.2)
            found = self.asked(meter)
            if (found >= expected and repeated) or time.monotonic() > deadline:
                break
        return found

    def _ask(self, address: IPv4Address | IPv6Address, port: int, kind: socket.SocketKind) -> None:
        host, family = self.lab.laptop, socket.AF_INET if address.version == 4 else socket.AF_INET6
        with host.socket(family, kind) as asker, contextlib.suppress(OSError):
            asker.settimeout(0.2)
            asker.connect(sockaddr(host, address, port))
            asker.sendall(dns_query("lesson.test", A))


def bare(address: IPv4Address | IPv6Address) -> str:
    return str(address).partition("%")[0]


def neighbours_are_reachable(lab: Laboratory, resolvers: Resolvers) -> None:
    """Ping and UDP to the same host, so it is allowed: only its DNS is not."""
    for address in resolvers.addresses:
        assert pings(lab.laptop, address, 10), address
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with Ear(lab.cafe, "lan") as ear, lab.laptop.socket(family, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"L1: this may pass", sockaddr(lab.laptop, address, HIGH_PORT))
            assert ear.hears(lambda _, packet: b"L1: this may pass" in packet), address


@pytest.mark.parametrize("state", ["connected", "blocked"])
def test_l1_no_dns_to_the_resolver_of_an_allowed_lan(layers: Layers, state: str) -> None:
    """UDP and TCP, plain and encrypted, IPv4, unique local and link-local."""
    lab, subject = layers.lab, layers(ALLOWED)
    if state == "blocked":
        lab.block_server()
    lab.join("cafe")
    lab.laptop.ip(f"address add {LAPTOP_ULA}/64 dev wlan0 nodad")
    subject.wait("connected", 25) if state == "connected" else subject.wait(
        lambda status: status.cause == "server-unreachable", 25
    )
    resolvers = Resolvers(lab)
    expected = set() if HOLDS[layers.name] else resolvers.everything()
    with lab.meter() as meter:
        assert resolvers.ask(meter, expected) == expected
        meter.positive_control()
    neighbours_are_reachable(lab, resolvers)


def test_l1_control_without_us_the_resolver_is_asked(lab: Laboratory) -> None:
    subject = Subject(lab, ALLOWED)
    subject.start()
    subject.set_up()
    lab.join("cafe")
    lab.laptop.ip(f"address add {LAPTOP_ULA}/64 dev wlan0 nodad")
    subject.wait("connected", 25)
    open_machine(subject)
    resolvers = Resolvers(lab)
    with lab.meter() as meter:
        assert resolvers.ask(meter, resolvers.everything()) == resolvers.everything()
    assert resolve(lab.laptop, lab.plan.cafe.host4(1), "internet.test", timeout=10) == lab.plan.internet4


def test_l1_control_wg_quick_asks_it_too(lab: Laboratory, wg_quick: Callable[[], str]) -> None:
    """Its own way to use local networks is main's routes, and nothing looks at ports there."""
    lab.join("cafe")
    lab.laptop.ip(f"address add {LAPTOP_ULA}/64 dev wlan0 nodad")
    wg_quick()
    resolvers = Resolvers(lab)
    with lab.meter() as meter:
        assert resolvers.ask(meter, resolvers.everything()) == resolvers.everything()
