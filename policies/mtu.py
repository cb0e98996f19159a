"""How large a packet gets through the tunnel (T7). No clock, no I/O.

The way to the VPN server may carry less than 1500 bytes (PPPoE, mobile networks, tunnels of others): what is too large
vanishes, and so does the router's complaint, for our own firewall drops it as many others do. So packets of several
sizes are sent through the tunnel to somebody who sends them back, and the largest that was answered counts.
A packet may also be lost by chance: how often small ones are says whether a large one can have been.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from policies.facts import Facts

ETHERNET = 1500  # bytes: what links carry, and what the tunnel's own MTU was made for
SMALL = 100  # bytes of a packet that passes everywhere: whether anybody answers at all
LEAST6 = 1280  # bytes that every link with IPv6 must carry (RFC 8200, 5): below it the kernel takes IPv6 off the link
LEAST4 = 576  # and with IPv4 alone (RFC 791, 3.1: every host takes so much)
# Between them, in bytes. Multiples of 16, for WireGuard fills a packet up to one (up to the link's MTU at most), and a
# probe would be judged by a larger packet than it is.
STEPS = (1408, 1392, 1376, 1360, 1344, 1328, 1312, 1296, 1280, 1248, 1200, 1104, 1008, 800, 576)
DOUBT = 0.01  # so improbable must it be that a size was only lost by chance
MOST_TRIES = 12  # of one size
SILENT_TRIES = 5  # before nobody answers at all

Tries = Mapping[int, int]  # by size in bytes


class Answer(StrEnum):
    """What a search came to."""

    FOUND = "found"
    SMALL = "small ones only"  # not one of the sizes is answered: more likely somebody's taste than the way
    SILENT = "silent"  # nobody answers, whatever the size
    LOSSY = "lossy"  # so much is lost that nothing can be told


@dataclass(frozen=True, slots=True)
class Result:
    """`mtu` in bytes, of FOUND."""

    answer: Answer
    mtu: int = 0


def sizes(top: int) -> tuple[int, ...]:
    """What to try, largest first, from `top` bytes down."""
    return (top, *(size for size in STEPS if size < top))


def top(own: int, uplink: int | None, ipv6: bool) -> int:
    """The MTU to begin with: the tunnel's `own`, less what the link under it (its MTU, None: unknown) falls short."""
    return min(own, fitting(own - max(0, ETHERNET - uplink) if uplink else own, ipv6))


def fitting(mtu: int, ipv6: bool) -> int:
    """The MTU for the tunnel's link where packets of `mtu` bytes pass; `ipv6`: the tunnel has it."""
    return max(mtu, LEAST6 if ipv6 else LEAST4)


def look(tried: tuple[int, ...], asked: Tries, answered: Tries) -> Result | tuple[int, ...]:
    """What is known by now, or the sizes to ask next, largest first. `tried`: as from `sizes`.

    `asked` and `answered` count by size, SMALL among them.
    """
    best = max((size for size in tried if answered.get(size)), default=0)
    if best == tried[0]:
        return Result(Answer.FOUND, best)
    if not best and not answered.get(SMALL):
        enough = asked.get(SMALL, 0) >= SILENT_TRIES
        return Result(Answer.SILENT) if enough else (tried[0], SMALL)
    passing = [size for size in (*tried, SMALL) if size <= max(best, SMALL)]
    count = sum(asked.get(size, 0) for size in passing)
    lost = count - sum(min(answered.get(size, 0), asked.get(size, 0)) for size in passing)
    loss = (lost + 0.5) / (count + 1)
    larger = tuple(size for size in tried if size > best)
    tries = asked.get(larger[-1], 0)
    if tries and loss**tries < DOUBT:
        return Result(Answer.FOUND, best) if best else Result(Answer.SMALL)
    if tries >= MOST_TRIES:
        return Result(Answer.LOSSY)
    return (*larger, best or SMALL)


def path(facts: Facts, network: str) -> tuple[object, ...]:
    """Names the ways that the tunnel's packets may take; `network` is the decision's. The same again, the same MTU."""
    ways = sorted((link.ifname, sorted(map(str, link.gateways))) for link in facts.uplinks)
    return (network, *((ifname, *gateways) for ifname, gateways in ways))
