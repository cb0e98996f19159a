"""L11: programs that send around the routes, by any user and by root, each way the kernel offers (bound_sockets.py).

The firewall holds all of it. Routing alone holds IPv6, and IPv4 that follows the routes, but no IPv4 sockets bound to a
link: the kernel then takes every address for a neighbour, and a hostile router answers for every address.
"""

from __future__ import annotations

import json
import os
import re
import sys
import time
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

from lab.capture import Captured
from lab.frames import ETH_IPV4, ETH_IPV6, TCP
from lab.meter import Meter
from lab.subject import SETTINGS
from lab.topology import Laboratory
from tests.netns.conftest import Layers
from tests.netns.open_machine import open_machine

pytestmark = pytest.mark.netns

PROGRAM = Path(__file__).with_name("bound_sockets.py").read_text(encoding="utf-8")
PYTHON = os.path.realpath(sys.executable)  # the checkout may be root's alone
ANYBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all")
BOUND = frozenset({"device", "unicast_if", "pktinfo", "pktinfo_source"})
NUMBER = re.compile(rb"<(\d{5})>")


def numbers(frames: list[Captured]) -> set[int]:
    """Of the attempts that are among these frames."""
    found: set[int] = set()
    for frame in frames:
        packet = frame.payload
        found.update(int(number) for number in NUMBER.findall(packet))
        if frame.ethertype == ETH_IPV4 and packet[9] == TCP:
            found.add(int.from_bytes(packet[(packet[0] & 15) * 4 + 2 :][:2]))
        if frame.ethertype == ETH_IPV6 and packet[6] == TCP:
            found.add(int.from_bytes(packet[42:44]))
    return found


class Attempts:
    """`near` is the router, `far` the internet. Every round has numbers of its own."""

    def __init__(self, lab: Laboratory) -> None:
        self.lab, self.first = lab, 20000
        lab.laptop.sysctl(("net/ipv4/ping_group_range", "0 2147483647"))  # what systemd gives every Debian

    def left(self, meter: Meter, who: tuple[str, ...], expected: Collection[str] | None = None) -> set[str]:
        """Which attempts left the laptop. `expected`: wait for these, for a neighbour may have to be found first."""
        plan = self.lab.plan
        addresses = json.loads(self.lab.laptop.run("ip", "-4", "-j", "address", "show", "wlan0").stdout)
        own4, own6 = addresses[0]["addr_info"][0]["local"], self.lab.card.address6("wlan0", plan.cafe)
        task = {
            "device": "wlan0", "first": self.first, "sources": {"4": own4, "6": str(own6)},
            "targets": {
                "near4": str(plan.cafe.host4(1)), "far4": str(plan.internet4),
                "near6": str(plan.cafe.host6(1)), "far6": str(plan.internet6),
            },
        }  # fmt: skip
        self.first += 1000
        told = json.loads(self.lab.laptop.run(*who, PYTHON, "-I", "-S", "-c", PROGRAM, json.dumps(task)).stdout)
        assert len(told) == 4 * 24 - 2 * 3 - 4 * 2
        deadline = time.monotonic() + 10
        while True:
            seen = numbers([frame for frame, _ in meter.frames()])
            left = {name for name, (number, _) in told.items() if number in seen}
            if expected is None or left >= set(expected) or time.monotonic() > deadline:
                return left
            time.sleep(0.02)


def names(targets: Collection[str], ways: Collection[str]) -> set[str]:
    """Every attempt at these targets in these ways that exists."""

    def all_of() -> Iterator[str]:
        for target in targets:
            for way in ways:
                for protocol in ("udp", "tcp", "icmp"):
                    tcp_cannot = protocol == "tcp" and way.startswith("pktinfo")
                    if not tcp_cannot and (way != "scope" or target.endswith("6")):
                        yield f"{target} {protocol} {way}"

    return set(all_of())


def opened() -> set[str]:
    """What leaves an open machine: everything, but nobody far away is a neighbour."""
    ways = BOUND | {"plain", "source", "scope"}
    return names(("near4", "far4", "near6", "far6"), ways) | names(("near4", "near6", "far6"), {"dontroute"})


def bound(*targets: str) -> set[str]:
    """The attempts at these targets for which the kernel asks about routes of that link only."""
    six = [target for target in targets if target.endswith("6")]
    routed = names(targets, {"unicast_if"}) & {f"{target} tcp unicast_if" for target in targets}
    # With a source address, IPv6 takes the link for a wish only (ip6_route_output_flags).
    return names(targets, BOUND) - routed - {f"{target} udp pktinfo_source" for target in six}


def held(layer: str, state: str) -> set[str]:
    """What this layer alone lets pass: nothing, but for routing. There the other layer is what holds."""
    if layer != "routing":
        return set()
    passes = bound("near4", "far4")
    if state == "blocked":  # else the tunnel's route is as near as any
        passes |= names(("near4",), {"dontroute"})
    return passes


@pytest.mark.parametrize("who", [ANYBODY, ()], ids=["anybody", "root"])
def test_l11_sockets_that_go_around_the_routes(layers: Layers, who: tuple[str, ...]) -> None:
    """In a network whose router claims to be everybody (proxy ARP); while blocked, and while connected."""
    lab = layers.lab
    lab.cafe.sysctl(("net/ipv4/conf/lan/proxy_arp", "1"), ("net/ipv4/neigh/lan/proxy_delay", "0"))
    subject = layers(SETTINGS.replace('connect_timeout = "4s"', 'connect_timeout = "2s"'))
    attempts = Attempts(lab)
    lab.block_server()
    lab.join("cafe")
    subject.wait(lambda status: status.cause == "server-unreachable", 25)
    with lab.meter() as meter:
        assert attempts.left(meter, who, held(layers.name, "blocked")) == held(layers.name, "blocked")
        if layers.name != "routing":
            assert meter.leaks() == []
        lab.unblock_server()
        subject.wait("connected", 25)
        assert attempts.left(meter, who, held(layers.name, "connected")) == held(layers.name, "connected")
        open_machine(subject)
        assert attempts.left(meter, who, opened()) == opened(), (
            "the positive control: everything leaves an open machine"
        )


def test_l11_wg_quick_lets_sockets_bound_to_the_link_pass(lab: Laboratory) -> None:
    """Routes are all it has: what is bound to the link leaves in the clear, and what follows the routes does not."""
    lines = [line for line in lab.client_config().splitlines() if not line.startswith("DNS")]
    lab.laptop.write("/etc/wireguard/peer0.conf", "\n".join(lines) + "\n", mode=0o600)
    lab.join("cafe")
    lab.laptop.run("wg-quick", "up", "peer0")
    with lab.meter() as meter:
        expected = bound("near4", "far4", "near6", "far6")
        left = Attempts(lab).left(meter, ANYBODY, expected)
    assert left >= expected
    assert not left & names(("far4", "far6"), {"plain"})
