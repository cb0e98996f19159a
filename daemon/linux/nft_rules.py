"""What may pass: the rules of our table, chain by chain. Pure: read it here, or in tests/golden/nft/*.nft.

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
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_network

from daemon.linux import nft_links
from daemon.linux.nft_words import (
    Item,
    Network,
    braces,
    by_family,
    chain,
    disjoint,
    matching,
    port_number,
    quoted,
    sent_by,
    sent_to,
    uint32,
)
from policies.facts import Tunnel
from policies.firewall import (
    LAN_MULTICAST,
    LOGIN,
    LOGIN_MARK,
    MARK,
    NEVER_MARK,
    ONLY_MARK,
    TREE_PORTS,
    FirewallPolicy,
)
from policies.states import Phase

DNS = "meta l4proto . th dport @dns"
DNS_ANSWER = "meta l4proto . th sport @dns"
REPLY = "ct state established,related"
ALLOWANCE = "allowance"  # the quota that a metered tunnel passes under: nothing, until NftFirewall.allow sets it

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


def chains(policy: FirewallPolicy) -> list[str]:
    """All chains. They look up the sets, the counters and the quota of `nft_render`."""
    lines: list[str] = []
    lines += chain("refuse", "", _refusals(policy))
    if policy.servers:
        # L3: unmarked, it would be plaintext with the server's address on it.
        lines += chain("server", "", [*_to_server(policy), _refuse("out")])
    if policy.tunnel:
        if policy.metered:
            # L18, as below: a refused question makes systemd-resolved spin.
            lines += chain("used_up", "", [f"meta l4proto udp {DNS} drop", "goto refuse"])
        lines += chain("to_tunnel", "", [*_metered(policy, "", "goto used_up"), *_to_tunnel(policy.tunnel)])
    if inside := [*_to_inside(policy)]:
        lines += chain("inside", "", inside)
    if nft_links.lan(policy):
        lines += chain("to_lan", "", _to_lan())
    if nft_links.beside(policy):
        lines += chain("beside", "", [f"meta l4proto . th dport {NAMES} {_refuse('out')}", "accept"])
    if early := [*_prerouting(policy)]:
        lines += chain("prerouting", "type filter hook prerouting priority -150; policy accept;", early)
    if led := [*_led(policy)]:
        redirected = [f"meta mark {mark:#x} udp dport 53 redirect to :{port}" for mark, port in led]
        lines += chain("login", "type nat hook output priority -100; policy accept;", redirected)
        # A socket bound to a link takes along by it what was led to the loopback: IPv6 would send to ::1 over Ethernet.
        stray = [f'oifname != "lo" meta mark {mark:#x} udp dport {port} {_drop("out")}' for mark, port in led]
        lines += chain("stray", "type filter hook postrouting priority 0; policy accept;", stray)
    if after := [*_postrouting(policy)]:
        lines += chain("postrouting", "type nat hook postrouting priority 100; policy accept;", after)
    lines += chain("input", "type filter hook input priority 0; policy drop;", _input(policy))
    lines += chain("output", "type filter hook output priority 0; policy drop;", _output(policy))
    lines += chain("forward", "type filter hook forward priority 0; policy drop;", _forward(policy))
    return lines


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
        yield f"{sent_by(server)} meta mark set {answered:#x}"
    if asked := nft_links.asked(policy):
        yield f"iifname {braces(asked)} ct mark {MARK:#x} meta mark set {MARK:#x}"
    if tree := nft_links.tree(policy):
        yield f"iifname {braces(tree)} ct mark {LOGIN_MARK:#x} meta mark set {LOGIN_MARK:#x}"
    if beside := nft_links.beside(policy):
        yield f"iifname {braces(beside)} ct mark {NEVER_MARK:#x} meta mark set {NEVER_MARK:#x}"


def _led(policy: FirewallPolicy) -> Iterator[tuple[int, int]]:
    """Marks whose DNS is answered by us, also that to resolvers on this computer, and at which port of the loopback."""
    if nft_links.tree(policy):
        yield LOGIN_MARK, port_number(policy.tree_dns)
    if nft_links.beside(policy) and policy.beside_dns:
        yield NEVER_MARK, port_number(policy.beside_dns)


def _postrouting(policy: FirewallPolicy) -> Iterator[str]:
    """Into the tunnel with its own address only: others (routed virtual machines) the server would drop, or see."""
    if policy.tunnel:
        networks = [network for networks in nft_links.inside(policy).values() for network in networks]
        yield from matching("saddr", networks, "masquerade", f"oifname {nft_links.own(policy)} ")


def _input(policy: FirewallPolicy) -> Iterator[str]:
    yield 'iifname "lo" accept'
    yield from _guard(policy, "iifname", "daddr", "drop")
    if nft_links.clears(policy):
        yield "iifname @cleared accept"
    for server in policy.servers:
        yield f"{sent_by(server)} ct state established accept"
    for link, beacon in nft_links.beacons(policy):
        yield f"iifname {link} ct state established ct mark {MARK:#x} {sent_by(beacon)} accept"
        if beacon.address.version == 6:  # as a neighbour it asks for us under the address that it answers with
            yield f"iifname {link} ip6 saddr {beacon.address} icmpv6 type nd-neighbor-solicit icmpv6 code 0 accept"
    if login := nft_links.login(policy):
        for protocol, ports in LOGIN:
            sport = f"{protocol} sport {braces(map(str, ports))}"
            yield f"iifname {braces(login)} ct state established ct mark {MARK:#x} {sport} accept"
    if tree := nft_links.tree(policy):
        sport = f"tcp sport {braces(map(str, TREE_PORTS))}"
        yield f"iifname {braces(tree)} ct state established ct mark {LOGIN_MARK:#x} {sport} accept"
    if beside := nft_links.beside(policy):
        yield f"iifname {braces(beside)} ct mark {NEVER_MARK:#x} {REPLY} accept"
        if policy.beside_dns:
            yield f"iifname {braces(beside)} ct state established ct mark {MARK:#x} udp sport 53 accept"
    if policy.tunnel:
        yield from _metered(policy, f"iifname {nft_links.own(policy)} ", "drop")
        yield f"iifname {quoted(policy.tunnel.ifname)} {REPLY} accept"
    yield "meta nfproto ipv4 udp sport 67 udp dport 68 accept"
    yield "ip6 saddr fe80::/10 ip6 daddr fe80::/10 udp sport 547 udp dport 546 accept"
    yield f"ip6 saddr fe80::/10 icmpv6 type . icmpv6 code {NDP_IN} accept"
    yield "icmpv6 type nd-neighbor-advert icmpv6 code 0 accept"
    if links := nft_links.inside(policy):
        # Their requests to this computer: it gives DHCP, DNS and router advertisements to virtual machines.
        yield "iifname @inside_links ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept"
        for link, networks in links.items():
            yield from matching("saddr", [*networks, *_nearby(networks, (LINK_LOCAL,))], "accept", f"iifname {link} ")
    if nft_links.lan(policy) or nft_links.subnets(policy):
        yield f"{DNS_ANSWER} {_drop('in')}"  # nobody here was allowed to ask
    if apart := nft_links.subnets(policy):
        yield from _excluded(policy, f"iifname {braces(apart)} ", "saddr", f"{REPLY} accept")
    if nft_links.lan(policy):
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
        other = f"oifname != {nft_links.own(policy)} " if policy.tunnel else ""
        yield f"meta mark {ONLY_MARK:#x} {other}{_refuse('out')}"
    yield from _guard(policy, "oifname", "saddr", _refuse("out"))
    if policy.never:  # also while nothing is protected: what such a flow brings in later is known by it
        yield f"meta mark {NEVER_MARK:#x} ct mark set {NEVER_MARK:#x}"
        if policy.tunnel:
            yield f"oifname {nft_links.own(policy)} meta mark {NEVER_MARK:#x} {_refuse('out')}"
    if nft_links.clears(policy):
        yield "oifname @cleared accept"
    for server in policy.servers:
        yield f"{sent_to(server)} goto server"
    for link, beacon in nft_links.beacons(policy):
        yield f"oifname {link} meta mark {MARK:#x} {sent_to(beacon)} ct mark set {MARK:#x} accept"
        if beacon.address.version == 6:
            yield f"oifname {link} ip6 daddr {beacon.address} icmpv6 type nd-neighbor-advert icmpv6 code 0 accept"
    if login := nft_links.login(policy):
        for protocol, ports in LOGIN:
            # The mark stays with the flow: an answer to anybody else, and a flow from before the block, is none of it.
            dport = f"{protocol} dport {braces(map(str, ports))}"
            yield f"oifname {braces(login)} meta mark {MARK:#x} {dport} ct mark set {MARK:#x} accept"
    if tree := nft_links.tree(policy):
        dport = f"tcp dport {braces(map(str, TREE_PORTS))}"
        yield f"oifname {braces(tree)} meta mark {LOGIN_MARK:#x} {dport} ct mark set {LOGIN_MARK:#x} accept"
    if beside := nft_links.beside(policy):
        if policy.tunnel:
            resolvers = policy.tunnel.resolvers  # beside the tunnel, strangers would be asked under that address
            yield from matching("daddr", resolvers, _refuse("out"), f"meta mark {NEVER_MARK:#x} ")
        yield f"oifname {braces(beside)} meta mark {NEVER_MARK:#x} goto beside"
        if policy.beside_dns:
            yield f"oifname {braces(beside)} meta mark {MARK:#x} udp dport 53 ct mark set {MARK:#x} accept"
    if policy.tunnel:
        yield f"oifname {quoted(policy.tunnel.ifname)} jump to_tunnel"
    yield "ip daddr 255.255.255.255 udp sport 68 udp dport 67 accept"
    yield "ip6 saddr fe80::/10 ip6 daddr { ff02::1:2, ff05::1:3 } udp sport 546 udp dport 547 accept"
    yield f"ip6 daddr . icmpv6 type . icmpv6 code {braces(NDP_OUT)} accept"
    # A local sender learns of a drop at once as well (EPERM). The ICMP error of a reject on top of that makes
    # systemd-resolved spin at 100 % CPU (systemd #33862, L18).
    yield f"meta l4proto udp {DNS} {_drop('out')}"
    yield f"{DNS} {_refuse('out')}"
    if nft_links.inside(policy):
        yield "oifname @inside_links jump inside"
    if links := nft_links.subnets(policy):
        yield from _excluded(policy, f"oifname {braces(links)} ", "daddr", "accept")
    if nft_links.lan(policy):
        yield "oifname @lan_links jump to_lan"
    yield _refuse("out")


def _forward(policy: FirewallPolicy) -> Iterator[str]:
    """Containers and virtual machines: as the host's own traffic would."""
    if nft_links.clears(policy):
        yield "iifname @cleared oifname @cleared accept"  # both: what is not cleared neither sends nor is sent to
    if nft_links.inside(policy):
        # Among themselves, DNS included. With br_netfilter even frames that a bridge hands on come along here.
        yield "iifname @inside_links oifname @inside_links accept"
    for server in policy.servers:
        yield f"{sent_to(server)} {_refuse('forward')}"
    if policy.tunnel:
        # T7: they know the MTU of their own links. Of the two ways of the connection, the smaller one counts.
        yield "tcp flags & (syn | rst) == syn tcp option maxseg size set rt mtu"
        yield f"oifname {quoted(policy.tunnel.ifname)} jump to_tunnel"
    yield f"{DNS} {_refuse('forward')}"
    if policy.tunnel:
        yield from _metered(policy, f"iifname {nft_links.own(policy)} ", "drop")
        # The server's side does not reach our local network, and gets no refusal, which could leave by another link.
        yield f"iifname {quoted(policy.tunnel.ifname)} {REPLY} accept"
        yield f"iifname {quoted(policy.tunnel.ifname)} {_drop('forward')}"
    if (links := nft_links.subnets(policy)) and nft_links.inside(policy):
        yield from _excluded(policy, f"iifname @inside_links oifname {braces(links)} ", "daddr", "accept")
        yield from _excluded(policy, f"iifname {braces(links)} oifname @inside_links ", "saddr", f"{REPLY} accept")
    if nft_links.lan(policy):
        yield "iifname @lan_links oifname @lan_links jump to_lan"
        if nft_links.inside(policy):
            yield "iifname @inside_links oifname @lan_links jump to_lan"
            yield from _from_lan("jump inside")  # a published port, a routed virtual machine
    yield _refuse("forward")


def _to_server(policy: FirewallPolicy) -> Iterator[str]:
    """Our own tunnel's packets, or those of the program that brings up somebody else's: never through that itself."""
    engine = policy.engine
    if engine is None:
        yield f"meta mark {MARK:#x} accept"
    elif links := nft_links.carriers(policy):
        # A kernel's WireGuard has no user, its packets bear a mark; for a program that sets none, its user counts.
        whose = f"meta mark {uint32(engine.fwmark):#x}" if engine.uid is None else f"meta skuid {uint32(engine.uid)}"
        yield f"oifname {braces(links)} {whose} accept"


def _to_tunnel(tunnel: Tunnel) -> Iterator[str]:
    """Everything but DNS to others than its resolvers: that returns, and is refused."""
    if tunnel.open_names:
        yield "accept"
        return
    yield from matching("daddr", tunnel.resolvers, "accept")
    yield f"{DNS} return"
    yield "accept"


def _metered(policy: FirewallPolicy, match: str, verdict: str) -> Iterator[str]:
    """Every packet is counted here; those beyond the allowance go no further."""
    if policy.metered:
        yield f'{match}quota name "{ALLOWANCE}" {verdict}'


def _to_inside(policy: FirewallPolicy) -> Iterator[str]:
    """To containers and virtual machines: over links that lead nowhere else, only to the networks there."""
    for link, networks in nft_links.inside(policy).items():
        yield from matching("daddr", [*networks, *_nearby(networks, INSIDE_NEARBY)], "accept", f"oifname {link} ")


def _nearby(networks: Sequence[Network], nearby: Iterable[Network]) -> list[Item]:
    """What belongs to every link with networks of these families."""
    return [each for each in nearby if any(each.version == network.version for network in networks)]


def _to_lan() -> Iterator[str]:
    for family, networks in NETWORKS.items():
        yield f"{family} daddr @{networks} accept"
    yield from matching("daddr", LAN_MULTICAST, "accept")


def _from_lan(verdict: str) -> Iterator[str]:
    for family, networks in NETWORKS.items():
        yield f"iifname @lan_links {family} saddr @{networks} {verdict}"


def _excluded(policy: FirewallPolicy, match: str, field: str, verdict: str) -> Iterator[str]:
    for family in disjoint(policy.subnets):
        yield f"{match}{family} {field} @{SUBNETS[family]} {verdict}"


def _guard(policy: FirewallPolicy, direction: str, field: str, verdict: str) -> Iterator[str]:
    """The address first: few packets have it, and it is compared fastest. `lo` has been accepted where it counts."""
    for family, addresses in by_family(policy.guarded):
        yield f"{family} {field} {braces(addresses)} {direction} != {nft_links.own(policy)} {verdict}"


def _refuse(hook: str) -> str:
    """Say so at once: the sender is on this computer, or behind it."""
    return f'counter name "blocked_{hook}" goto refuse'


def _drop(hook: str) -> str:
    """Say nothing: the sender is a stranger."""
    return f'counter name "blocked_{hook}" drop'
