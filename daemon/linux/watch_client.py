"""What the daemon asks of the service tunwarden-watch (`watch_service.py`), and what it believes of the answers.

One connection (SOCK_SEQPACKET) is one question; its end ends what was asked for. Messages are bounded, as is the time
of an answer, and what is said is checked as a stranger's word. A service that is missing, slow, ended or lying is a
HostError, like a packet socket that cannot be opened.

The first message, JSON: `version`, `ask` and what belongs to it.

    frames  link                       b"" once it listens; after {"begin": true} findings; {"link": ...} is what is new
    leaks   ifnames, excluded, tunnel  the sentences of leak_check.py
    echo    versions                   sockets for echo requests, bound to the tunnel

Where the daemon may open such sockets itself, as in the laboratory, it does the same in its own process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from collections.abc import AsyncGenerator, Mapping, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface
from pathlib import Path
from typing import Any

import structlog

from daemon.host import HostError
from daemon.linux.confinement import FAILED, LONGEST, RESULT, TOLD
from daemon.linux.frames import understood
from daemon.linux.wireguard_echo import echo_socket
from daemon.linux.wireguard_go import peer_of
from policies.facts import Address, Link, LinkKind
from policies.firewall import TUNNEL_IFNAME
from policies.hostile import Finding

log = structlog.get_logger()

VERSION = 1
SOCKET = "watch.sock"
PATH = Path("/run/tunwarden") / SOCKET
CAP_NET_RAW = 13  # <linux/capability.h>
LISTENING_S, CHECK_S, ECHO_S = 15.0, 25.0, 5.0  # for an answer; the service may have to be started first
FINDINGS = 16  # of one link: each kind of evidence is told once
SENTENCES, SENTENCE_LONGEST = 64, 2000  # of one check; characters
REASON_LONGEST = 300  # characters


def may_open() -> bool:
    """Whether this process may open packet sockets itself, so that nobody need be asked."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) >> CAP_NET_RAW & 1)


class ServiceFrames:
    """A Lookout of daemon/host.py: `frames.py` by way of the service."""

    def __init__(self, path: Path = PATH) -> None:
        self._path = path

    def watch(self, link: Link) -> ServiceLinkFrames:
        return ServiceLinkFrames(link, self._path)


class ServiceLinkFrames:
    """The frames of one link since the service has heard of it. Raises HostError."""

    def __init__(self, link: Link, path: Path) -> None:
        self._what = f"listen on {link.ifname}"
        self._told = _said(link)
        self._channel = _asked({"ask": "frames", "link": self._told}, self._what, path)

    def follow(self, link: Link, network: object) -> None:
        said = _said(link)
        if said != self._told:
            self._told = said
            self._say({"link": said})

    async def found(self) -> AsyncGenerator[Finding, None]:
        self._say({"begin": True})
        if await _heard(self._channel, self._what, LISTENING_S) != (TOLD, b""):
            raise _nonsense(self._what)
        for _ in range(FINDINGS):
            kind, said = await _heard(self._channel, self._what)
            finding = understood(said) if kind == TOLD else None
            if finding is None:
                raise _nonsense(self._what)
            yield finding
        raise HostError(self._what, "the watching service says too much")

    def close(self) -> None:
        if self._channel.fileno() < 0:
            return
        # First: who was hearing a moment ago would have the event loop forget the number's next owner.
        asyncio.get_running_loop().remove_reader(self._channel)
        self._channel.close()

    def _say(self, said: Mapping[str, object]) -> None:
        try:
            self._channel.send(json.dumps(said).encode())
        except OSError:  # it has gone, or does not listen: `found` says so
            with contextlib.suppress(OSError):
                self._channel.shutdown(socket.SHUT_RDWR)


class ServiceLeakCheck:
    """Implements `daemon.host.LeakCheck`: `leak_check.py` by way of the service."""

    def __init__(self, excluded: tuple[IPv4Network | IPv6Network, ...] = (), path: Path = PATH) -> None:
        self.excluded, self.tunnel, self._path = excluded, TUNNEL_IFNAME, path

    async def check(self, ifnames: Sequence[str]) -> tuple[str, ...]:
        what = "check for leaks"
        request = {
            "ask": "leaks",
            "ifnames": list(ifnames),
            "excluded": [str(each) for each in self.excluded],
            "tunnel": self.tunnel,
        }
        with _asked(request, what, self._path) as channel:
            kind, said = await _heard(channel, what, CHECK_S)
        sentences = None
        with contextlib.suppress(ValueError):
            sentences = json.loads(said) if kind == RESULT else None
        if not isinstance(sentences, list) or len(sentences) > SENTENCES:
            raise _nonsense(what)
        if not all(isinstance(each, str) and 0 < len(each) <= SENTENCE_LONGEST for each in sentences):
            raise _nonsense(what)
        return tuple(_printable(each) for each in sentences)


async def echo_sockets(targets: Sequence[Address], path: Path = PATH) -> list[tuple[socket.socket, Address]]:
    """For echo requests through the tunnel, to the first target of each IP version. Never raises; may be none."""
    first: dict[int, Address] = {target.version: target for target in reversed(targets)}
    made: dict[int, socket.socket] = {}
    if may_open():
        for version in first:
            with contextlib.suppress(OSError):
                made[version] = echo_socket(TUNNEL_IFNAME, version)
    else:
        try:
            made = await _given(sorted(first), path)
        except HostError as err:
            log.warning("the tunnel is not asked by echo requests", why=err.why)
    return [(made[version], first[version]) for version in sorted(made)]


async def _given(versions: list[int], path: Path) -> dict[int, socket.socket]:
    """Raises HostError."""
    what = "ask through the tunnel"
    with _asked({"ask": "echo", "versions": versions}, what, path) as channel:
        ready = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(channel, ready.set)
        try:
            async with asyncio.timeout(ECHO_S):
                await ready.wait()
            said, numbers, _, _ = socket.recv_fds(channel, LONGEST, len(versions), socket.MSG_CMSG_CLOEXEC)
        except (OSError, TimeoutError) as err:
            raise HostError(what, "the watching service does not answer") from err
        finally:
            loop.remove_reader(channel)
    made = [socket.socket(fileno=number) for number in numbers]
    wanted = [socket.AF_INET6 if version == 6 else socket.AF_INET for version in versions]
    if said != RESULT or [each.family for each in made] != wanted:
        for each in made:
            each.close()
        raise _nonsense(what)
    for each in made:
        each.setblocking(False)
    return dict(zip(versions, made, strict=True))


# --- one connection --------------------------------------------------------------------------------------------------


def _asked(request: Mapping[str, object], what: str, path: Path) -> socket.socket:
    """Returns at once: systemd listens, whether the service runs or not. Raises HostError."""
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        channel.connect(os.fspath(path))
        peer_of(channel)  # raises PermissionError unless root listens
        channel.send(json.dumps({"version": VERSION, **request}).encode())
    except OSError as err:
        channel.close()
        raise HostError(
            what, f"the watching service cannot be asked at {path}: {err.strerror} (tunwarden-watch.socket)"
        ) from err
    return channel


async def _heard(channel: socket.socket, what: str, seconds: float | None = None) -> tuple[bytes, bytes]:
    """The next message's kind and content. Raises HostError."""
    try:
        async with asyncio.timeout(seconds):
            said = await _received(channel)
    except TimeoutError as err:
        raise HostError(what, f"the watching service has not answered for {seconds:g} s") from err
    except OSError as err:
        raise HostError(what, f"the watching service: {err.strerror}") from err
    if not said:
        raise HostError(what, "the watching service has ended")
    kind, said = said[:1], said[1:]
    if kind == FAILED:
        raise _failure(said, what)
    if kind not in (RESULT, TOLD) or len(said) >= LONGEST:
        raise _nonsense(what)
    return kind, said


async def _received(channel: socket.socket) -> bytes:
    """Raises OSError."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.sock_recv(channel, LONGEST + 1)
    except ConnectionResetError:  # it ended without reading everything; what it had said is still to be had
        return await loop.sock_recv(channel, LONGEST + 1)


def _failure(said: bytes, what: str) -> HostError:
    with contextlib.suppress(ValueError):
        match json.loads(said):
            case [str(attempted), str(why)]:
                return HostError(_printable(attempted)[:REASON_LONGEST], _printable(why)[:REASON_LONGEST])
    return _nonsense(what)


def _nonsense(what: str) -> HostError:
    return HostError(what, "the watching service talks nonsense")


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else "?" for char in text)


def _said(link: Link) -> dict[str, object]:
    """What `frames.py` needs to know of a link."""
    addresses, gateways = ([str(each) for each in some] for some in (link.addresses, link.gateways))
    return {"ifname": link.ifname, "mac": link.mac.hex(), "addresses": addresses, "gateways": gateways}


def link_of(said: Any) -> Link:
    """The opposite of `_said`. Raises ValueError, TypeError, KeyError."""
    return Link(
        0, str(said["ifname"]), LinkKind.WIFI, mac=bytes.fromhex(said["mac"]),
        addresses=tuple(ip_interface(each) for each in said["addresses"]),
        gateways=tuple(ip_address(each) for each in said["gateways"]),
    )  # fmt: skip
