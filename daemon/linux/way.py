"""Whether the routing of others keeps the VPN's own packets from a server: rules before main's, and dead routes.

The kernel is asked for the way of a packet with our mark; rules and routes are read only to name what it ran into.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator, Sequence
from ipaddress import ip_network
from typing import Any

from daemon.host import HostError
from daemon.linux.netlink import AsyncIPRoute, NetlinkError, requests
from policies.facts import Endpoint
from policies.firewall import MARK

# <linux/rtnetlink.h>, <linux/fib_rules.h>
# Answer with the route that matched (RTM_F_FIB_MATCH), and for IPv4 with its table (RTM_F_LOOKUP_TABLE): IPv6 does so
# by itself, and takes the flag for an error.
FLAGS = {socket.AF_INET: 0x3000, socket.AF_INET6: 0x2000}
LOCAL, MAIN, DEFAULT = 255, 254, 253
TO_TABLE = 1  # FR_ACT_TO_TBL
DEAD = {6: "blackhole", 7: "unreachable", 8: "prohibit"}  # RTN_* of routes, and FR_ACT_* of rules
INVERT = 0x2  # FIB_RULE_INVERT
MOST_RULES = 10_000  # that are looked at
# What a dead end answers: blackhole, prohibit, unreachable. ENETUNREACH is no route at all: no network, no obstacle.
DEAD_ENDS = (errno.EINVAL, errno.EACCES, errno.EHOSTUNREACH)


async def astray(server: Endpoint) -> str | None:
    """A sentence on what leads the VPN's packets to this server astray; None: nothing does. Raises HostError."""
    family, bits = (socket.AF_INET, 32) if server.address.version == 4 else (socket.AF_INET6, 128)
    try:
        async with requests() as ip:
            try:
                found = await ip.route(
                    "get", family=family, dst=str(server.address), dst_len=bits, mark=MARK, flags=FLAGS[family]
                )
            except NetlinkError as err:
                return await _dead_end(ip, family, server) if err.code in DEAD_ENDS else None
            for route in found:
                table = route.get_attr("RTA_TABLE") or route["table"]
                if table not in (LOCAL, MAIN, DEFAULT):
                    return await _elsewhere(ip, family, server, table, route.get_attr("RTA_OIF") or 0)
    except (NetlinkError, OSError) as err:
        raise HostError("look for what stops the VPN", str(err)) from err
    return None


async def _dead_end(ip: AsyncIPRoute, family: int, server: Endpoint) -> str:
    """A rule that says no, or the most exact route that does in one of the tables that are asked."""
    tables = []
    for rule in await _rules(ip, family, server):
        if rule["action"] in DEAD:
            return (
                f"A routing rule of another program (priority {_priority(rule)}, {DEAD[rule['action']]}) stops the "
                f"VPN's packets to {server.address}. If nobody needs it: ip {_option(family)}rule del priority "
                f"{_priority(rule)}."
            )
        tables.append(rule.get_attr("FRA_TABLE") or rule["table"])
    dead = []
    for kind, name in DEAD.items():
        for route in [route async for route in await ip.get_routes(family=family, type=kind)]:
            table = route.get_attr("RTA_TABLE") or route["table"]
            network = ip_network(f"{route.get_attr('RTA_DST') or server.address}/{route['dst_len']}", strict=False)
            if table in tables and server.address in network:
                dead.append((tables.index(table), -network.prefixlen, name, network, table))
    if not dead:
        return f"The routing of this machine refuses the VPN's packets to {server.address}: see `ip route`, `ip rule`."
    _, _, name, network, table = min(dead, key=lambda found: found[:2])
    return (
        f"A {name} route to {network} (table {_table(table)}) stops the VPN's packets to {server.address}. If nobody "
        f"needs it: ip {_option(family)}route del {name} {network} table {_table(table)}."
    )


async def _elsewhere(ip: AsyncIPRoute, family: int, server: Endpoint, table: int, ifindex: int) -> str:
    leading = [rule for rule in await _rules(ip, family, server) if rule.get_attr("FRA_TABLE") == table]
    priority = f"priority {_priority(leading[0])}" if leading else "of unknown priority"
    link = f"link number {ifindex}"
    with contextlib.suppress(OSError):
        link = f"the link {socket.if_indextoname(ifindex)}"
    return (
        f"A routing rule of another program ({priority}) leads the VPN's packets to {server.address} away from the "
        f"main routing table, through table {table} to {link}. If the server cannot be reached there, remove it: "
        f"see `ip {_option(family)}rule`."
    )


async def _rules(ip: AsyncIPRoute, family: int, server: Endpoint) -> Sequence[Any]:
    """The rules that a packet of the VPN meets, in their order."""
    found: list[Any] = []
    count = 0
    async for rule in await ip.get_rules(family=family):
        count += 1
        if count <= MOST_RULES and meets(rule, server):
            found.append(rule)
    return sorted(found, key=_priority)


def meets(rule: Any, server: Endpoint) -> bool:
    """Whether a packet of ours to the server, before it has a source address, is taken by this rule."""
    return all(_conditions(rule, server)) != bool(rule["flags"] & INVERT)


def _conditions(rule: Any, server: Endpoint) -> Iterator[bool]:
    mark, mask = rule.get_attr("FRA_FWMARK") or 0, rule.get_attr("FRA_FWMASK") or 0
    yield (MARK ^ mark) & mask == 0
    yield rule["src_len"] == 0
    to = rule.get_attr("FRA_DST")
    yield to is None or server.address in ip_network(f"{to}/{rule['dst_len']}", strict=False)
    yield rule.get_attr("FRA_IIFNAME") in (None, "lo")
    yield rule.get_attr("FRA_OIFNAME") is None
    yield rule.get_attr("FRA_IP_PROTO") in (
        None,
        socket.IPPROTO_TCP if server.protocol == "tcp" else socket.IPPROTO_UDP,
    )
    for name, value in (("FRA_UID_RANGE", 0), ("FRA_DPORT_RANGE", server.port)):
        first, _, last = (rule.get_attr(name) or "0:4294967295").partition(":")
        yield int(first) <= value <= int(last)
    yield rule.get_attr("FRA_SPORT_RANGE") is None


def _priority(rule: Any) -> int:
    return int(rule.get_attr("FRA_PRIORITY") or 0)


def _table(number: int) -> str:
    return {MAIN: "main", DEFAULT: "default", LOCAL: "local"}.get(number, str(number))


def _option(family: int) -> str:
    return "-6 " if family == socket.AF_INET6 else ""
