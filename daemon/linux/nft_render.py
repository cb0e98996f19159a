"""FirewallPolicy -> the text of our nftables table. Pure: what may pass can be read here and in tests/golden/nft/*.nft.

The order of the rules is the design (policies/README.md); each reordering below has leaked somewhere:

  1. loopback; programs that use nothing but the tunnel get no further without it; packets with the tunnel's address on
     any other link are dropped before anything can accept them
  2. cleared links (idle, or with the kill switch off): everything, DNS included
  3. the server: with our mark out, established in; without the mark never, not even as "local network". That of a
     tunnel which somebody else brings up: with that program's mark, or as its user, over an uplink
  4. beacons and a captive portal's login: with our mark out, and only what such flows bring in; programs that never use
     the tunnel, with theirs
  5. the tunnel: everything but DNS to others than its resolvers. Most of the traffic gets no further
  6. DHCP client, NDP, MLD; then no other DNS: before the local network has a say
  7. containers and virtual machines, over links that reach nothing else, at their own networks only
  8. networks that are reached beside the tunnel, then the local network over links where it is allowed: a constant list
     of networks, and the administrator's own
  9. reject out and forward, so that programs fail at once; drop in, so that nobody is answered

There is no blanket `ct state established accept`: flows from before the block die with the commit that brings it.
All hooks are at priority filter (0). An accept elsewhere does not help a packet that a chain here drops.

Each expression and each set costs some microseconds to send and to read back, so what several rules ask is a named set
or a chain, and rules of one kind are one look-up.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from policies.facts import Endpoint, Tunnel
from policies.firewall import (
    LAN,
    LAN_MULTICAST,
    LOGIN,
    LOGIN_MARK,
    MARK,
    NEVER_MARK,
    ONLY_MARK,
    TREE_PORTS,
    TUNNEL_IFNAME,
    FirewallPolicy,
)
from policies.states import Phase

TABLE = "inet tunwarden"

# Creating the table first makes the deletion valid whether or not it existed; all three are one commit.
REMOVE = f"table {TABLE}\ndelete table {TABLE}\n"

DNS = "meta l4proto . th dport @dns"
DNS_ANSWER = "meta l4proto . th sport @dns"
DNS_PORTS = "{ tcp . 53, tcp . 853, udp . 53, udp . 853 }"  # plain, TLS and QUIC
REPLY = "ct state established,related"
ALLOWANCE = "allowance"  # the quota that a metered tunnel passes under: nothing, until NftFirewall.allow sets it
NO_ALLOWANCE = "over 0 bytes"
TOLD = ("blocked_out", "blocked_forward")  # what programs on this computer and in its containers did not get out

NETWORKS = {"ip": "lan4", "ip6": "lan6"}  # the sets of the local network
SUBNETS = {"ip": "beside4", "ip6": "beside6"}  # and of the excluded ones
NAMES = "{ tcp . 53, udp . 53 }"
NDP_IN = "{ nd-router-advert . 0, nd-redirect . 0, nd-neighbor-solicit . 0, mld-listener-query . 0 }"
NDP_OUT = (
    "ff02::2 . nd-router-solicit . 0",
    "ff02::1:ff00:0/104 . nd-neighbor-solicit . 0",
    "fe80::/10 . nd-neighbor-solicit . 0",
    "fe80::/10 . nd-neighbor-advert . 0",
    "ff02::16 . mld2-listener-report . 0",
    "ff02::/16 . mld-listener-report . 0",  # MLDv1: to the group
    "ff02::/16 . mld-listener-done . 0",
)
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


@lru_cache(maxsize=4)  # the same few alternate
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


def with_allowance(text: str, left: int) -> str:
    """The same transaction, with so many bytes for a metered tunnel: everything else is as it was."""
    return text.replace(NO_ALLOWANCE, f"over {left} bytes", 1)


def _table(policy: FirewallPolicy) -> list[str]:
    lines = [line for hook in ("in", "out", "forward") for line in (f"\tcounter blocked_{hook} {{", "\t}")]
    if policy.tunnel and policy.metered:
        lines += [f"\tquota {ALLOWANCE} {{", f"\t\t{NO_ALLOWANCE}", "\t}"]
    lines += _sets(policy)
    lines += _chain("refuse", "", _refusals(policy))
    if policy.servers:
        # L3: unmarked, it would be plaintext with the server's address on it.
        lines += _chain("server", "", [*_to_server(policy), _refuse("out")])
    if policy.tunnel:
        if policy.metered:
            # L18, as below: a refused question makes systemd-resolved spin.
            lines += _chain("used_up", "", [f"meta l4proto udp {DNS} drop", "goto refuse"])
        lines += _chain("to_tunnel", "", [*_metered(policy, "", "goto used_up"), *_to_tunnel(policy.tunnel)])
    if inside := [*_to_inside(policy)]:
        lines += _chain("inside", "", inside)
    if _lan(policy):
        lines += _chain("to_lan", "", _to_lan())
    if _beside(policy):
        lines += _chain("beside", "", [f"meta l4proto . th dport {NAMES} {_refuse('out')}", "accept"])
    if early := [*_prerouting(policy)]:
        lines += _chain("prerouting", "type filter hook prerouting priority -150; policy accept;", early)
    if led := [*_led(policy)]:
        redirected = [f"meta mark {mark:#x} udp dport 53 redirect to :{port}" for mark, port in led]
        lines += _chain("login", "type nat hook output priority -100; policy accept;", redirected)
        # A socket bound to a link takes along by it what was led to the loopback: IPv6 would send to ::1 over Ethernet.
        stray = [f'oifname != "lo" meta mark {mark:#x} udp dport {port} {_drop("out")}' for mark, port in led]
        lines += _chain("stray", "type filter hook postrouting priority 0; policy accept;", stray)
    if after := [*_postrouting(policy)]:
        lines += _chain("postrouting", "type nat hook postrouting priority 100; policy accept;", after)
    lines += _chain("input", "type filter hook input priority 0; policy drop;", _input(policy))
    lines += _chain("output", "type filter hook output priority 0; policy drop;", _output(policy))
    lines += _chain("forward", "type filter hook forward priority 0; policy drop;", _forward(policy))
    return lines


def _sets(policy: FirewallPolicy) -> Iterator[str]:
    """What several rules look up."""
    yield from _set("dns", "inet_proto . inet_service", DNS_PORTS)
    if links := _inside(policy):
        yield from _set("inside_links", "ifname", _braces(links))
    if lan := _lan(policy):
        yield from _set("lan_links", "ifname", _braces(lan))
        for family, networks in _disjoint((*LAN, *policy.lan_subnets)).items():
            kind = "ipv4_addr" if family == "ip" else "ipv6_addr"
            yield from _set(NETWORKS[family], kind, networks, "flags interval")
    if _subnets(policy):
        for family, networks in _disjoint(policy.subnets).items():
            kind = "ipv4_addr" if family == "ip" else "ipv6_addr"
            yield from _set(SUBNETS[family], kind, networks, "flags interval")


def _refusals(policy: FirewallPolicy) -> Iterator[str]:
    """Nothing leaves either way; a refusal tells the program at once."""
    if policy.phase in (Phase.HELD, Phase.IDLE):
        # Nothing is decided yet, or a link will be cleared again: a reset would end connections that can go on then,
        # such as those of a machine that roams. Only new ones are refused.
        yield "tcp flags & (syn | ack) != syn drop"
    yield "meta l4proto tcp reject with tcp reset"
    yield "reject with icmpx admin-prohibited"


def _prerouting(policy: FirewallPolicy) -> Iterator[str]:
    """Before routing: neither the host nor anything behind it may be reached at the tunnel's address (CVE-2019-14899).

    Answers of the server get our mark, so that strict rp_filter (with src_valid_mark) looks for the way back in main.
    """
    yield from _guard(policy, "iifname", "daddr", 'iifname != "lo" drop')
    # Answers to somebody else's tunnel get the mark that its own packets leave with, if they have one.
    answered = policy.engine.fwmark if policy.engine and policy.engine.fwmark is not None else MARK
    for server in policy.servers:
        yield f"{_from(server)} meta mark set {answered:#x}"
    asking = policy.beside if policy.beside_dns else frozenset()
    if asked := elements(policy.login.union(asking, (ifname for ifname, _ in policy.beacons)) - _tunnels(policy)):
        yield f"iifname {_braces(asked)} ct mark {MARK:#x} meta mark set {MARK:#x}"
    if tree := _tree(policy):
        yield f"iifname {_braces(tree)} ct mark {LOGIN_MARK:#x} meta mark set {LOGIN_MARK:#x}"
    if beside := _beside(policy):
        yield f"iifname {_braces(beside)} ct mark {NEVER_MARK:#x} meta mark set {NEVER_MARK:#x}"


def _led(policy: FirewallPolicy) -> Iterator[tuple[int, int]]:
    """Marks whose DNS is answered by us, also that to resolvers on this computer, and at which port of the loopback."""
    if _tree(policy):
        yield LOGIN_MARK, _port(policy.tree_dns)
    if _beside(policy) and policy.beside_dns:
        yield NEVER_MARK, _port(policy.beside_dns)


def _postrouting(policy: FirewallPolicy) -> Iterator[str]:
    """Into the tunnel with its own address only: others (routed virtual machines) the server would drop, or see."""
    if policy.tunnel:
        networks = [network for networks in _inside(policy).values() for network in networks]
        yield from _matching("saddr", networks, "masquerade", f"oifname {_own(policy)} ")


def _input(policy: FirewallPolicy) -> Iterator[str]:
    yield 'iifname "lo" accept'
    yield from _guard(policy, "iifname", "daddr", "drop")
    if _clears(policy):
        yield "iifname @cleared accept"
    for server in policy.servers:
        yield f"{_from(server)} ct state established accept"
    for link, beacon in _beacons(policy):
        yield f"iifname {link} ct state established ct mark {MARK:#x} {_from(beacon)} accept"
        if beacon.address.version == 6:  # as a neighbour it asks for us under the address that it answers with
            yield f"iifname {link} ip6 saddr {beacon.address} icmpv6 type nd-neighbor-solicit icmpv6 code 0 accept"
    if login := _login(policy):
        for protocol, ports in LOGIN:
            sport = f"{protocol} sport {_braces(map(str, ports))}"
            yield f"iifname {_braces(login)} ct state established ct mark {MARK:#x} {sport} accept"
    if tree := _tree(policy):
        sport = f"tcp sport {_braces(map(str, TREE_PORTS))}"
        yield f"iifname {_braces(tree)} ct state established ct mark {LOGIN_MARK:#x} {sport} accept"
    if beside := _beside(policy):
        yield f"iifname {_braces(beside)} ct mark {NEVER_MARK:#x} {REPLY} accept"
        if policy.beside_dns:
            yield f"iifname {_braces(beside)} ct state established ct mark {MARK:#x} udp sport 53 accept"
    if policy.tunnel:
        yield from _metered(policy, f"iifname {_own(policy)} ", "drop")
        yield f"iifname {_name(policy.tunnel.ifname)} {REPLY} accept"
    yield "meta nfproto ipv4 udp sport 67 udp dport 68 accept"
    yield "ip6 saddr fe80::/10 ip6 daddr fe80::/10 udp sport 547 udp dport 546 accept"
    yield f"ip6 saddr fe80::/10 icmpv6 type . icmpv6 code {NDP_IN} accept"
    yield "icmpv6 type nd-neighbor-advert icmpv6 code 0 accept"
    if links := _inside(policy):
        # Their requests to this computer: it gives DHCP, DNS and router advertisements to virtual machines.
        yield "iifname @inside_links ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept"
        for link, networks in links.items():
            yield from _matching("saddr", [*networks, *_nearby(networks, (LINK_LOCAL,))], "accept", f"iifname {link} ")
    if _lan(policy) or _subnets(policy):
        yield f"{DNS_ANSWER} {_drop('in')}"  # nobody here was allowed to ask
    if apart := _subnets(policy):
        yield from _excluded(policy, f"iifname {_braces(apart)} ", "saddr", f"{REPLY} accept")
    if _lan(policy):
        yield from _from_lan("accept")
    yield _drop("in")


def _output(policy: FirewallPolicy) -> Iterator[str]:
    if policy.only and not policy.tunnel:
        # A resolver on this computer would ask for them outside of a tunnel.
        yield f"meta mark {ONLY_MARK:#x} {DNS} {_refuse('out')}"
    for mark, number in _led(policy):  # nobody else gets his names there
        port = f"udp dport {number}"
        yield f'oifname "lo" {port} meta mark != {mark:#x} {_refuse("out")}'
        # What was led there still bears the name of the link that it would have left by.
        yield f"meta mark {mark:#x} ip daddr 127.0.0.1 {port} accept"
        yield f"meta mark {mark:#x} ip6 daddr ::1 {port} accept"
    if policy.never and policy.capture:  # what is not led away would be asked by a resolver here, through the tunnel
        yield f'oifname "lo" meta mark {NEVER_MARK:#x} {DNS} {_refuse("out")}'
    yield 'oifname "lo" accept'
    if policy.only:
        other = f"oifname != {_own(policy)} " if policy.tunnel else ""
        yield f"meta mark {ONLY_MARK:#x} {other}{_refuse('out')}"
    yield from _guard(policy, "oifname", "saddr", _refuse("out"))
    if policy.never:  # also while nothing is protected: what such a flow brings in later is known by it
        yield f"meta mark {NEVER_MARK:#x} ct mark set {NEVER_MARK:#x}"
        if policy.tunnel:
            yield f"oifname {_own(policy)} meta mark {NEVER_MARK:#x} {_refuse('out')}"
    if _clears(policy):
        yield "oifname @cleared accept"
    for server in policy.servers:
        yield f"{_to(server)} goto server"
    for link, beacon in _beacons(policy):
        yield f"oifname {link} meta mark {MARK:#x} {_to(beacon)} ct mark set {MARK:#x} accept"
        if beacon.address.version == 6:
            yield f"oifname {link} ip6 daddr {beacon.address} icmpv6 type nd-neighbor-advert icmpv6 code 0 accept"
    if login := _login(policy):
        for protocol, ports in LOGIN:
            # The mark stays with the flow: an answer to anybody else, and a flow from before the block, is none of it.
            dport = f"{protocol} dport {_braces(map(str, ports))}"
            yield f"oifname {_braces(login)} meta mark {MARK:#x} {dport} ct mark set {MARK:#x} accept"
    if tree := _tree(policy):
        dport = f"tcp dport {_braces(map(str, TREE_PORTS))}"
        yield f"oifname {_braces(tree)} meta mark {LOGIN_MARK:#x} {dport} ct mark set {LOGIN_MARK:#x} accept"
    if beside := _beside(policy):
        if policy.tunnel:
            resolvers = policy.tunnel.resolvers  # beside the tunnel, strangers would be asked under that address
            yield from _matching("daddr", resolvers, _refuse("out"), f"meta mark {NEVER_MARK:#x} ")
        yield f"oifname {_braces(beside)} meta mark {NEVER_MARK:#x} goto beside"
        if policy.beside_dns:
            yield f"oifname {_braces(beside)} meta mark {MARK:#x} udp dport 53 ct mark set {MARK:#x} accept"
    if policy.tunnel:
        yield f"oifname {_name(policy.tunnel.ifname)} jump to_tunnel"
    yield "ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept"
    yield "ip6 saddr fe80::/10 ip6 daddr { ff02::1:2, ff05::1:3 } udp sport 546 udp dport 547 accept"
    yield f"ip6 daddr . icmpv6 type . icmpv6 code {_braces(NDP_OUT)} accept"
    # A local sender learns of a drop at once as well (EPERM). The ICMP error of a reject on top of that makes
    # systemd-resolved spin at 100 % CPU (systemd #33862, L18).
    yield f"meta l4proto udp {DNS} {_drop('out')}"
    yield f"{DNS} {_refuse('out')}"
    if _inside(policy):
        yield "oifname @inside_links jump inside"
    if links := _subnets(policy):
        yield from _excluded(policy, f"oifname {_braces(links)} ", "daddr", "accept")
    if _lan(policy):
        yield "oifname @lan_links jump to_lan"
    yield _refuse("out")


def _forward(policy: FirewallPolicy) -> Iterator[str]:
    """Containers and virtual machines: as the host's own traffic would."""
    if _clears(policy):
        yield "iifname @cleared oifname @cleared accept"  # both: what is not cleared neither sends nor is sent to
    if _inside(policy):
        # Among themselves, DNS included. With br_netfilter even frames that a bridge hands on come along here.
        yield "iifname @inside_links oifname @inside_links accept"
    for server in policy.servers:
        yield f"{_to(server)} {_refuse('forward')}"
    if policy.tunnel:
        # T7: they know the MTU of their own links. Of the two ways of the connection, the smaller one counts.
        yield "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
        yield f"oifname {_name(policy.tunnel.ifname)} jump to_tunnel"
    yield f"{DNS} {_refuse('forward')}"
    if policy.tunnel:
        yield from _metered(policy, f"iifname {_own(policy)} ", "drop")
        # The server's side does not reach our local network, and gets no refusal, which could leave by another link.
        yield f"iifname {_name(policy.tunnel.ifname)} {REPLY} accept"
        yield f"iifname {_name(policy.tunnel.ifname)} {_drop('forward')}"
    if (links := _subnets(policy)) and _inside(policy):
        yield from _excluded(policy, f"iifname @inside_links oifname {_braces(links)} ", "daddr", "accept")
        yield from _excluded(policy, f"iifname {_braces(links)} oifname @inside_links ", "saddr", f"{REPLY} accept")
    if _lan(policy):
        yield "iifname @lan_links oifname @lan_links jump to_lan"
        if _inside(policy):
            yield "iifname @inside_links oifname @lan_links jump to_lan"
            yield from _from_lan("jump inside")  # a published port, a routed virtual machine
    yield _refuse("forward")


def _to_server(policy: FirewallPolicy) -> Iterator[str]:
    """Our own tunnel's packets, or those of the program that brings up somebody else's: never through that itself."""
    engine = policy.engine
    if engine is None:
        yield f"meta mark {MARK:#x} accept"
    elif links := elements(policy.carriers - _tunnels(policy)):
        # A kernel's WireGuard has no user, its packets bear a mark; for a program that sets none, its user counts.
        whose = f"meta mark {_number(engine.fwmark):#x}" if engine.uid is None else f"meta skuid {_number(engine.uid)}"
        yield f"oifname {_braces(links)} {whose} accept"


def _to_tunnel(tunnel: Tunnel) -> Iterator[str]:
    """Everything but DNS to others than its resolvers: that returns, and is refused."""
    if tunnel.open_names:
        yield "accept"
        return
    yield from _matching("daddr", tunnel.resolvers, "accept")
    yield f"{DNS} return"
    yield "accept"


def _metered(policy: FirewallPolicy, match: str, verdict: str) -> Iterator[str]:
    """Every packet is counted here; those beyond the allowance go no further."""
    if policy.metered:
        yield f'{match}quota name "{ALLOWANCE}" {verdict}'


def _to_inside(policy: FirewallPolicy) -> Iterator[str]:
    """To containers and virtual machines: over links that lead nowhere else, only to the networks there."""
    for link, networks in _inside(policy).items():
        yield from _matching("daddr", [*networks, *_nearby(networks, INSIDE_NEARBY)], "accept", f"oifname {link} ")


def _nearby(networks: Sequence[IPv4Network | IPv6Network], nearby: Iterable[IPv4Network | IPv6Network]) -> list[Item]:
    """What belongs to every link with networks of these families."""
    return [each for each in nearby if any(each.version == network.version for network in networks)]


def _to_lan() -> Iterator[str]:
    for family, networks in NETWORKS.items():
        yield f"{family} daddr @{networks} accept"
    yield from _matching("daddr", LAN_MULTICAST, "accept")


def _from_lan(verdict: str) -> Iterator[str]:
    for family, networks in NETWORKS.items():
        yield f"iifname @lan_links {family} saddr @{networks} {verdict}"


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


def _clears(policy: FirewallPolicy) -> bool:
    """In idle the rules are there even while the set is empty: filling it is then a cheap change of elements."""
    return policy.phase is Phase.IDLE or bool(policy.cleared)


def _lan(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links of the local network; private addresses at the other end of the tunnel are not that."""
    return elements(policy.lan - _tunnels(policy))


def _login(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links of a captive portal's login."""
    return elements(policy.login - _tunnels(policy))


def _beacons(policy: FirewallPolicy) -> Iterator[tuple[str, Endpoint]]:
    """Links, as elements, and the servers that may be asked there for a proof."""
    for ifname, beacon in policy.beacons:
        for link in elements({ifname} - _tunnels(policy)):
            yield link, beacon


def _tree(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links over which the process tree of such a login may go."""
    return elements(policy.tree - _tunnels(policy))


def _beside(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links over which programs that never use the tunnel leave."""
    return elements(policy.beside - _tunnels(policy))


def _subnets(policy: FirewallPolicy) -> tuple[str, ...]:
    """The links over which the excluded networks are reached."""
    return elements(policy.subnet_links - _tunnels(policy)) if policy.subnets else ()


def _excluded(policy: FirewallPolicy, match: str, field: str, verdict: str) -> Iterator[str]:
    for family in _disjoint(policy.subnets):
        yield f"{match}{family} {field} @{SUBNETS[family]} {verdict}"


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
    """The address first: few packets have it, and it is compared fastest. `lo` has been accepted where it counts."""
    for family, addresses in _by_family(policy.guarded):
        yield f"{family} {field} {_braces(addresses)} {direction} != {_own(policy)} {verdict}"


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


def _number(value: int | None) -> int:
    """A mark or a user."""
    if type(value) is not int or not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"neither a mark nor a user: {value!r}")
    return value


def _port(number: int) -> int:
    if not 0 < number < 65536:
        raise ValueError(f"not a port: {number}")
    return number


def _own(policy: FirewallPolicy) -> str:
    return _name(policy.tunnel.ifname if policy.tunnel else TUNNEL_IFNAME)


def _name(ifname: str) -> str:
    if not SAFE_IFNAME.fullmatch(ifname):
        raise ValueError(f"a link name that nft could misread: {ifname!r}")
    return f'"{ifname}"'


Item = IPv4Address | IPv6Address | IPv4Network | IPv6Network


def _matching(field: str, items: Sequence[Item], verdict: str, link: str = "") -> Iterator[str]:
    for family, texts in _by_family(items):
        yield f"{link}{family} {field} {_braces(texts)} {verdict}"


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


def _set(name: str, kind: str, elements: str, *properties: str) -> list[str]:
    lines = (f"type {kind}", *properties, f"elements = {elements}")
    return [f"\tset {name} {{", *(f"\t\t{line}" for line in lines), "\t}"]


def _chain(name: str, hook: str, rules: Iterable[str]) -> list[str]:
    return ["", f"\tchain {name} {{", *([f"\t\t{hook}"] if hook else []), *(f"\t\t{rule}" for rule in rules), "\t}"]
