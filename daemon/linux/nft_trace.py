"""What happens to a packet in every nftables chain of this machine, told by the kernel (`nftrace`).

Rules made by iptables-nft, such as ufw's and Docker's, are nftables chains; those of iptables-legacy are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from daemon.linux.rtnetlink import attributes
from daemon.linux.tamper import NFNL_SUBSYS_NFTABLES, messages

# <linux/netfilter/nf_tables.h>
NFT_MSG_TRACE = 17
TABLE, CHAIN, RULE_HANDLE, TYPE, VERDICT, ID, POLICY = 1, 2, 3, 4, 5, 6, 16  # NFTA_TRACE_*
VERDICT_CODE = 1  # NFTA_VERDICT_CODE
TYPE_POLICY = 1  # NFT_TRACETYPE_POLICY
NF_DROP, NF_ACCEPT = 0, 1  # <linux/netfilter.h>; a reject is a drop here
FAMILIES = {1: "inet", 2: "ip", 3: "arp", 5: "netdev", 7: "bridge", 10: "ip6"}  # NFPROTO_*, as nft writes them
NONE = memoryview(b"")


@dataclass(frozen=True, slots=True)
class Step:
    """One rule that matched a packet, or the policy of a chain."""

    packet: bytes  # which packet: the same in all its steps
    table: str  # with its family, such as "ip filter"
    chain: str
    handle: int | None  # of the rule, as `nft -a` shows it; None: the chain's policy decided
    verdict: int | None  # NF_DROP, NF_ACCEPT, or another number; None: none was said


def steps(data: bytes) -> Iterator[Step]:
    """The steps that a datagram of the kernel tells of. Whatever is malformed is left out."""
    for kind, _, payload in messages(data):
        if kind != NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_TRACE or len(payload) < 4:
            continue
        about = attributes(payload[4:])
        by_policy = bytes(about.get(TYPE, b"")) == TYPE_POLICY.to_bytes(4, "big")
        code = about.get(POLICY) if by_policy else attributes(about.get(VERDICT, NONE)).get(VERDICT_CODE)
        handle = about.get(RULE_HANDLE)
        yield Step(
            packet=bytes(about.get(ID, b"")),
            table=f"{FAMILIES.get(payload[0], 'unknown')} {_text(about.get(TABLE, NONE))}",
            chain=_text(about.get(CHAIN, NONE)),
            handle=int.from_bytes(handle, "big") if handle and not by_policy else None,
            verdict=int.from_bytes(code, "big", signed=True) if code is not None and len(code) == 4 else None,
        )


def _text(name: memoryview) -> str:
    """A name that somebody else chose, for people to read."""
    shown = bytes(name).rstrip(b"\0").decode(errors="replace")
    return "".join(char if char.isprintable() else "?" for char in shown)
