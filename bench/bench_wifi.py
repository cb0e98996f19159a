"""How long the kernel's word about Wi-Fi takes: a scan of 1,000 access points digested, and a kernel without Wi-Fi.

The scan's answers are built here and replayed in datagrams of the kernel's size in place of the socket, for there is no
radio on this machine. Peer in the same run: pyroute2, which decodes the same messages. From the air to the rules:
bench_radio.
"""

from __future__ import annotations

import asyncio
import resource
import struct
import time
import tracemalloc

from bench.common import report, title
from daemon.linux import nl80211, rtnetlink
from daemon.linux.nl80211 import Nl80211
from daemon.linux.rtnetlink import attribute, number
from policies.facts import Security

ROUNDS, ROUNDS_OF_PEER = 21, 5
GOAL_SCAN_MS, GOAL_MIB = 30, 4
POINTS, DATAGRAM = 1000, 32768  # bytes: what the kernel fills per datagram of a dump
# A beacon of a home router: the elements that matter, and of all others their number and usual length.
OTHERS = (45, 26), (61, 22), (127, 11), (191, 12), (192, 5), (255, 29), (255, 7), (221, 24), (221, 7)
BEACON = b"".join(
    bytes([kind, len(body)]) + body
    for kind, body in (
        (0, b"Home"),
        (1, bytes.fromhex("82848b960c121824")),
        (3, b"\x06"),
        (5, bytes(4)),
        (7, bytes(6)),
        (42, b"\0"),
        (48, bytes.fromhex("0100000fac040100000fac040200000fac02000fac088c00")),  # PSK and SAE, CCMP
        (50, bytes.fromhex("3048606c")),
        *((kind, bytes(length)) for kind, length in OTHERS),
        (221, bytes.fromhex("0050f204104a0001101044000102103c000103")),  # WPS
    )
)


def message(kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body


def datagrams(messages: list[bytes]) -> list[bytes]:
    """As the kernel packs them, and the end."""
    packed = [b""]
    for each in messages:
        if len(packed[-1]) + len(each) > DATAGRAM:
            packed.append(b"")
        packed[-1] += each
    return [*packed, message(rtnetlink.NLMSG_DONE, bytes(4))]


class Replay:
    """In place of the kernel's socket: the answers of a laptop that sees 1,000 access points and is on the last one."""

    FAMILY = 0x22

    def __init__(self) -> None:
        mac = b"\x02\0\0\0\0\0"
        points = []
        for at in range(POINTS):
            bss = attribute(nl80211.BSS_BSSID, b"\x02\0\0\0" + at.to_bytes(2)) + b""
            bss += attribute(nl80211.BSS_CAPABILITY, b"\x11\x04") + attribute(nl80211.BSS_ELEMENTS, BEACON)
            bss += attribute(nl80211.BSS_BEACON_ELEMENTS, BEACON)
            if at == POINTS - 1:
                mac = b"\x02\0\0\0" + at.to_bytes(2)
                bss += number(nl80211.BSS_STATUS, nl80211.STATUS_ASSOCIATED)
            points.append(message(self.FAMILY, bytes(4) + number(3, 3) + attribute(nl80211.ATTR_BSS, bss)))
        flags = attribute(nl80211.STA_INFO_STA_FLAGS, struct.pack("=II", 0xFE, 0xA2))
        name = attribute(nl80211.ATTR_IFNAME, b"wlan0\0") + number(nl80211.ATTR_IFTYPE, nl80211.STATION)
        station = attribute(nl80211.ATTR_MAC, mac) + attribute(nl80211.ATTR_STA_INFO, flags)
        family = attribute(1, struct.pack("=H", self.FAMILY)) + attribute(2, b"nl80211\0")
        ack = struct.pack("=i", 0)
        self._answers = {
            nl80211.GET_INTERFACE: datagrams([message(self.FAMILY, bytes(4) + number(3, 3) + name)]),
            nl80211.GET_SCAN: datagrams(points),
            nl80211.GET_STATION: datagrams([message(self.FAMILY, bytes(4) + station)]),
            nl80211.GET_KEY: [message(self.FAMILY, bytes(4)), message(rtnetlink.NLMSG_ERROR, ack + bytes(16))],
        }
        self._families = datagrams([message(nl80211.GENL_ID_CTRL, bytes(4) + family)])
        self.scan = self._answers[nl80211.GET_SCAN]
        self._queue: list[bytes] = []

    def send(self, data: bytes) -> int:
        kind = struct.unpack_from("=H", data, 4)[0]
        self._queue = list(self._families if kind == nl80211.GENL_ID_CTRL else self._answers[data[16]])
        return len(data)

    def recvmsg(self, _size: int) -> tuple[bytes, list[object], int, tuple[int, int]]:
        return self._queue.pop(0), [], 0, (0, 0)

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        return None


async def scan(source: Nl80211) -> list[float]:
    values = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        found = await source.read()
        values.append((time.perf_counter() - begun) * 1e3)
        network = found["wlan0"]
        assert network is not None
        assert (network.ssid, network.security) == (b"Home", Security.WPA2_WPA3)
    return values


def pyroute2(answers: list[bytes]) -> list[float]:
    from pyroute2.netlink.nl80211 import nl80211cmd

    values = []
    for _ in range(ROUNDS_OF_PEER):
        begun = time.perf_counter()
        for data in answers[:-1]:
            at = 0
            while at < len(data):
                found = nl80211cmd(data, offset=at)
                found.decode()
                assert found.get_attr("NL80211_ATTR_BSS").get_attr("NL80211_BSS_BSSID")
                at += found["header"]["length"]
        values.append((time.perf_counter() - begun) * 1e3)
    return values


async def nothing(source: Nl80211) -> list[float]:
    values = []
    for _ in range(ROUNDS * 20):
        begun = time.perf_counter()
        await source.read()
        values.append((time.perf_counter() - begun) * 1e6)
    return values


def resident_mib() -> float:
    """The most this process has ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    title("Wi-Fi: the kernel's word")
    if asyncio.run(Nl80211().read()) == {}:
        report("a kernel without Wi-Fi is asked", asyncio.run(nothing(Nl80211())), "us")

    opened, replay = rtnetlink.open_socket, Replay()
    rtnetlink.open_socket = lambda _protocol: replay  # type: ignore[assignment]
    try:
        before = resident_mib()
        asyncio.run(Nl80211().read())
        print(f"memory: {resident_mib() - before:.2f} MiB more at the first scan of {POINTS:,}  (goal {GOAL_MIB} MiB)")
        report(f"a scan of {POINTS:,} digested", asyncio.run(scan(Nl80211())), "ms", f"{GOAL_SCAN_MS} ms")
        report("  peer: the same messages decoded by pyroute2", pyroute2(replay.scan), "ms")
        tracemalloc.start()
        asyncio.run(Nl80211().read())
        kept, most = (size / 2**20 for size in tracemalloc.get_traced_memory())
        print(f"  Python's part of it: {most:.2f} MiB at most, {kept:.2f} MiB afterwards")
        tracemalloc.stop()
    finally:
        rtnetlink.open_socket = opened


if __name__ == "__main__":
    main()
