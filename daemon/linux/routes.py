"""The routing layer on Linux: unmarked traffic sees one table of ours, and that ends in `unreachable`.

    100: not from all fwmark 0x74756e77 lookup 0x74756e77
    101: not from all fwmark 0x74756e77 unreachable             (IPv6, unless the local network is allowed)

    table 0x74756e77:  default dev tunwarden0
                       throw 192.168.0.0/16 ...                    (local network allowed: look further, in main)
                       10.2.0.1 dev tunwarden0                     (then: a resolver with such an address)
                       172.17.0.0/16 dev docker0                   (containers and virtual machines)
                       unreachable default metric 4294967295   (always, and always first)

It stands without the firewall and the firewall without it. Routes that a DHCP server pushes into main (CVE-2024-3661)
steer nothing, for there is no lookup of main before the end.

The second rule is for what passes the table by: an IPv6 socket bound to a physical link, for the kernel skips routes of
other links, the last resort too (L11); and all IPv6 after somebody has switched it off and on again everywhere, for the
kernel drops the routes of `lo` then, and brings none back (L12).

What this layer alone cannot stop is an IPv4 socket bound to a physical link: where no route is found, the kernel takes
every address for a neighbour (net/ipv4/route.c, ip_route_output_key), so the local network is reached, and by a router
that answers ARP for everybody (proxy ARP) all the rest. Nor SO_DONTROUTE to a neighbour: IPv4 skips the last resort for
its wide scope. A second rule would help in neither, and it would end the look-up by which the kernel checks the gateway
of a new default route (fib_check_nh): no DHCP client could set one. With the local network allowed there is no second
rule for IPv6 either, and what is bound goes on to main. The firewall refuses all this before a frame is made.

While people log in to a captive portal, both rules let pass a second mark as well, by a mask: that of the process tree
in which they do. At any other time that mark is worth nothing. So it is with the mark of programs that never use the
tunnel; the two are never let pass at once. Networks that are reached beside the tunnel are thrown to main, like the
local one. Programs that use nothing but the tunnel have rules of their own, which stand in every state:

    100: from all fwmark 0x74756e74 lookup 0x74756e77            (where nobody else is captured)
    102: from all fwmark 0x74756e74 unreachable

Packets by which somebody else's tunnel (policies/external.py) reaches its server go where they would go without us:

    99: from all to 192.0.2.1 fwmark 0xca6c goto 103       (or: uidrange 977-977; for each of its addresses)
    103: nop

A route to the server in our table would let everybody's packets to it out.

The rules' priority, 100: after `local` (0), before everybody else's. Tailscale uses 5210 to 5270, VRF 1000,
NetworkManager and wg-quick 30000 to 32765; a rule of theirs before ours would steer packets into the firewall's reject.
Protocol "kernel" on rule and routes: systemd-networkd deletes all others it does not know (networkd.conf(5),
ManageForeignRoutingPolicyRules). Rules and routes are ours if they are in our table; nothing else is touched.
"""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import NamedTuple

from daemon.host import HostError
from daemon.linux import rtnetlink
from daemon.linux.sysctls import Sysctls
from policies.facts import Tunnel
from policies.firewall import LAN, LAN_MULTICAST, LOGIN_MARK, MARK, NEVER_MARK, ONLY_MARK, FirewallPolicy

TABLE = MARK
PRIORITY = 100
LAST_RESORT = 0xFFFFFFFF  # the greatest metric: any other default route wins

# <linux/rtnetlink.h>, <linux/fib_rules.h>
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE, RTM_NEWRULE, RTM_DELRULE, RTM_GETRULE = 24, 25, 26, 32, 33, 34
UNICAST, UNREACHABLE, THROW = 1, 7, 9  # RTN_*
RTPROT_KERNEL = 2
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_NOWHERE = 0, 253, 255
RTA_DST, RTA_OIF, RTA_PRIORITY, RTA_CACHEINFO, RTA_TABLE, RTA_PREF = 1, 4, 6, 12, 15, 20
FRA_DST, FRA_GOTO, FRA_UID_RANGE = 1, 4, 20
FRA_PRIORITY, FRA_FWMARK, FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_FWMASK, FRA_PROTOCOL = 6, 10, 14, 15, 16, 21
KNOWN = 30  # attributes with greater numbers are of younger kernels: what they would say of a route, nobody knows yet
TO_TABLE, GOTO, NOP, NOWHERE = 1, 2, 3, 7  # FR_ACT_TO_TBL: "lookup"; FR_ACT_UNREACHABLE
INVERT, UNRESOLVED = 2, 4  # FIB_RULE_INVERT: "not"; FIB_RULE_UNRESOLVED: a goto without its target
REPLACE, ADD = 0x100 | 0x400, 0x200 | 0x400  # NLM_F_REPLACE or NLM_F_EXCL, with NLM_F_CREATE
V6_METRIC = 1024  # what the kernel makes of metric 0 (IP6_RT_PRIO_USER)
ROUNDS = 3  # deleting by key can hit ours when somebody has put a twin beside it: then once more

_HEADER = struct.Struct("=8BI")  # rtmsg and fib_rule_hdr: family, dst_len, src_len, tos, table, ..., type, flags


class Route(NamedTuple):
    kind: int
    network: str  # "0.0.0.0/0"
    ifindex: int = 0  # only of UNICAST
    metric: int = 0
    others: str = ""  # anything else that steers (gateway, TOS ...): ours have none
    wide: bool = False  # IPv4, UNICAST: no way to a gateway, for its scope is "universe" instead of "link"


class Rule(NamedTuple):
    priority: int
    mark: int
    mask: int
    flags: int
    action: int = TO_TABLE
    others: str = ""  # further selectors: ours have none
    to: str = ""  # "192.0.2.1/32"
    user: int | None = None
    goto: int = 0  # the priority of the rule that is next


OURS = Rule(PRIORITY, MARK, 0xFFFFFFFF, INVERT)
BOTH = 0xFFFFFFFF ^ MARK ^ LOGIN_MARK  # as a mask: either mark, while people log in to a captive portal
BESIDE = 0xFFFFFFFF ^ MARK ^ NEVER_MARK  # likewise, while programs may go beside the tunnel
END = Rule(PRIORITY + 1, MARK, 0xFFFFFFFF, INVERT, NOWHERE)  # names our table, too, so that it is known for ours
# Programs that use nothing but the tunnel: our table, and nothing after it, also where everybody else is free.
ONLY = Rule(PRIORITY, ONLY_MARK, 0xFFFFFFFF, 0)
ONLY_END = Rule(PRIORITY + 2, ONLY_MARK, 0xFFFFFFFF, 0, NOWHERE)
BEHIND = Rule(PRIORITY + 3, 0, 0, 0, NOP)  # the first of the rules that are not ours comes next


Network = IPv4Network | IPv6Network
Inside = Sequence[tuple[int, Network]]  # ifindex of a link to containers or VMs, and its network


def routes(
    version: int,
    tunnel: Tunnel | None,
    ifindex: int,
    lan: Iterable[Network] = (),
    inside: Inside = (),
    wide: bool = False,
) -> list[Route]:
    """The routes of our table for one IP version, in the order they are added. `lan`: networks that stay local.

    `wide`: the tunnel is somebody else's, who adds his route to the server without naming its link. The kernel looks
    for the gateway then, by our table too (fib_check_nh), and must not find it behind the tunnel.
    """
    default, metric = ("0.0.0.0/0", 0) if version == 4 else ("::/0", V6_METRIC)
    wanted = [Route(UNREACHABLE, default, metric=LAST_RESORT)]
    if tunnel and any(address.version == version for address in tunnel.addresses):
        wanted.append(Route(UNICAST, default, ifindex, metric, wide=wide and version == 4))
        # More specific than the throws below: 10.64.0.1 in the tunnel is not the local network's 10.0.0.0/8.
        beyond: list[Network] = [ip_network(address) for address in tunnel.resolvers]
        beyond += [address.network for address in tunnel.addresses if address.network.num_addresses > 1]
        if lan or inside:
            wanted += [Route(UNICAST, str(net), ifindex, metric) for net in beyond if net.version == version]
    # The way to containers and virtual machines. Taken from addresses on our own bridges, never from main.
    wanted += [Route(UNICAST, str(own), index, metric) for index, own in inside if own.version == version]
    # IPv6 multicast routes are in the table `local`, which comes before us.
    wanted += [
        Route(THROW, str(net), metric=metric)
        for net in lan
        if net.version == version and not (net.version == 6 and net.is_multicast)
    ]
    first: dict[tuple[str, int], Route] = {}  # a network can have one route: the tunnel's before the others
    for route in wanted:
        first.setdefault((route.network, route.metric), route)
    return [*first.values()]


class LinuxRoutes:
    """Implements `daemon.host.Routes`."""

    def __init__(self, state_folder: Path = Path("/var/lib/tunwarden")) -> None:
        self._sysctls = Sysctls(state_folder / "sysctls.json")
        # By family: what `set` has confirmed and `reset` need not look up.
        self._set: dict[int, tuple[list[Rule], list[Route]]] = {}
        self.ipv6_absent = False  # after `set`: the kernel has no IPv6, or has disabled it on the tunnel

    async def set(self, policy: FirewallPolicy) -> None:
        """Rules, table and sysctls as the policy wants them, read back. Twice is harmless. Raises HostError.

        What fails for one family does not keep the other from being captured.
        """
        if not policy.capture and not policy.only:
            await self.reset()
            return
        if policy.capture:
            self._sysctls.protect()
        else:
            self._sysctls.restore()
        self._set = {}
        failed: OSError | None = None
        try:
            wanted = _wanted(policy)
            self.ipv6_absent = not _has_ipv6(policy.tunnel.ifname if policy.tunnel else "all")
            with rtnetlink.open_socket() as sock:
                for family, ours in wanted.items():
                    try:
                        rules = _rules_of(policy, family)
                        _capture(sock, family, rules, ours)
                        self._set[family] = rules, ours
                    except _FamilyMissing:
                        pass
                    except OSError as err:
                        failed = failed or err
        except OSError as err:
            failed = err
        if failed:
            raise HostError("apply the routes", _sentence(failed)) from failed

    async def verify(self, policy: FirewallPolicy) -> bool:
        """Whether the kernel's rules and routes are those of the policy now. Changes nothing. Raises HostError."""
        try:
            asked = policy.capture or policy.only
            wanted = _wanted(policy) if asked else {socket.AF_INET: [], socket.AF_INET6: []}
            with rtnetlink.open_socket() as sock:
                for family, ours in wanted.items():
                    with contextlib.suppress(_FamilyMissing):
                        if not _follows(sock, family, _rules_of(policy, family), ours):
                            return False
            if policy.capture and not self._sysctls.stand():
                return False
        except OSError as err:
            raise HostError("check the routes", _sentence(err)) from err
        return True

    async def reset(self) -> None:
        """Remove our rules, then our table, and restore the sysctls. Idempotent. Raises HostError.

        Right after a `set` that is without looking, in half the time; whatever somebody added since goes the next time.
        """
        known, self._set = self._set, {}
        try:
            with rtnetlink.open_socket() as sock:
                for family in (socket.AF_INET, socket.AF_INET6):
                    with contextlib.suppress(_FamilyMissing):
                        rules, found = known.get(family) or (_rules(sock, family), None)
                        _change(sock, [_deleted_rule(family, rule) for rule in rules])
                        # Then the routes: our table without its last resort must never be asked.
                        found = _routes(sock, family) if found is None else found
                        _change(sock, [_deleted(family, route) for route in found])
        except OSError as err:
            raise HostError("remove the routes", _sentence(err)) from err
        self._sysctls.restore()


def _rules_of(policy: FirewallPolicy, family: int) -> list[Rule]:
    only = [ONLY_END] if policy.only else []
    if not policy.capture:
        return [ONLY, *only] if policy.only else []
    local = policy.lan or (policy.subnet_links and any(each.version == 6 for each in policy.subnets))  # it is in main
    rules = [OURS, END] if family == socket.AF_INET6 and not local else [OURS]
    if mask := BOTH if policy.tree else BESIDE if policy.beside else 0:
        rules = [rule._replace(mark=mask & MARK, mask=mask) for rule in rules]
    return _to_servers(policy, family) + rules + only + ([BEHIND] if policy.engine and policy.servers else [])


def _to_servers(policy: FirewallPolicy, family: int) -> list[Rule]:
    """Past our table, for whoever brings up a tunnel and is on the way to its server. Ports are the firewall's."""
    engine, version = policy.engine, 6 if family == socket.AF_INET6 else 4
    if engine is None:
        return []
    passed = Rule(PRIORITY - 1, engine.fwmark or 0, 0xFFFFFFFF if engine.fwmark else 0, 0, GOTO, goto=BEHIND.priority)
    addresses = dict.fromkeys(each.address for each in policy.servers if each.address.version == version)
    return [passed._replace(to=str(ip_network(address)), user=engine.uid) for address in addresses]


def _wanted(policy: FirewallPolicy) -> dict[int, list[Route]]:
    """The routes of a policy that captures, by family. Raises OSError when the tunnel's link is gone."""
    tunnel = policy.tunnel
    ifindex = socket.if_nametoindex(tunnel.ifname) if tunnel else 0
    lan = (*LAN, *LAN_MULTICAST, *policy.lan_subnets) if policy.lan else ()
    lan += policy.subnets if policy.subnet_links else ()
    inside = _inside(policy)
    return {
        socket.AF_INET: routes(4, tunnel, ifindex, lan, inside, wide=policy.engine is not None),
        socket.AF_INET6: routes(6, tunnel if tunnel and _has_ipv6(tunnel.ifname) else None, ifindex, lan, inside),
    }


def _inside(policy: FirewallPolicy) -> Inside:
    """By ifindex. A link that has just gone, or is without that family, is left out: another policy is on its way."""
    found: list[tuple[int, Network]] = []
    for ifname, network in policy.inside:
        with contextlib.suppress(OSError):
            if network.version == 4 or _has_ipv6(ifname):
                found.append((socket.if_nametoindex(ifname), network))
    return found


def _capture(sock: socket.socket, family: int, ours: list[Rule], wanted: list[Route]) -> None:
    """The last resort first, then the other routes, then the rules: at no moment is our table asked and incomplete.

    A route that is refused does not keep the rest from standing: whatever has no route is unreachable.
    """
    refused: list[OSError] = []
    for _ in range(ROUNDS):
        rules, found = Counter(_rules(sock, family)), Counter(_routes(sock, family))
        if rules == Counter(ours) and found == Counter(wanted):
            return
        requests = [_replaced(family, route) for route in wanted if route not in found]
        requests += [_added_rule(family, rule) for rule in ours if rule not in rules]
        requests += [_deleted_rule(family, rule) for rule in (rules - Counter(ours)).elements()]
        refused = _change(sock, requests, strict=False)
        if found - Counter(wanted):  # anew: `replace` may have taken the place of some
            more = (Counter(_routes(sock, family)) - Counter(wanted)).elements()
            refused += _change(sock, [_deleted(family, route) for route in more], strict=False)
    if not _follows(sock, family, ours, wanted):
        raise next(iter(refused), OSError(errno.EPROTO, "the kernel holds other rules or routes than were sent"))


def _follows(sock: socket.socket, family: int, rules: list[Rule], wanted: list[Route]) -> bool:
    return Counter(_rules(sock, family)) == Counter(rules) and Counter(_routes(sock, family)) == Counter(wanted)


# What somebody else has done already is no refusal: the rule is there; no such rule; no such route; no such table.
_DONE = frozenset({errno.EEXIST, errno.ENOENT, errno.ESRCH})


def _change(sock: socket.socket, requests: list[rtnetlink.Request], *, strict: bool = True) -> list[OSError]:
    """What was refused. Raises the first refusal if `strict`."""
    refused = [err for err in rtnetlink.change(sock, requests) if err and err.errno not in _DONE]
    if refused and strict:
        raise refused[0]
    return refused


# --- rtnetlink --------------------------------------------------------------------------------------------------------


def _rules(sock: socket.socket, family: int) -> list[Rule]:
    """All rules that name our table, whoever made them. Raises _FamilyMissing."""
    try:
        listed = rtnetlink.dump(sock, RTM_GETRULE, _HEADER.pack(family, 0, 0, 0, 0, 0, 0, 0, 0))
    except OSError as err:
        if err.errno in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # ipv6.disable=1 on the kernel's command line
            raise _FamilyMissing from err
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


def _added_rule(family: int, rule: Rule) -> rtnetlink.Request:
    return RTM_NEWRULE, ADD, _rule_body(family, rule) + rtnetlink.attribute(FRA_PROTOCOL, bytes((RTPROT_KERNEL,)))


def _deleted_rule(family: int, rule: Rule) -> rtnetlink.Request:
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


def _routes(sock: socket.socket, family: int) -> list[Route]:
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


def _replaced(family: int, route: Route) -> rtnetlink.Request:
    scope = SCOPE_LINK if route.kind == UNICAST and not route.wide else SCOPE_UNIVERSE
    return RTM_NEWROUTE, REPLACE, _route_body(family, route, RTPROT_KERNEL, scope)


def _deleted(family: int, route: Route) -> rtnetlink.Request:
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


class _FamilyMissing(Exception):
    """The kernel does not speak this IP version."""


def _has_ipv6(ifname: str) -> bool:
    """Whether IPv6 is there, and switched on for the link (or "all"). If not, the last resort stands where it can."""
    try:
        return Path("/proc/sys/net/ipv6/conf", ifname, "disable_ipv6").read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False


def _sentence(err: OSError) -> str:
    return str(err.strerror or err)
