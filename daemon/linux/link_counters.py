"""What the kernel has counted on links: asked by rtnetlink (RTM_GETSTATS), and told when a link goes (RTM_DELLINK).

The message of a removal carries the last counters, so nothing of a link is lost with it. The kernel sends it before
whoever removed the link goes on; so every removal that happened before a reading waits in the queue by then.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from daemon.host import HostError
from daemon.linux import rtnetlink
from policies.counting import Counts
from policies.facts import Address
from policies.firewall import MARK

# <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h>, <linux/filter.h>, <asm-generic/socket.h>
RTM_DELLINK, RTM_NEWROUTE, RTM_GETROUTE, RTM_NEWSTATS, RTM_GETSTATS = 17, 24, 26, 92, 94
RTA_DST, RTA_OIF, RTA_MARK = 1, 4, 16
# No such link, no way there: an answer like any other.
NO_SUCH = (errno.ENODEV, errno.ENXIO, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EACCES, errno.EINVAL)
RTMGRP_LINK = 1
IFLA_STATS64, IFLA_STATS_LINK_64 = 23, 1
SO_ATTACH_FILTER, SO_RCVBUFFORCE = 26, 33
QUEUE = 4 << 20  # bytes
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
SYSFS = Path("/sys/class/net")

_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_LINK = struct.Struct("=BxHiII")  # ifinfomsg
_ROUTE = struct.Struct("=8BI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_STATS = struct.Struct("=BBHII")  # if_stats_msg: family, padding, padding, index, which
_COUNTS = struct.Struct("=4Q")  # the beginning of rtnl_link_stats64: packets in, out, bytes in, out


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _only_removals() -> bytes:
    """BPF: the type of the (first) message is RTM_DELLINK. Links of others that change wake nobody."""
    op = struct.Struct("=HBBI")
    return b"".join((
        op.pack(0x28, 0, 0, 4),  # ldh [4]: in network order, which the type is not
        op.pack(0x15, 0, 1, socket.htons(RTM_DELLINK)),  # jeq
        op.pack(0x06, 0, 0, 0xFFFFFFFF),  # ret: all of it
        op.pack(0x06, 0, 0, 0),
    ))  # fmt: skip


class Removed(NamedTuple):
    """A link that has gone, with what it had counted."""

    ifindex: int
    counts: Counts


class LinkCounters:
    """Implements `daemon.host.LinkCounters`, in the network namespace of its first use."""

    # Counters are `unsigned long` in many drivers, whatever the message has room for.
    bits = 64 if "64" in os.uname().machine or os.uname().machine == "s390x" else 32

    def __init__(self) -> None:
        self._requests: socket.socket | None = None
        self._removals: socket.socket | None = None

    def boot_id(self) -> str:
        """Another one: the machine was started anew, and no counter of before is there any more."""
        try:
            return BOOT_ID.read_text(encoding="ascii").strip()
        except OSError:
            return ""

    def birth(self, ifname: str) -> int:
        """Names the making of a link: another one, though of the same name and number, has another. 0: not known.

        The number of its folder in /sys, which the kernel gives out anew with each link.
        """
        try:
            return (SYSFS / ifname).stat().st_ino
        except (OSError, ValueError):
            return 0

    def fileno(self) -> int:
        """Readable when a link has gone. Raises HostError."""
        if self._removals is None:
            try:
                self._removals = self._subscribe()
            except OSError as err:
                raise HostError("watch for links that go", err.strerror or str(err)) from err
        return self._removals.fileno()

    def read(self, ifindex: int) -> Counts | None:
        """What that link has counted; None where there is none. Some 15 µs. Raises HostError."""
        for kind, payload in self._asked(RTM_GETSTATS, _STATS.pack(0, 0, 0, ifindex, 1 << IFLA_STATS_LINK_64 - 1)):
            if kind == RTM_NEWSTATS:
                return _counts(rtnetlink.attributes(payload[_STATS.size :]).get(IFLA_STATS_LINK_64))
        return None

    def way_to(self, address: Address, mark: int = MARK) -> int | None:
        """The ifindex by which packets with that mark go there now; None: there is no way. Raises HostError."""
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        body = _ROUTE.pack(family, 8 * len(address.packed), 0, 0, 0, 0, 0, 0, 0)
        body += rtnetlink.attribute(RTA_DST, address.packed) + rtnetlink.number(RTA_MARK, mark)
        for kind, payload in self._asked(RTM_GETROUTE, body):
            if kind == RTM_NEWROUTE and (oif := rtnetlink.attributes(payload[_ROUTE.size :]).get(RTA_OIF)):
                return int.from_bytes(oif, sys.byteorder)
        return None

    def _asked(self, request: int, body: bytes) -> Iterator[tuple[int, memoryview]]:
        """The one answer, or none where there is no such thing. Raises HostError."""
        try:
            if self._requests is None:
                self._requests = rtnetlink.open_socket()
            self._requests.send(_HEADER.pack(_HEADER.size + len(body), request, rtnetlink.NLM_F_REQUEST, 0, 0) + body)
            answer = [*_messages(self._requests.recv(1 << 16))]
            for kind, payload in answer:
                if kind == rtnetlink.NLMSG_ERROR:
                    code = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
                    if code not in NO_SUCH:
                        raise OSError(code, os.strerror(code))
        except OSError as err:
            if self._requests is not None:
                self._requests.close()  # what it may still hold is no answer to the next question
                self._requests = None
            raise HostError("read the counters of a link", err.strerror or str(err)) from err
        return iter(answer)

    def removed(self) -> list[Removed]:
        """The links that have gone since it was asked last, but those that did not fit the queue. Raises HostError."""
        self.fileno()
        assert self._removals is not None
        found: list[Removed] = []
        while True:
            try:
                data = self._removals.recv(1 << 16)
            except BlockingIOError:
                return found
            except OSError as err:
                if err.errno == errno.ENOBUFS:
                    continue
                self._removals.close()
                self._removals = None
                raise HostError("watch for links that go", err.strerror or str(err)) from err
            for kind, payload in _messages(data):
                if kind == RTM_DELLINK and len(payload) >= _LINK.size:
                    family, _, ifindex, _, _ = _LINK.unpack_from(payload)
                    counts = _counts(rtnetlink.attributes(payload[_LINK.size :]).get(IFLA_STATS64))
                    if family == socket.AF_UNSPEC and counts is not None:  # a bridge tells of its ports, too
                        found.append(Removed(ifindex, counts))

    def close(self) -> None:
        """Idempotent."""
        for each in (self._requests, self._removals):
            if each is not None:
                each.close()
        self._requests = self._removals = None

    def _subscribe(self) -> socket.socket:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        try:
            sock.setblocking(False)
            code = ctypes.create_string_buffer(program := _only_removals(), len(program))
            told = _Program(len(program) // 8, ctypes.addressof(code))
            sock.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, bytes(told))
            try:
                sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE)
            except PermissionError:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, QUEUE)
            sock.bind((0, RTMGRP_LINK))
        except BaseException:
            sock.close()
            raise
        return sock


def _messages(data: bytes) -> Iterator[tuple[int, memoryview]]:
    view, at = memoryview(data), 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        yield kind, view[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


def _counts(stats: memoryview | None) -> Counts | None:
    if stats is None or len(stats) < _COUNTS.size:
        return None
    rx_packets, tx_packets, rx_bytes, tx_bytes = _COUNTS.unpack_from(stats)
    return Counts(rx_bytes, tx_bytes, rx_packets, tx_packets)
