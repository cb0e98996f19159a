"""FirewallPolicy -> the text of the transaction that replaces our nftables table. Pure.

What may pass is in `nft_rules.py`; here is what stands around the rules: counters, a quota, sets.

Each expression and each set costs some microseconds to send and to read back, so what several rules ask is a named set
or a chain, and rules of one kind are one look-up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from daemon.linux import nft_links
from daemon.linux.nft_rules import ALLOWANCE, NETWORKS, SUBNETS, chains
from daemon.linux.nft_words import braces, disjoint, elements, named_set
from policies.firewall import LAN, FirewallPolicy

TABLE = "inet tunwarden"

# Creating the table first makes the deletion valid whether or not it existed; all three are one commit.
REMOVE = f"table {TABLE}\ndelete table {TABLE}\n"

DNS_PORTS = "{ tcp . 53, tcp . 853, udp . 53, udp . 853 }"  # plain, TLS and QUIC
NO_ALLOWANCE = "over 0 bytes"
TOLD = ("blocked_out", "blocked_forward")  # what programs on this computer and in its containers did not get out


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
    filled = ["\tset cleared {", "\t\ttype ifname", *([f"\t\telements = {braces(cleared)}"] if cleared else []), "\t}"]
    return Ruleset("\n".join([*head, *filled, *lines, "}"]) + "\n", digest)


def render(policy: FirewallPolicy) -> str:
    """The transaction that replaces our table by the one the policy asks for. Raises ValueError, see `ruleset`."""
    return ruleset(policy).text


def replace_cleared(cleared: Iterable[str]) -> str:
    """The transaction that changes nothing but the elements of `cleared`."""
    new = elements(cleared)
    return f"flush set {TABLE} cleared\n" + (f"add element {TABLE} cleared {braces(new)}\n" if new else "")


def with_allowance(text: str, left: int) -> str:
    """The same transaction, with so many bytes for a metered tunnel: everything else is as it was."""
    return text.replace(NO_ALLOWANCE, f"over {left} bytes", 1)


def _table(policy: FirewallPolicy) -> list[str]:
    lines = [line for hook in ("in", "out", "forward") for line in (f"\tcounter blocked_{hook} {{", "\t}")]
    if policy.tunnel and policy.metered:
        lines += [f"\tquota {ALLOWANCE} {{", f"\t\t{NO_ALLOWANCE}", "\t}"]
    lines += _sets(policy)
    return lines + chains(policy)


def _sets(policy: FirewallPolicy) -> Iterator[str]:
    """What several rules look up."""
    yield from named_set("dns", "inet_proto . inet_service", DNS_PORTS)
    if links := nft_links.inside(policy):
        yield from named_set("inside_links", "ifname", braces(links))
    if lan := nft_links.lan(policy):
        yield from named_set("lan_links", "ifname", braces(lan))
        for family, networks in disjoint((*LAN, *policy.lan_subnets)).items():
            kind = "ipv4_addr" if family == "ip" else "ipv6_addr"
            yield from named_set(NETWORKS[family], kind, networks, "flags interval")
    if nft_links.subnets(policy):
        for family, networks in disjoint(policy.subnets).items():
            kind = "ipv4_addr" if family == "ip" else "ipv6_addr"
            yield from named_set(SUBNETS[family], kind, networks, "flags interval")
