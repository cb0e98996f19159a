"""N7: the router's hardware address, from a real neighbour table, on a link where nothing but ARP and NDP passes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address

import pytest

from daemon.linux.neighbours import gateway_macs
from lab.hosts import Host
from policies.facts import Link, LinkKind
from tests.daemon.linux.test_links import host, inside

pytestmark = pytest.mark.netns
__all__ = ["host"]

ROUTER, OTHER = b"\x02\0\0\0\0\x01", b"\x02\0\0\0\0\x09"
NDP = "icmpv6 type { 133, 135, 136 } accept"
SHUT = f"table inet shut {{ chain out {{ type filter hook output priority 0; policy drop; {NDP}; }}; }}"


@contextmanager
def router(host: Host) -> Iterator[Host]:
    """Behind wlan0, which is number 5."""
    with Host("router") as there:
        host.ip("link add wlan0 index 5 type veth peer name air")
        host.ip(f"link set air netns {there.pid}")
        there.ip(
            "link set air address 02:00:00:00:00:01 up",
            "address add 192.0.2.1/24 dev air", "address add 2001:db8::1/64 dev air nodad",
        )  # fmt: skip
        host.ip("link set wlan0 up", "address add 192.0.2.2/24 dev wlan0", "address add 2001:db8::2/64 dev wlan0 nodad")
        host.run("nft", SHUT)
        yield there


def wlan0(*gateways: str) -> Link:
    return Link(5, "wlan0", LinkKind.WIFI, up=True, carrier=True, gateways=tuple(map(ip_address, gateways)))


def ask(host: Host, *links: Link) -> dict[str, bytes]:
    async def work() -> dict[str, bytes]:
        return dict(gateway_macs(links))

    return inside(host, work)


def until(host: Host, link: Link, mac: bytes) -> None:
    end = time.monotonic() + 20
    while (found := ask(host, link).get("wlan0")) != mac:
        assert time.monotonic() < end, found
        time.sleep(0.02)


@pytest.mark.parametrize("gateway", ["192.0.2.1", "2001:db8::1"])
def test_the_router_is_asked_for_through_a_shut_link(host: Host, gateway: str) -> None:
    with router(host):
        assert ask(host, wlan0(gateway)) == {}, "nobody has been asked yet"
        until(host, wlan0(gateway), ROUTER)


def test_what_is_stale_is_asked_anew(host: Host) -> None:
    """It may be the router of the network before."""
    with router(host) as there:
        host.ip("neighbour add 192.0.2.1 dev wlan0 lladdr 02:00:00:00:00:09 nud stale")
        assert ask(host, wlan0("192.0.2.1")) == {}
        until(host, wlan0("192.0.2.1"), ROUTER)
        there.ip("link set air address 02:00:00:00:00:09")
        host.ip("neighbour flush dev wlan0")
        until(host, wlan0("192.0.2.1"), OTHER)


def test_the_administrators_word_counts(host: Host) -> None:
    with router(host):
        host.ip("neighbour add 192.0.2.7 dev wlan0 lladdr 02:00:00:00:00:09 nud permanent")
        assert ask(host, wlan0("192.0.2.7")) == {"wlan0": OTHER}


def test_nobody_answers_nobody_is_told(host: Host) -> None:
    with router(host):
        for _ in range(5):
            assert ask(host, wlan0("192.0.2.99")) == {}
        assert ask(host) == ask(host, wlan0()) == ask(host, Link(77, "gone", LinkKind.WIFI)) == {}
        gone = Link(77, "gone", LinkKind.WIFI, gateways=(ip_address("192.0.2.1"),))
        until(host, wlan0("192.0.2.1", "2001:db8::99"), ROUTER)  # IPv4's counts before IPv6's
        assert ask(host, gone, wlan0("192.0.2.1")) == {"wlan0": ROUTER}
