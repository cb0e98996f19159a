"""The hardware address behind a default gateway: from the kernel's neighbour table, which asks when it does not know.

The rules let ARP and neighbour discovery through in every state, and nothing else on a link that is held. So no packet
makes the kernel look for the gateway there: it is told to.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Mapping
from ipaddress import ip_address

from daemon.linux import rtnetlink
from policies.facts import Address, Link

# <linux/rtnetlink.h>, <linux/neighbour.h>
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
NLM_F_CREATE = 0x400
NDA_DST, NDA_LLADDR = 1, 2
NUD_INCOMPLETE, NUD_REACHABLE, NUD_PROBE, NUD_PERMANENT = 0x01, 0x02, 0x10, 0x80
NTF_USE = 0x01
TOLD = NUD_REACHABLE | NUD_PERMANENT  # heard lately, or the administrator's word; a stale one may be another network's
ASKING = NUD_INCOMPLETE | NUD_PROBE

_NEIGHBOUR = struct.Struct("=BxxxiHBB")  # ndmsg: family, ifindex, state, flags, type


def gateway_macs(links: Iterable[Link]) -> Mapping[str, bytes]:
    """By ifname, the 6 bytes of who answered for the link's default gateway lately: IPv4's, else IPv6's.

    Who is not there is being asked for: read again. Raises OSError.
    """
    wanted = {(link.ifindex, gateway): link.ifname for link in links if (gateway := _gateway(link))}
    if not wanted:
        return {}
    with rtnetlink.open_socket() as sock:
        found = _known(sock)
        macs = {ifname: mac for key, ifname in wanted.items() if (mac := _told(*found.get(key, (0, b""))))}
        asked = [
            request
            for (ifindex, gateway), ifname in wanted.items()
            if ifname not in macs and not found.get((ifindex, gateway), (0, b""))[0] & ASKING
            for request in _ask(ifindex, gateway)
        ]
        rtnetlink.change(sock, asked)  # its refusals: there was none to delete, or the link has gone
    return macs


def _gateway(link: Link) -> Address | None:
    return min(link.gateways, key=lambda gateway: (gateway.version, int(gateway)), default=None)


def _known(sock: socket.socket) -> dict[tuple[int, Address], tuple[int, bytes]]:
    """(state, hardware address) by link and address."""
    found: dict[tuple[int, Address], tuple[int, bytes]] = {}
    for kind, payload in rtnetlink.dump(sock, RTM_GETNEIGH, _NEIGHBOUR.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        if kind != RTM_NEWNEIGH or len(payload) < _NEIGHBOUR.size:
            continue
        _, ifindex, state, _, _ = _NEIGHBOUR.unpack_from(payload)
        attributes = rtnetlink.attributes(payload[_NEIGHBOUR.size :])
        address, mac = bytes(attributes.get(NDA_DST, b"")), bytes(attributes.get(NDA_LLADDR, b""))
        if len(address) in (4, 16):
            found[ifindex, ip_address(address)] = state, mac
    return found


def _told(state: int, mac: bytes) -> bytes:
    return mac if state & TOLD and len(mac) == 6 else b""


def _ask(ifindex: int, gateway: Address) -> list[rtnetlink.Request]:
    """Forget what is stale, for that alone would be asked, and politely; then have everybody asked at once."""
    family = socket.AF_INET if gateway.version == 4 else socket.AF_INET6
    address = rtnetlink.attribute(NDA_DST, gateway.packed)
    return [
        (RTM_DELNEIGH, 0, _NEIGHBOUR.pack(family, ifindex, 0, 0, 0) + address),
        (RTM_NEWNEIGH, NLM_F_CREATE, _NEIGHBOUR.pack(family, ifindex, 0, NTF_USE, 0) + address),
    ]
