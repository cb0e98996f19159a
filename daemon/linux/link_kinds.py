"""What a link is: the kernel's description of all links -> LinkKind of each. Pure but for one look into /sys.

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

import os
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

from policies.facts import LinkKind
from policies.firewall import PROBE_IFNAME, TUNNEL_IFNAME

if TYPE_CHECKING:
    from policies.settings_tables import LinkRule

SYSFS = "/sys/class/net"
IFF_LOOPBACK = 0x8  # <linux/if.h>

INERT = frozenset({"dummy", "ifb", "nlmon"})
MONITOR = frozenset({801, 802, 803})  # ARPHRD_IEEE80211, _PRISM, _RADIOTAP
STACKED = frozenset({"vlan", "macvlan", "macvtap", "ipvlan", "ipvtap", "macsec"})
BRIDGED = frozenset({"veth", "tun"})
TUNNELS = frozenset({"wireguard", "ppp", "xfrm"})
ETHERNET = 1  # ARPHRD_ETHER
STRICTEST = (LinkKind.WIFI, LinkKind.CELLULAR, LinkKind.WIRED, LinkKind.VIRTUAL)  # first found counts


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
