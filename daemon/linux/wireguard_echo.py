"""Echo requests (ICMP, RFC 792 and RFC 4443) through the tunnel: who answers one has heard us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
import time
from collections.abc import Sequence

from policies.facts import Address

REQUEST4, REPLY4, REQUEST6, REPLY6 = 8, 0, 128, 129
SOL_RAW, ICMP_FILTER, ICMP6_FILTER = 255, 1, 1  # <linux/socket.h>, <linux/icmp.h>, <linux/icmpv6.h>
SIZE = {4: 80, 6: 96}  # bytes of one in WireGuard's counters: IP, ICMP and our 8 bytes, padded to 16, and 32 of its own
_ECHO = struct.Struct(">BBHHH8s")  # type, code, checksum, identifier, number, token
MOST = 64  # that are remembered


class Echo:
    """Asks at the sockets (see `echo_socket`), each its own target, by turns. Never raises; none are asked without any.

    Made and closed within the event loop, which hears the answers as they come. The sockets are its own to close.

    `sent` is the bytes that the tunnel's counters show of them, `rtt` the seconds that the last answered one took:
    each is forgotten with `taken`.
    """

    def __init__(self, sockets: Sequence[tuple[socket.socket, Address]]) -> None:
        self._sockets = list(sockets)
        self._token, self._identifier = os.urandom(8), int.from_bytes(os.urandom(2))
        self._number = 0
        self._asked: dict[int, float] = {}
        self.sent = 0
        self.rtt: float | None = None
        for asker, _ in self._sockets:
            asyncio.get_running_loop().add_reader(asker, self._hear)

    def send(self) -> None:
        """One request, if the network lets it."""
        if not self._sockets:
            return
        self._number = (self._number + 1) & 0xFFFF
        asker, target = self._sockets[self._number % len(self._sockets)]
        request = REQUEST4 if target.version == 4 else REQUEST6
        bare = _ECHO.pack(request, 0, 0, self._identifier, self._number, self._token)
        # Of version 6 the kernel fills the checksum in, for its pseudo-header has our address.
        whole = _ECHO.pack(request, 0, checksum(bare), self._identifier, self._number, self._token)
        try:
            asker.sendto(whole if target.version == 4 else bare, (str(target), 0))
        except OSError:
            return
        self.sent += SIZE[target.version]
        self._asked[self._number] = time.monotonic()
        while len(self._asked) > MOST:
            self._asked.pop(next(iter(self._asked)))

    def _hear(self) -> None:
        """Take what has come back."""
        now = time.monotonic()
        for asker, target in self._sockets:
            with contextlib.suppress(OSError):
                while True:
                    packet = asker.recv(512)
                    if target.version == 4:  # with its IP header
                        packet = packet[(packet[0] & 0x0F) * 4 :] if packet else b""
                    if len(packet) < _ECHO.size:
                        continue
                    kind, _, _, identifier, number, token = _ECHO.unpack_from(packet)
                    ours = (identifier, token) == (self._identifier, self._token)
                    if ours and kind in (REPLY4, REPLY6) and (asked := self._asked.pop(number, None)) is not None:
                        self.rtt = now - asked

    def taken(self) -> None:
        """What was sent and heard so far has been taken account of."""
        self.sent, self.rtt = 0, None

    def close(self) -> None:
        for asker, _ in self._sockets:
            asyncio.get_running_loop().remove_reader(asker)
            asker.close()
        self._sockets.clear()


def echo_socket(ifname: str, version: int) -> socket.socket:
    """A raw socket over that link, which hears answers to echo requests only. Needs CAP_NET_RAW. Raises OSError."""
    kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    if version == 4:
        asker = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
        asker.setsockopt(SOL_RAW, ICMP_FILTER, struct.pack("=I", ~(1 << REPLY4) & 0xFFFFFFFF))
    else:
        asker = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
        left_out = [0xFFFFFFFF] * 8
        left_out[REPLY6 >> 5] &= ~(1 << (REPLY6 & 31))
        asker.setsockopt(socket.IPPROTO_ICMPV6, ICMP6_FILTER, struct.pack("=8I", *left_out))
    try:
        asker.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode("ascii"))
    except OSError:
        asker.close()
        raise
    return asker


def checksum(data: bytes) -> int:
    """The Internet checksum, RFC 1071, of an even number of bytes."""
    total: int = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
