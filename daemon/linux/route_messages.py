"""Rules and routes of our table, as rtnetlink asks for them, tells of them and has them changed."""

from __future__ import annotations

import errno
import socket
import struct
import sys

from daemon.linux import rtnetlink
from daemon.linux.route_plan import TABLE, UNICAST, Route, Rule

# <linux/rtnetlink.h>, <linux/fib_rules.h>
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 24, 25, 26, 32, 33, 34
RTPROT_KERNEL = 2
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_NOWHERE = 0, 253, 255
RTA_DST, RTA_OIF, RTA_PRIORITY, RTA_CACHEINFO, RTA_TABLE, RTA_PREF = 1, 4, 6, 12, 15, 20
FRA_DST, FRA_GOTO, FRA_UID_RANGE = 1, 4, 20
FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL = 6, 10, 14, 15, 16, 21
KNOWN = 30  # attributes with greater numbers are of younger kernels: what they would say of a route, nobody knows yet
UNRESOLVED = 4  # FIB_RULE_UNRESOLVED: a goto without its target
REPLACE, ADD = 0x100 | 0x400, 0x200 | 0x400  # NLM_F_REPLACE or NLM_F_EXCL, with NLM_F_CREATE

_HEADER = struct.Struct("=8BI")  # rtmsg and fib_rule_hdr: family, dst_len, src_len, tos, table, ..., type, flags


class FamilyMissingError(Exception):
    """The kernel does not speak this IP version."""


# What somebody else has done already is no refusal: the rule is there; no such rule; no such route; no such table.
_DONE = frozenset({errno.EEXIST, errno.ENOENT, errno.ESRCH})


def change(sock: socket.socket, requests: list[rtnetlink.Request], *, strict: bool = True) -> list[OSError]:
    """What was refused. Raises the first refusal if `strict`."""
    refused = [err for err in rtnetlink.change(sock, requests) if err and err.errno not in _DONE]
    if refused and strict:
        raise refused[0]
    return refused


def read_rules(sock: socket.socket, family: int) -> list[Rule]:
    """All rules that name our table, whoever made them. Raises FamilyMissingError."""
    try:
        listed = rtnetlink.dump(sock, RTM_GETRULE, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
    except OSError as err:
        if err.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # ipv6.disable=1 on the kernel's command line
            raise FamilyMissingError from err
        raise
    return [rule for _, payload in listed if (rule := _rule(payload))]


def _rule(payload: memoryview) -> Rule | None:
    family, dst_len, src_len, tos, _, _, _, action, flags = _HEADER.unpack_from(payload)
    found = rtnetlink.attributes(payload[_HEADER.size :])
    if _number(found, FRA_TABLE) != TABLE:
        return None
    others = [f"attribute {kind}" for kind in found if kind <= KNOWN and kind not in _RULE_FIELDS]
    others += [name for name, value in (("from", src_len), ("tos", tos)) if value]
    first, last = struct.unpack("=2I", found[FRA_UID_RANGE]) if FRA_UID_RANGE in found else (None, None)
    others += ["several users"] if first != last else []
    to = f"{socket.inet_ntop(family, found[FRA_DST])}/{dst_len}" if FRA_DST in found else ""
    others += [] if _number(found, FRA_SUPPRESS_PREFIXLEN, 0xFFFFFFFF) == 0xFFFFFFFF else ["suppress_prefixlength"]
    mark, mask = _number(found, FRA_FWMARK), _number(found, FRA_FWMASK)
    # Whether a goto leads anywhere is the kernel's to say (FIB_RULE_UNRESOLVED), and its target is among the rules.
    flags &= ~UNRESOLVED
    goto = _number(found, FRA_GOTO)
    return Rule(_number(found, FRA_PRIORITY), mark, mask, flags, action, ", ".join(others), to, first, goto)


_RULE_FIELDS = {
    FRA_DST, FRA_GOTO, FRA_UID_RANGE,
    FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL,
}  # fmt: skip


def added_rule(family: int, rule: Rule) -> rtnetlink.Request:
    return RTM_NEWRULE, ADD, _rule_body(family, rule) + rtnetlink.attribute(FRA_PROTOCOL, bytes((RTPROT_KERNEL,)))


def deleted_rule(family: int, rule: Rule) -> rtnetlink.Request:
    """The kernel deletes the first rule that has what is given here; 0 is not given."""
    return RTM_DELRULE, 0, _rule_body(family, rule)


def _rule_body(family: int, rule: Rule) -> bytes:
    address, _, length = rule.to.partition("/")
    body = _HEADER.pack(family, int(length or 0), 0, 0, 0, 0, 0, rule.action, rule.flags)
    body += rtnetlink.number(FRA_TABLE, TABLE) + rtnetlink.number(FRA_PRIORITY, rule.priority)
    if address:
        body += rtnetlink.attribute(FRA_DST, socket.inet_pton(family, address))
    if rule.user is not None:
        body += rtnetlink.attribute(FRA_UID_RANGE, struct.pack("=2I", rule.user, rule.user))
    if rule.goto:
        body += rtnetlink.number(FRA_GOTO, rule.goto)
    if rule.mask:
        body += rtnetlink.number(FRA_FWMARK, rule.mark) + rtnetlink.number(FRA_FWMASK, rule.mask)
    return body


def read_routes(sock: socket.socket, family: int) -> list[Route]:
    """All routes in our table, whoever made them. The kernel leaves out other tables, however full they are."""
    body = _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0) + rtnetlink.number(RTA_TABLE, TABLE)
    try:
        return [_route(payload) for kind, payload in rtnetlink.dump(sock, RTM_GETROUTE, body) if kind == RTM_NEWROUTE]
    except OSError as err:
        if err.errno == errno.ENOENT:  # the table has never been used
            return []
        raise


def _route(payload: memoryview) -> Route:
    family, dst_len, src_len, tos, _, _, scope, kind, _ = _HEADER.unpack_from(payload)
    found = rtnetlink.attributes(payload[_HEADER.size :])
    address = found.get(RTA_DST) or bytes(4 if family == socket.AF_INET else 16)
    others = [f"attribute {name}" for name in found if name <= KNOWN and name not in _ROUTE_FIELDS]
    others += [name for name, value in (("from", src_len), ("tos", tos)) if value]
    return Route(
        kind,
        f"{socket.inet_ntop(family, address)}/{dst_len}",
        _number(found, RTA_OIF) if kind == UNICAST else 0,
        _number(found, RTA_PRIORITY),
        ", ".join(others),
        (family, kind, scope) == (socket.AF_INET, UNICAST, SCOPE_UNIVERSE),
    )


_ROUTE_FIELDS = {RTA_TABLE, RTA_DST, RTA_OIF, RTA_PRIORITY, RTA_CACHEINFO, RTA_PREF}


def replaced_route(family: int, route: Route) -> rtnetlink.Request:
    scope = SCOPE_LINK if route.kind == UNICAST and not route.wide else SCOPE_UNIVERSE
    return RTM_NEWROUTE, REPLACE, _route_body(family, route, RTPROT_KERNEL, scope)


def deleted_route(family: int, route: Route) -> rtnetlink.Request:
    """A foreign route may have any protocol, scope and gateway: not given."""
    return RTM_DELROUTE, 0, _route_body(family, route, 0, SCOPE_NOWHERE)


def _route_body(family: int, route: Route, protocol: int, scope: int) -> bytes:
    address, _, length = route.network.partition("/")
    body = _HEADER.pack(family, int(length), 0, 0, 0, protocol, scope, route.kind, 0)
    body += rtnetlink.attribute(RTA_DST, socket.inet_pton(family, address)) + rtnetlink.number(RTA_TABLE, TABLE)
    if route.metric:
        body += rtnetlink.number(RTA_PRIORITY, route.metric)
    return body + (rtnetlink.number(RTA_OIF, route.ifindex) if route.ifindex else b"")


def _number(found: dict[int, memoryview], kind: int, absent: int = 0) -> int:
    return int.from_bytes(found[kind][:4], sys.byteorder) if kind in found else absent
