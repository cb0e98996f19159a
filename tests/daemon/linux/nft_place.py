"""A laptop with links to a café, to another network, to containers and into a tunnel; the kernel and the wire judge.

    container --- ctr0 [ laptop ] eth0 ------- wire: the café
                                  wlan0 ------ wire: another network
                                  tunwarden0 - far:  stands for the tunnel, and shows what goes into it

Probes are whole packets from raw sockets bound to a link, the way a hostile or careless program sends them. Each has a
name in its payload, and a frame that no firewall sees closes each round, so nothing is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import time
from collections.abc import Iterator

import pytest

from daemon.linux.nft import NftFirewall
from lab.hosts import Host
from policies.firewall import FirewallPolicy
from tests.daemon.linux.nft_probes import LAPTOP, Probe


class Place:
    """Four hosts and their cables; `firewall` acts inside the laptop."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.laptop, self.wire, self.far, self.container = (
            self.stack.enter_context(Host(name)) for name in ("laptop", "wire", "far", "container")
        )
        for link, peer, other in (
            ("eth0", "eth0", self.wire), ("wlan0", "wlan0", self.wire), ("tunwarden0", "tun0", self.far),
            ("ctr0", "eth0", self.container),
        ):  # fmt: skip
            self.laptop.ip(f"link add {link} type veth peer name {peer} netns {other.pid}")
            other.ip(f"link set {peer} address 02:00:00:00:00:01")
            self.laptop.ip(f"link set {link} address 02:00:00:00:00:02")
        for host in (self.laptop, self.wire, self.far, self.container):
            host.sysctl(
                ("net/ipv6/conf/all/accept_dad", "0"), ("net/ipv6/conf/default/accept_dad", "0"),
                ("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/conf/default/rp_filter", "0"),
            )  # fmt: skip
            host.ip("link set lo up")
        for host in (self.wire, self.far, self.container):
            host.ip(*(f"link set {link} up" for link in host.inside(links)))
        self.laptop.sysctl(("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1"))
        self.laptop.ip(
            *(f"link set {link} up" for link in ("eth0", "wlan0", "tunwarden0", "ctr0")),
            "addr add 192.168.7.2/24 dev eth0", "addr add fd07::2/64 dev eth0 nodad",
            "addr add fe80::2/64 dev eth0 nodad",
            "addr add 192.168.8.2/24 dev wlan0", "addr add fd08::2/64 dev wlan0 nodad",
            "addr add 172.17.0.1/24 dev ctr0", "addr add fd17::1/64 dev ctr0 nodad",
            "addr add fe80::17/64 dev ctr0 nodad",
            "route add 2001:db8:17::/64 dev ctr0",
            "addr add 10.66.0.2/32 dev tunwarden0", "addr add fd66::2/128 dev tunwarden0 nodad",
            "route add default via 192.168.7.1 dev eth0 metric 10", "route add default via fd07::1 dev eth0 metric 10",
            "route add default via 192.168.8.1 dev wlan0 metric 20",
            "route add default via fd08::1 dev wlan0 metric 20",
            "route add default via 10.66.0.1 dev tunwarden0 metric 30 onlink",
            "route add default via fd66::1 dev tunwarden0 metric 30 onlink",
            *(f"neigh replace {address} lladdr 02:00:00:00:00:01 dev {link} nud permanent"
              for link, addresses in {
                  "eth0": ("192.168.7.1", "192.168.7.9", "fd07::1", "fe80::1"), "wlan0": ("192.168.8.1", "fd08::1"),
                  "tunwarden0": ("10.66.0.1", "fd66::1"),
                  "ctr0": ("172.17.0.2", "172.17.1.2", "198.51.100.1", "203.0.113.7", "fd17::2", "fe80::2",
                           "2001:db8:17::9"),
              }.items() for address in addresses),
        )  # fmt: skip
        self.wire.ip(
            "addr add 192.168.7.1/24 dev eth0", "addr add fd07::1/64 dev eth0 nodad",
            "addr add fe80::1/64 dev eth0 nodad",
            "addr add 198.51.100.1/32 dev lo", "addr add 203.0.113.7/32 dev lo",
            "route add default via 192.168.7.2 dev eth0", "route add default via fd07::2 dev eth0",
            *(f"neigh replace {address} lladdr 02:00:00:00:00:02 dev eth0 nud permanent"
              for address in ("192.168.7.2", "fd07::2", "fe80::2")),
        )  # fmt: skip
        self.far.ip(
            "addr add 10.66.0.1/32 dev tun0", "addr add 198.51.100.1/32 dev lo", "route add default dev tun0",
            "neigh replace 10.66.0.2 lladdr 02:00:00:00:00:02 dev tun0 nud permanent",
        )  # fmt: skip
        self.container.ip(
            "addr add 172.17.0.2/24 dev eth0", "addr add fd17::2/64 dev eth0 nodad",
            "route add default via 172.17.0.1", "route add default via fd17::1",
        )  # fmt: skip
        self.taps = {
            "eth0": self.tap(self.wire, "eth0"), "wlan0": self.tap(self.wire, "wlan0"),
            "tunwarden0": self.tap(self.far, "tun0"), "ctr0": self.tap(self.container, "eth0"),
        }  # fmt: skip
        self.fences = {link: self.tap(self.laptop, link) for link in self.taps}
        self.count = 0

    def tap(self, host: Host, link: str) -> socket.socket:
        def open_tap() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
            made.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
            made.bind((link, 0))
            return made

        return self.stack.enter_context(host.inside(open_tap))

    def set(self, policy: FirewallPolicy | None) -> None:
        async def work() -> None:
            firewall = NftFirewall()
            await (firewall.set(policy) if policy else firewall.reset())

        self.laptop.inside(lambda: asyncio.run(work()))

    def heard(self, link: str) -> list[bytes]:
        """Every frame that has left by that link since the last call: up to a fence that the firewall cannot see."""
        self.count += 1
        fence = b"fence %d" % self.count
        self.fences[link].send(b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5" + fence)
        frames: list[bytes] = []
        tap, deadline = self.taps[link], time.monotonic() + 20
        while time.monotonic() < deadline:
            if select.select([tap], [], [], 0.5)[0]:
                frame = tap.recv(65535)
                if frame.endswith(fence):
                    return frames
                if frame[6:12] == LAPTOP:  # not the answers
                    frames.append(frame)
        raise AssertionError(f"the fence on {link} was not seen")

    def send(self, probe: Probe) -> None:
        """From the laptop, as any program with raw sockets would. A refusal of the kernel is the firewall's answer."""

        packet = probe.build(probe.payload)
        family = socket.AF_INET if packet[0] >> 4 == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, probe.link.encode())
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.setsockopt(socket.SOL_SOCKET, 36, probe.mark)  # SO_MARK
            address = socket.inet_ntop(family, packet[16:20] if family == socket.AF_INET else packet[24:40])
            scope = () if family == socket.AF_INET else (0, socket.if_nametoindex(probe.link))
            with contextlib.suppress(PermissionError):
                sender.sendto(packet, (address, 0, *scope))

    def leaving(self, probes: tuple[Probe, ...]) -> set[str]:
        for link in self.taps:
            self.heard(link)
        self.laptop.inside(lambda: [self.send(probe) for probe in probes])
        frames = {link: self.heard(link) for link in self.taps}
        seen = {probe.name for probe in probes if any(probe.payload in frame for frame in frames[probe.link])}
        for probe in probes:
            for link in frames.keys() - {probe.link}:
                assert not any(probe.payload in frame for frame in frames[link]), f"{probe.name} left by {link}"
        return seen


def hears(sender: socket.socket, receiver: socket.socket, target: tuple[str, int], expected: bool = False) -> bool:
    """What is `expected` may be late on a busy machine."""
    sender.sendto(b"knock", target)
    return bool(select.select([receiver], [], [], 20 if expected else 0.02)[0] and receiver.recv(100) == b"knock")


def links() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(stack)


@pytest.fixture(autouse=True)
def open_again(place: Place) -> Iterator[None]:
    place.set(None)
    yield
    place.set(None)
