"""The small internet works: DHCP, SLAAC, DNS, NAT, roaming, hostile options, a container, two laboratories at once."""

from __future__ import annotations

import socket
import time

import pytest

from lab.first_byte import first_byte
from lab.probes import AAAA, exit_address, resolve
from lab.processes import LabError
from lab.topology import Laboratory

pytestmark = pytest.mark.netns


def resolvers(lab: Laboratory) -> list[str]:
    lines = lab.laptop.read("/etc/resolv.conf").splitlines()
    return [line.split()[1] for line in lines if line.startswith("nameserver")]


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


def test_a_second_server_is_another_one(lab: Laboratory) -> None:
    """Other addresses, another port and other keys; its clients leave by it. A meter knows both."""
    other, plan = lab.add_server(), lab.plan
    assert other.site == plan.other_site
    assert other.public != lab.vpn.public
    assert other.client_private != lab.vpn.client_private
    assert plan.tunnel_client[1] not in plan.other_site.tunnel.v6
    lab.join("cafe")
    config = [line for line in other.client_config().splitlines() if not line.startswith("DNS")]
    lab.laptop.write("/etc/wireguard/lab1.conf", "\n".join(config) + "\n", mode=0o600)
    lab.laptop.run("wg-quick", "up", "lab1")
    with lab.meter() as meter:
        assert exit_address(lab.laptop, plan.internet4) == plan.other_site.public4
        assert exit_address(lab.laptop, plan.internet6) == plan.other_site.public6
        assert resolve(lab.laptop, other.site.inside_server[0], "whoami.test") == other.site.inside_server[0]
        assert meter.leaks() == []
        meter.reset()
        meter.expect = lab.expect(lab.vpn)
        assert exit_address(lab.laptop, plan.internet4) == plan.other_site.public4
        assert meter.leaks(), "a tunnel to a server that is not expected is a leak"
    with pytest.raises(LabError):
        lab.add_server()


def test_a_new_card_has_the_numbers_of_the_old_one(lab: Laboratory) -> None:
    lab.join("cafe", wait_ipv6=False)
    before = lab.card.index("wlan0")
    with lab.meter() as meter:
        lab.new_card("wlan3")
        assert lab.card.index("wlan3") == before
        with pytest.raises(OSError):
            lab.card.index("wlan0")
        lab.new_card("wlan0", old="wlan3")
        lab.join("home")
        meter.positive_control()
        assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.home_uplink.host4(2)
        assert meter.leaks(), "the meter still sees this wire"


def test_leases(lab: Laboratory) -> None:
    """A renewal keeps the address, another identity gets another one."""
    lab.join("cafe", wait_ipv6=False)
    lease = lab.laptop.path("/run/lab/lease-wlan0")
    first = lease.read_text(encoding="ascii").strip()
    lab.card.renew("wlan0")
    assert lease.read_text(encoding="ascii").strip() == first
    second = lab.card.lease("wlan0", metric=600, identity=b"\0someone else")
    assert str(second) != first
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.cafe_uplink.host4(2)


def test_the_first_byte(lab: Laboratory) -> None:
    """It is the first, it counts from where it is told to, and another exit does not count."""
    lab.join("cafe")
    own, begun = lab.plan.cafe_uplink.host4(2), time.monotonic()
    waited = first_byte(lab.laptop, lab.plan.internet4, own, begun)
    assert 0 < waited <= time.monotonic() - begun
    assert first_byte(lab.laptop, lab.plan.internet4, own, begun - 100) > 100
    with pytest.raises(LabError):
        first_byte(lab.laptop, lab.plan.internet4, lab.plan.server4, time.monotonic(), timeout=0.5)
    lab.leave()
    with pytest.raises(LabError):
        first_byte(lab.laptop, lab.plan.internet4, own, time.monotonic(), timeout=0.5)
