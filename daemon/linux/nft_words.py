"""The words of nft's language that our rules are made of. Pure.

Nothing comes into a ruleset but through here or from a constant: a name, an address or a number that nft could misread
is left out where that keeps a link closed, and a ValueError elsewhere.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from policies.facts import Endpoint

Network = IPv4Network | IPv6Network
Item = IPv4Address | IPv6Address | Network

# The kernel allows quotes, stars and semicolons in link names; nft would read them as syntax ("eth*" is a wildcard).
SAFE_IFNAME = re.compile(r"[A-Za-z0-9_.@+-]{1,15}")


def elements(ifnames: Iterable[str]) -> tuple[str, ...]:
    """The link names as set elements. One that nft could misread is left out: that link just stays closed."""
    return tuple(f'"{ifname}"' for ifname in sorted(ifnames) if SAFE_IFNAME.fullmatch(ifname))


def quoted(ifname: str) -> str:
    """A link's name. Raises ValueError when nft could misread it."""
    if not SAFE_IFNAME.fullmatch(ifname):
        raise ValueError(f"a link name that nft could misread: {ifname!r}")
    return f'"{ifname}"'


def sent_to(server: Endpoint) -> str:
    """Matches what goes to the server. Raises ValueError."""
    return f"{family_of(server.address)} daddr {server.address} {_protocol(server)} dport {server.port}"


def sent_by(server: Endpoint) -> str:
    """Matches what comes from the server. Raises ValueError."""
    return f"{family_of(server.address)} saddr {server.address} {_protocol(server)} sport {server.port}"


def _protocol(server: Endpoint) -> str:
    if server.protocol not in ("udp", "tcp") or not 0 < server.port < 65536:
        raise ValueError(f"not an endpoint: {server}")
    return server.protocol


def uint32(value: int | None) -> int:
    """A mark or a user. Raises ValueError."""
    if type(value) is not int or not 0 <= value <= 0xFFFFFFFF:
        raise ValueError(f"neither a mark nor a user: {value!r}")
    return value


def port_number(number: int) -> int:
    """Raises ValueError."""
    if not 0 < number < 65536:
        raise ValueError(f"not a port: {number}")
    return number


def matching(field: str, items: Sequence[Item], verdict: str, link: str = "") -> Iterator[str]:
    """A rule for each family: `verdict` for packets with such an address in `field` ("saddr" or "daddr")."""
    for family, texts in by_family(items):
        yield f"{link}{family} {field} {braces(texts)} {verdict}"


def by_family(items: Sequence[Item]) -> Iterator[tuple[str, list[str]]]:
    """("ip", [...]) and ("ip6", [...]), without the empty ones; the order given, each once.

    The match on the family that `ip` and `ip6` bring matters in an inet table: offsets alone would match the other's.
    """
    for family in ("ip", "ip6"):
        if texts := [*dict.fromkeys(str(item) for item in items if family_of(item) == family)]:
            yield family, texts


def family_of(item: Item) -> str:
    """As nft calls it."""
    return "ip" if item.version == 4 else "ip6"


@lru_cache(maxsize=4)
def disjoint(networks: tuple[Network, ...]) -> dict[str, str]:
    """The elements by family, without networks that lie in others: nft refuses overlaps, and is slow to join them."""
    kept: dict[str, list[str]] = {}
    end = -1
    for network in sorted(networks, key=lambda each: (each.version, int(each.network_address), each.prefixlen)):
        first = int(network.network_address)
        if (family := family_of(network)) not in kept:
            kept[family], end = [], -1
        if first > end:
            kept[family].append(str(network))
            end = first + network.num_addresses - 1
    return {family: braces(texts) for family, texts in kept.items()}


def braces(items: Iterable[str]) -> str:
    """An anonymous set."""
    return "{ " + ", ".join(items) + " }"


def named_set(name: str, kind: str, elements: str, *properties: str) -> list[str]:
    """The lines of a set."""
    lines = (f"type {kind}", *properties, f"elements = {elements}")
    return [f"\tset {name} {{", *(f"\t\t{line}" for line in lines), "\t}"]


def chain(name: str, hook: str, rules: Iterable[str]) -> list[str]:
    """The lines of a chain. `hook`: where it is hooked in; "": where rules jump to."""
    return ["", f"\tchain {name} {{", *([f"\t\t{hook}"] if hook else []), *(f"\t\t{rule}" for rule in rules), "\t}"]
