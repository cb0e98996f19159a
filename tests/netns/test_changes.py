"""Changes without holes: networks, addresses and links change under traffic of nine kinds; not one clear frame leaves.

Protection is wanted throughout. After each change both families leave by the VPN server again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from dbus_fast import Variant

from lab.air import Air
from lab.first_byte import protected_again
from lab.networkmanager_stand_in import DEVICE, NAME, PROPERTIES, WIFI
from lab.subject import Subject
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

# The home router's network under another name: IPv4 as well, and nobody has saved it.
AIRPORT: dict[str, Any] = {"ssid": b"Airport", "air": Air.OPEN}
NO_ADVERTISEMENTS = """
table inet no_advertisements {
    chain output {
        type filter hook output priority filter
        icmpv6 type nd-router-advert drop
    }
}
"""


@pytest.fixture
def connected(subject: Subject) -> Subject:
    """At the cafe, protected."""
    subject.lab.join("cafe")
    subject.wait("connected", 25)
    return subject


# --- another network --------------------------------------------------------------------------------------------------


def to_another_wifi(lab: Laboratory) -> str:
    lab.leave()
    lab.join("home", **AIRPORT)
    return "wlan0"


def to_wired(lab: Laboratory) -> str:
    lab.plug()
    lab.leave()
    return "eth0"


def to_wired_with_a_gap(lab: Laboratory) -> str:
    lab.leave()
    lab.plug()
    return "eth0"


def wired_and_back(lab: Laboratory) -> str:
    to_wired(lab)
    lab.join("cafe")
    lab.unplug()
    return "wlan0"


def in_the_same_moment(lab: Laboratory) -> str:
    """The cable goes in while the radio goes out, and then the other way round."""
    lab.air.ip("link set air-wlan0 down", "link set air-eth0 master br-wired", "link set air-eth0 up")
    lab.leave()
    lab.plug()
    lab.air.ip("link set air-eth0 down", "link set air-wlan0 master br-cafe", "link set air-wlan0 up")
    lab.unplug()
    lab.join("cafe")
    return "wlan0"


def the_better_way_flips(lab: Laboratory) -> str:
    """Both links are there, and the metrics of their default routes change places: ten times, of both families."""
    lab.plug()
    routers = {"wlan0": lab.networks["cafe"].subnet, "eth0": lab.networks["wired"].subnet}
    for _ in range(5):
        for link, subnet in routers.items():
            best = f"via {subnet.host4(1)} dev {link} metric 5", f"via {subnet.host6(1)} dev {link} metric 5"
            lab.laptop.ip(f"route add default {best[0]}", f"route add default {best[1]}")
            lab.laptop.ip(f"route del default {best[0]}", f"route del default {best[1]}")
    lab.laptop.ip(f"route add default via {routers['wlan0'].host4(1)} dev wlan0 metric 5")
    return "wlan0"


@pytest.mark.parametrize(
    "change", [to_another_wifi, to_wired, to_wired_with_a_gap, wired_and_back, in_the_same_moment, the_better_way_flips]
)
def test_another_network(connected: Subject, sealed: Any, change: Callable[[Laboratory], str]) -> None:
    lab = connected.lab
    with lab.traffic(rate=40, device="eth0"), sealed() as meter:  # beside the nine kinds bound to wlan0
        wire = change(lab)
        protected_again(connected)
        assert meter.leaks() == []
        meter.positive_control(wire)
        if wire != "wlan0":
            lab.join("cafe")  # `sealed` looks at this wire in the end


# --- another address --------------------------------------------------------------------------------------------------


def the_lease_is_renewed(lab: Laboratory) -> None:
    before = lab.laptop.path("/run/lab/lease-wlan0").read_text(encoding="ascii")
    lab.card.renew("wlan0")
    assert lab.laptop.path("/run/lab/lease-wlan0").read_text(encoding="ascii") == before


def another_lease(lab: Laboratory) -> None:
    """The client starts anew, so there is no address for a moment; then there is another one."""
    leases = {lab.card.lease("wlan0", metric=600, identity=identity) for identity in (b"\0one", b"\0two", b"\0three")}
    assert len(leases) == 3


def another_address_without_a_gap(lab: Laboratory) -> None:
    """As NetworkManager does it: the new one comes before the old one goes."""
    lab.laptop.ip(f"address add {lab.plan.cafe.face4(60)} dev wlan0")
    lease = lab.laptop.path("/run/lab/lease-wlan0").read_text(encoding="ascii").strip()
    # Without this its routes go with the first address of a network; NetworkManager makes them anew as well.
    lab.laptop.sysctl(("net/ipv4/conf/wlan0/promote_secondaries", "1"))
    lab.laptop.ip(
        f"address del {lease}/{lab.plan.cafe.face4(1).network.prefixlen} dev wlan0",
        f"route replace default via {lab.plan.cafe.host4(1)} dev wlan0 metric 600",
    )


def another_mtu(lab: Laboratory) -> None:
    for mtu in (1400, 1280, 1500, 1400, 1500):
        lab.laptop.ip(f"link set wlan0 mtu {mtu}")


def ipv6_goes_and_comes_with_the_mtu(lab: Laboratory) -> None:
    """Below 1280 bytes the kernel takes IPv6 off the link; above, it starts afresh (L12)."""
    lab.laptop.ip("link set wlan0 mtu 1200")
    assert lab.card.address6("wlan0", lab.plan.cafe) is None
    lab.laptop.ip("link set wlan0 mtu 1500")
    lab.card.wait_address6("wlan0", lab.plan.cafe)


def ipv6_goes_and_comes_by_sysctl(lab: Laboratory) -> None:
    lab.laptop.sysctl(("net/ipv6/conf/wlan0/disable_ipv6", "1"))
    assert lab.card.address6("wlan0", lab.plan.cafe) is None
    lab.laptop.sysctl(("net/ipv6/conf/wlan0/disable_ipv6", "0"))
    lab.card.wait_address6("wlan0", lab.plan.cafe)


@pytest.mark.parametrize(
    "change",
    [
        the_lease_is_renewed,
        another_lease,
        another_address_without_a_gap,
        another_mtu,
        ipv6_goes_and_comes_with_the_mtu,
        ipv6_goes_and_comes_by_sysctl,
    ],
)
def test_another_address(connected: Subject, sealed: Any, change: Callable[[Laboratory], None]) -> None:
    with sealed():
        change(connected.lab)
        protected_again(connected)


def test_ipv6_appears_on_a_network_that_had_none(subject: Subject, sealed: Any) -> None:
    """L12: protected over IPv4 alone, and then the router advertises a prefix."""
    lab = subject.lab
    lab.cafe.run("nft", "-f", "-", input=NO_ADVERTISEMENTS)
    lab.join("cafe", wait_ipv6=False)
    subject.wait("connected", 25)
    with sealed() as meter:
        protected_again(subject)
        assert lab.card.address6("wlan0", lab.plan.cafe) is None
        lab.cafe.run("nft", "delete", "table", "inet", "no_advertisements")
        lab.card.solicit("wlan0")
        lab.card.wait_address6("wlan0", lab.plan.cafe)
        protected_again(subject)
        assert meter.leaks() == []


# --- another link -----------------------------------------------------------------------------------------------------


def tell_name(lab: Laboratory, ifname: str) -> None:
    """The stand-in of NetworkManager has noticed the new name of the Wi-Fi link."""
    assert lab.networkmanager is not None
    value = Variant("s", ifname)
    lab.networkmanager.client.call(NAME, WIFI, f"{PROPERTIES}.Set", "ssv", DEVICE, "Interface", value)


def rename(lab: Laboratory, new: str, down: bool) -> None:
    if down:
        lab.laptop.ip("link set wlan0 down", f"link set wlan0 name {new}", f"link set {new} up")
    else:
        lab.laptop.ip(f"link set wlan0 name {new}")
    tell_name(lab, new)


def test_a_link_is_renamed_while_it_is_down(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    with lab.traffic(rate=40, device="wlan1"), sealed() as meter:
        rename(lab, "wlan1", down=True)
        lab.card.wait_carrier("wlan1", True)
        # Its routes went with the link.
        lab.card.configure("wlan1", lab.plan.cafe, metric=600, wait_ipv6=True, timeout=15)
        protected_again(connected)
        assert [each.ifname for each in connected.status().networks] == ["wlan1"]
        assert meter.leaks() == []
        meter.positive_control("wlan1")
        rename_back(lab)
        protected_again(connected)


def rename_back(lab: Laboratory) -> None:
    lab.laptop.ip("link set wlan1 name wlan0")
    tell_name(lab, "wlan0")


def test_a_link_is_renamed_while_it_is_up(connected: Subject, sealed: Any) -> None:
    """Linux 6.2 and later allow it; the link keeps its carrier, its addresses and its routes."""
    lab = connected.lab
    if lab.laptop.run("ip", "link", "set", "wlan0", "name", "wlan1", check=False).returncode != 0:
        pytest.skip("this kernel renames no link that is up")
    lab.laptop.ip("link set wlan1 name wlan0")
    with lab.traffic(rate=40, device="wlan1"), sealed() as meter:
        rename(lab, "wlan1", down=False)
        protected_again(connected)
        connected.wait(lambda status: [each.ifname for each in status.networks] == ["wlan1"])
        assert meter.leaks() == []
        meter.positive_control("wlan1")
        rename_back(lab)
        protected_again(connected)


def test_a_name_that_was_cleared_is_given_to_another_link(lab: Laboratory, sealed: Any) -> None:
    """At home `wlan0` may be used freely. The link that gets this name later, elsewhere, may not (N10)."""
    subject = Subject(lab)
    subject.start()
    subject.set_up()
    lab.join("home")
    subject.wait("idle")
    lab.leave()
    subject.wait(lambda status: status.networks == ())
    with sealed():
        lab.new_card(name="wlan7")
        lab.laptop.ip("link set wlan7 down", "link set wlan7 name wlan0", "link set wlan0 up")
        lab.join("cafe")
        protected_again(subject)


@pytest.mark.parametrize("name", ["wlan0", "wlan7"])
def test_an_interface_index_is_used_again(connected: Subject, sealed: Any, name: str) -> None:
    """The card is taken out and another one gets its number, with its name or with one of its own."""
    lab = connected.lab
    before = lab.card.index("wlan0")
    with lab.traffic(rate=40, device="wlan7"), sealed() as meter:
        lab.new_card(name=name)
        assert lab.card.index(name) == before
        if name != "wlan0":
            lab.air.ip("link set air-wlan0 master br-cafe", "link set air-wlan0 up")
            lab.card.wait_carrier(name, True)
            tell_name(lab, name)
            lab.card.configure(name, lab.plan.cafe, metric=600, wait_ipv6=True, timeout=15)
        else:
            lab.join("cafe")
        protected_again(connected)
        assert meter.leaks() == []
        meter.positive_control(name)
        if name != "wlan0":
            lab.laptop.ip(f"link set {name} name wlan0")


def test_a_link_flaps_fifty_times(connected: Subject, sealed: Any) -> None:
    """The carrier goes and comes, faster than anything can settle; the addresses stay, and nobody else says a word."""
    lab = connected.lab
    with sealed():
        for _ in range(50):
            lab.air.ip("link set air-wlan0 down")
            lab.air.ip("link set air-wlan0 up")
        lab.card.wait_carrier("wlan0", True)
        lab.leave()  # IPv6 addresses and routes went with the carrier
        lab.join("cafe")
        protected_again(connected, timeout=45)
