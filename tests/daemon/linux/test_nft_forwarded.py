"""Which packets of containers are really forwarded under each policy: the kernel and the wire judge (nft_place.py)."""

from __future__ import annotations

import contextlib
import socket
import time
from dataclasses import replace

import pytest

from tests.daemon.linux.nft_place import Place, hears, open_again, place
from tests.daemon.linux.nft_policies import CONNECTED, HOME, POLICIES

__all__ = ["open_again", "place"]
pytestmark = pytest.mark.netns


CONTAINER = {
    "web": (socket.AF_INET, ("198.51.100.1", 443)),
    "dns": (socket.AF_INET, ("198.51.100.1", 53)),
    "web6": (socket.AF_INET6, ("2001:db8::1", 443)),
    "lan": (socket.AF_INET, ("192.168.7.1", 9999)),
    "lan dns": (socket.AF_INET, ("192.168.7.1", 53)),
    "server": (socket.AF_INET, ("203.0.113.7", 51820)),
}
FORWARDED = {
    # policy -> what of the container's gets through, and by which link
    None: {(name, "eth0") for name in CONTAINER},
    "idle": {(name, "eth0") for name in CONTAINER},
    "idle, nothing cleared": set(),
    "held": set(),
    "connecting": set(),
    "connecting, LAN": {("lan", "eth0")},
    "connected": set(),
    "blocked": set(),
    "blocked, LAN": {("lan", "eth0")},
    "disconnecting": set(),
    "connected, inside": set(),
    "blocked, inside": set(),
    "blocked, LAN and inside": {("lan", "eth0")},
    "connected, subnets": set(),
    "portal, login": set(),
}  # fmt: skip


def forwarded(place: Place) -> set[tuple[str, str]]:
    for link in place.taps:
        place.heard(link)

    def send() -> None:
        for name, (family, target) in CONTAINER.items():
            with socket.socket(family, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
                sender.sendto(f"<{name}>".encode(), target)

    place.container.inside(send)
    time.sleep(0.05)
    frames = {link: place.heard(link) for link in ("eth0", "wlan0", "tunwarden0")}
    return {(name, link) for link, seen in frames.items() for name in CONTAINER
            if any(f"<{name}>".encode() in frame for frame in seen)}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDED)
def test_l5_forwarded_packets(place: Place, name: str | None) -> None:
    place.set(POLICIES[name] if name else None)
    assert forwarded(place) == FORWARDED[name]


def test_l5_forwarded_packets_go_through_the_tunnel(place: Place) -> None:
    place.laptop.ip("route replace default via 10.66.0.1 dev tunwarden0 metric 5 onlink",
                    "route replace default via fd66::1 dev tunwarden0 metric 5 onlink")  # fmt: skip
    try:
        place.set(CONNECTED)
        assert forwarded(place) == {("web", "tunwarden0"), ("web6", "tunwarden0")}
        place.set(replace(CONNECTED, lan=HOME))
        assert forwarded(place) == {("web", "tunwarden0"), ("web6", "tunwarden0"), ("lan", "eth0")}
    finally:
        place.laptop.ip("route del default via 10.66.0.1 dev tunwarden0 metric 5",
                        "route del default via fd66::1 dev tunwarden0 metric 5")  # fmt: skip


@pytest.mark.parametrize("name", ["connected", "connected, LAN"])
def test_the_tunnels_other_end_does_not_reach_containers_or_the_lan(place: Place, name: str) -> None:
    """Not even with the local network allowed, which is allowed to us and not to whoever runs the server."""

    def sends() -> set[str]:
        place.heard("eth0"), place.heard("ctr0")
        with place.far.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for target in ("172.17.0.2", "192.168.7.1"):
                place.far.ip(f"route replace {target} dev tun0", f"neigh replace {target} lladdr 02:00:00:00:00:02 "
                             "dev tun0 nud permanent")  # fmt: skip
                sender.sendto(b"<intruder>", (target, 7005))
        time.sleep(0.05)
        return {link for link in ("eth0", "ctr0") if any(b"<intruder>" in frame for frame in place.heard(link))}

    assert sends() == {"eth0", "ctr0"}, "the control"
    place.set(POLICIES[name])
    assert sends() == set()


@pytest.mark.parametrize(
    ("name", "heard"),
    [
        (None, {"neighbour", "stranger", "subnet"}), ("idle", {"neighbour", "stranger", "subnet"}), ("held", set()),
        ("blocked", set()), ("blocked, inside", set()), ("connected, inside", set()),
        ("blocked, LAN and inside", {"neighbour"}), ("connected, subnets", set()),
    ],
)  # fmt: skip
def test_who_reaches_a_container_from_outside(place: Place, name: str | None, heard: set[str]) -> None:
    """A published port, a routed virtual machine: for the local network where it is allowed, and never for others."""
    place.set(POLICIES[name] if name else None)
    place.wire.ip("addr replace 100.64.0.1/32 dev lo")
    found = set()
    with place.container.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", 7006))
        for who, source in (("neighbour", "192.168.7.1"), ("stranger", "198.51.100.1"), ("subnet", "100.64.0.1")):
            with place.wire.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((source, 7007))
                if hears(sender, receiver, ("172.17.0.2", 7006), who in heard):
                    found.add(who)
    assert found == heard


@pytest.mark.parametrize(("name", "told"), [("blocked", False), ("blocked, inside", True), ("connected, inside", True)])
def test_a_container_is_told_at_once_that_it_is_blocked(place: Place, name: str, told: bool) -> None:
    place.set(POLICIES[name])
    for family, target in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1")):
        with place.container.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(10 if told else 0.3)
            with pytest.raises(ConnectionRefusedError if told else TimeoutError):
                client.connect((target, 443))


def test_what_containers_send_into_the_tunnel_bears_its_address(place: Place) -> None:
    """Routed networks have no NAT of their own, and the server would drop their addresses."""
    place.laptop.ip("route replace default via 10.66.0.1 dev tunwarden0 metric 5 onlink",
                    "route replace default via fd66::1 dev tunwarden0 metric 5 onlink")  # fmt: skip
    try:
        for policy, v4, v6 in (
            (CONNECTED, "172.17.0.2", "fd17::2"),
            (POLICIES["connected, inside"], "10.66.0.2", "fd66::2"),
        ):
            place.set(policy)
            forwarded_frames = frames_of_the_tunnel(place)
            assert {frame[26:30] for frame in forwarded_frames["web"]} == {socket.inet_aton(v4)}
            assert {frame[22:38] for frame in forwarded_frames["web6"]} == {socket.inet_pton(socket.AF_INET6, v6)}
    finally:
        place.laptop.ip("route del default via 10.66.0.1 dev tunwarden0 metric 5",
                        "route del default via fd66::1 dev tunwarden0 metric 5")  # fmt: skip


def frames_of_the_tunnel(place: Place) -> dict[str, list[bytes]]:
    place.heard("tunwarden0")

    def send() -> None:
        for name in ("web", "web6"):
            family, target = CONTAINER[name]
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.sendto(f"<{name}>".encode(), target)

    place.container.inside(send)
    time.sleep(0.05)
    frames = place.heard("tunwarden0")
    return {name: [frame for frame in frames if f"<{name}>".encode() in frame] for name in ("web", "web6")}
