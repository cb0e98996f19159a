"""What we do to links of our own, over rtnetlink: make, address, switch on, remove. Everything raises OSError.

The kernel is done when send() returns, and says in its own sentence what it refuses.
"""

from __future__ import annotations

import errno
import socket
import struct

from daemon.linux import rtnetlink
from daemon.linux.rtnetlink import change
from policies.facts import Interface

# <linux/rtnetlink.h>, <linux/netlink.h>, <linux/if_link.h>, <linux/if_addr.h>, <linux/if.h>
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_NEWADDR = 16, 17, 18, 20
NLM_F_EXCL, NLM_F_CREATE = 0x200, 0x400
IFLA_IFNAME, IFLA_MTU, IFLA_LINKINFO, IFLA_INFO_KIND = 3, 4, 18, 1
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_NODAD, IFA_F_NOPREFIXROUTE = 0x02, 0x200
IFF_UP = 0x1

_LINK = struct.Struct("=BxHiII")  # ifinfomsg: family, hardware type, index, flags, change
_ADDRESS = struct.Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index


def find(ifname: str) -> int | None:
    """The ifindex; None: there is no such link."""
    found = _get(_LINK.pack(0, 0, 0, 0, 0) + rtnetlink.attribute(IFLA_IFNAME, ifname.encode() + b"\0"))
    return found[0] if found else None


def create(ifname: str, driver: str) -> None:
    about = rtnetlink.attribute(IFLA_LINKINFO, rtnetlink.attribute(IFLA_INFO_KIND, driver.encode()))
    body = _LINK.pack(0, 0, 0, 0, 0) + rtnetlink.attribute(IFLA_IFNAME, ifname.encode() + b"\0") + about
    _change(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def remove(ifname: str) -> None:
    """Idempotent."""
    if (ifindex := find(ifname)) is None:
        return
    try:
        _change(RTM_DELLINK, 0, _LINK.pack(0, 0, ifindex, 0, 0))
    except OSError as err:
        if err.errno != errno.ENODEV:  # its process took it along in the same moment
            raise


def set_mtu(ifindex: int, mtu: int) -> None:
    """`mtu`: bytes."""
    _change(RTM_NEWLINK, 0, _LINK.pack(0, 0, ifindex, 0, 0) + rtnetlink.number(IFLA_MTU, mtu))


def add_address(ifindex: int, address: Interface) -> None:
    """Without a route to its network, and without asking who else has it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    flags = IFA_F_NOPREFIXROUTE | (IFA_F_NODAD if address.version == 6 else 0)
    body = _ADDRESS.pack(family, address.network.prefixlen, 0, 0, ifindex)
    body += rtnetlink.attribute(IFA_LOCAL, address.ip.packed) + rtnetlink.attribute(IFA_ADDRESS, address.ip.packed)
    _change(RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body + rtnetlink.number(IFA_FLAGS, flags))


def switch_on(ifindex: int) -> None:
    _change(RTM_NEWLINK, 0, _LINK.pack(0, 0, ifindex, IFF_UP, IFF_UP))


def is_up(ifindex: int) -> bool | None:
    """None: the link is gone."""
    found = _get(_LINK.pack(0, 0, ifindex, 0, 0))
    return bool(found[1] & IFF_UP) if found else None


def _get(body: bytes) -> tuple[int, int] | None:
    """ifindex and flags (IFF_*) of one link."""
    with rtnetlink.open_socket() as sock:
        try:
            _, payload = rtnetlink.ask(sock, RTM_GETLINK, body)
        except OSError as err:
            if err.errno == errno.ENODEV:
                return None
            raise
    _, _, ifindex, flags, _ = _LINK.unpack_from(payload)
    return ifindex, flags


def _change(kind: int, flags: int, body: bytes) -> None:
    with rtnetlink.open_socket() as sock:
        (refused,) = change(sock, [(kind, flags, body)])
    if refused is not None:
        raise refused
