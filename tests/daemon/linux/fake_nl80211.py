"""A fake kernel that answers nl80211 requests, and what its answers are built from, byte by byte."""

from __future__ import annotations

import errno
import struct
import sys
from collections.abc import Iterator

from daemon.linux import nl80211, rtnetlink
from daemon.linux.rtnetlink import attribute

FAMILY = 0x22
BSSID, OTHER = b"\x02\0\0\0\xa1\0", b"\x02\0\0\0\xa2\0"
ACK, DONE, ERROR = b"\0\0\0\0", 3, 2
PRIVATE, PLAIN = b"\x11\x04", b"\x01\x04"  # the capability field, with and without privacy
RSN = bytes.fromhex("30140100000fac040100000fac040100000fac020000")
SAE = bytes.fromhex("30140100000fac040100000fac040100000fac080000")
WPS = bytes.fromhex("dd0e0050f204104a0001101044000102")


def name(ssid: bytes) -> bytes:
    return bytes([0, len(ssid)]) + ssid


def u32(kind: int, value: int) -> bytes:
    return rtnetlink.number(kind, value)


def message(kind: int, body: bytes, flags: int = 0) -> bytes:
    return struct.pack("=IHHII", 16 + len(body), kind, flags, 0, 0) + body


class FakeKernel:
    """Answers what the tests put in, as sockets of `rtnetlink.open_socket`. `refuse`: an errno by command."""

    def __init__(self) -> None:
        self.groups = {b"config": 5, b"mlme": 6}
        self.loaded = True
        self.interfaces: list[bytes] = []
        self.scans: dict[int, list[bytes]] = {}
        self.stations: dict[int, list[bytes]] = {}
        self.keys: set[tuple[int, int]] = set()  # ifindex, number
        self.refuse: dict[int, int] = {}
        self.asked: list[int] = []

    def __call__(self, protocol: int) -> FakeSocket:
        assert protocol == nl80211.NETLINK_GENERIC
        return FakeSocket(self)

    def station(
        self, ifindex: int, ifname: bytes, *scan: bytes, flags: bytes | None = None, mac: bytes = BSSID,
        ssid: bytes | None = None, kind: int = nl80211.STATION, keys: tuple[int, ...] = (0,),
    ) -> None:  # fmt: skip
        """An interface that is joined to what `scan` says; `flags`: of the access point."""
        told = b"" if ssid is None else attribute(nl80211.ATTR_SSID, ssid)
        interface = u32(nl80211.ATTR_IFINDEX, ifindex) + attribute(nl80211.ATTR_IFNAME, ifname + b"\0")
        self.interfaces.append(interface + u32(nl80211.ATTR_IFTYPE, kind) + told)
        self.scans[ifindex] = list(scan)
        info = b"" if flags is None else attribute(nl80211.STA_INFO_STA_FLAGS, flags)
        self.stations[ifindex] = [attribute(nl80211.ATTR_MAC, mac) + attribute(nl80211.ATTR_STA_INFO, info)]
        self.keys |= {(ifindex, number) for number in keys}

    def answer(self, request: bytes) -> list[bytes]:
        _, kind, flags, _, _ = struct.unpack_from("=IHHII", request)
        command, about = request[16], rtnetlink.attributes(memoryview(request)[20:])
        if kind == nl80211.GENL_ID_CTRL:
            return [*self._families(), message(DONE, ACK)]
        assert kind == FAMILY
        self.asked.append(command)
        if command in self.refuse:
            return [message(ERROR, struct.pack("=i", -self.refuse[command]) + request[:16])]
        ifindex = int.from_bytes(about.get(nl80211.ATTR_IFINDEX, b""), sys.byteorder)
        if command == nl80211.GET_KEY:
            there = (ifindex, about[nl80211.ATTR_KEY_IDX][0]) in self.keys
            code = 0 if there else -errno.ENOENT
            reply = [message(FAMILY, bytes(4))] if there else []
            return [*reply, message(ERROR, struct.pack("=i", code) + request[:16])]
        assert flags & rtnetlink.NLM_F_DUMP
        found = {
            nl80211.GET_INTERFACE: self.interfaces,
            nl80211.GET_SCAN: self.scans.get(ifindex, []),
            nl80211.GET_STATION: self.stations.get(ifindex, []),
        }[command]
        return [*(message(FAMILY, bytes(4) + each) for each in found), message(DONE, ACK)]

    def _families(self) -> Iterator[bytes]:
        for number, family in ((16, b"nlctrl"), (FAMILY, b"nl80211")):
            if family == b"nl80211" and not self.loaded:
                continue
            groups = b"".join(
                attribute(at, attribute(1, group + b"\0") + u32(2, identity))
                for at, (group, identity) in enumerate(self.groups.items(), 1)
            )
            about = attribute(1, struct.pack("=H", number)) + attribute(2, family + b"\0") + attribute(7, groups)
            yield message(16, bytes(4) + about)


class FakeSocket:
    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel, self._queue = kernel, list[bytes]()

    def send(self, data: bytes) -> int:
        self._queue += self._kernel.answer(data)
        return len(data)

    def recvmsg(self, size: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        if not self._queue:
            raise BlockingIOError(errno.EAGAIN, "nothing more")
        return self._queue.pop(0), [], 0, (0, 0)

    def __enter__(self) -> FakeSocket:
        return self

    def __exit__(self, *_: object) -> None:
        return None


def bss(
    elements: bytes | None, beacon: bytes | None = None, *, capability: bytes | None = PRIVATE, bssid: bytes = BSSID,
    status: int | None = nl80211.STATUS_ASSOCIATED, mld: bytes | None = None,
) -> bytes:  # fmt: skip
    """An entry of a scan."""
    inside = attribute(nl80211.BSS_BSSID, bssid)
    for kind, value in (
        (nl80211.BSS_CAPABILITY, capability),
        (nl80211.BSS_ELEMENTS, elements),
        (nl80211.BSS_BEACON_ELEMENTS, beacon),
        (nl80211.BSS_MLD_ADDR, mld),
        (nl80211.BSS_STATUS, None if status is None else struct.pack("=I", status)),
    ):
        if value is not None:
            inside += attribute(kind, value)
    return u32(nl80211.ATTR_IFINDEX, 3) + attribute(nl80211.ATTR_BSS | 0x8000, inside)


def flags(mask: int, held: int) -> bytes:
    return struct.pack("=II", mask, held)


AUTHORISED, NOT_YET = flags(0xFE, 0xA2), flags(0xFE, 0xA0)
