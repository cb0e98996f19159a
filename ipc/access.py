"""Who may ask for what by himself. Pure: faces bring the kernel's word about the peer, this file judges it.

On D-Bus, whoever may not by himself can be let by polkit (`polkit.py`): never asked for READ, nor on the sockets.
"""

from __future__ import annotations

import grp
from dataclasses import dataclass
from enum import IntEnum, StrEnum

GROUP = "tunwarden"
NOBODY = 2**32 - 1  # (uid_t)-1: credentials that could not be read; equals no account


class Access(IntEnum):
    """What a call needs, from the least to the most."""

    READ = 0  # any local user
    CHANGE = 1  # root or a member of the group `tunwarden`; on D-Bus also whom polkit lets
    ADMIN = 2  # root, on D-Bus also whom polkit lets: whatever can open the machine, or brings or destroys keys


class Transport(StrEnum):
    DBUS = "dbus"
    SOCKET = "socket"  # tunwarden.sock
    READ_SOCKET = "read-socket"  # read.sock: carries READ only, whoever asks


@dataclass(frozen=True, slots=True)
class Caller:
    """A peer as the kernel (or the bus, which asked the kernel) identified it. Never what the peer says of itself."""

    uid: int
    gids: frozenset[int]  # primary and supplementary, as they were when the peer connected
    pid: int  # for the log only: pids are reused, so no decision looks at it
    transport: Transport
    process: int | None = None  # its pidfd, where there is one: names the process that connected, and never another


def group_gid(name: str = GROUP) -> int | None:
    """The gid of the group whose members may change things; None when the system has no such group."""
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None


def allowed(caller: Caller, access: Access, gid: int | None) -> bool:
    """Whether `caller` may do what needs `access`; `gid` is the group's, None when there is none. Fails closed."""
    if caller.transport is Transport.READ_SOCKET:
        return access is Access.READ
    match access:
        case Access.READ:
            return True
        case Access.CHANGE:
            return caller.uid == 0 or (gid is not None and gid in caller.gids)
        case Access.ADMIN:
            return caller.uid == 0
