"""Whether the routing of others keeps the VPN's own packets from a server: rules before main's, and dead routes.

The kernel is asked for the way of a packet with our mark; rules and routes are read only to name what it ran into.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from daemon.host import HostError
from daemon.linux import rtnetlink
from policies.facts import Endpoint
from policies.firewall import MARK

# <linux/rtnetlink.h>, <linux/fib_rules.h>
RTM_NEWROUTE, RTM_GETROUTE, RTM_NEWRULE, RTM_GETRULE = 24, 26, 32, 34
RTA_DST, RTA_OIF, RTA_TABLE, RTA_MARK = 1, 4, 15, 16
FRA_DST, FRA_IIFNAME, FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK, FRA_OIFNAME = 1, 3, 6, 10, 15, 16, 17
FRA_UID_RANGE, FRA_IP_PROTO, FRA_SPORT_RANGE, FRA_DPORT_RANGE = 20, 22, 23, 24
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

_HEADER = struct.Struct("=8BI")  # rtmsg and fib_rule_hdr: family, dst_len, src_len, tos, table, ..., type, flags
Network = IPv4Network | IPv6Network


class Rule(NamedTuple):
    """A routing rule: what it does, and which packets it takes."""

    priority: int = 0
    table: int = 0
    action: int = TO_TABLE
    inverted: bool = False
    mark: int = 0
    mask: int = 0
    source: int = 0  # length of the prefix that the source address must have
    to: Network | None = None
    iif: str | None = None
    oif: str | None = None
    protocol: int | None = None
    users: tuple[int, int] | None = None
    ports: tuple[int, int] | None = None
    source_ports: tuple[int, int] | None = None


async def astray(server: Endpoint) -> str | None:
    """A sentence on what leads the VPN's packets to this server astray; None: nothing does. Raises HostError."""
    family, bits = (socket.AF_INET, 32) if server.address.version == 4 else (socket.AF_INET6, 128)
    question = _HEADER.pack(family, bits, 0, 0, 0, 0, 0, 0, FLAGS[family])
    question += rtnetlink.attribute(RTA_DST, server.address.packed) + rtnetlink.number(RTA_MARK, MARK)
    try:
        with rtnetlink.open_socket() as sock:
            try:
                _, payload = rtnetlink.ask(sock, RTM_GETROUTE, question)
            except OSError as err:
                return _dead_end(sock, family, server) if err.errno in DEAD_ENDS else None
            about = rtnetlink.attributes(payload[_HEADER.size :])
            table = _number(about.get(RTA_TABLE)) or _HEADER.unpack_from(payload)[4]
            if table not in (LOCAL, MAIN, DEFAULT):
                return _elsewhere(sock, family, server, table, _number(about.get(RTA_OIF)))
    except (OSError, struct.error) as err:
        raise HostError("look for what stops the VPN", getattr(err, "strerror", None) or str(err)) from err
    return None


def _dead_end(sock: socket.socket, family: int, server: Endpoint) -> str:
    """A rule that says no, or the most exact route that does in one of the tables that are asked."""
    tables = []
    for rule in _rules(sock, family, server):
        if rule.action in DEAD:
            return (
                f"A routing rule of another program (priority {rule.priority}, {DEAD[rule.action]}) stops the "
                f"VPN's packets to {server.address}. If nobody needs it: ip {_option(family)}rule del priority "
                f"{rule.priority}."
            )
        tables.append(rule.table)
    dead = []
    for kind, name in DEAD.items():
        for network, table in _routes(sock, family, kind):
            if table in tables and server.address in network:
                dead.append((tables.index(table), -network.prefixlen, name, network, table))
    if not dead:
        return f"The routing of this machine refuses the VPN's packets to {server.address}: see `ip route`, `ip rule`."
    _, _, name, network, table = min(dead, key=lambda found: found[:2])
    return (
        f"A {name} route to {network} (table {_table(table)}) stops the VPN's packets to {server.address}. If nobody "
        f"needs it: ip {_option(family)}route del {name} {network} table {_table(table)}."
    )


def _elsewhere(sock: socket.socket, family: int, server: Endpoint, table: int, ifindex: int) -> str:
    leading = [rule for rule in _rules(sock, family, server) if rule.table == table]
    priority = f"priority {leading[0].priority}" if leading else "of unknown priority"
    link = f"link number {ifindex}"
    with contextlib.suppress(OSError):
        link = f"the link {socket.if_indextoname(ifindex)}"
    return (
        f"A routing rule of another program ({priority}) leads the VPN's packets to {server.address} away from the "
        f"main routing table, through table {table} to {link}. If the server cannot be reached there, remove it: "
        f"see `ip {_option(family)}rule`."
    )


def _rules(sock: socket.socket, family: int, server: Endpoint) -> list[Rule]:
    """The rules that a packet of the VPN meets, in their order."""
    told = rtnetlink.dump(sock, RTM_GETRULE, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
    rules = (_rule(payload) for kind, payload in told[:MOST_RULES] if kind == RTM_NEWRULE)
    return sorted((rule for rule in rules if meets(rule, server)), key=lambda rule: rule.priority)


def _rule(payload: memoryview) -> Rule:
    family, length, source, _, table, _, _, action, flags = _HEADER.unpack_from(payload)
    about = rtnetlink.attributes(payload[_HEADER.size :])
    return Rule(
        priority=_number(about.get(FRA_PRIORITY)),
        table=_number(about.get(FRA_TABLE)) or table,
        action=action,
        inverted=bool(flags & INVERT),
        mark=_number(about.get(FRA_FWMARK)),
        mask=_number(about.get(FRA_FWMASK)),
        source=source,
        to=_network(family, bytes(about[FRA_DST]), length) if FRA_DST in about else None,
        iif=_name(about.get(FRA_IIFNAME)),
        oif=_name(about.get(FRA_OIFNAME)),
        protocol=_number(about[FRA_IP_PROTO]) if FRA_IP_PROTO in about else None,
        users=_range("=II", about.get(FRA_UID_RANGE)),
        ports=_range("=HH", about.get(FRA_DPORT_RANGE)),
        source_ports=_range("=HH", about.get(FRA_SPORT_RANGE)),
    )


def meets(rule: Rule, server: Endpoint) -> bool:
    """Whether a packet of ours to the server, before it has a source address, is taken by this rule."""
    return all(_conditions(rule, server)) != rule.inverted


def _conditions(rule: Rule, server: Endpoint) -> Iterator[bool]:
    yield (MARK ^ rule.mark) & rule.mask == 0
    yield rule.source == 0
    yield rule.to is None or server.address in rule.to
    yield rule.iif in (None, "lo")
    yield rule.oif is None
    yield rule.protocol in (None, socket.IPPROTO_TCP if server.protocol == "tcp" else socket.IPPROTO_UDP)
    for found, value in ((rule.users, 0), (rule.ports, server.port)):
        yield found is None or found[0] <= value <= found[1]
    yield rule.source_ports is None


def _routes(sock: socket.socket, family: int, wanted: int) -> Iterator[tuple[Network, int]]:
    """The network and the table of each route of this kind (RTN_*)."""
    for kind, payload in rtnetlink.dump(sock, RTM_GETROUTE, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, wanted, 0)):
        _, length, _, _, table, _, _, found, _ = _HEADER.unpack_from(payload)
        if kind == RTM_NEWROUTE and found == wanted:
            about = rtnetlink.attributes(payload[_HEADER.size :])
            network = _network(family, bytes(about.get(RTA_DST, b"")), length)
            yield network, _number(about.get(RTA_TABLE)) or table


def _network(family: int, packed: bytes, length: int) -> Network:
    if family == socket.AF_INET:
        return IPv4Network((IPv4Address(packed.ljust(4, b"\0")), length), strict=False)
    return IPv6Network((IPv6Address(packed.ljust(16, b"\0")), length), strict=False)


def _number(value: memoryview | None) -> int:
    return int.from_bytes(value, sys.byteorder) if value is not None else 0


def _name(value: memoryview | None) -> str | None:
    return bytes(value).rstrip(b"\0").decode(errors="replace") if value is not None else None


def _range(form: str, value: memoryview | None) -> tuple[int, int] | None:
    if value is None:
        return None
    first, last = struct.unpack_from(form, value)
    return first, last


def _table(number: int) -> str:
    return {MAIN: "main", DEFAULT: "default", LOCAL: "local"}.get(number, str(number))


def _option(family: int) -> str:
    return "-6 " if family == socket.AF_INET6 else ""
