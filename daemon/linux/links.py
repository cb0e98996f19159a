"""Network links, read whole from the kernel by rtnetlink dumps, and a watch that only says "look again".

What is read stands between an event and the rules: 0.2 ms for five links, pyroute2 2.4. What each of them is, says
`link_kinds.py`.
"""

from __future__ import annotations

import errno
import socket
import struct
import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import TYPE_CHECKING

import structlog

from daemon.host import HostError
from daemon.linux import neighbours, rtnetlink
from daemon.linux.link_hints import EVENT_QUEUE, hints
from daemon.linux.link_kinds import SYSFS, Device, hardware_kind, kinds, tunnel_kind
from policies.facts import Address, Interface, Link

if TYPE_CHECKING:
    from policies.settings_tables import LinkRule

log = structlog.get_logger()

# <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>, <linux/if.h>
SOL_NETLINK, NETLINK_GET_STRICT_CHK = 270, 12
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 16, 18, 20, 22, 24, 26
GROUPS = 0x1 | 0x10 | 0x100 | 0x40 | 0x400  # RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR, _IPV4_ROUTE, _IPV6_ROUTE
IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_EXT_MASK = 1, 3, 5, 10, 18, 29
IFLA_CARRIER_CHANGES, IFLA_LINK_NETNSID = 35, 37
IFLA_INFO_KIND = 1
RTEXT_FILTER_SKIP_STATS = 0x8
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 9, 15, 18
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
IFF_UP, IFF_LOWER_UP = 0x1, 0x10000

_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, hardware type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=8BI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NEXTHOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, index

NONE = memoryview(b"")


def _number(value: memoryview | None) -> int:
    return int.from_bytes(value, sys.byteorder, signed=True) if value is not None else 0


def _device(payload: memoryview) -> Device:
    _, frames, ifindex, flags, _ = _LINK.unpack_from(payload)
    attributes = rtnetlink.attributes(payload[_LINK.size :])
    info = rtnetlink.attributes(attributes.get(IFLA_LINKINFO, NONE))
    below = 0 if IFLA_LINK_NETNSID in attributes else _number(attributes.get(IFLA_LINK))
    return Device(
        ifindex,
        bytes(attributes.get(IFLA_IFNAME, b"")).rstrip(b"\0").decode("utf-8", "surrogateescape"),
        flags,
        bytes(attributes.get(IFLA_ADDRESS, b"")),
        bytes(info.get(IFLA_INFO_KIND, b"")).rstrip(b"\0").decode("ascii", "replace"),
        below if below != ifindex else 0,
        _number(attributes.get(IFLA_MASTER)),
        _number(attributes.get(IFLA_CARRIER_CHANGES)),
        frames,
    )


@lru_cache(maxsize=256)
def _interface(packed: bytes, prefix: int) -> Interface:
    return IPv4Interface((packed, prefix)) if len(packed) == 4 else IPv6Interface((packed, prefix))


@lru_cache(maxsize=64)
def _address(packed: bytes) -> Address:
    return IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)


def _interface_of(payload: memoryview) -> tuple[int, Interface] | None:
    family, prefix, _, _, ifindex = _ADDRESS.unpack_from(payload)
    attributes = rtnetlink.attributes(payload[_ADDRESS.size :])
    packed = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)  # IFA_ADDRESS is the peer's where there is one
    if packed is None or len(packed) != {socket.AF_INET: 4, socket.AF_INET6: 16}.get(family):
        return None
    return ifindex, _interface(bytes(packed), prefix)


def _gateways_of(payload: memoryview) -> Iterator[tuple[int, Address, int | None]]:
    """(ifindex, gateway, half) of a default route of the main table; several with multipath.

    `half`: 0 or 1 for a route to the lower or upper half of all addresses, None for one to all of them.
    """
    _, dst_len, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(payload)
    if dst_len > 1 or kind != RTN_UNICAST:
        return
    attributes = rtnetlink.attributes(payload[_ROUTE.size :])
    if (_number(attributes.get(RTA_TABLE)) or table) != RT_TABLE_MAIN:
        return
    half = attributes.get(RTA_DST, memoryview(b"\0"))[0] >> 7 if dst_len else None
    hops = [(_number(attributes.get(RTA_OIF)), attributes)]
    rest = attributes.get(RTA_MULTIPATH, NONE)
    while len(rest) >= _NEXTHOP.size:
        length, _, _, ifindex = _NEXTHOP.unpack_from(rest)
        if length < _NEXTHOP.size:
            break
        hops.append((ifindex, rtnetlink.attributes(rest[_NEXTHOP.size : length])))
        rest = rest[(length + 3) & ~3 :]
    for ifindex, hop in hops:
        packed = hop.get(RTA_GATEWAY) or hop.get(RTA_VIA, NONE)[2:]  # RTA_VIA: family, then the address
        if ifindex and len(packed) in (4, 16):
            yield ifindex, _address(bytes(packed)), half


class _Gateways:
    """Of each link: of its default routes, or of two halves of everything where it has none of that IP version.

    Some DHCP servers push 0.0.0.0/1 and 128.0.0.0/1 alone, and such a network works. Beside a default route, halves are
    somebody's way around it.
    """

    def __init__(self) -> None:
        self._whole: dict[tuple[int, int], dict[Address, None]] = {}  # by ifindex and version; keeps the kernel's order
        self._halves: dict[tuple[int, int], tuple[dict[Address, None], dict[Address, None]]] = {}

    def add(self, ifindex: int, gateway: Address, half: int | None) -> None:
        key = ifindex, gateway.version
        if half is None:
            self._whole.setdefault(key, {})[gateway] = None
        else:
            self._halves.setdefault(key, ({}, {}))[half][gateway] = None

    def of(self, ifindex: int) -> tuple[Address, ...]:
        found: dict[Address, None] = {}
        for key in ((ifindex, 4), (ifindex, 6)):
            lower, upper = self._halves.get(key, ({}, {}))
            found |= self._whole.get(key, {} if not (lower and upper) else lower | upper)
        return tuple(found)


class LinuxLinks:
    """`Links` by rtnetlink, in the network namespace of the calling thread.

    `rules` may be replaced at any time; the next `read` follows it. Read and watch share nothing.
    """

    def __init__(self, rules: tuple[LinkRule, ...] = (), *, sysfs: str = SYSFS, event_queue: int = EVENT_QUEUE) -> None:
        self.rules = rules
        self._sysfs = sysfs
        self._event_queue = event_queue  # bytes

    async def read(self) -> tuple[Link, ...]:
        """All links, whole, from the kernel, in its order; about 0.2 ms for five. Raises HostError.

        Three dumps are not one moment: whatever changes in between is an event that `watch` reports.
        """
        try:
            return self._read()
        except (OSError, struct.error) as err:
            raise HostError("read the network links", getattr(err, "strerror", None) or str(err)) from err

    def gateway_macs(self, links: Iterable[Link]) -> Mapping[str, bytes]:
        """By ifname, who answers for the default gateway; whoever is not told is being asked. Raises HostError."""
        try:
            return neighbours.gateway_macs(links)
        except OSError as err:
            raise HostError("read the neighbours", err.strerror or str(err)) from err

    def _read(self) -> tuple[Link, ...]:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            sock.setblocking(False)
            sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)  # the kernel itself leaves other tables out
            sock.bind((0, 0))
            listed = rtnetlink.dump(sock, RTM_GETLINK, _ALL_LINKS)
            devices = [_device(payload) for kind, payload in listed if kind == RTM_NEWLINK]
            addresses: dict[int, list[Interface]] = {}
            for kind, payload in rtnetlink.dump(sock, RTM_GETADDR, _ALL_ADDRESSES):
                if kind == RTM_NEWADDR and (found := _interface_of(payload)):
                    addresses.setdefault(found[0], []).append(found[1])
            gateways = _Gateways()
            for family in (socket.AF_INET, socket.AF_INET6):
                try:
                    for kind, payload in rtnetlink.dump(sock, RTM_GETROUTE, _main_table(family)):
                        if kind == RTM_NEWROUTE:
                            for found_one in _gateways_of(payload):
                                gateways.add(*found_one)
                except OSError as err:
                    if err.errno not in NO_SUCH_TABLE:
                        raise
        decided = kinds(devices, self.rules, lambda device: hardware_kind(device, self._sysfs))
        return tuple(
            Link(
                device.ifindex, device.ifname, decided[device.ifindex],
                up=bool(device.flags & IFF_UP), carrier=bool(device.flags & IFF_LOWER_UP),
                carrier_changes=device.carrier_changes, mac=device.mac,
                addresses=tuple(addresses.get(device.ifindex, ())), gateways=gateways.of(device.ifindex),
                tunnel=tunnel_kind(device),
            )
            for device in {device.ifindex: device for device in devices}.values()
        )  # fmt: skip

    def watch(self) -> AsyncIterator[None]:
        """Yields at once and then whenever links, addresses or routes may have changed. Never ends."""
        return hints(GROUPS, self._event_queue)


# What rtnl asks of a dump: all links without their statistics; all addresses; the routes of the main table.
_ALL_LINKS = _LINK.pack(0, 0, 0, 0, 0) + rtnetlink.number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
_ALL_ADDRESSES = _ADDRESS.pack(0, 0, 0, 0, 0)
NO_SUCH_TABLE = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})  # no route yet; no IPv6 in this kernel


def _main_table(family: int) -> bytes:
    return _ROUTE.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
