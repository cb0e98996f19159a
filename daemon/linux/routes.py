"""The routing layer on Linux: what `route_plan.py` asks for, put into the kernel and read back."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import Counter
from pathlib import Path

from daemon.host import HostError
from daemon.linux import route_plan, rtnetlink
from daemon.linux.route_messages import (
    FamilyMissingError,
    added_rule,
    change,
    deleted_route,
    deleted_rule,
    read_routes,
    read_rules,
    replaced_route,
)
from daemon.linux.route_plan import Inside, Network, Route, Rule
from daemon.linux.sysctls import Sysctls
from policies.firewall import LAN, LAN_MULTICAST, FirewallPolicy

ROUNDS = 3  # deleting by key can hit ours when somebody has put a twin beside it: then once more


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
                        rules = route_plan.rules(policy, family)
                        _capture(sock, family, rules, ours)
                        self._set[family] = rules, ours
                    except FamilyMissingError:
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
                    with contextlib.suppress(FamilyMissingError):
                        if not _follows(sock, family, route_plan.rules(policy, family), ours):
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
                    with contextlib.suppress(FamilyMissingError):
                        rules, found = known.get(family) or (read_rules(sock, family), None)
                        change(sock, [deleted_rule(family, rule) for rule in rules])
                        # Then the routes: our table without its last resort must never be asked.
                        found = read_routes(sock, family) if found is None else found
                        change(sock, [deleted_route(family, route) for route in found])
        except OSError as err:
            raise HostError("remove the routes", _sentence(err)) from err
        self._sysctls.restore()


def _wanted(policy: FirewallPolicy) -> dict[int, list[Route]]:
    """The routes of a policy that captures, by family. Raises OSError when the tunnel's link is gone."""
    tunnel = policy.tunnel
    ifindex = socket.if_nametoindex(tunnel.ifname) if tunnel else 0
    lan = (*LAN, *LAN_MULTICAST, *policy.lan_subnets) if policy.lan else ()
    lan += policy.subnets if policy.subnet_links else ()
    inside = _inside(policy)
    tunnel6 = tunnel if tunnel and _has_ipv6(tunnel.ifname) else None
    return {
        socket.AF_INET: route_plan.routes(4, tunnel, ifindex, lan, inside, wide=policy.engine is not None),
        socket.AF_INET6: route_plan.routes(6, tunnel6, ifindex, lan, inside),
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
        rules, found = Counter(read_rules(sock, family)), Counter(read_routes(sock, family))
        if rules == Counter(ours) and found == Counter(wanted):
            return
        requests = [replaced_route(family, route) for route in wanted if route not in found]
        requests += [added_rule(family, rule) for rule in ours if rule not in rules]
        requests += [deleted_rule(family, rule) for rule in (rules - Counter(ours)).elements()]
        refused = change(sock, requests, strict=False)
        if found - Counter(wanted):  # anew: `replace` may have taken the place of some
            more = (Counter(read_routes(sock, family)) - Counter(wanted)).elements()
            refused += change(sock, [deleted_route(family, route) for route in more], strict=False)
    if not _follows(sock, family, ours, wanted):
        raise next(iter(refused), OSError(errno.EPROTO, "the kernel holds other rules or routes than were sent"))


def _follows(sock: socket.socket, family: int, rules: list[Rule], wanted: list[Route]) -> bool:
    return Counter(read_rules(sock, family)) == Counter(rules) and Counter(read_routes(sock, family)) == Counter(wanted)


def _has_ipv6(ifname: str) -> bool:
    """Whether IPv6 is there, and switched on for the link (or "all"). If not, the last resort stands where it can."""
    try:
        return Path("/proc/sys/net/ipv6/conf", ifname, "disable_ipv6").read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False


def _sentence(err: OSError) -> str:
    return str(err.strerror or err)
