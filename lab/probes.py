"""Packets made by hand, and short questions asked from inside a host without starting a program there."""

from __future__ import annotations

import socket
import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from lab.addresses import WEB_PORT
from lab.hosts import Host

A, AAAA = 1, 28  # RFC 1035, RFC 3596
HIGH_PORT = 40000


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071."""
    data += b"\0" * (len(data) % 2)
    total = sum(int.from_bytes(data[at : at + 2]) for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _udp(pseudo_header: bytes, port: int, payload: bytes) -> bytes:
    length = 8 + len(payload)
    bare = struct.pack(">HHHH", HIGH_PORT, port, length, 0) + payload
    return struct.pack(">HHHH", HIGH_PORT, port, length, checksum(pseudo_header + bare) or 0xFFFF) + payload


def ipv4_udp(source: IPv4Address, target: IPv4Address, port: int, payload: bytes) -> bytes:
    """A UDP packet with valid checksums, from the IPv4 header on."""
    ends = source.packed + target.packed
    udp = _udp(ends + struct.pack(">BBH", 0, 17, 8 + len(payload)), port, payload)
    head = struct.pack(">BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0x4000, 64, 17, 0) + ends
    return head[:10] + struct.pack(">H", checksum(head)) + head[12:] + udp


def ipv6_udp(source: IPv6Address, target: IPv6Address, port: int, payload: bytes) -> bytes:
    """A UDP packet with valid checksums, from the IPv6 header on."""
    ends = source.packed + target.packed
    udp = _udp(ends + struct.pack(">II", 8 + len(payload), 17), port, payload)
    return struct.pack(">IHBB", 6 << 28, len(udp), 17, 64) + ends + udp


def dns_query(name: str, kind: int, number: int = 0x7477) -> bytes:
    """A recursive DNS question, RFC 1035 section 4."""
    labels = b"".join(bytes([len(label)]) + label.encode("ascii") for label in name.split("."))
    return struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">HH", kind, 1)


def resolve(
    host: Host, resolver: IPv4Address | IPv6Address, name: str, kind: int = A, timeout: float = 2.0
) -> IPv4Address | IPv6Address | None:
    """Ask that resolver over UDP from the host; the first address, or None when it knows none. Raises OSError."""
    family = socket.AF_INET if resolver.version == 4 else socket.AF_INET6
    with host.socket(family, socket.SOCK_DGRAM) as asker:
        asker.settimeout(timeout)
        asker.connect((str(resolver), 53))
        question = dns_query(name, kind)
        asker.send(question)
        answer = asker.recv(4096)
    length = 4 if kind == A else 16
    # Behind the repeated question: a record of our type and class, its time to live, its length, its address.
    start = answer.find(struct.pack(">HH", kind, 1), len(question))
    if start < 0 or answer[start + 8 : start + 10] != struct.pack(">H", length):
        return None
    return ip_address(answer[start + 10 : start + 10 + length])


def exit_address(host: Host, web: IPv4Address | IPv6Address, timeout: float = 5.0) -> IPv4Address | IPv6Address:
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
