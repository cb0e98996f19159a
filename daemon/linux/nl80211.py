"""Which Wi-Fi networks this machine is associated with, from the kernel itself (N2), whoever manages them.

Three dumps make one answer: the interfaces; of each, the access point whose status is "associated"; and whether the
port is authorised, for before that no data passes and a network with a password has proven nothing. What the access
point announces is taken as raw elements and read by `policies.elements`. The name is taken from there too, because
GET_INTERFACE leaves it out after wpa_supplicant's associations where no country is announced (net/wireless/sme.c).

Announcements are not signed, and an open network could announce encryption once it has been joined. So the kernel is
asked for the key that frames are encrypted with: where there is none, the network is open, whatever it says.

Sources: <linux/nl80211.h>, <linux/genetlink.h> of Linux 6.1 and 6.12; net/wireless/nl80211.c (nl80211_send_bss,
nl80211_get_key), net/mac80211/cfg.c (ieee80211_get_key).
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, replace

from daemon.host import HostError
from daemon.linux import rtnetlink
from policies.elements import Announced, parse
from policies.facts import Security, WifiNetwork, WifiSource

NAME = "nl80211"
# <linux/netlink.h>, <linux/genetlink.h>, <linux/rtnetlink.h>
NETLINK_GENERIC, GENL_ID_CTRL, GENL_VERSION = 16, 16, 1
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
NOTIFY = 16  # the controller's multicast group: families come and go
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME, CTRL_ATTR_MCAST_GROUPS = 1, 2, 7
CTRL_ATTR_MCAST_GRP_NAME, CTRL_ATTR_MCAST_GRP_ID = 1, 2
RTNLGRP_LINK = 1
SO_RCVBUFFORCE, EVENT_QUEUE = 33, 1 << 20  # bytes
# <linux/nl80211.h>
GET_INTERFACE, GET_KEY, GET_STATION, GET_SCAN = 5, 9, 17, 32
ATTR_IFINDEX, ATTR_IFNAME, ATTR_IFTYPE, ATTR_MAC, ATTR_KEY_IDX = 3, 4, 5, 6, 8
ATTR_STA_INFO, ATTR_BSS, ATTR_SSID = 21, 47, 52
STA_INFO_STA_FLAGS, AUTHORIZED = 17, 1 << 1
BSS_BSSID, BSS_CAPABILITY, BSS_ELEMENTS, BSS_STATUS, BSS_BEACON_ELEMENTS, BSS_MLD_ADDR = 1, 5, 6, 9, 11, 22
STATUS_ASSOCIATED = 1
STATION, P2P_CLIENT = 2, 8  # interface types that join somebody's network
GROUPS, SCAN_GROUP = (b"config", b"mlme"), b"scan"
GONE = frozenset({errno.ENODEV, errno.ENOENT, errno.ENETDOWN})
# Nobody announces that a port is authorised, so while a handshake goes on it is asked for again.
AGAIN_FIRST, AGAIN_LONGEST = 0.005, 0.5  # seconds

_GENL = 4  # bytes of genlmsghdr
Nested = dict[int, memoryview]


UNAUTHORISED = WifiNetwork(b"", source=WifiSource.NL80211)  # associated, and its password is not proven yet


@dataclass(frozen=True, slots=True)
class Family:
    """What the kernel calls nl80211 since it was loaded."""

    number: int
    groups: Mapping[bytes, int]


class Nl80211:
    """A source for `daemon.linux.wifi`. A Wi-Fi station that is not associated, or not yet authorised, is None."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._again = AGAIN_FIRST

    async def read(self) -> Mapping[str, WifiNetwork | None]:
        """By ifname; empty where the kernel has no Wi-Fi. Waits for nothing. Raises HostError."""
        found: dict[str, WifiNetwork | None] = {}
        handshake = False
        try:
            with rtnetlink.open_socket(NETLINK_GENERIC) as sock:
                if (family := find_family(sock)) is not None:
                    for ifname, joined in _stations(sock, family):
                        found[ifname] = None if joined is UNAUTHORISED else joined
                        handshake |= joined is UNAUTHORISED
        except OSError as err:
            refused = "not permitted" if err.errno in (errno.EPERM, errno.EACCES) else err.strerror or str(err)
            raise HostError("read the Wi-Fi networks", refused) from err
        if handshake:
            asyncio.get_running_loop().call_later(self._again, self._changed.set)
        self._again = min(2 * self._again, AGAIN_LONGEST) if handshake else AGAIN_FIRST
        return found

    async def server_unchecked(self, ifname: str) -> bool:
        """The kernel knows keys, not whom they were agreed with."""
        return False

    async def watch(self) -> AsyncIterator[None]:
        """Yields at once and then at each event of nl80211 and of links, and in a handshake every now and then.

        Never ends; survives overruns and a driver that is loaded later. Raises OSError where it may not listen.
        """
        loop = asyncio.get_running_loop()
        with _listening(socket.NETLINK_ROUTE, RTNLGRP_LINK) as links, _listening(NETLINK_GENERIC, NOTIFY) as radio:
            joined: Family | None = None

            def drain_links() -> None:
                _drain(links)
                if joined:  # else links have nothing to do with Wi-Fi
                    self._again = AGAIN_FIRST  # mostly, a port is authorised just after its link has changed
                    self._changed.set()

            def drain_radio() -> None:
                _drain(radio)
                self._changed.set()

            loop.add_reader(links, drain_links)
            loop.add_reader(radio, drain_radio)
            try:
                while True:
                    self._changed.clear()  # before the look: what changes during it is another hint
                    with rtnetlink.open_socket(NETLINK_GENERIC) as sock:
                        family = find_family(sock)
                    if family and family != joined:
                        _join(radio, family)
                    joined = family
                    yield
                    await self._changed.wait()
            finally:
                loop.remove_reader(links)
                loop.remove_reader(radio)


async def scans(ifindex: int, ssid: bytes) -> AsyncGenerator[list[WifiNetwork], None]:
    """The access points of that name that this interface has heard of; at once, and anew after each scan of somebody's.

    Asks nobody to scan. Waits for ever where the kernel has no Wi-Fi. Raises OSError.
    """
    with rtnetlink.open_socket(NETLINK_GENERIC) as sock:
        family = find_family(sock)
    if family is None or SCAN_GROUP not in family.groups:
        await asyncio.Event().wait()
        return
    scanned = asyncio.Event()
    loop = asyncio.get_running_loop()
    with _listening(NETLINK_GENERIC, family.groups[SCAN_GROUP]) as events:

        def drain() -> None:
            _drain(events)
            scanned.set()

        loop.add_reader(events, drain)
        try:
            while True:
                scanned.clear()
                with rtnetlink.open_socket(NETLINK_GENERIC) as sock:
                    yield _near(sock, family, ifindex, ssid)
                await scanned.wait()
        finally:
            loop.remove_reader(events)


def _near(sock: socket.socket, family: Family, ifindex: int, ssid: bytes) -> list[WifiNetwork]:
    named = bytes([0, len(ssid)]) + ssid  # most are others', and their elements are left unread
    found = []
    for result in _dump(sock, family, GET_SCAN, ifindex):
        bss = rtnetlink.attributes(result.get(ATTR_BSS, memoryview(b"")))
        if any(named in bytes(bss.get(kind, b"")) for kind in (BSS_ELEMENTS, BSS_BEACON_ELEMENTS)):
            found.append(_one(bss))
    return found


def find_family(sock: socket.socket) -> Family | None:
    """None where the kernel has no Wi-Fi, or not yet. Raises OSError."""
    for _, payload in rtnetlink.dump(sock, GENL_ID_CTRL, bytes([CTRL_CMD_GETFAMILY, 2, 0, 0])):
        about = rtnetlink.attributes(payload[_GENL:])
        if _text(about.get(CTRL_ATTR_FAMILY_NAME)) != NAME.encode():
            continue
        groups = {}
        for group in rtnetlink.attributes(about.get(CTRL_ATTR_MCAST_GROUPS, memoryview(b""))).values():
            fields = rtnetlink.attributes(group)
            groups[_text(fields.get(CTRL_ATTR_MCAST_GRP_NAME))] = _number(fields.get(CTRL_ATTR_MCAST_GRP_ID))
        return Family(_number(about.get(CTRL_ATTR_FAMILY_ID)), groups)
    return None


def _stations(sock: socket.socket, family: Family) -> Iterator[tuple[str, WifiNetwork | None]]:
    """Those of which the kernel can tell: the network, UNAUTHORISED, or None: not associated. Raises OSError."""
    for interface in _dump(sock, family, GET_INTERFACE):
        ifname = os.fsdecode(_text(interface.get(ATTR_IFNAME)))
        if not ifname or _number(interface.get(ATTR_IFTYPE)) not in (STATION, P2P_CLIENT):
            continue  # an access point of our own, a monitor
        ifindex = _number(interface.get(ATTR_IFINDEX))
        try:
            joined = [bss for each in _dump(sock, family, GET_SCAN, ifindex) if (bss := _associated(each)) is not None]
            if not joined:
                yield ifname, None
                continue
            peer, authorised = _peer(sock, family, ifindex, joined)
            if authorised:
                found = network(joined, bytes(interface.get(ATTR_SSID, b"")))
                yield ifname, _held_to_its_key(found, sock, family, ifindex, peer)
            elif authorised is not None:
                yield ifname, UNAUTHORISED
        except OSError as err:
            if err.errno not in GONE:
                raise


def _peer(sock: socket.socket, family: Family, ifindex: int, joined: list[Nested]) -> tuple[bytes, bool | None]:
    """The access point among the stations of an interface, and whether it lets data pass; None: its driver hides it."""
    ours = {bytes(bss[kind]) for bss in joined for kind in (BSS_BSSID, BSS_MLD_ADDR) if kind in bss}
    try:
        stations = list(_dump(sock, family, GET_STATION, ifindex))
    except OSError as err:
        if err.errno != errno.EOPNOTSUPP:
            raise
        return b"", None
    for station in stations:
        if (mac := bytes(station.get(ATTR_MAC, b""))) in ours:
            return mac, _authorised(station)
    return b"", False  # it has roamed between the two dumps


def _held_to_its_key(found: WifiNetwork, sock: socket.socket, family: Family, ifindex: int, peer: bytes) -> WifiNetwork:
    """The same network; open, and malformed, when it announces encryption and frames are not encrypted."""
    if found.security.strength <= Security.WEP.strength:
        return found  # WEP has no key of a pair
    where = rtnetlink.number(ATTR_IFINDEX, ifindex) + rtnetlink.attribute(ATTR_MAC, peer)
    for number in (0, 1):  # a pair has two at most: one in use, and the next one
        key = bytes([GET_KEY, GENL_VERSION, 0, 0]) + where + rtnetlink.attribute(ATTR_KEY_IDX, bytes([number]))
        (refused,) = rtnetlink.change(sock, [(family.number, 0, key)])
        if refused is None or refused.errno != errno.ENOENT:
            return found  # there is one, or the driver does not tell
    return replace(found, security=Security.OPEN, malformed=True)


def network(joined: list[Nested], told: bytes = b"") -> WifiNetwork:
    """The network of the access points an interface is associated with: several with multi-link, one of a kind else.

    `told`: the name as the driver knows it, for hidden networks. The weakest of everything that was announced counts.
    """
    found = [_one(bss) for bss in joined]
    weakest = min(found, key=lambda each: each.security.strength)
    names = [each.ssid for each in found if each.ssid]
    return replace(
        weakest,
        ssid=names[0] if names else told,
        tkip=any(each.tkip for each in found),
        wps=any(each.wps for each in found),
        malformed=any(each.malformed for each in found) or len(set(names)) > 1,
    )


def _one(bss: Nested) -> WifiNetwork:
    capability = _number(bss.get(BSS_CAPABILITY))
    # Of the last frame, mostly a probe response, and of the last beacon: they should say the same.
    said = [parse(bytes(bss[kind]), capability) for kind in (BSS_ELEMENTS, BSS_BEACON_ELEMENTS) if kind in bss]
    if not said or capability < 0:
        said = [Announced(malformed="no elements")]
    weakest = min(said, key=lambda each: each.security.strength)
    names = [each.ssid for each in said if each.ssid.strip(b"\0")]  # a hidden network's beacon has none, or zeros
    return WifiNetwork(
        ssid=names[0] if names else b"",
        bssid=bytes(bss.get(BSS_BSSID, b"")),
        security=weakest.security,
        tkip=any(each.tkip for each in said),
        wps=any(each.wps for each in said),
        malformed=any(each.malformed for each in said) or len(set(names)) > 1,
        source=WifiSource.NL80211,
    )


def _associated(result: Nested) -> Nested | None:
    bss = rtnetlink.attributes(result.get(ATTR_BSS, memoryview(b"")))
    return bss if BSS_STATUS in bss and _number(bss[BSS_STATUS]) == STATUS_ASSOCIATED else None


def _authorised(station: Nested) -> bool | None:
    """Whether the port is; None: the driver does not tell."""
    flags = rtnetlink.attributes(station.get(ATTR_STA_INFO, memoryview(b""))).get(STA_INFO_STA_FLAGS)
    if flags is None or len(flags) < 8:  # struct nl80211_sta_flag_update: mask, set
        return None
    mask, held = (int.from_bytes(flags[start : start + 4], sys.byteorder) for start in (0, 4))
    return bool(held & AUTHORIZED) if mask & AUTHORIZED else None


def _dump(sock: socket.socket, family: Family, command: int, ifindex: int | None = None) -> Iterator[Nested]:
    about = b"" if ifindex is None else rtnetlink.number(ATTR_IFINDEX, ifindex)
    for _, payload in rtnetlink.dump(sock, family.number, bytes([command, GENL_VERSION, 0, 0]) + about):
        yield rtnetlink.attributes(payload[_GENL:])


def _listening(protocol: int, group: int) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, EVENT_QUEUE)
        sock.bind((0, 0))
        sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except BaseException:
        sock.close()
        raise
    return sock


def _join(sock: socket.socket, family: Family) -> None:
    for name in GROUPS:
        if name in family.groups:
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, family.groups[name])


def _drain(sock: socket.socket) -> None:
    """Whatever it says, or that more was said than fits: everything is read anew."""
    for _ in range(1000):
        try:
            sock.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError as err:
            if err.errno != errno.ENOBUFS:
                raise


def _number(value: memoryview | None) -> int:
    """Of 8, 16 or 32 bits; -1 when it is not there."""
    return -1 if value is None or len(value) not in (1, 2, 4) else int.from_bytes(value, sys.byteorder)


def _text(value: memoryview | None) -> bytes:
    return b"" if value is None else bytes(value).rstrip(b"\0")
