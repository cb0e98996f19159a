"""FirewallPolicy -> the text of our nftables table. Pure: what may pass can be read here and in tests/golden/nft/*.nft.

The order of the rules is the design (policies/README.md); each reordering below has leaked somewhere:

  1. loopback; packets with the tunnel's address on any other link are dropped before anything can accept them
  2. DHCP client, NDP, MLD
  3. cleared links (idle, or with the kill switch off): everything, DNS included
  4. the server: with our mark out, established in; without the mark never, not even as "local network"
  5. DNS to the tunnel's resolvers over the tunnel, then no other DNS: before the local network has a say
  6. the tunnel
  7. containers and virtual machines, over links that reach nothing else, at their own networks only
  8. the local network over links where it is allowed: a constant list of networks, and the administrator's own
  9. reject out and forward, so that programs fail at once; drop in, so that nobody is answered

There is no blanket `ct state established accept`: flows from before the block die with the commit that brings it.
All hooks are at priority filter (0). An accept elsewhere does not help a packet that a chain here drops.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from policies.facts import Endpoint
from policies.firewall import LAN, LAN_MULTICAST, MARK, TUNNEL_IFNAME, FirewallPolicy
from policies.states import Phase

TABLE = "inet tunwarden"

# Creating the table first makes the deletion valid whether or not it existed; all three are one commit.
REMOVE = f"table {TABLE}\ndelete table {TABLE}\n"

DNS = "meta l4proto { tcp, udp } th dport { 53, 853 }"  # plain, TLS and QUIC
DNS_ANSWER = "meta l4proto { tcp, udp } th sport { 53, 853 }"
REPLY = "ct state established,related"
TOLD = ("blocked_out", "blocked_forward")  # what programs on this computer and in its containers did not get out

SUBNETS = {"ip": "lan_subnets4", "ip6": "lan_subnets6"}
LINK_LOCAL = ip_network("fe80::/10")
INSIDE_NEARBY = (  # DHCP answers, mDNS, router advertisements
    ip_network("255.255.255.255/32"), ip_network("224.0.0.0/24"), LINK_LOCAL, ip_network("ff02::/16"),
)  # fmt: skip

# The kernel allows quotes, stars and semicolons in link names; nft would read them as syntax ("eth*" is a wildcard).
SAFE_IFNAME = re.compile(r"[A-Za-z0-9_.@+-]{1,15}")


@dataclass(frozen=True, slots=True)
class Ruleset:
    """Rendered. Rulesets with equal digests differ in the elements of `cleared` at most."""

    text: str  # the transaction that replaces our table
    digest: str  # of the rules; also in the table's comment


def ruleset(policy: FirewallPolicy) -> Ruleset:
    """Raises ValueError when a name or an address cannot be written safely."""
    lines = _table(policy)
    digest = hashlib.sha256("\n".join([policy.phase.value, *lines]).encode()).hexdigest()[:32]
    head = [REMOVE + f"table {TABLE} {{", f'\tcomment "{policy.phase.value} {digest}"']
    cleared = elements(policy.cleared)
    filled = ["\tset cleared {", "\t\ttype ifname", *([f"\t\telements = {_braces(cleared)}"] if cleared else []), "\t}"]
    return Ruleset("\n".join([*head, *filled, *lines, "}"]) + "\n", digest)


def render(policy: FirewallPolicy) -> str:
    """The transaction that replaces our table by the one the policy asks for. Raises ValueError, see `ruleset`."""
    return ruleset(policy).text


def elements(ifnames: Iterable[str]) -> tuple[str, ...]:
    """The link names as set elements. One that nft could misread is left out: that link just stays closed."""
    return tuple(f'"{ifname}"' for ifname in sorted(ifnames) if SAFE_IFNAME.fullmatch(ifname))


def replace_cleared(cleared: Iterable[str]) -> str:
    """The transaction that changes nothing but the elements of `cleared`."""
    new = elements(cleared)
    return f"flush set {TABLE} cleared\n" + (f"add element {TABLE} cleared {_braces(new)}\n" if new else "")


def _table(policy: FirewallPolicy) -> list[str]:
    lines = [line for hook in ("in", "out", "forward") for line in (f"\tcounter blocked_{hook} {{", "\t}")]
    lines += _subnets(policy)
    lines += _chain("refuse", "", ["meta l4proto tcp reject with tcp reset", "reject with icmpx admin-prohibited"])
    if inside := [*_to_inside(policy)]:
        lines += _chain("inside", "", inside)
    if early := [*_prerouting(policy)]:
        lines += _chain("prerouting", "type filter hook prerouting priority -150; policy accept;", early)
    if after := [*_postrouting(policy)]:
        lines += _chain("postrouting", "type nat hook postrouting priority 100; policy accept;", after)
    lines += _chain("input", "type filter hook input priority 0; policy drop;", _input(policy))
    lines += _chain("output", "type filter hook output priority 0; policy drop;", _output(policy))
    lines += _chain("forward", "type filter hook forward priority 0; policy drop;", _forward(policy))
    return lines


def _prerouting(policy: FirewallPolicy) -> Iterator[str]:
    """Before routing: neither the host nor anything behind it may be reached at the tunnel's address (CVE-2019-14899).

    Answers of the server get our mark, so that strict rp_filter (with src_valid_mark) looks for the way back in main.
    """
    yield from _guard(policy, "iifname", "daddr", "drop")
    for server in policy.servers:
        yield f"{_from(server)} meta mark set {MARK:#x}"


def _postrouting(policy: FirewallPolicy) -> Iterator[str]:
    """Into the tunnel with its own address only: others (routed virtual machines) the server would drop, or see."""
    if policy.tunnel:
        networks = [network for networks in _inside(policy).values() for network in networks]
        yield from _matching(f"oifname {_own(policy)}", "saddr", networks, "masquerade")


def _input(policy: FirewallPolicy) -> Iterator[str]:
    yield 'iifname "lo" accept'
    yield from _guard(policy, "iifname", "daddr", "drop")
    yield "meta nfproto ipv4 udp sport 67 udp dport 68 accept"
    yield "ip6 saddr fe80::/10 udp sport 547 ip6 daddr fe80::/10 udp dport 546 accept"
    yield (
        "ip6 saddr fe80::/10 icmpv6 type { nd-router-advert, nd-redirect, nd-neighbor-solicit } icmpv6 code 0 accept"
    )
    yield "icmpv6 type nd-neighbor-advert icmpv6 code 0 accept"
    yield "ip6 saddr fe80::/10 icmpv6 type mld-listener-query accept"
    if _clears(policy):
        yield "iifname @cleared accept"
    for server in policy.servers:
        yield f"ct state established {_from(server)} accept"
    if policy.tunnel:
        yield f"iifname {_name(policy.tunnel.ifname)} {REPLY} accept"
    if links := _inside(policy):
        # Their requests to this computer: it gives DHCP, DNS and router advertisements to virtual machines.
        yield f"iifname {_braces(links)} ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept"
        for link, networks in links.items():
            yield from _matching(f"iifname {link}", "saddr", [*networks, *_nearby(networks, (LINK_LOCAL,))], "accept")
    if _lan(policy):
        yield f"{DNS_ANSWER} {_drop('in')}"  # nobody here was allowed to ask
        yield from _from_lan(policy, "accept")
    yield _drop("in")


def _output(policy: FirewallPolicy) -> Iterator[str]:
    yield 'oifname "lo" accept'
    yield from _guard(policy, "oifname", "saddr", _refuse("out"))
    yield "udp sport 68 ip daddr 255.255.255.255 udp dport 67 accept"
    yield "ip6 saddr fe80::/10 udp sport 546 ip6 daddr { ff02::1:2, ff05::1:3 } udp dport 547 accept"
    yield "ip6 daddr ff02::2 icmpv6 type nd-router-solicit icmpv6 code 0 accept"
    yield "ip6 daddr { ff02::1:ff00:0/104, fe80::/10 } icmpv6 type nd-neighbor-solicit icmpv6 code 0 accept"
    yield "ip6 daddr fe80::/10 icmpv6 type nd-neighbor-advert icmpv6 code 0 accept"
    yield "ip6 daddr ff02::16 icmpv6 type mld2-listener-report accept"
    yield "ip6 daddr ff02::/16 icmpv6 type { mld-listener-report, mld-listener-done } accept"  # MLDv1: to the group
    if _clears(policy):
        yield "oifname @cleared accept"
    for server in policy.servers:
        yield f"meta mark {MARK:#x} {_to(server)} accept"
        yield f"{_to(server)} {_refuse('out')}"  # L3: unmarked, it would be plaintext with the server's address on it
    yield from _dns(policy, "out")
    if policy.tunnel:
        yield f"oifname {_name(policy.tunnel.ifname)} accept"
    if links := _inside(policy):
        yield f"oifname {_braces(links)} jump inside"
    yield from _to_lan(policy, "")
    yield _refuse("out")


def _forward(policy: FirewallPolicy) -> Iterator[str]:
    """Containers and virtual machines: as the host's own traffic would."""
    if _clears(policy):
        yield "iifname @cleared oifname @cleared accept"  # both: what is not cleared neither sends nor is sent to
    if links := _inside(policy):
        # Among themselves, DNS included. With br_netfilter even frames that a bridge hands on come along here.
        yield f"iifname {_braces(links)} oifname {_braces(links)} accept"
    for server in policy.servers:
        yield f"{_to(server)} {_refuse('forward')}"
    yield from _dns(policy, "forward")
    if policy.tunnel:
        yield f"oifname {_name(policy.tunnel.ifname)} accept"
        # The server's side does not reach our local network, and gets no refusal, which could leave by another link.
        yield f"iifname {_name(policy.tunnel.ifname)} {REPLY} accept"
        yield f"iifname {_name(policy.tunnel.ifname)} {_drop('forward')}"
    if lan := _lan(policy):
        yield from _to_lan(policy, f"iifname {_braces([*lan, *links])} ")
    if links:
        yield from _from_lan(policy, "jump inside")  # a published port, a routed virtual machine
    yield _refuse("forward")


def _to_inside(policy: FirewallPolicy) -> Iterator[str]:
    """To containers and virtual machines: over links that lead nowhere else, only to the networks there."""
    for link, networks in _inside(policy).items():
        yield from _matching(f"oifname {link}", "daddr", [*networks, *_nearby(networks, INSIDE_NEARBY)], "accept")


def _nearby(networks: Sequence[IPv4Network | IPv6Network], nearby: Iterable[IPv4Network | IPv6Network]) -> list[Item]:
    """What belongs to every link with networks of these families."""
    return [each for each in nearby if any(each.version == network.version for network in networks)]


def _to_lan(policy: FirewallPolicy, where: str) -> Iterator[str]:
    if links := _lan(policy):
        where += f"oifname {_braces(links)}"
        yield from _matching(where, "daddr", (*LAN, *LAN_MULTICAST), "accept")
        for family in _disjoint(policy.lan_subnets):
            yield f"{where} {family} daddr @{SUBNETS[family]} accept"


def _from_lan(policy: FirewallPolicy, verdict: str) -> Iterator[str]:
    if links := _lan(policy):
        where = f"iifname {_braces(links)}"
        yield from _matching(where, "saddr", LAN, verdict)
        for family in _disjoint(policy.lan_subnets):
            yield f"{where} {family} saddr @{SUBNETS[family]} {verdict}"


def _subnets(policy: FirewallPolicy) -> Iterator[str]:
    """The administrator's local networks as named sets: there may be thousands, and three hooks ask."""
    if _lan(policy):
        for family, texts in _disjoint(policy.lan_subnets).items():
            yield from (f"\tset {SUBNETS[family]} {{", f"\t\ttype {'ipv4' if family == 'ip' else 'ipv6'}_addr")
            yield from ("\t\tflags interval", f"\t\telements = {texts}", "\t}")


@lru_cache(maxsize=4)
def _disjoint(networks: tuple[IPv4Network | IPv6Network, ...]) -> dict[str, str]:
    """The elements by family, without networks that lie in others: nft refuses overlaps, and is slow to join them."""
    kept: dict[str, list[str]] = {}
    end = -1
    for network in sorted(networks, key=lambda each: (each.version, int(each.network_address), each.prefixlen)):
        first = int(network.network_address)
        if (family := _family(network)) not in kept:
            kept[family], end = [], -1
        if first > end:
            kept[family].append(str(network))
            end = first + network.num_addresses - 1
    return {family: _braces(texts) for family, texts in kept.items()}


def _dns(policy: FirewallPolicy, hook: str) -> Iterator[str]:
    """Allowed DNS, then none. What goes over cleared links has been accepted before."""
    if policy.tunnel:
        link = _name(policy.tunnel.ifname)
        for family, resolvers in _by_family(policy.tunnel.resolvers):
            yield f"oifname {link} {family} daddr {_braces(resolvers)} {DNS} accept"
    if hook == "out":
        # A local sender learns of a drop at once as well (EPERM). The ICMP error of a reject on top of that makes
        # systemd-resolved spin at 100 % CPU (systemd #33862, L18).
        yield f"udp dport {{ 53, 853 }} {_drop(hook)}"
        yield f"tcp dport {{ 53, 853 }} {_refuse(hook)}"
    else:
        yield f"{DNS} {_refuse(hook)}"


def _clears(policy: FirewallPolicy) -> bool:
    """In idle the rules are there even while the set is empty: filling it is then a cheap change of elements."""
    return policy.phase is Phase.IDLE or bool(policy.cleared)


def _lan(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links of the local network; private addresses at the other end of the tunnel are not that."""
    return elements(policy.lan - _tunnels(policy))


def _inside(policy: FirewallPolicy) -> dict[str, list[IPv4Network | IPv6Network]]:
    """Links to containers and virtual machines, as elements, with their networks."""
    links: dict[str, list[IPv4Network | IPv6Network]] = {}
    for ifname, network in policy.inside:
        for link in elements({ifname} - _tunnels(policy) - policy.lan):
            links.setdefault(link, []).append(network)
    return links


def _tunnels(policy: FirewallPolicy) -> frozenset[str]:
    return frozenset({TUNNEL_IFNAME, *([policy.tunnel.ifname] if policy.tunnel else [])})


def _guard(policy: FirewallPolicy, direction: str, field: str, verdict: str) -> Iterator[str]:
    links = _braces(['"lo"', _own(policy)])
    for family, addresses in _by_family(policy.guarded):
        yield f"{direction} != {links} {family} {field} {_braces(addresses)} {verdict}"


def _refuse(hook: str) -> str:
    """Say so at once: the sender is on this computer, or behind it."""
    return f'counter name "blocked_{hook}" goto refuse'


def _drop(hook: str) -> str:
    """Say nothing: the sender is a stranger."""
    return f'counter name "blocked_{hook}" drop'


def _to(server: Endpoint) -> str:
    return f"{_family(server.address)} daddr {server.address} {_protocol(server)} dport {server.port}"


def _from(server: Endpoint) -> str:
    return f"{_family(server.address)} saddr {server.address} {_protocol(server)} sport {server.port}"


def _protocol(server: Endpoint) -> str:
    if server.protocol not in ("udp", "tcp") or not 0 < server.port < 65536:
        raise ValueError(f"not an endpoint: {server}")
    return server.protocol


def _own(policy: FirewallPolicy) -> str:
    return _name(policy.tunnel.ifname if policy.tunnel else TUNNEL_IFNAME)


def _name(ifname: str) -> str:
    if not SAFE_IFNAME.fullmatch(ifname):
        raise ValueError(f"a link name that nft could misread: {ifname!r}")
    return f'"{ifname}"'


Item = IPv4Address | IPv6Address | IPv4Network | IPv6Network


def _matching(links: str, field: str, items: Sequence[Item], verdict: str) -> Iterator[str]:
    for family, texts in _by_family(items):
        yield f"{links} {family} {field} {_braces(texts)} {verdict}"


def _by_family(items: Sequence[Item]) -> Iterator[tuple[str, list[str]]]:
    """("ip", [...]) and ("ip6", [...]), without the empty ones; the order given, each once.

    The match on the family that `ip` and `ip6` bring matters in an inet table: offsets alone would match the other's.
    """
    for family in ("ip", "ip6"):
        if texts := [*dict.fromkeys(str(item) for item in items if _family(item) == family)]:
            yield family, texts


def _family(item: Item) -> str:
    return "ip" if item.version == 4 else "ip6"


def _braces(items: Iterable[str]) -> str:
    return "{ " + ", ".join(items) + " }"


def _chain(name: str, hook: str, rules: Iterable[str]) -> list[str]:
    return ["", f"\tchain {name} {{", *([f"\t\t{hook}"] if hook else []), *(f"\t\t{rule}" for rule in rules), "\t}"]
