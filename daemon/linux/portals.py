"""What is behind a link: the network's own word (RFC 8910), a portal's API (RFC 8908), and probes over HTTP.

Connections are made here, marked and bound to that link; what is said on them is read by confined processes. DNS is
asked of the link's own resolvers, for no other may be reached. What a network announces comes from systemd-networkd,
which keeps it of DHCPv4 (option 114), DHCPv6 (103) and router advertisements, and from the kernel, which hands on
router advertisements (option 37). NetworkManager and dhclient do not ask for the option.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import socket
import struct
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from urllib.parse import urljoin

import structlog

from daemon.host import Announced, HostError
from daemon.linux import confined, nameservers
from policies.facts import Address, Internet, Link, Reach
from policies.firewall import MARK
from policies.portals import UNRESTRICTED, Probe, Site, address, can_serve, portal_url, site

log = structlog.get_logger()

SO_MARK = 36  # <asm-generic/socket.h>
CONNECT_S, NAMES_S, ANSWER_S = 4.0, 6.0, 8.0
LONGEST_FILE = 64 << 10
MOST_ADDRESSES = 3
NETWORKD = Path("/run/systemd/netif/links")

# <linux/rtnetlink.h>, <linux/netlink.h>; struct nduseroptmsg
RTNLGRP_ND_USEROPT, RTM_NEWNDUSEROPT = 20, 68
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
ROUTER_ADVERTISEMENT, CAPTIVE_PORTAL = 134, 37  # RFC 4861, RFC 8910
_MESSAGE, _OPTIONS = struct.Struct("=IHHII"), struct.Struct("=BxHiBBHI")
MOST_LINKS = 64


class LinuxPortals:
    """Implements `daemon.host.Portals`. Needs CAP_NET_ADMIN; before Linux 5.7 also CAP_NET_RAW."""

    def __init__(self) -> None:
        self._advertised: dict[int, str] = {}  # by ifindex
        self._kernel: socket.socket | None = None
        self._deaf = False

    # --- the network's own word --------------------------------------------------------------------------------------

    def forget(self, ifindex: int) -> None:
        if self._kernel is None and not self._deaf:
            try:
                self._kernel = _listener()
            except OSError as err:
                log.warning("router advertisements are not heard", error=err.strerror)
                self._deaf = True
        self._hear()
        self._advertised.pop(ifindex, None)

    def announced(self, ifindex: int) -> Announced | None:
        self._hear()
        if leased := _networkd(ifindex):
            return Announced(leased, "dhcp")
        advertised = self._advertised.get(ifindex)
        return Announced(advertised, "ra") if advertised else None

    def close(self) -> None:
        if self._kernel is not None:
            self._kernel.close()
            self._kernel = None

    def _hear(self) -> None:
        """What the kernel handed on since. A lost message is one of many: routers repeat themselves."""
        while self._kernel is not None:
            try:
                data, sender = self._kernel.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError as err:
                if err.errno == errno.ENOBUFS:
                    continue
                return
            if sender[0] == 0:  # the kernel, and nobody who pretends to be it
                for ifindex, text in advertised(data):
                    if len(self._advertised) < MOST_LINKS or ifindex in self._advertised:
                        self._advertised[ifindex] = text

    # --- questions ---------------------------------------------------------------------------------------------------

    async def look(self, link: Link, probes: Sequence[Probe], announced: Announced | None) -> Internet | None:
        if announced and (by_itself := await self._announced(link, announced)):
            return by_itself
        found = [await self._probe(link, probes[0])]
        if found[0] is None or found[0].reach is not Reach.INTERNET:
            # One may be down, or redirected where it is at home: a portal is believed if none of them is right.
            found += await asyncio.gather(*(self._probe(link, probe) for probe in probes[1:]))
        told = [each for each in found if each is not None]
        for reach in (Reach.INTERNET, Reach.PORTAL):
            if first := next((each for each in told if each.reach is reach), None):
                return first
        return told[0] if told and len(told) == len(found) else None

    async def _announced(self, link: Link, announced: Announced) -> Internet | None:
        """What the portal's API says; None: the probes have to tell."""
        if announced.url == UNRESTRICTED:
            return Internet(Reach.INTERNET, announced.source)
        there = site(announced.url)
        if there is None or not there.secure or there.port != 443:
            log.info("no API of a portal", link=link.ifname, source=announced.source)
            return None
        try:
            said = await self._ask(link, there, api=True)
        except HostError as err:
            log.info("the portal's API", link=link.ifname, error=str(err))
            return None
        if said is None or not isinstance(said.get("captive"), bool):
            return None
        if not said["captive"]:
            return Internet(Reach.INTERNET, announced.source)
        return Internet(Reach.PORTAL, announced.source, portal_url(said.get("url")))

    async def _probe(self, link: Link, probe: Probe) -> Internet | None:
        """None: an answer that tells nothing, such as an error of the server."""
        there = Site(False, probe.host, 80, probe.path)
        try:
            said = await self._ask(link, there, api=False, right=probe.body)
        except HostError as err:
            log.info("a strange answer to a probe", link=link.ifname, host=probe.host, error=str(err))
            return None
        if said is None:
            return Internet(Reach.NOTHING, "probe")
        status, location = said.get("status"), said.get("location")
        if said.get("right") is True:
            return Internet(Reach.INTERNET, "probe")
        if not isinstance(status, int) or not (200 <= status < 400 or status == 511):
            return None
        asked = f"http://{probe.host}{probe.path}"
        return Internet(Reach.PORTAL, "probe", _led(asked, location) or portal_url(asked))

    async def _ask(self, link: Link, there: Site, *, api: bool, right: bytes | None = None) -> dict[str, object] | None:
        """What the server says; None: nobody answers. Raises HostError: what it says cannot be read."""
        task = {"host": there.host, "path": there.path, "secure": there.secure, "api": api,
                "right": None if right is None else right.hex()}  # fmt: skip
        error: HostError | None = None
        for at in (await self._addresses(link, there.host))[:MOST_ADDRESSES]:
            async with _connected(link, at, there.port) as connection:
                if connection is None:
                    continue
                try:
                    said = await confined.run(
                        "daemon.linux.confined_web", [connection], json.dumps(task).encode(), seconds=ANSWER_S
                    )
                    found = json.loads(said)
                except HostError as err:
                    error = err
                    continue
                except ValueError:
                    continue
                if isinstance(found, dict):
                    return found
        if error is not None:
            raise error
        return None

    async def _addresses(self, link: Link, host: str) -> list[Address]:
        """By the resolvers of that link alone. IPv4 first: what a portal does not redirect is IPv6, mostly."""
        if (literal := address(host)) is not None:
            return [literal]
        versions = {gateway.version for gateway in link.gateways}
        with ExitStack() as stack:
            asked = []
            for resolver in resolvers(link):
                with contextlib.suppress(OSError):
                    each = stack.enter_context(_socket(link, resolver, socket.SOCK_DGRAM))
                    each.connect(_to(link, resolver, 53))
                    asked.append(each)
            if not asked:
                return []
            kinds = [kind for version, kind in ((4, 1), (6, 28)) if version in versions]
            try:
                said = await confined.run(
                    "daemon.linux.confined_names", asked, json.dumps([[host], kinds]).encode(), seconds=NAMES_S
                )
                texts = json.loads(said).get(host, [])
            except HostError as err:
                log.info("no names", link=link.ifname, host=host, error=str(err))
                return []
            except (ValueError, AttributeError):
                return []
        found = [address(text) for text in texts if isinstance(text, str)] if isinstance(texts, list) else []
        return sorted((each for each in found if each and each.version in versions), key=lambda each: each.version)


def _led(asked: str, location: object) -> str:
    """Where a redirection leads, if anywhere that can be shown."""
    try:
        return portal_url(urljoin(asked, location)) if isinstance(location, str) and len(location) < 4096 else ""
    except ValueError:
        return ""


def resolvers(link: Link) -> list[Address]:
    """Who answers DNS on that link: those it told a network manager of, and its routers, which mostly do."""
    found = filter(can_serve, nameservers.of_the_network())
    versions = {gateway.version for gateway in link.gateways}
    every = dict.fromkeys(each for each in (*found, *link.gateways) if each.version in versions)
    return [*every][: nameservers.MOST]


def _networkd(ifindex: int) -> str:
    """What systemd-networkd was told of a link (networkd-state-file.c); it has checked that it is a URL."""
    match = re.search(r"^CAPTIVE_PORTAL=([!-~]{1,2000})$", _read(NETWORKD / str(ifindex)), re.MULTILINE)
    return match[1] if match else ""


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(LONGEST_FILE).decode("ascii", "replace")
    except OSError:
        return ""


def advertised(data: bytes) -> list[tuple[int, str]]:
    """The captive portals in router advertisements that the kernel hands on: ifindex and URL. Never raises."""
    found, at = [], 0
    while at + _MESSAGE.size <= len(data):
        length, kind, *_ = _MESSAGE.unpack_from(data, at)
        if not _MESSAGE.size <= length <= len(data) - at:
            break
        message = data[at + _MESSAGE.size : at + length]
        if kind == RTM_NEWNDUSEROPT and len(message) >= _OPTIONS.size:
            _, size, ifindex, icmp, *_ = _OPTIONS.unpack_from(message)
            option = message[_OPTIONS.size : _OPTIONS.size + size]
            if icmp == ROUTER_ADVERTISEMENT and len(option) >= 8 and option[0] == CAPTIVE_PORTAL:
                text = option[2 : option[1] * 8].rstrip(b"\0").decode("ascii", "replace")
                if text == UNRESTRICTED or portal_url(text):
                    found.append((ifindex, text))
        at += (length + 3) & ~3
    return found


def _listener() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, 0)
    try:
        made.bind((0, 0))
        made.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, RTNLGRP_ND_USEROPT)
    except OSError:
        made.close()
        raise
    return made


def _socket(link: Link, to: Address, kind: int) -> socket.socket:
    """Marked for the firewall's exception, bound so that no other link can be taken for this one."""
    made = socket.socket(socket.AF_INET6 if to.version == 6 else socket.AF_INET, kind)
    try:
        made.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.ifname.encode() + b"\0")
    except OSError:
        made.close()
        raise
    return made


def _to(link: Link, at: Address, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    return (str(at), port, 0, link.ifindex) if at.version == 6 and at.is_link_local else (str(at), port)


@asynccontextmanager
async def _connected(link: Link, at: Address, port: int) -> AsyncIterator[socket.socket | None]:
    """A connection over that link; None: nobody answers."""
    with ExitStack() as stack:
        try:
            connection = stack.enter_context(_socket(link, at, socket.SOCK_STREAM))
            connection.setblocking(False)
            # Nothing is left to be sent when the exception has ended: closed is gone.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            async with asyncio.timeout(CONNECT_S):
                await asyncio.get_running_loop().sock_connect(connection, _to(link, at, port))
            os.set_blocking(connection.fileno(), True)  # for the child: the two share the flag
        except OSError:  # TimeoutError is one
            yield None
            return
        yield connection
