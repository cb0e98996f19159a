"""Two halves of everything are a default route, where a link has no other: some DHCP servers push nothing else."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from lab.hosts import Host
from tests.daemon.linux.test_links import host, read

__all__ = ["host"]
pytestmark = pytest.mark.netns

LINK = ("link add wlan0 type veth peer name air", "link set wlan0 up", "link set air up",
        "address add 192.0.2.2/24 dev wlan0", "address add 2001:db8::2/64 dev wlan0 nodad")  # fmt: skip
HALVES = ("route add 0.0.0.0/1 via 192.0.2.1", "route add 128.0.0.0/1 via 192.0.2.9")
HALVES6 = ("route add ::/1 via 2001:db8::1", "route add 8000::/1 via 2001:db8::1")


@pytest.mark.parametrize(
    "routes, gateways",
    [
        (HALVES, {"192.0.2.1", "192.0.2.9"}),
        (HALVES6, {"2001:db8::1"}),
        (HALVES + HALVES6, {"192.0.2.1", "192.0.2.9", "2001:db8::1"}),
        (HALVES[:1], set()),
        (HALVES[1:], set()),
        (HALVES6[:1], set()),
        ((HALVES[0], HALVES6[1]), set()),
        ((*HALVES, "route add default via 192.0.2.5"), {"192.0.2.5"}),
        (("route add 0.0.0.0/2 via 192.0.2.1", HALVES[1]), set()),
        (("route add unreachable 0.0.0.0/1", HALVES[1]), set()),
        (("route add 0.0.0.0/1 via 192.0.2.1 table 77", HALVES[1]), set()),
    ],
)  # fmt: skip
def test_halves(host: Host, routes: tuple[str, ...], gateways: set[str]) -> None:
    host.ip(*LINK, *routes)
    assert {*read(host)["wlan0"].gateways} == {ip_address(each) for each in gateways}
