"""Evidence from the frames of a link (N13): ARP for its gateways, DHCP answers, router advertisements.

The kernel's filter lets only those through, so a quiet link wakes nobody. They are read by a confined child, which has
nothing but this socket; what it says is checked here as a stranger's word.

Sources: packet(7), <linux/if_packet.h>, <linux/filter.h>, <linux/bpf_common.h>.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Iterable
from ipaddress import IPv4Address

from daemon.host import HostError
from daemon.linux.confined import Confined
from policies.facts import Evidence, Link
from policies.frames import ARP, DHCP_CLIENT, DHCP_SERVER, EXTENSIONS, ICMPV6, IPV4, IPV6, ROUTER_ADVERTISEMENT, UDP
from policies.hostile import ASK_TWICE_S, Finding

READER = "daemon.linux.frame_reader"
ETH_P_ALL = 3
SO_ATTACH_FILTER, SOL_PACKET, PACKET_IGNORE_OUTGOING = 26, 263, 23
LONGEST_FRAME = 2048  # bytes
GATEWAYS = 8  # whose ARP is let through at most
ASK_AGAIN_S = 5.0  # however often the child wants to ask
WHAT_LONGEST = 200  # characters of a finding that are kept

# <linux/bpf_common.h>: load a word, half word, byte, byte at X; X from an IP header's length; compare; mask; return
WORD, HALF, BYTE, HALF_AT, HEADER = 0x20, 0x28, 0x30, 0x48, 0xB1
EQUAL, ANY_BIT, RETURN = 0x15, 0x45, 0x06
MISS = "miss"  # a jump to the next part


class Frames:
    """A Lookout of daemon/host.py."""

    def watch(self, link: Link) -> LinkFrames:
        return LinkFrames(link)


class LinkFrames:
    """The frames of one link since now: they wait in the socket until the child reads. Raises HostError."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._asked = float("-inf")
        self._timers: list[asyncio.TimerHandle] = []
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        try:
            self._socket.setsockopt(SOL_PACKET, PACKET_IGNORE_OUTGOING, 1)
            self._filter()
            self._socket.bind((link.ifname, ETH_P_ALL))
        except OSError as err:
            self._socket.close()
            raise HostError(f"listen on {link.ifname}", err.strerror or str(err)) from err

    def follow(self, link: Link, network: object) -> None:
        former, self._link = self._link, link
        if former.gateways != link.gateways:
            with contextlib.suppress(OSError):  # the link has gone: the socket tells the child
                self._filter()

    async def found(self) -> AsyncGenerator[Finding, None]:
        self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # forget that it was switched off before
        try:
            async with Confined(READER, [self._socket]) as child:
                async for said in child.told():
                    if finding := self._understood(child.what, said):
                        yield finding
        except OSError as err:
            raise HostError(f"listen on {self._link.ifname}", err.strerror or str(err)) from err

    def close(self) -> None:
        for timer in self._timers:
            timer.cancel()
        # The kernel waits until no processor is using the socket, some 10 to 20 ms: not in the loop's time.
        threading.Thread(target=self._socket.close, name="close").start()

    def _understood(self, who: str, said: bytes) -> Finding | None:
        if (finding := understood(said)) is not None:
            return finding
        kind, _, rest = said.partition(b" ")
        if kind == b"?" and len(rest) == 4:
            self._question(IPv4Address(rest))
            return None
        raise HostError(who, "it talks nonsense")

    def _question(self, gateway: IPv4Address) -> None:
        """Ask everybody on the link who has the gateway's address, as the kernel does all the time."""
        loop = asyncio.get_running_loop()
        if gateway in self._link.gateways and loop.time() - self._asked >= ASK_AGAIN_S:
            self._asked = loop.time()
            self._timers = [loop.call_later(delay, self._ask, gateway) for delay in (0.0, ASK_TWICE_S)]

    def _ask(self, gateway: IPv4Address) -> None:
        own = next((each.ip for each in self._link.addresses if each.version == 4 and gateway in each.network), None)
        if own is not None and len(self._link.mac) == 6:
            with contextlib.suppress(OSError):
                self._socket.send(request(self._link.mac, own.packed, gateway.packed))

    def _filter(self) -> None:
        gateways = [each.packed for each in self._link.gateways if each.version == 4]
        program = packet_filter(gateways[:GATEWAYS])
        buffer = ctypes.create_string_buffer(program, len(program))
        about = struct.pack("@HP", len(program) // 8, ctypes.addressof(buffer))
        self._socket.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, about)


def understood(said: bytes) -> Finding | None:
    """The finding of `! evidence what`, as `frame_reader.py` tells it; None: it is something else."""
    kind, _, rest = said.partition(b" ")
    if kind == b"!":
        name, _, what = rest.decode("ascii", "replace").partition(" ")
        with contextlib.suppress(ValueError):
            return Finding(Evidence(name), "".join(each for each in what if each.isprintable())[:WHAT_LONGEST])
    return None


def said_of(finding: Finding) -> bytes:
    """The opposite."""
    return f"! {finding.evidence.value} {finding.what}".encode()


def request(mac: bytes, own: bytes, wanted: bytes) -> bytes:
    """An Ethernet frame: ARP, who has `wanted`, tell `own`. RFC 826."""
    everybody = b"\xff" * 6 + mac + struct.pack("!H", ARP)
    return everybody + struct.pack("!HHBBH", 1, IPV4, 6, 4, 1) + mac + own + bytes(6) + wanted


Line = tuple[int, str | int, str | int, int]  # code, jump if so, jump if not, operand


def packet_filter(gateways: Iterable[bytes]) -> bytes:
    """The classic BPF program: ARP claims of these IPv4 addresses, DHCP answers, router advertisements; nothing else.

    IPv6 headers between are left to the child, but only with the hop limit that advertisements need.
    """
    parts: list[list[Line]] = [
        [
            (HALF, 0, 0, 12),
            (EQUAL, 0, MISS, IPV4),
            (BYTE, 0, 0, 23),
            (EQUAL, 0, MISS, UDP),
            (HALF, 0, 0, 20),
            (ANY_BIT, MISS, 0, 0x3FFF),  # fragments
            (HEADER, 0, 0, 14),
            (HALF_AT, 0, 0, 14),
            (EQUAL, 0, MISS, DHCP_SERVER),
            (HALF_AT, 0, 0, 16),
            (EQUAL, 0, MISS, DHCP_CLIENT),
        ]
    ]
    parts += [
        [(HALF, 0, 0, 12), (EQUAL, 0, MISS, ARP), (WORD, 0, 0, 28), (EQUAL, 0, MISS, int.from_bytes(gateway, "big"))]
        for gateway in gateways
    ]
    version6: list[Line] = [(HALF, 0, 0, 12), (EQUAL, 0, MISS, IPV6), (BYTE, 0, 0, 21), (EQUAL, 0, MISS, 255)]
    version6 += [(BYTE, 0, 0, 20)]
    parts.append([*version6, (EQUAL, 0, MISS, ICMPV6), (BYTE, 0, 0, 54), (EQUAL, 0, MISS, ROUTER_ADVERTISEMENT)])
    parts += [[*version6, (EQUAL, 0, MISS, number)] for number in sorted(EXTENSIONS)]
    lines = []
    for part in parts:
        for place, (code, so, otherwise, operand) in enumerate(part):
            beyond = len(part) - place  # behind this part and its return
            lines.append((code, *(beyond if jump == MISS else jump for jump in (so, otherwise)), operand))
        lines.append((RETURN, 0, 0, LONGEST_FRAME))
    lines.append((RETURN, 0, 0, 0))
    return b"".join(struct.pack("@HBBI", *line) for line in lines)
