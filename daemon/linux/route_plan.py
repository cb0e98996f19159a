"""What the routing layer is to be: FirewallPolicy -> rules and routes. Pure.


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

import socket
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import NamedTuple

from policies.facts import Tunnel
from policies.firewall import LOGIN_MARK, MARK, NEVER_MARK, ONLY_MARK, FirewallPolicy

TABLE = MARK
PRIORITY = 100
LAST_RESORT = 0xFFFFFFFF  # the greatest metric: any other default route wins
V6_METRIC = 1024  # what the kernel makes of metric 0 (IP6_RT_PRIO_USER)

# <linux/rtnetlink.h>, <linux/fib_rules.h>
UNICAST, UNREACHABLE, THROW = 1, 7, 9  # RTN_*
TO_TABLE, GOTO, NOP, NOWHERE = 1, 2, 3, 7  # FR_ACT_TO_TBL: "lookup"; FR_ACT_UNREACHABLE
INVERT = 2  # FIB_RULE_INVERT: "not"


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


def rules(policy: FirewallPolicy, family: int) -> list[Rule]:
    """The rules of a policy for one IP version, AF_INET or AF_INET6."""
    only = [ONLY_END] if policy.only else []
    if not policy.capture:
        return [ONLY, *only] if policy.only else []
    local = policy.lan or (policy.subnet_links and any(each.version == 6 for each in policy.subnets))  # it is in main
    captured = [OURS, END] if family == socket.AF_INET6 and not local else [OURS]
    if mask := BOTH if policy.tree else BESIDE if policy.beside else 0:
        captured = [rule._replace(mark=mask & MARK, mask=mask) for rule in captured]
    return _to_servers(policy, family) + captured + only + ([BEHIND] if policy.engine and policy.servers else [])


def _to_servers(policy: FirewallPolicy, family: int) -> list[Rule]:
    """Past our table, for whoever brings up a tunnel and is on the way to its server. Ports are the firewall's."""
    engine, version = policy.engine, 6 if family == socket.AF_INET6 else 4
    if engine is None:
        return []
    passed = Rule(PRIORITY - 1, engine.fwmark or 0, 0xFFFFFFFF if engine.fwmark else 0, 0, GOTO, goto=BEHIND.priority)
    addresses = dict.fromkeys(each.address for each in policy.servers if each.address.version == version)
    return [passed._replace(to=str(ip_network(address)), user=engine.uid) for address in addresses]
