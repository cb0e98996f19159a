"""The MTU of a link, and packets of several sizes through it: which of them come back (policies/mtu.py judges).

Echo requests (ICMP) at one of the tunnel's resolvers first: their answers are as large as they are, so both directions
are tried. Where nobody answers those, questions that it answers itself, padded (EDNS, RFC 7830): they try our
direction alone. Inside the tunnel none may be cut into pieces; whether the tunnel's own packets are is for the kernel
to say, and pieces that arrive are an answer too.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import functools
import itertools
import secrets
import socket
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from daemon.host import HostError
from daemon.linux.watch_client import echo_sockets
from daemon.linux.wireguard_echo import REPLY4, REPLY6, REQUEST4, REQUEST6, checksum
from policies.facts import Address
from policies.firewall import TUNNEL_IFNAME
from policies.mtu import Answer, Result, look

SIOCGIFMTU, SIOCSIFMTU, IFREQ = 0x8921, 0x8922, "=16si20x"  # <linux/sockios.h>, <linux/if.h>
IP_MTU_DISCOVER, IPV6_MTU_DISCOVER, PMTUDISC_PROBE = 10, 23, 3  # <linux/in.h>, <linux/in6.h>: whole, whatever is known
NETSTAT = Path("/proc/net/netstat")  # of our network namespace; TCPTimeouts: <linux/snmp.h>
HEADERS = {4: 20 + 8, 6: 40 + 8}  # bytes of IP and of ICMP's echo, or of UDP
ECHO = struct.Struct(">BBHHH8s")  # type, code, checksum, identifier, number, token
DNS_PORT, TXT, CHAOS, OPT, PADDING = 53, 16, 3, 41, 12  # RFC 1035, RFC 6891, RFC 7830
UDP_SIZE = 1232  # bytes: what many resolvers take at most, so that a larger question left unanswered says little
# Which version are you (RFC 4892, 1)? A resolver answers or refuses that itself; others it hands on, padding and all.
QUESTION = b"\7version\4bind\0" + bytes((0, TXT, 0, CHAOS))

FIRST_WAITS = (0.3, 0.5, 1.0, 2.0)  # seconds for answers while nobody has answered yet, the last repeated
LEAST_WAIT, PATIENCE = 0.1, 3.0  # seconds; times the slowest answer so far
PACE = 0.002  # seconds between two packets, so that they do not push each other out of a queue


class LinuxPathMtu:
    """Implements `daemon.host.PathMtu`, of our own tunnel. Needs CAP_NET_ADMIN to set."""

    def read(self, ifname: str) -> int | None:
        with contextlib.suppress(OSError):
            return _ask(SIOCGIFMTU, ifname)
        return None

    def set(self, ifname: str, mtu: int) -> None:
        try:
            _ask(SIOCSIFMTU, ifname, mtu)
        except OSError as err:
            raise HostError(f"set the MTU of {ifname} to {mtu}", err.strerror or str(err)) from err

    def stalls(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            lines = NETSTAT.read_text("ascii").splitlines()
            for names, values in itertools.pairwise(lines):
                if names.startswith("TcpExt:") and values.startswith("TcpExt:"):
                    return int(values.split()[names.split().index("TCPTimeouts")])
        return 0

    async def search(self, ifname: str, resolvers: Sequence[Address], tried: tuple[int, ...]) -> Result:
        if not resolvers:
            return Result(Answer.SILENT)
        target = min(resolvers, key=lambda address: address.version)
        found = Result(Answer.SILENT)
        for asker, _ in await echo_sockets((target,)) if ifname == TUNNEL_IFNAME else ():  # one, or none
            found = await _search(functools.partial(Echoes, asker, target), tried)
        if found.answer is Answer.FOUND:
            return found
        asked = await _search(functools.partial(Questions, ifname, target), tried)
        taken = HEADERS[target.version] + UDP_SIZE
        return asked if asked.mtu > taken else found


async def _search(made: Callable[[], _Asker], tried: tuple[int, ...]) -> Result:
    """Raises HostError."""
    try:
        prober = made()
    except OSError as err:
        raise HostError("search for the MTU", err.strerror or str(err)) from err
    with contextlib.closing(prober):
        return await search(prober, tried)


class Prober(Protocol):
    answered: Counter[int]
    slowest: float

    def send(self, size: int) -> None: ...
    @property
    def waiting(self) -> bool: ...
    async def heard(self) -> None: ...
    def close(self) -> None: ...


async def search(prober: Prober, tried: tuple[int, ...]) -> Result:
    """One round after another until something is known. Bounded by what `look` allows."""
    now = asyncio.get_running_loop().time
    asked: Counter[int] = Counter()
    waits = list(FIRST_WAITS)
    while not isinstance(step := look(tried, asked, prober.answered), Result):
        for size in step:
            asked[size] += 1
            prober.send(size)
            await asyncio.sleep(PACE)
        wait = waits.pop(0) if len(waits) > 1 else waits[0]
        until = now() + wait
        while prober.waiting and now() < until:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(until):
                    await prober.heard()
            if prober.slowest:
                until = min(until, now() + max(LEAST_WAIT, PATIENCE * prober.slowest))
                waits = [max(LEAST_WAIT, PATIENCE * prober.slowest)]
    return step


class _Asker:
    """A socket through one link, and what was asked over it. Made and closed within the event loop."""

    def __init__(self, asker: socket.socket, target: Address) -> None:
        self._socket, self._target = asker, target
        self._asked: dict[int, tuple[int, float]] = {}  # by number: size, and when
        self._number = secrets.randbelow(1 << 15)
        self._news = asyncio.Event()
        self.answered: Counter[int] = Counter()
        self.slowest = 0.0  # seconds that an answer took
        try:
            four = target.version == 4
            level, option = (socket.IPPROTO_IP, IP_MTU_DISCOVER) if four else (socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER)
            asker.setsockopt(level, option, PMTUDISC_PROBE)
        except OSError:
            asker.close()
            raise
        asyncio.get_running_loop().add_reader(asker, self._hear)

    def send(self, size: int) -> None:
        """One packet of so many bytes, its IP header among them, if the network lets it."""
        self._number = (self._number + 1) & 0xFFFF
        self._asked[self._number] = size, asyncio.get_running_loop().time()
        with contextlib.suppress(OSError):
            self._socket.send(self._packet(self._number, size - HEADERS[self._target.version]))

    @property
    def waiting(self) -> bool:
        """Whether an answer may still come."""
        return bool(self._asked)

    async def heard(self) -> None:
        """Returns when something was answered since the last time."""
        await self._news.wait()
        self._news.clear()

    def _hear(self) -> None:
        now = asyncio.get_running_loop().time()
        with contextlib.suppress(OSError):
            while True:
                number = self._number_of(self._socket.recv(2048))
                if number is not None and (asked := self._asked.pop(number, None)) is not None:
                    size, at = asked
                    self.answered[size] += 1
                    self.slowest = max(self.slowest, now - at)
                    self._news.set()

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _packet(self, number: int, length: int) -> bytes:
        """With so many bytes behind the headers."""
        raise NotImplementedError

    def _number_of(self, packet: bytes) -> int | None:
        """Of the packet that this one answers."""
        raise NotImplementedError


class Echoes(_Asker):
    """At a socket of `wireguard_echo.py`, which is its own to close. Raises OSError."""

    def __init__(self, asker: socket.socket, target: Address) -> None:
        try:
            asker.connect((str(target), 0))
        except OSError:
            asker.close()
            raise
        self._token, self._identifier = secrets.token_bytes(8), secrets.randbelow(1 << 16)
        super().__init__(asker, target)

    def _packet(self, number: int, length: int) -> bytes:
        request = REQUEST4 if self._target.version == 4 else REQUEST6
        rest = bytes(length - (ECHO.size - 8))
        bare = ECHO.pack(request, 0, 0, self._identifier, number, self._token) + rest
        if self._target.version == 6:  # the kernel fills the checksum in, for its pseudo-header has our address
            return bare
        return bare[:2] + struct.pack(">H", checksum(bare + bytes(length % 2))) + bare[4:]

    def _number_of(self, packet: bytes) -> int | None:
        if self._target.version == 4 and packet:  # with its IP header
            packet = packet[(packet[0] & 0x0F) * 4 :]
        if len(packet) < ECHO.size:
            return None
        kind, _, _, identifier, number, token = ECHO.unpack_from(packet)
        ours = kind in (REPLY4, REPLY6) and (identifier, token) == (self._identifier, self._token)
        return int(number) if ours else None


class Questions(_Asker):
    """Raises OSError."""

    def __init__(self, ifname: str, target: Address) -> None:
        family = socket.AF_INET if target.version == 4 else socket.AF_INET6
        asker = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            asker.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, ifname.encode("ascii"))
            asker.connect((str(target), DNS_PORT))
        except OSError:
            asker.close()
            raise
        super().__init__(asker, target)

    def _packet(self, number: int, length: int) -> bytes:
        head = (
            struct.pack(">HHHHHH", number, 0x0100, 1, 0, 0, 1) + QUESTION
        )  # recursion desired; one question, one more
        padding = length - len(head) - 11 - 4
        option = struct.pack(">HH", PADDING, padding) + bytes(padding)
        return head + struct.pack(">BHHIH", 0, OPT, UDP_SIZE, 0, len(option)) + option

    def _number_of(self, packet: bytes) -> int | None:
        answer = len(packet) >= 12 and packet[2] & 0x80
        return int.from_bytes(packet[:2]) if answer else None


def _ask(request: int, ifname: str, mtu: int = 0) -> int:
    """Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asker:
        answer = fcntl.ioctl(asker, request, struct.pack(IFREQ, ifname.encode(), mtu))
    return int(struct.unpack(IFREQ, answer)[1])
