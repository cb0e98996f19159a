"""The named counters of our table, asked by netlink. nft lists every table of the machine to answer this."""

from __future__ import annotations

import socket

from daemon.linux import rtnetlink
from daemon.linux.libnftables import NETLINK_NETFILTER
from daemon.linux.nft_render import TABLE

# <linux/netfilter/nfnetlink.h>, <linux/netfilter/nf_tables.h>
GET_OBJECTS = 10 << 8 | 19  # NFNL_SUBSYS_NFTABLES, NFT_MSG_GETOBJ
NFPROTO_INET, NFGENMSG = 1, 4  # the latter in bytes
NFTA_OBJ_TABLE, NFTA_OBJ_NAME, NFTA_OBJ_TYPE, NFTA_OBJ_DATA = 1, 2, 3, 4
NFT_OBJECT_COUNTER, NFTA_COUNTER_PACKETS = 1, 2

OURS = bytes((NFPROTO_INET, 0, 0, 0)) + b"".join((
    rtnetlink.attribute(NFTA_OBJ_TABLE, TABLE.removeprefix("inet ").encode() + b"\0"),
    rtnetlink.attribute(NFTA_OBJ_TYPE, NFT_OBJECT_COUNTER.to_bytes(4, "big")),
))  # fmt: skip


class Counters:
    """Keeps its socket: closing one waits until the kernel has freed the tables that were replaced, some milliseconds.

    It belongs to the network namespace of its first use.
    """

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def __del__(self) -> None:
        if self._socket:
            self._socket.close()

    def packets(self) -> dict[str, int]:
        """By counter; empty without a table. Raises OSError."""
        if self._socket is None:
            self._socket = rtnetlink.open_socket(NETLINK_NETFILTER)
        try:
            found = rtnetlink.dump(self._socket, GET_OBJECTS, OURS)
        except OSError:
            self._socket.close()  # what it may still hold is no answer to the next question
            self._socket = None
            raise
        counters = [rtnetlink.attributes(payload[NFGENMSG:]) for _, payload in found]
        return {
            bytes(counter[NFTA_OBJ_NAME]).rstrip(b"\0").decode(errors="replace"): int.from_bytes(
                rtnetlink.attributes(counter[NFTA_OBJ_DATA])[NFTA_COUNTER_PACKETS], "big"
            )
            for counter in counters
        }
