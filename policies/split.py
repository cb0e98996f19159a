"""Split tunnelling: which programs stay out of the tunnel or in it, and which networks are reached beside it. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network

from policies.facts import Address, Interface

Network = IPv4Network | IPv6Network

VERSION = 1  # of the JSON in the store
LONGEST_PATH = 4095  # PATH_MAX, without the NUL
MOST_PROGRAMS = 64


class Group(StrEnum):
    """Programs are in one group, or in none."""

    NEVER = "never"  # they never use the tunnel
    ONLY = "only"  # they use nothing else


class SplitNames(StrEnum):
    """Who resolves the names of programs that never use the tunnel."""

    TUNNEL = "tunnel"  # those of the tunnel, through it: while there is none, nobody
    NETWORK = "network"  # the resolvers of the network they use


@dataclass(frozen=True, slots=True, order=True)
class Program:
    """All processes of one executable of one user, now and later."""

    path: str  # absolute, of a file that only root can change
    uid: int
    group: Group


def is_path(path: str) -> bool:
    """Whether this is an absolute path in its shortest spelling."""
    first, *parts = path.split("/")
    short = len(path.encode(errors="replace")) <= LONGEST_PATH
    return short and path.isprintable() and not first and bool(parts) and not {"", ".", ".."} & set(parts)


def to_json(programs: Iterable[Program]) -> str:
    """As the store keeps them."""
    rows = [[each.path, each.uid, each.group.value] for each in sorted(programs)]
    return json.dumps({"version": VERSION, "programs": rows})


def from_json(text: str) -> frozenset[Program]:
    """Back. Raises ValueError, also for what a newer version wrote."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError("programs of another version")
    found = set()
    for row in document.get("programs", ()):
        path, uid, group = row
        if not isinstance(path, str) or not is_path(path) or type(uid) is not int or uid < 0:
            raise ValueError("not a program of a user")
        found.add(Program(path, uid, Group(group)))
    return frozenset(found)


def apart(
    subnets: Iterable[Network], addresses: Iterable[Interface], resolvers: Iterable[Address]
) -> tuple[tuple[Network, ...], tuple[Network, ...]]:
    """The networks that may be reached beside a tunnel with these addresses and resolvers, and those that may not.

    What belongs to the tunnel is reached through it: beside it, it would be asked of strangers who have that address.
    """
    own: list[Network] = [*(address.network for address in addresses), *(ip_network(each) for each in resolvers)]
    beside: list[Network] = []
    within: list[Network] = []
    for subnet in subnets:
        clash = any(subnet.version == each.version and subnet.overlaps(each) for each in own)
        (within if clash else beside).append(subnet)
    return tuple(beside), tuple(within)
