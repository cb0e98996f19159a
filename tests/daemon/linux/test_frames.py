"""The kernel's filter, frame by frame; the questions that are asked; and what a child that was taken over may say."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import socket
import struct
from ipaddress import ip_address, ip_interface

import pytest

from daemon.host import HostError
from daemon.linux import frames
from daemon.linux.frames import SO_ATTACH_FILTER, LinkFrames, packet_filter, request
from policies.facts import Evidence, Link, LinkKind
from policies.frames import ArpClaim, parse
from policies.hostile import Finding
from tests.policies.test_frames import GATEWAY, MAC, SOUND, advertisement, arp, dhcp, mac, packed

logging.getLogger("scapy.runtime").setLevel(logging.ERROR)
from scapy.layers.inet import ICMP, IP, TCP, UDP  # noqa: E402
from scapy.layers.inet6 import ICMPv6MLReport2, ICMPv6ND_NA, IPv6, IPv6ExtHdrHopByHop  # noqa: E402
from scapy.layers.l2 import Ether  # noqa: E402

LOOPBACK = Link(1, "lo", LinkKind.WIFI, mac=b"\x02\0\0\0\0\x07", addresses=(ip_interface("192.168.7.20/24"),))
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: packet sockets")


def passes(program: bytes, frame: bytes) -> bool:
    """Whether the kernel's own interpreter lets a frame through: a datagram socket filters like a packet socket."""
    sender, receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with sender, receiver:
        buffer = ctypes.create_string_buffer(program, len(program))
        about = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
        receiver.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, about)
        receiver.setblocking(False)
        sender.send(frame)
        try:
            return receiver.recv(4096) == frame
        except BlockingIOError:
            return False


ETHER, HOP = Ether(src=MAC), IPv6ExtHdrHopByHop()
FILTER = packet_filter([packed(GATEWAY), packed("192.168.7.2")])


@pytest.mark.parametrize(
    "frame",
    [arp(), arp(op=1), arp("192.168.7.2"), *SOUND, dhcp(kind="ack"), advertisement(preference=1, lifetime=0),
     bytes(ETHER / IPv6(src="fe80::1", hlim=255) / HOP / b"hidden")],
)  # fmt: skip
def test_what_matters_passes(frame: bytes) -> None:
    assert passes(FILTER, frame)


@pytest.mark.parametrize(
    "frame",
    [
        arp("192.168.7.3"),
        arp(GATEWAY)[:30],
        bytes(ETHER / IP() / UDP(sport=68, dport=67) / b"discover"),
        bytes(ETHER / IP() / UDP(sport=53, dport=68)),
        bytes(ETHER / IP() / TCP(sport=67, dport=68)),
        bytes(ETHER / IP() / ICMP()),
        bytes(ETHER / IP(flags="MF") / UDP(sport=67, dport=68) / b"part"),
        bytes(ETHER / IP(frag=2) / UDP(sport=67, dport=68) / b"part"),
        bytes(ETHER / IPv6(hlim=255) / ICMPv6ND_NA()),
        bytes(ETHER / IPv6(hlim=1) / HOP / ICMPv6MLReport2()),
        advertisement(hops=64),
        b"",
        b"\0" * 14,
    ],
)
def test_nothing_else_does(frame: bytes) -> None:
    assert not passes(FILTER, frame)


def test_before_there_is_a_gateway_no_arp_wakes_anybody() -> None:
    assert not passes(packet_filter([]), arp())
    assert all(passes(packet_filter([]), frame) for frame in SOUND[1:])


def test_the_longest_filter_is_taken() -> None:
    everybody = [packed(f"192.168.7.{number}") for number in range(1, frames.GATEWAYS + 1)]
    assert passes(packet_filter(everybody), arp(f"192.168.7.{frames.GATEWAYS}"))


def test_a_question_is_what_the_kernel_asks() -> None:
    asked = request(mac(MAC), packed("192.168.7.20"), packed(GATEWAY))
    assert asked[:6] == b"\xff" * 6
    assert parse(asked) == ArpClaim(packed("192.168.7.20"), mac(MAC))
    assert asked[38:] == packed(GATEWAY)


# --- with a packet socket ---------------------------------------------------------------------------------------------


class Said:
    """A child that says what a test puts into its mouth."""

    what = "run the reader"

    def __init__(self, *messages: bytes) -> None:
        self.messages = messages

    def __call__(self, module: str, sockets: list[socket.socket]) -> Said:
        assert module == "daemon.linux.frame_reader"
        return self

    async def __aenter__(self) -> Said:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def told(self) -> object:
        for message in self.messages:
            yield message


def understood(
    monkeypatch: pytest.MonkeyPatch, *messages: bytes, link: Link = LOOPBACK
) -> tuple[list[Finding], list[bytes]]:
    """What is made of these messages, and the frames that are sent for them."""
    monkeypatch.setattr(frames, "Confined", Said(*messages))
    monkeypatch.setattr(frames, "ASK_TWICE_S", 0.05)

    async def listen() -> tuple[list[Finding], list[bytes]]:
        watch = LinkFrames(link)
        sent: list[bytes] = []
        monkeypatch.setattr(watch, "_socket", Wire(watch._socket, sent))
        try:
            found = [each async for each in watch.found()]
            for timer in watch._timers:
                await asyncio.sleep(max(0.0, timer.when() - asyncio.get_running_loop().time()))
            return found, sent
        finally:
            watch.close()

    return asyncio.run(listen())


class Wire:
    def __init__(self, real: socket.socket, sent: list[bytes]) -> None:
        self._real, self._sent = real, sent

    def send(self, frame: bytes) -> int:
        self._sent.append(frame)
        return len(frame)

    def getsockopt(self, level: int, option: int) -> int:
        return self._real.getsockopt(level, option)

    def close(self) -> None:
        self._real.close()


@needs_root
def test_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    found, _ = understood(monkeypatch, b"! evil-twin a b", b"! dhcp-routes \x1b[31m\xff" + b"x" * 500)
    assert found[0] == Finding(Evidence.EVIL_TWIN, "a b")
    assert found[1].evidence is Evidence.DHCP_ROUTES
    assert found[1].what.isprintable() and len(found[1].what) == frames.WHAT_LONGEST


@needs_root
@pytest.mark.parametrize("said", [b"", b"!", b"! no-such-thing x", b"? 1", b"? 12345", b"x evil-twin", bytes(100)])
def test_nonsense_is_an_error(monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    with pytest.raises(HostError, match="it talks nonsense"):
        understood(monkeypatch, said)


@needs_root
def test_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice for each, to gateways only, from the address that the link has there, and not as often as a child likes."""
    link = Link(
        1, "lo", LinkKind.WIFI, mac=LOOPBACK.mac, addresses=(ip_interface("10.0.0.9/24"), *LOOPBACK.addresses),
        gateways=(ip_address("fe80::1"), ip_address(GATEWAY)),
    )  # fmt: skip
    asked = b"? " + packed(GATEWAY)
    expected = request(LOOPBACK.mac, packed("192.168.7.20"), packed(GATEWAY))
    assert understood(monkeypatch, asked, asked, asked, link=link) == ([], [expected, expected])
    assert understood(monkeypatch, b"? " + packed("192.168.7.9"), link=link) == ([], [])
    without = Link(1, "lo", LinkKind.WIFI, mac=LOOPBACK.mac, gateways=(ip_address(GATEWAY),))
    assert understood(monkeypatch, asked, link=without) == ([], [])


@needs_root
def test_a_link_that_is_not_there() -> None:
    with pytest.raises(HostError, match="listen on nowhere0"):
        LinkFrames(Link(99, "nowhere0", LinkKind.WIFI))
