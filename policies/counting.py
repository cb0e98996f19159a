"""What was counted between two readings of a link's counters, and to whom it belongs."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Counts(NamedTuple):
    """Received (`rx`) and sent (`tx`), as the kernel counts a link (struct rtnl_link_stats64)."""

    rx_bytes: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    tx_packets: int = 0

    def plus(self, other: Counts) -> Counts:
        """The sum."""
        return Counts(*map(sum, zip(self, other, strict=True)))

    @property
    def bytes(self) -> int:
        """In both directions."""
        return self.rx_bytes + self.tx_bytes


class Way(StrEnum):
    """How traffic went. What goes through the tunnel is counted there, and again on the link that carries it."""

    TUNNEL = "tunnel"  # through the tunnel link: what programs sent and got
    CLEAR = "clear"  # over a link that traffic may use outside the tunnel
    CARRIER = "carrier"  # over a link that it may not: the tunnel's own packets, the local network, DHCP


class Owner(NamedTuple):
    """To whom counted traffic belongs."""

    way: Way
    kind: str  # a `LinkKind` of the network; of the tunnel: of the one that carries it
    network: str  # SSID in hexadecimal, or the name of a link that is not Wi-Fi; empty: not known
    profile: str  # in use; empty: none


def between(before: Counts, now: Counts, bits: int = 64) -> Counts:
    """What was counted since `before`. Never negative.

    Where one of the counters fell, the link's were reset and count from 0; what they had counted after `before` is
    lost. Where the kernel counts with 32 bits (`unsigned long` of a 32-bit machine), they wrap as well: a reset takes
    the packets along, which cannot have wrapped yet where they had not come half the way.
    """
    half, packets = 1 << bits - 1, zip(before[2:], now[2:], strict=True)
    if bits == 64:
        reset = any(new < old for old, new in zip(before, now, strict=True))
    else:
        reset = any(new < old < half for old, new in packets)
    if reset:
        return now
    return Counts(*((new - old) % (1 << bits) for old, new in zip(before, now, strict=True)))
