"""Network links, read whole from the kernel by rtnetlink dumps, and a watch that only says "look again".

What a link *is* decides what may ever be cleared for traffic, so doubt always ends on the side of an uplink: VIRTUAL is
kept for links that cannot reach the outside by themselves. First row that fits:

| link                                              | kind            | because
|---------------------------------------------------|-----------------|--------------------------------------------------
| IFF_LOOPBACK                                      | LOOPBACK        | the kernel sets the flag; no rule may turn it
| the names TUNNEL_IFNAME, PROBE_IFNAME             | TUNNEL          | ours; no rule may turn it
| a `links` rule with a kind matches its name       | the rule's      | the administrator knows what the kernel cannot
| hardware whose frames are those of the air        | VIRTUAL         | a monitor: IP packets are no such frames
| driver virt_wifi; hardware with DEVTYPE=wlan or   | WIFI            | cfg80211 sets the type before the link exists;
|   a folder wireless/ or phy80211/                 |                 | old wireless-extension drivers have a folder
| driver wwan, rmnet; hardware with DEVTYPE=wwan    | CELLULAR        | the modem core and usbnet set the type
| hardware that /sys does not describe              | WIFI            | renamed, gone, hidden: the strictest rules hold
| other hardware (it has no driver name)            | WIRED           | Ethernet, InfiniBand, tethered phones
| dummy, ifb, nlmon                                 | VIRTUAL         | frames end in the kernel
| bridge                                            | its ports' (*)  | docker0, virbr0: no port leaves; br0 holds eth0
| veth, tun in a bridge                             | the bridge's    | containers and VMs are as inside as their bridge
| vlan, macvlan, macvtap, ipvlan, ipvtap, macsec    | the one below's | frames leave by that link; WIRED if unknown
| all others: bond, team, vrf, ppp, lone veth, lone | WIRED, or       | traffic can leave by them, or nobody can tell;
|   tun, vxlan, gre, foreign wireguard, unknown     | stricter (*)    | ports and links below only make it stricter

Links that a profile names as somebody else's tunnel become TUNNEL later, in policies/external_links.py: `tunnel_kind`
says which may be one.

(*) the strictest of WIFI, CELLULAR, WIRED, VIRTUAL that can be reached through ports, the other end of a local veth
pair, and links below. A bond over a Wi-Fi card is WIFI; no source will name its network, so it stays held until a
`links` rule says what it is: an open hotspot must not pass as a cable.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface
from typing import TYPE_CHECKING, NamedTuple

import structlog

from daemon.host import HostError
from daemon.linux import neighbours
from daemon.linux.link_hints import EVENT_QUEUE, hints
from policies.facts import Address, Interface, Link, LinkKind
from policies.firewall import PROBE_IFNAME, TUNNEL_IFNAME

if TYPE_CHECKING:
    from policies.settings_tables import LinkRule

log = structlog.get_logger()

SYSFS = "/sys/class/net"

# <linux/netlink.h>, <linux/rtnetlink.h>, <linux/if_link.h>, <linux/if_addr.h>, <linux/if.h>
SOL_NETLINK, NETLINK_GET_STRICT_CHK = 270, 12
NLM_F_REQUEST, NLM_F_DUMP, NLM_F_DUMP_INTR = 0x1, 0x300, 0x10
NLMSG_ERROR, NLMSG_DONE = 2, 3
RTM_NEWLINK, RTM_GETLINK, RTM_NEWADDR, RTM_GETADDR, RTM_NEWROUTE, RTM_GETROUTE = 16, 18, 20, 22, 24, 26
GROUPS = 0x1 | 0x10 | 0x100 | 0x40 | 0x400  # RTMGRP_LINK, _IPV4_IFADDR, _IPV6_IFADDR, _IPV4_ROUTE, _IPV6_ROUTE
IFLA_ADDRESS, IFLA_IFNAME, IFLA_LINK, IFLA_MASTER, IFLA_LINKINFO, IFLA_EXT_MASK = 1, 3, 5, 10, 18, 29
IFLA_CARRIER_CHANGES, IFLA_LINK_NETNSID = 35, 37
IFLA_INFO_KIND = 1
RTEXT_FILTER_SKIP_STATS = 0x8
IFA_ADDRESS, IFA_LOCAL = 1, 2
RTA_DST, RTA_OIF, RTA_GATEWAY, RTA_MULTIPATH, RTA_TABLE, RTA_VIA = 1, 4, 5, 9, 15, 18
RT_TABLE_MAIN, RTN_UNICAST = 254, 1
IFF_UP, IFF_LOOPBACK, IFF_LOWER_UP = 0x1, 0x8, 0x10000

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, hardware type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = struct.Struct("=8BI")  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
_NEXTHOP = struct.Struct("=HBBi")  # rtnexthop: length, flags, hops, index


class Device(NamedTuple):
    """A link as RTM_NEWLINK describes it, before it is decided what kind of link it is."""

    ifindex: int
    ifname: str  # bytes that are no UTF-8 as surrogates (PEP 383): os.fsencode gives the kernel's bytes back
    flags: int = 0
    mac: bytes = b""
    driver: str = ""  # IFLA_INFO_KIND; hardware has none
    below: int = 0  # ifindex of the link below, or of a veth's other end; 0: none, or in another network namespace
    master: int = 0  # ifindex of the bridge, bond ... it is a port of
    carrier_changes: int = 0
    frames: int = 1  # ARPHRD_ of <linux/if_arp.h>; 1: Ethernet


# --- what a link is: pure ---------------------------------------------------------------------------------------------

INERT = frozenset({"dummy", "ifb", "nlmon"})
MONITOR = frozenset({801, 802, 803})  # ARPHRD_IEEE80211, _PRISM, _RADIOTAP
STACKED = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"})
BRIDGED = frozenset({"veth", "tun"})
TUNNELS = frozenset({"wireguard", "ppp", "xfrm"})
ETHERNET = 1  # ARPHRD_ETHER
STRICTEST = (LinkKind.WIFI, LinkKind.CELLULAR, LinkKind.WIRED, LinkKind.VIRTUAL)  # first found counts


def kinds(
    devices: Iterable[Device], rules: Iterable[LinkRule], hardware: Callable[[Device], LinkKind]
) -> dict[int, LinkKind]:
    """What each link is, by ifindex: the table above. `hardware` answers for links without a driver name."""
    by_index = {device.ifindex: device for device in devices}
    ruled = [(rule.name, rule.kind) for rule in rules if rule.kind is not None]
    ports: dict[int, list[int]] = {}
    for device in by_index.values():
        if device.master:
            ports.setdefault(device.master, []).append(device.ifindex)

    def in_bridge(device: Device) -> bool:
        master = by_index.get(device.master)
        return master is not None and master.driver == "bridge"

    def by_itself(device: Device) -> LinkKind | None:
        """What it is whatever it is joined to; None when that decides."""
        if device.flags & IFF_LOOPBACK:
            return LinkKind.LOOPBACK
        if device.ifname in (TUNNEL_IFNAME, PROBE_IFNAME):
            return LinkKind.TUNNEL
        for pattern, kind in ruled:
            if fnmatchcase(device.ifname, pattern):
                return kind
        match device.driver:
            case "":
                return LinkKind.VIRTUAL if device.frames in MONITOR else hardware(device)
            case "virt_wifi":
                return LinkKind.WIFI
            case "wwan" | "rmnet":
                return LinkKind.CELLULAR
            case driver if driver in INERT:
                return LinkKind.VIRTUAL
            case driver if driver in BRIDGED and not in_bridge(device):
                return LinkKind.WIRED
        return None

    settled = {index: by_itself(device) for index, device in by_index.items()}

    def joined(start: int) -> LinkKind:
        """The strictest kind that can be reached from there."""
        found, seen, todo = set[LinkKind](), set[int](), [start]
        while todo:
            index = todo.pop()
            if index in seen:
                continue
            seen.add(index)
            here = by_index.get(index)
            if here is None:  # in another network namespace, or gone between two messages of the dump
                found.add(LinkKind.WIRED)
            elif (kind := settled[index]) is not None:
                # A link over our tunnel is not our tunnel.
                found.add(LinkKind.WIRED if kind is LinkKind.TUNNEL else kind)
            elif here.driver in STACKED:
                todo.append(here.below)
            elif here.driver in BRIDGED:
                todo += [other for other in (here.master, here.below) if other]
            else:
                found.add(LinkKind.VIRTUAL if here.driver == "bridge" else LinkKind.WIRED)
                todo += ports.get(index, [])
                todo += [here.below] if here.below else []
        return next((kind for kind in STRICTEST if kind in found), LinkKind.WIRED)

    walked: dict[int, LinkKind] = {}  # a bridge is walked once, not once for each of its ports

    def kind_of(device: Device) -> LinkKind:
        if (kind := settled[device.ifindex]) is not None:
            return kind
        start = device.master if device.driver in BRIDGED else device.ifindex
        if start not in walked:
            walked[start] = joined(start)
        return walked[start]

    return {index: kind_of(device) for index, device in by_index.items()}


def tunnel_kind(device: Device) -> str:
    """Which kind of tunnel a link is that others may have brought up (policies/external.py); "": none, or ours."""
    if device.ifname in (TUNNEL_IFNAME, PROBE_IFNAME) or device.master:
        return ""
    if device.driver == "tun":
        return "tap" if device.frames == ETHERNET else "tun"
    return device.driver if device.driver in TUNNELS else ""


def hardware_kind(device: Device, sysfs: str = SYSFS) -> LinkKind:
    """What /sys/class/net/NAME says of a link of hardware, about 25 µs. WIFI when it says nothing of *this* link."""
    folder = os.fsencode(sysfs) + b"/" + os.fsencode(device.ifname)
    try:
        uevent = os.open(folder + b"/uevent", os.O_RDONLY | os.O_CLOEXEC)
        try:
            lines = os.read(uevent, 4096).split(b"\n")
        finally:
            os.close(uevent)
    except OSError:
        return LinkKind.WIFI
    if b"IFINDEX=%d" % device.ifindex not in lines:  # the name has gone to another link, or /sys shows other links
        return LinkKind.WIFI
    if b"DEVTYPE=wlan" in lines:
        return LinkKind.WIFI
    if b"DEVTYPE=wwan" in lines:
        return LinkKind.CELLULAR
    if os.access(folder + b"/wireless", os.F_OK) or os.access(folder + b"/phy80211", os.F_OK):
        return LinkKind.WIFI
    return LinkKind.WIRED


# --- rtnetlink: bytes in, values out ----------------------------------------------------------------------------------
# A parser of our own: it stands between an event and the rules, 0.2 ms for five links, pyroute2 2.4.


class _Interrupted(Exception):
    """Something changed during the dump (NLM_F_DUMP_INTR): it may lack a link."""


def _dump(sock: socket.socket, request: int, body: bytes, take_interrupted: bool) -> Iterator[tuple[int, memoryview]]:
    """(type, payload) of each answer. Raises OSError, _Interrupted.

    Never waits: the kernel has filled the queue before send() returns and refills it within each recv().
    """
    sock.send(_HEADER.pack(_HEADER.size + len(body), request, NLM_F_REQUEST | NLM_F_DUMP, request, 0) + body)
    while True:
        data, _, flags, sender = sock.recvmsg(65536)
        if sender[0] != 0:  # only the kernel has port 0
            continue
        if flags & socket.MSG_TRUNC:
            raise OSError(errno.EMSGSIZE, "rtnetlink answer too long")
        view, offset = memoryview(data), 0
        while offset + _HEADER.size <= len(data):
            length, kind, message_flags, sequence, _ = _HEADER.unpack_from(data, offset)
            if length < _HEADER.size or offset + length > len(data):
                raise OSError(errno.EBADMSG, "rtnetlink answer malformed")
            payload = view[offset + _HEADER.size : offset + length]
            offset += (length + 3) & ~3
            if sequence != request:
                continue
            if message_flags & NLM_F_DUMP_INTR and not take_interrupted:
                raise _Interrupted
            if kind in (NLMSG_ERROR, NLMSG_DONE):
                number = -_number(payload[:4])
                if number > 0:
                    raise OSError(number, os.strerror(number))
                return
            yield kind, payload


def _attributes(data: memoryview | bytes) -> dict[int, bytes]:
    found, start = {}, 0
    while start + 4 <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < 4 or start + length > len(data):
            break
        found[kind & 0x3FFF] = bytes(data[start + 4 : start + length])
        start += (length + 3) & ~3
    return found


def _number(value: memoryview | bytes | None) -> int:
    return int.from_bytes(value, sys.byteorder, signed=True) if value is not None else 0


def _device(payload: memoryview) -> Device:
    _, frames, ifindex, flags, _ = _LINK.unpack_from(payload)
    attributes = _attributes(payload[_LINK.size :])
    info = _attributes(attributes.get(IFLA_LINKINFO, b""))
    below = 0 if IFLA_LINK_NETNSID in attributes else _number(attributes.get(IFLA_LINK))
    return Device(
        ifindex,
        attributes.get(IFLA_IFNAME, b"").rstrip(b"\0").decode("utf-8", "surrogateescape"),
        flags,
        attributes.get(IFLA_ADDRESS, b""),
        info.get(IFLA_INFO_KIND, b"").rstrip(b"\0").decode("ascii", "replace"),
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
    attributes = _attributes(payload[_ADDRESS.size :])
    packed = attributes.get(IFA_LOCAL) or attributes.get(IFA_ADDRESS)  # IFA_ADDRESS is the peer's where there is one
    if packed is None or len(packed) != {socket.AF_INET: 4, socket.AF_INET6: 16}.get(family):
        return None
    return ifindex, _interface(packed, prefix)


def _gateways_of(payload: memoryview) -> Iterator[tuple[int, Address, int | None]]:
    """(ifindex, gateway, half) of a default route of the main table; several with multipath.

    `half`: 0 or 1 for a route to the lower or upper half of all addresses, None for one to all of them.
    """
    _, dst_len, _, _, table, _, _, kind, _ = _ROUTE.unpack_from(payload)
    if dst_len > 1 or kind != RTN_UNICAST:
        return
    attributes = _attributes(payload[_ROUTE.size :])
    if (_number(attributes.get(RTA_TABLE)) or table) != RT_TABLE_MAIN:
        return
    half = bytes(attributes.get(RTA_DST, b"\0"))[0] >> 7 if dst_len else None
    hops = [(_number(attributes.get(RTA_OIF)), attributes)]
    rest = attributes.get(RTA_MULTIPATH, b"")
    while len(rest) >= _NEXTHOP.size:
        length, _, _, ifindex = _NEXTHOP.unpack_from(rest)
        if length < _NEXTHOP.size:
            break
        hops.append((ifindex, _attributes(rest[_NEXTHOP.size : length])))
        rest = rest[(length + 3) & ~3 :]
    for ifindex, hop in hops:
        packed = hop.get(RTA_GATEWAY) or hop.get(RTA_VIA, b"")[2:]  # RTA_VIA: family, then the address
        if ifindex and len(packed) in (4, 16):
            yield ifindex, _address(packed), half


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


# --- the two verbs ----------------------------------------------------------------------------------------------------


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
            for attempt in range(4):
                try:
                    # Under a storm of changes the last attempt is taken as it is: each change is an event, too.
                    return self._read(take_interrupted=attempt == 3)
                except _Interrupted:
                    continue
        except (OSError, struct.error) as err:
            raise HostError("read the network links", getattr(err, "strerror", None) or str(err)) from err
        raise AssertionError("the last attempt is never interrupted")

    def gateway_macs(self, links: Iterable[Link]) -> Mapping[str, bytes]:
        """By ifname, who answers for the default gateway; whoever is not told is being asked. Raises HostError."""
        try:
            return neighbours.gateway_macs(links)
        except OSError as err:
            raise HostError("read the neighbours", err.strerror or str(err)) from err

    def _read(self, take_interrupted: bool) -> tuple[Link, ...]:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            sock.setblocking(False)
            sock.setsockopt(SOL_NETLINK, NETLINK_GET_STRICT_CHK, 1)  # the kernel itself leaves other tables out
            sock.bind((0, 0))
            devices = [
                _device(payload)
                for kind, payload in _dump(sock, RTM_GETLINK, _ALL_LINKS, take_interrupted)
                if kind == RTM_NEWLINK
            ]
            addresses: dict[int, list[Interface]] = {}
            for kind, payload in _dump(sock, RTM_GETADDR, _ALL_ADDRESSES, take_interrupted):
                if kind == RTM_NEWADDR and (found := _interface_of(payload)):
                    addresses.setdefault(found[0], []).append(found[1])
            gateways = _Gateways()
            for family in (socket.AF_INET, socket.AF_INET6):
                try:
                    for kind, payload in _dump(sock, RTM_GETROUTE, _main_table(family), take_interrupted):
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
_ALL_LINKS = _LINK.pack(0, 0, 0, 0, 0) + _ATTRIBUTE.pack(8, IFLA_EXT_MASK) + struct.pack("=I", RTEXT_FILTER_SKIP_STATS)
_ALL_ADDRESSES = _ADDRESS.pack(0, 0, 0, 0, 0)
NO_SUCH_TABLE = frozenset({errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT})  # no route yet; no IPv6 in this kernel


def _main_table(family: int) -> bytes:
    return _ROUTE.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
