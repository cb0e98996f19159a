"""Who touches our rules: nftables, rule and route events, as hints to look again (K4).

A hint says that something of ours may have changed, our own changes included; whoever hears it compares the kernel with
the policy. Where the kernel tells which process committed a transaction, the hint says it: NFTA_GEN_PROC_PID is the
process id of the initial PID namespace. Which changes are certainly somebody else's, `ports.py` knows.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator

from daemon.host import QuotaSpent, Touch
from daemon.linux import ports
from daemon.linux.rtnetlink import attributes
from policies.firewall import MARK

TABLE, FAMILY_INET = b"tunwarden", 1  # NFPROTO_INET

# <linux/netlink.h>, <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>, <linux/rtnetlink.h>
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
NETLINK_NETFILTER, NFNLGRP_NFTABLES = 12, 7
NFNL_SUBSYS_NFTABLES, NFT_MSG_NEWGEN, NFT_MSG_NEWOBJ = 10, 15, 18
NFTA_TABLE_NAME = 1  # also of chains, rules, sets, elements and objects: the name of their table
NFTA_GEN_PROC_PID, NFTA_GEN_PROC_NAME = 2, 3
RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE, RTM_DELRULE = 24, 25, 32, 33
RTA_TABLE = 15  # FRA_TABLE has the same number
RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE = 7, 8, 11, 19
SO_RCVBUFFORCE, EVENT_QUEUE = 33, 1 << 20  # bytes
UNNAMED = "a process the kernel does not name"

_HEADER = struct.Struct("=IHHII")  # nlmsghdr
_NFGEN = 4  # bytes of nfgenmsg
_RTMSG = 12  # bytes of rtmsg and of fib_rule_hdr

Foreign = Callable[[int, int], bool]  # netlink protocol, port
LOST = Touch("more changes than could be counted", False)


def messages(data: bytes) -> Iterator[tuple[int, int, memoryview]]:
    """(type, port that asked, payload) of each netlink message; a message that is cut short ends it."""
    view, at = memoryview(data), 0
    while at + _HEADER.size <= len(data):
        length, kind, _, _, port = _HEADER.unpack_from(data, at)
        if length < _HEADER.size or at + length > len(data):
            return
        yield kind, port, view[at + _HEADER.size : at + length]
        at += (length + 3) & ~3


class FirewallEvents:
    """Puts the messages of transactions together: which of them touched our table, and whose they were."""

    def __init__(self, foreign: Foreign = ports.foreign) -> None:
        self._touched, self._foreign = False, foreign

    def take(self, data: bytes) -> Iterator[Touch | QuotaSpent]:
        """One for each transaction that touched our table, and for each quota in it that is spent."""
        for kind, port, payload in messages(data):
            if kind >> 8 != NFNL_SUBSYS_NFTABLES or len(payload) < _NFGEN:
                continue
            about = attributes(payload[_NFGEN:])
            if kind & 0xFF != NFT_MSG_NEWGEN:
                ours = bytes(about.get(NFTA_TABLE_NAME, b"")).rstrip(b"\0") == TABLE
                if ours and port == 0 and kind & 0xFF == NFT_MSG_NEWOBJ:
                    # No transaction: a packet did it, and the family is the packet's. Only quotas tell of themselves.
                    yield QuotaSpent()
                    continue
                self._touched |= ours and payload[0] == FAMILY_INET
            elif self._touched:
                self._touched = False
                foreign = self._foreign(NETLINK_NETFILTER, port)
                # Where this was us and something is amiss all the same, its own notice is yet to come.
                by = _process(about) if foreign else UNNAMED
                yield Touch(f"the firewall table was changed by {by}", foreign)


def routing_events(data: bytes, foreign: Foreign = ports.foreign) -> Iterator[Touch]:
    """One for each change of a rule or a route of our table."""
    for kind, port, payload in messages(data):
        if kind not in (RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE, RTM_DELRULE) or len(payload) < _RTMSG:
            continue
        table = attributes(payload[_RTMSG:]).get(RTA_TABLE, b"")
        if len(table) == 4 and int.from_bytes(table, sys.byteorder) == MARK:
            what = "rule" if kind in (RTM_NEWRULE, RTM_DELRULE) else "route"
            done = "removed" if kind in (RTM_DELROUTE, RTM_DELRULE) else "added"
            yield Touch(f"a routing {what} was {done}", foreign(socket.NETLINK_ROUTE, port))


def _process(about: dict[int, memoryview]) -> str:
    name = bytes(about.get(NFTA_GEN_PROC_NAME, b"")).rstrip(b"\0").decode(errors="replace")
    pid = about.get(NFTA_GEN_PROC_PID, b"")
    if not name or len(pid) != 4:
        return UNNAMED
    safe = "".join(char if char.isprintable() else "?" for char in name)
    return f"{safe} (process {int.from_bytes(pid, 'big')})"


class LinuxTamper:
    """Implements `daemon.host.Tamper`."""

    async def watch(self) -> AsyncIterator[Touch | QuotaSpent]:
        """One for each change of our rules, ours included, and each allowance spent. Never ends; no periodic wakeups.

        An overrun is a hint too: whatever was lost may have been about us.
        """
        told: asyncio.Queue[Touch | QuotaSpent] = asyncio.Queue()
        loop = asyncio.get_running_loop()
        firewall = FirewallEvents()
        nft = subscribed(NETLINK_NETFILTER, (NFNLGRP_NFTABLES,))
        routes = subscribed(
            socket.NETLINK_ROUTE, (RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV4_RULE, RTNLGRP_IPV6_ROUTE, RTNLGRP_IPV6_RULE)
        )

        def nft_ready() -> None:
            for data in received(nft):
                for touch in firewall.take(data) if data else (LOST,):
                    told.put_nowait(touch)

        def routes_ready() -> None:
            for data in received(routes):
                for touch in routing_events(data) if data else (LOST,):
                    told.put_nowait(touch)

        with nft, routes:
            loop.add_reader(nft, nft_ready)
            loop.add_reader(routes, routes_ready)
            try:
                while True:
                    yield await told.get()
            finally:
                loop.remove_reader(nft)
                loop.remove_reader(routes)


def subscribed(protocol: int, groups: tuple[int, ...]) -> socket.socket:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, EVENT_QUEUE)
        sock.bind((0, 0))
        for group in groups:
            sock.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
    except BaseException:
        sock.close()
        raise
    return sock


def received(sock: socket.socket) -> Iterator[bytes]:
    """What waits, at most 1,000 datagrams at a time; b"" for an overrun (ENOBUFS), which ends nothing."""
    for _ in range(1000):
        try:
            data, sender = sock.recvfrom(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            yield b""
            return
        if sender[0] == 0:  # from the kernel, not from a process that pretends
            yield data
