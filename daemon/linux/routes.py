"""The routing layer on Linux: unmarked traffic sees one table of ours, and that ends in `unreachable`.

    100: not from all fwmark 0x74756e77 lookup 0x74756e77

    table 0x74756e77:  default dev tunwarden0
                       throw 192.168.0.0/16 ...                    (local network allowed: look further, in main)
                       10.2.0.1 dev tunwarden0                     (then: a resolver with such an address)
                       172.17.0.0/16 dev docker0                   (answers to containers that use the tunnel)
                       unreachable default metric 4294967295   (always, and always first)

It stands without the firewall and the firewall without it. Routes that a DHCP server pushes into main (CVE-2024-3661)
steer nothing, for there is no lookup of main before the end.

What this layer alone cannot stop is a socket bound to a physical link (L11), because the kernel skips routes of other
links for it, the last resort too. IPv4 then takes every address for a neighbour, so at least the gateway is out of
reach (net/ipv4/route.c, ip_route_output_key); IPv6 goes on to main. The firewall refuses both before a frame is made.

The rule's priority, 100: after `local` (0), before everybody else's. Tailscale uses 5210 to 5270, VRF 1000,
NetworkManager and wg-quick 30000 to 32765; a rule of theirs before ours would steer packets into the firewall's reject.
Protocol "kernel" on rule and routes: systemd-networkd deletes all others it does not know (networkd.conf(5),
ManageForeignRoutingPolicyRules). Rules and routes are ours if they are in our table; nothing else is touched.
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any

from daemon.host import HostError
from daemon.linux.netlink import AsyncIPRoute, NetlinkError, requests
from daemon.linux.sysctls import Sysctls
from policies.facts import Tunnel
from policies.firewall import LAN, LAN_MULTICAST, MARK, FirewallPolicy

TABLE = MARK
PRIORITY = 100
LAST_RESORT = 0xFFFFFFFF  # the greatest metric: any other default route wins

UNICAST, UNREACHABLE, THROW = 1, 7, 9  # RTN_* of linux/rtnetlink.h
RTPROT_KERNEL = 2
SCOPE_UNIVERSE, SCOPE_LINK, SCOPE_NOWHERE = 0, 253, 255
INVERT = 2  # FIB_RULE_INVERT of linux/fib_rules.h: "not"
V6_METRIC = 1024  # what the kernel makes of metric 0 (IP6_RT_PRIO_USER)
ROUNDS = 3  # deleting by key can hit ours when somebody has put a twin beside it: then once more


@dataclass(frozen=True, slots=True)
class Route:
    kind: int
    network: str  # "0.0.0.0/0"
    ifindex: int = 0  # only of UNICAST
    metric: int = 0
    others: str = ""  # anything else that steers (gateway, TOS ...): ours have none


@dataclass(frozen=True, slots=True)
class Rule:
    priority: int
    mark: int
    mask: int
    flags: int
    others: str = ""  # further selectors: ours has none


OURS = Rule(PRIORITY, MARK, 0xFFFFFFFF, INVERT)


Inside = Sequence[tuple[int, IPv4Network | IPv6Network]]  # ifindex of a link to containers or VMs, and its network


def routes(version: int, tunnel: Tunnel | None, ifindex: int, allow_lan: bool, inside: Inside = ()) -> list[Route]:
    """The routes of our table for one IP version, in the order they are added."""
    default, metric = ("0.0.0.0/0", 0) if version == 4 else ("::/0", V6_METRIC)
    wanted = [Route(UNREACHABLE, default, metric=LAST_RESORT)]
    if tunnel and any(address.version == version for address in tunnel.addresses):
        wanted.append(Route(UNICAST, default, ifindex, metric))
        if allow_lan:
            # More specific than the throws below: 10.64.0.1 in the tunnel is not the local network's 10.0.0.0/8.
            beyond = [ip_network(address) for address in tunnel.resolvers]
            beyond += [address.network for address in tunnel.addresses if address.network.num_addresses > 1]
            wanted += [Route(UNICAST, str(net), ifindex, metric) for net in beyond if net.version == version]
    # The way back to those we forward for. Taken from addresses on our own bridges, never from main.
    wanted += [Route(UNICAST, str(own), index, metric) for index, own in inside if own.version == version]
    if allow_lan:
        # IPv6 multicast routes are in the table `local`, which comes before us.
        wanted += [
            Route(THROW, str(net), metric=metric)
            for net in (*LAN, *LAN_MULTICAST)
            if net.version == version and not (net.version == 6 and net.is_multicast)
        ]
    return list(dict.fromkeys(wanted))


class LinuxRoutes:
    """Implements `daemon.host.Routes`."""

    def __init__(self, state_folder: Path = Path("/var/lib/tunwarden")) -> None:
        self._sysctls = Sysctls(state_folder / "sysctls.json")
        self._set: dict[int, list[Route]] = {}  # by family: what `set` has confirmed and `reset` need not look up
        self.ipv6_absent = False  # after `set`: the kernel has no IPv6, or has disabled it on the tunnel

    async def set(self, policy: FirewallPolicy) -> None:
        """Rules, table and sysctls as the policy wants them, read back. Twice is harmless. Raises HostError."""
        if not policy.capture:
            await self.reset()
            return
        self._sysctls.protect()
        self._set = {}
        try:
            ifindex = socket.if_nametoindex(policy.tunnel.ifname) if policy.tunnel else 0
            self.ipv6_absent = not _has_ipv6(policy.tunnel)
            async with requests() as ip:
                lan, inside = bool(policy.lan), _inside(policy)
                wanted = routes(4, policy.tunnel, ifindex, lan, inside)
                await _capture(ip, socket.AF_INET, wanted)
                self._set[socket.AF_INET] = wanted
                tunnel = None if self.ipv6_absent else policy.tunnel
                with contextlib.suppress(_FamilyMissing):
                    wanted = routes(6, tunnel, ifindex, lan, inside if tunnel else ())
                    await _capture(ip, socket.AF_INET6, wanted)
                    self._set[socket.AF_INET6] = wanted
        except (NetlinkError, OSError) as err:
            raise HostError("apply the routes", _sentence(err)) from err

    async def verify(self, policy: FirewallPolicy) -> bool:
        """Whether the kernel's rules and routes are those of the policy now. Changes nothing. Raises HostError."""
        try:
            ifindex = socket.if_nametoindex(policy.tunnel.ifname) if policy.tunnel else 0
            tunnel6 = policy.tunnel if _has_ipv6(policy.tunnel) else None
            async with requests() as ip:
                lan, inside = bool(policy.lan), _inside(policy)
                for family, version, tunnel in ((socket.AF_INET, 4, policy.tunnel), (socket.AF_INET6, 6, tunnel6)):
                    ways = inside if tunnel else ()
                    wanted = routes(version, tunnel, ifindex, lan, ways) if policy.capture else []
                    with contextlib.suppress(_FamilyMissing):
                        if not await _follows(ip, family, [OURS] if policy.capture else [], wanted):
                            return False
        except (NetlinkError, OSError) as err:
            raise HostError("check the routes", _sentence(err)) from err
        return True

    async def reset(self) -> None:
        """Remove our rules, then our table, and restore the sysctls. Idempotent. Raises HostError.

        Right after a `set` that is without looking, in half the time; whatever somebody added since goes the next time.
        """
        known, self._set = self._set, {}
        try:
            async with requests() as ip:
                for family in (socket.AF_INET, socket.AF_INET6):
                    with contextlib.suppress(_FamilyMissing):
                        # The rule first: our table without its last resort must never be asked.
                        for rule in [OURS] if family in known else await _rules(ip, family):
                            await _change_rule(ip, "del", family, rule)
                        for route in known[family] if family in known else await _routes(ip, family):
                            await _change_route(ip, "del", family, route)
        except (NetlinkError, OSError) as err:
            raise HostError("remove the routes", _sentence(err)) from err
        self._sysctls.restore()


def _inside(policy: FirewallPolicy) -> Inside:
    """By ifindex. A link that has just gone is left out: another policy is on its way."""
    found = []
    for ifname, network in policy.inside:
        with contextlib.suppress(OSError):
            found.append((socket.if_nametoindex(ifname), network))
    return found


async def _capture(ip: AsyncIPRoute, family: int, wanted: list[Route]) -> None:
    """The last resort first, then the other routes, then the rule: at no moment is our table asked and incomplete."""
    for _ in range(ROUNDS):
        rules, found = Counter(await _rules(ip, family)), Counter(await _routes(ip, family))
        if rules == Counter([OURS]) and found == Counter(wanted):
            return
        for route in wanted:
            if route not in found:
                await _change_route(ip, "replace", family, route)
        if OURS not in rules:
            await _change_rule(ip, "add", family, OURS)
        for rule in (rules - Counter([OURS])).elements():
            await _change_rule(ip, "del", family, rule)
        if found - Counter(wanted):  # anew: `replace` may have taken the place of some
            for route in (Counter(await _routes(ip, family)) - Counter(wanted)).elements():
                await _change_route(ip, "del", family, route)
    if not await _follows(ip, family, [OURS], wanted):
        raise OSError(errno.EPROTO, "the kernel holds other rules or routes than were sent")


async def _follows(ip: AsyncIPRoute, family: int, rules: list[Rule], wanted: list[Route]) -> bool:
    return await _rules(ip, family) == rules and Counter(await _routes(ip, family)) == Counter(wanted)


async def _rules(ip: AsyncIPRoute, family: int) -> list[Rule]:
    """All rules that lead into our table, whoever made them. Raises _FamilyMissing."""
    try:
        found = [rule async for rule in await ip.get_rules(family=family) if rule.get_attr("FRA_TABLE") == TABLE]
    except NetlinkError as err:
        if err.code in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):  # ipv6.disable=1 on the kernel's command line
            raise _FamilyMissing from err
        raise
    return [_rule(message) for message in found]


def _rule(message: Any) -> Rule:
    others = [f"{name} {value}" for name, value in message["attrs"] if name not in _RULE_FIELDS]
    others += [f"{name} {message[name]}" for name in ("src_len", "dst_len", "tos") if message[name]]
    if message.get_attr("FRA_SUPPRESS_PREFIXLEN") not in (None, 0xFFFFFFFF):
        others.append("suppress_prefixlength")
    return Rule(
        priority=message.get_attr("FRA_PRIORITY") or 0,
        mark=message.get_attr("FRA_FWMARK") or 0,
        mask=message.get_attr("FRA_FWMASK") or 0,
        flags=message["flags"],
        others=", ".join(others),
    )


_RULE_FIELDS = {
    "FRA_TABLE", "FRA_PRIORITY", "FRA_FWMARK", "FRA_FWMASK", "FRA_PROTOCOL", "FRA_SUPPRESS_PREFIXLEN", "UNKNOWN",
}  # fmt: skip


async def _routes(ip: AsyncIPRoute, family: int) -> list[Route]:
    """All routes in our table, whoever made them."""
    try:
        # strict_check lets the kernel choose the table: a full Internet table in main costs nothing.
        return [_route(message) async for message in await ip.get_routes(family=family, table=TABLE)]
    except NetlinkError as err:
        if err.code == errno.ENOENT:  # the table has never been used
            return []
        raise


def _route(message: Any) -> Route:
    address = message.get_attr("RTA_DST") or ("0.0.0.0" if message["family"] == socket.AF_INET else "::")  # noqa: S104
    others = [f"{name} {value}" for name, value in message["attrs"] if name not in _ROUTE_FIELDS]
    others += [f"{name} {message[name]}" for name in ("src_len", "tos") if message[name]]
    return Route(
        kind=message["type"],
        network=f"{address}/{message['dst_len']}",
        ifindex=(message.get_attr("RTA_OIF") or 0) if message["type"] == UNICAST else 0,
        metric=message.get_attr("RTA_PRIORITY") or 0,
        others=", ".join(others),
    )


_ROUTE_FIELDS = {"RTA_TABLE", "RTA_DST", "RTA_OIF", "RTA_PRIORITY", "RTA_CACHEINFO", "RTA_PREF", "UNKNOWN"}


async def _change_rule(ip: AsyncIPRoute, command: str, family: int, rule: Rule) -> None:
    """`command` is "add" or "del". The kernel deletes the first rule that has what is given here; 0 is not given."""
    with _tolerating(errno.EEXIST if command == "add" else errno.ENOENT):
        await ip.rule(
            command, family=family, table=TABLE, priority=rule.priority, flags=rule.flags,
            protocol=RTPROT_KERNEL if command == "add" else 0,
            **({"fwmark": rule.mark, "fwmask": rule.mask} if rule.mask else {}),
        )  # fmt: skip


async def _change_route(ip: AsyncIPRoute, command: str, family: int, route: Route) -> None:
    """`command` is "replace" or "del". A foreign route may have any protocol, scope and gateway: not given."""
    scope = SCOPE_LINK if route.kind == UNICAST else SCOPE_UNIVERSE
    with _tolerating(*((errno.ESRCH, errno.ENOENT) if command == "del" else ())):  # no such route; no such table
        await ip.route(
            command, family=family, table=TABLE, type=route.kind, dst=route.network, priority=route.metric,
            proto=RTPROT_KERNEL if command == "replace" else 0, scope=scope if command == "replace" else SCOPE_NOWHERE,
            **({"oif": route.ifindex} if route.ifindex else {}),
        )  # fmt: skip


@contextlib.contextmanager
def _tolerating(*codes: int) -> Iterator[None]:
    """Somebody else was faster: what we want is already so."""
    try:
        yield
    except NetlinkError as err:
        if err.code not in codes:
            raise


class _FamilyMissing(Exception):
    """The kernel does not speak this IP version."""


def _has_ipv6(tunnel: Tunnel | None) -> bool:
    """Whether IPv6 is there, and switched on for the tunnel. Without, the last resort still stands where it can."""
    switch = Path("/proc/sys/net/ipv6/conf", tunnel.ifname if tunnel else "all", "disable_ipv6")
    try:
        return switch.read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False


def _sentence(err: NetlinkError | OSError) -> str:
    return str(err.args[1]) if isinstance(err, NetlinkError) and len(err.args) > 1 else str(err.strerror or err)
