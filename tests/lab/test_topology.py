"""The small internet works: DHCP, SLAAC, DNS, NAT, roaming, hostile options, a container, two laboratories at once."""

from __future__ import annotations

import socket
import time

import pytest

from lab.probes import AAAA, exit_address, resolve
from lab.processes import LabError
from lab.topology import Laboratory

pytestmark = pytest.mark.netns


def resolvers(lab: Laboratory) -> list[str]:
    lines = lab.laptop.read("/etc/resolv.conf").splitlines()
    return [line.split()[1] for line in lines if line.startswith("nameserver")]


def test_building_is_quick() -> None:
    start = time.monotonic()
    with Laboratory(901):
        assert time.monotonic() - start < 2
    assert time.monotonic() - start < 4


def test_cafe_gives_addresses_names_and_a_way_out(lab: Laboratory) -> None:
    lab.join("cafe")
    plan = lab.plan
    assert resolvers(lab) == [str(plan.cafe.host4(1))]
    # IPv4 leaves under the router's address, IPv6 under the laptop's own.
    assert exit_address(lab.laptop, plan.internet4) == plan.cafe_uplink.host4(2)
    assert exit_address(lab.laptop, plan.internet6) in plan.cafe.v6
    assert str(plan.internet4) in lab.laptop.run("getent", "ahostsv4", "internet.test").stdout
    assert resolve(lab.laptop, plan.cafe.host4(1), "whoami.test") == plan.cafe.host4(1)
    assert resolve(lab.laptop, plan.internet6, "whoami.test", AAAA) == plan.internet6
    assert resolve(lab.laptop, plan.internet4, "nothing.test") is None


def test_roaming_changes_everything_but_the_link(lab: Laboratory) -> None:
    lab.join("cafe")
    index = lab.laptop.inside(lambda: socket.if_nametoindex("wlan0"))
    lab.leave()
    assert not lab.card.has_carrier("wlan0")
    with pytest.raises(OSError, match="unreachable"):
        exit_address(lab.laptop, lab.plan.internet4)
    lab.join("home")
    assert lab.laptop.inside(lambda: socket.if_nametoindex("wlan0")) == index
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.home_uplink.host4(2)
    assert exit_address(lab.laptop, lab.plan.internet6) in lab.plan.home.v6


def test_a_network_without_ipv4(lab: Laboratory) -> None:
    lab.join("cafe6")
    assert resolvers(lab) == [str(lab.plan.cafe6.host6(1))]
    assert exit_address(lab.laptop, lab.plan.internet6) in lab.plan.cafe6.v6
    with pytest.raises(OSError, match="unreachable"):
        exit_address(lab.laptop, lab.plan.internet4)


def test_cable_beside_wifi(lab: Laboratory) -> None:
    lab.join("cafe")
    lab.plug()
    # The cable's metric is the smaller one, so it wins while it is in.
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.home_uplink.host4(2)
    lab.unplug()
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.cafe_uplink.host4(2)


def test_private_lan() -> None:
    with Laboratory(902, private_lan=True) as lab:
        lab.join("home", wait_ipv6=False)
        assert resolvers(lab)[0].startswith("192.168.")
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.home_uplink.host4(2)


def test_hostile_routes_reach_the_laptop() -> None:
    """DHCP option 121 (CVE-2024-3661): the client obeys, as real ones do; what the daemon makes of it is its affair."""
    options = {"cafe": ["121,0.0.0.0/1,192.0.2.1,128.0.0.0/1,192.0.2.1"]}
    with Laboratory(904, dhcp_options=options) as lab:
        lab.join("cafe", wait_ipv6=False)
        routes = lab.laptop.run("ip", "-4", "route").stdout
        assert "0.0.0.0/1 via 192.0.2.1 dev wlan0" in routes
        assert "128.0.0.0/1 via 192.0.2.1 dev wlan0" in routes
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.cafe_uplink.host4(2)


def test_a_container_leaves_through_the_laptop(lab: Laboratory) -> None:
    lab.join("cafe")
    container = lab.add_container()
    assert exit_address(container, lab.plan.internet4) == lab.plan.cafe_uplink.host4(2)
    assert exit_address(container, lab.plan.internet6) in lab.plan.cafe.v6
    with pytest.raises(LabError):
        lab.add_container()


def test_carrier_may_come_long_before_the_facts(lab: Laboratory) -> None:
    """In between no address is configured by DHCP, yet the kernel already speaks IPv6."""
    start = time.monotonic()
    lab.join("cafe", ap_delay=0.4, wait_ipv6=False)
    assert time.monotonic() - start > 0.4


def test_two_laboratories_do_not_meet() -> None:
    with Laboratory(905) as one, Laboratory(906) as two:
        one.join("cafe")
        two.join("cafe")
        assert exit_address(one.laptop, one.plan.internet4) == one.plan.cafe_uplink.host4(2)
        assert exit_address(two.laptop, two.plan.internet6) in two.plan.cafe.v6
        with pytest.raises(OSError):
            exit_address(one.laptop, two.plan.internet4, timeout=0.5)
        with one.meter() as meter:
            exit_address(two.laptop, two.plan.internet4)
            assert not meter.leaks()
