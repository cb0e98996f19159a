"""L7, L8: what a network says about routes and prefixes steers nothing (TunnelVision, TunnelCrack LocalNet).

At the cafe DHCP pushes routes and a router advertisement carries route information. At the "airport" the network
claims that half of the Internet is on its link, answers ARP and neighbour discovery for it, and the laptop's
administrator has allowed local networks. With wg-quick both make the laptop send to the Internet in the clear.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lab.addresses import Plan
from lab.air import Air
from lab.probes import exit_address, send_frames
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from tests.netns.conftest import Layers
from tests.netns.open_machine import open_machine, wait_for_leaks

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)  # scapy looks at this machine's routes when imported
from scapy.layers.inet6 import (  # noqa: E402
    ICMPv6ND_RA,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRouteInfo,
    ICMPv6NDOptSrcLLAddr,
    IPv6,
)
from scapy.layers.l2 import Ether  # noqa: E402
from scapy.packet import Packet  # noqa: E402

pytestmark = pytest.mark.netns

SEED = 1007
EVERYBODY, ALL_NODES = "33:33:00:00:00:01", "ff02::1"
HALF = "192.0.0.0"  # this netmask, of /2, makes every public address of the laboratory a "neighbour"
HALF6 = "2001:db8::/32"
ALLOWED = SETTINGS + "\n[protection]\nallow_lan = true\n"
# Routing has no look-up of main for unmarked packets; the firewall does not care what the routes were.
L7_HOLDS = {"both": True, "firewall": True, "routing": True}
L8_HOLDS = {"both": True, "firewall": True, "routing": True}


@pytest.fixture
def lab() -> Iterator[Laboratory]:
    plan = Plan(SEED)
    gateway = plan.cafe.host4(1)
    routes = ["0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", f"{plan.internet4}/32", f"{plan.server4}/32"]
    options = {
        "cafe": ["121," + ",".join(f"{route},{gateway}" for route in routes)],
        "home": [f"1,{HALF}"],
    }
    with Laboratory(SEED, dhcp_options=options) as lab:
        yield lab


def advertise(lab: Laboratory, router: str, option: Packet) -> None:
    """A router advertisement from the router's own link-local address, which the laptop knows already."""
    mac = lab.plan.mac(f"{router}/lan")
    source = lab.hosts[router].run("ip", "-6", "-brief", "address", "show", "dev", "lan", "scope", "link").stdout
    packet = IPv6(src=source.split()[2].partition("/")[0], dst=ALL_NODES, hlim=255) / ICMPv6ND_RA(routerlifetime=1800)
    frame = Ether(src=mac, dst=EVERYBODY) / packet / ICMPv6NDOptSrcLLAddr(lladdr=mac) / option
    send_frames(lab.hosts[router], "lan", bytes(frame))


def wait_route(lab: Laboratory, family: str, wanted: str) -> None:
    """Until the laptop has obeyed. A test without its attack would prove nothing."""
    deadline = time.monotonic() + 10
    while wanted not in (shown := lab.laptop.run("ip", family, "route", "show", "table", "main").stdout):
        assert time.monotonic() < deadline, f"{wanted!r} is not in\n{shown}"
        time.sleep(0.02)


def join_the_cafe(lab: Laboratory) -> None:
    lab.laptop.sysctl(("net/ipv6/conf/wlan0/accept_ra_rt_info_max_plen", "128"))
    lab.join("cafe")
    plan = lab.plan
    for route in ("0.0.0.0/1", "128.0.0.0/1", str(plan.internet4), str(plan.server4)):
        wait_route(lab, "-4", f"{route} via {plan.cafe.host4(1)} dev wlan0")
    for prefix, length in (("2000::", 3), (str(plan.internet6), 128)):
        advertise(lab, "cafe", ICMPv6NDOptRouteInfo(prefix=prefix, plen=length, prf=1, rtlifetime=1800, len=3))
    wait_route(lab, "-6", "2000::/3 via fe80:")
    wait_route(lab, "-6", f"{plan.internet6} via fe80:")


def join_the_airport(lab: Laboratory) -> None:
    """The home router in disguise."""
    lab.home.sysctl(
        ("net/ipv4/conf/lan/proxy_arp", "1"), ("net/ipv4/neigh/lan/proxy_delay", "0"),
        ("net/ipv6/conf/lan/proxy_ndp", "1"), ("net/ipv6/neigh/lan/proxy_delay", "0"),
    )  # fmt: skip
    lab.home.ip(f"neighbour add proxy {lab.plan.internet6} dev lan")
    lab.join("home", ssid=b"Airport", air=Air.OPEN)
    wait_route(lab, "-4", "192.0.0.0/2 dev wlan0")
    prefix, length = HALF6.split("/")
    advertise(lab, "home", ICMPv6NDOptPrefixInfo(prefix=prefix, prefixlen=int(length), L=1, A=0))
    wait_route(lab, "-6", f"{HALF6} dev wlan0")


def goes_through_the_tunnel(lab: Laboratory) -> None:
    assert exit_address(lab.laptop, lab.plan.internet4, 15) == lab.plan.server4
    assert exit_address(lab.laptop, lab.plan.internet6, 15) == lab.plan.server6


def test_l7_routes_pushed_by_the_network_steer_nothing(layers: Layers, sealed: Any) -> None:
    """CVE-2024-3661, with routes to everything, to the victim and to the VPN server; IPv6 by RFC 4191."""
    lab, subject = layers.lab, layers()
    with sealed(bound=layers.name != "routing"):  # L11 is another lesson
        join_the_cafe(lab)
        subject.wait("connected", 25)
        time.sleep(0.5)
        if layers.name != "firewall":  # which alone leads nothing into the tunnel
            goes_through_the_tunnel(lab)


def test_l7_routes_that_come_later_steer_nothing(layers: Layers, sealed: Any) -> None:
    """As a renewal of the lease brings them, while the tunnel is up."""
    lab, subject = layers.lab, layers()
    join_the_airport(lab)
    subject.wait("connected", 25)
    with sealed(bound=layers.name != "routing"):
        gateway = lab.plan.home.host4(1)
        for route in ("0.0.0.0/1", "128.0.0.0/1", f"{lab.plan.internet4}/32", f"{lab.plan.server4}/32"):
            lab.laptop.ip(f"route replace {route} via {gateway} dev wlan0 onlink metric 600")
        time.sleep(0.5)
        subject.wait("connected", 25)
        if layers.name != "firewall":
            goes_through_the_tunnel(lab)


def test_l7_control_wg_quick_is_steered(lab: Laboratory, wg_quick: Callable[[], str]) -> None:
    join_the_cafe(lab)
    wg_quick()
    with lab.meter() as meter:
        assert exit_address(lab.laptop, lab.plan.internet4, 15) == lab.plan.cafe_uplink.host4(2)
        assert exit_address(lab.laptop, lab.plan.internet6, 15) in lab.plan.cafe.v6
        assert meter.leaks()


def test_l8_public_addresses_never_count_as_local(layers: Layers, sealed: Any) -> None:
    """The local networks are a constant list: what DHCP and router advertisements claim is not asked."""
    lab, subject = layers.lab, layers(ALLOWED)
    with sealed(bound=layers.name != "routing"):
        join_the_airport(lab)
        subject.wait("connected", 25)
        time.sleep(0.5)
        if layers.name != "firewall":
            goes_through_the_tunnel(lab)


def test_l8_control_wg_quick_talks_to_the_neighbours(lab: Laboratory, wg_quick: Callable[[], str]) -> None:
    join_the_airport(lab)
    wg_quick()
    with lab.meter() as meter:
        assert exit_address(lab.laptop, lab.plan.internet4, 15) == lab.plan.home_uplink.host4(2)
        assert exit_address(lab.laptop, lab.plan.internet6, 15) in lab.plan.home.v6
        assert meter.leaks()


@pytest.mark.parametrize("join", [join_the_cafe, join_the_airport], ids=["L7", "L8"])
def test_l7_l8_control_without_us_the_traffic_leaves(subject: Subject, join: Any) -> None:
    lab = subject.lab
    join(lab)
    subject.wait("connected", 25)
    open_machine(subject)
    with lab.meter() as meter, lab.traffic(rate=40):
        wait_for_leaks(meter)
