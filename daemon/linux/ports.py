"""Whose netlink request changed something: the kernel's notices name the port that asked (nlmsg_pid).

A port is one socket of one protocol in one network namespace, and free again when that is closed. Notices are read
later than changes are made, so ports of ours that are closed soon are remembered for a while.
"""

from __future__ import annotations

import contextlib
from collections import deque
from pathlib import Path

_recent: deque[tuple[int, int]] = deque(maxlen=256)


def remember(protocol: int, port: int) -> None:
    """This port of this netlink protocol is ours, or was given to a program that works for us."""
    if (protocol, port) not in _recent:
        _recent.append((protocol, port))


def foreign(protocol: int, port: int) -> bool:
    """Whether certainly somebody else asked. False for the kernel itself (port 0), and where it cannot be told."""
    if port == 0 or (protocol, port) in _recent:
        return False
    try:
        return port not in _open(protocol)
    except (OSError, ValueError):
        return False


def _open(protocol: int) -> set[int]:
    """Ports of this process's open sockets. libnftables tells nobody which one is its own, and may change it."""
    sockets = set()
    for descriptor in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the descriptor of this very listing is closed by now
            sockets.add(str(descriptor.readlink()))  # socket:[INODE]
    found = set()
    for line in Path("/proc/self/net/netlink").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()  # sk protocol port groups rmem wmem dump locks drops inode
        if int(fields[1]) == protocol and f"socket:[{fields[9]}]" in sockets:
            found.add(int(fields[2]) & 0xFFFFFFFF)
    return found
