"""Packets made by hand, and short questions asked from inside a host without starting a program there."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any

from lab.addresses import ECHO_PORT, WEB_PORT
from lab.hosts import Host
from lab.talker import ICMP_REPLY, ICMPV6_REPLY, echo_request

ETH_ALL, OUTGOING = 3, 4  # ETH_P_ALL and PACKET_OUTGOING of <linux/if_packet.h>
ICMP_REQUEST, ICMPV6_REQUEST = 8, 128
A, AAAA = 1, 28  # RFC 1035, RFC 3596
HIGH_PORT = 40000
AGAIN_S = 2.0  # until a question for a name is asked again


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _udp(pseudo_header: bytes, port: int, payload: bytes, source_port: int = HIGH_PORT) -> bytes:
    length = 8 + len(payload)
    bare = struct.pack(">HHHH", source_port, port, length, 0) + payload
    return struct.pack(">HHHH", source_port, port, length, checksum(pseudo_header + bare) or 0xFFFF) + payload


def ipv4_udp(
    source: IPv4Address, target: IPv4Address, port: int, payload: bytes, source_port: int = HIGH_PORT
) -> bytes:
    """A UDP packet with valid checksums, from the IPv4 header on."""
    ends = source.packed + target.packed
    udp = _udp(ends + struct.pack(">BBH", 0, 17, 8 + len(payload)), port, payload, source_port)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0) + ends
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + udp


def ipv6_udp(
    source: IPv6Address, target: IPv6Address, port: int, payload: bytes, source_port: int = HIGH_PORT
) -> bytes:
    """A UDP packet with valid checksums, from the IPv6 header on."""
    ends = source.packed + target.packed
    udp = _udp(ends + struct.pack(">II", 8 + len(payload), 17), port, payload, source_port)
    return struct.pack(">IHBB", 6 << 28, len(udp), 17, 64) + ends + udp


def dns_query(name: str, kind: int, number: int = 0x7477) -> bytes:
    """A recursive DNS question, RFC 1035 section 4."""
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def resolve(
    host: Host, resolver: IPv4Address | IPv6Address, name: str, kind: int = A, timeout: float = 8.0
) -> IPv4Address | IPv6Address | None:
    """Ask that resolver over UDP from the host, again when it is silent; the first address, or None when it knows none.

    Raises OSError.
    """
    family = socket.AF_INET if resolver.version == 4 else socket.AF_INET6
    with host.socket(family, socket.SOCK_DGRAM) as asker:
        asker.connect((str(resolver), 53))
        question, deadline, answer = dns_query(name, kind), time.monotonic() + timeout, b""
        while not answer:
            left = deadline - time.monotonic()
            asker.settimeout(max(0.01, min(AGAIN_S, left)))
            asker.send(question)
            try:
                answer = asker.recv(4096)
            except TimeoutError:
                if left <= AGAIN_S:
                    raise
    length = 4 if kind == A else 16
    # Behind the repeated question: a record of our type and class, its time to live, its length, its address.
    start = answer.find(struct.pack(">HH", kind, 1), len(question))
    if start < 0 or answer[start + 8 : start + 10] != struct.pack(">H", length):
        return None
    return ip_address(answer[start + 10 : start + 10 + length])


def exit_address(host: Host, web: IPv4Address | IPv6Address, timeout: float = 15.0) -> IPv4Address | IPv6Address:
    """The address under which the internet sees the host, by HTTP. Raises OSError when nothing can be reached."""
    family = socket.AF_INET if web.version == 4 else socket.AF_INET6
    with host.socket(family, socket.SOCK_STREAM) as asker:
        asker.settimeout(timeout)
        asker.connect((str(web), WEB_PORT))
        asker.sendall(b"GET / HTTP/1.1\r\nHost: internet.test\r\nConnection: close\r\n\r\n")
        answer = b""
        while part := asker.recv(4096):
            answer += part
    return ip_address(answer.rpartition(b"\r\n\r\n")[2].decode("ascii").strip())


def echoes(host: Host, target: IPv4Address | IPv6Address, timeout: float = 0.5) -> bool:
    """Whether the internet echoes a datagram of the host."""
    with host.socket(_family(target), socket.SOCK_DGRAM) as asker:
        asker.settimeout(timeout)
        try:
            asker.connect((str(target), ECHO_PORT))
            asker.send(b"is anybody there?")
            return asker.recv(100) == b"is anybody there?"
        except OSError:
            return False


def pings(host: Host, target: IPv4Address | IPv6Address, timeout: float = 5.0) -> bool:
    """Whether the target answers an ICMP echo request of the host; a link-local one needs its scope id (RFC 4007)."""
    four = target.version == 4
    asked, replied = (ICMP_REQUEST, ICMP_REPLY) if four else (ICMPV6_REQUEST, ICMPV6_REPLY)
    protocol = socket.IPPROTO_ICMP if four else socket.IPPROTO_ICMPV6
    with host.socket(_family(target), socket.SOCK_RAW, protocol) as asker:
        deadline = time.monotonic() + timeout
        try:
            asker.sendto(echo_request(asked, 1), sockaddr(host, target))
            while (left := deadline - time.monotonic()) > 0:
                asker.settimeout(left)
                data, sender = asker.recvfrom(4096)
                if four:
                    data = data[(data[0] & 15) * 4 :]
                if data[0] == replied and sender[0].partition("%")[0] == str(target).partition("%")[0]:
                    return True
        except OSError:
            return False
    return False


def sockaddr(host: Host, target: IPv4Address | IPv6Address, port: int = 0) -> tuple[Any, ...]:
    """What `connect` takes; the scope id of a link-local address becomes the host's ifindex."""
    found = host.inside(lambda: socket.getaddrinfo(str(target), port, type=socket.SOCK_DGRAM))
    return found[0][4]


def send_frames(host: Host, link: str, *frames: bytes) -> None:
    """Put Ethernet frames on a link of the host, below its firewall and routing."""

    def send() -> None:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind((link, 0))
            for frame in frames:
                wire.send(frame)

    host.inside(send)


class Ear:
    """What comes in by a link of a host: `with Ear(host, "lan") as ear: ...`. Other hosts' frames are heard too."""

    def __init__(self, host: Host, link: str) -> None:
        self._host, self._link = host, link
        self._heard: list[tuple[int, bytes]] = []

    def __enter__(self) -> Ear:
        def listen() -> socket.socket:
            wire = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
            wire.bind((self._link, ETH_ALL))
            wire.setblocking(False)
            return wire

        self._wire = self._host.inside(listen)
        return self

    def __exit__(self, *_: object) -> None:
        self._wire.close()

    def heard(self) -> list[tuple[int, bytes]]:
        """Ethertype and packet of everything so far, oldest first."""
        while True:
            try:
                packet, (_, ethertype, kind, *_) = self._wire.recvfrom(65536)
            except BlockingIOError:
                return list(self._heard)
            if kind != OUTGOING:
                self._heard.append((ethertype, packet))

    def hears(self, wanted: Callable[[int, bytes], bool], timeout: float = 10.0) -> bool:
        """Wait until such a packet was heard; False when it was not in time."""
        deadline = time.monotonic() + timeout
        while not any(wanted(*each) for each in self.heard()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.01)
        return True


def _family(target: IPv4Address | IPv6Address) -> socket.AddressFamily:
    return socket.AF_INET if target.version == 4 else socket.AF_INET6
