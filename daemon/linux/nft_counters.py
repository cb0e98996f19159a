"""The named counters and quotas of our table, asked by netlink. nft lists every table of the machine to answer this."""

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
NFT_OBJECT_QUOTA, NFTA_QUOTA_BYTES, NFTA_QUOTA_CONSUMED = 2, 1, 4


def ours(kind: int) -> bytes:
    """The request for all objects of that kind in our table."""
    return bytes((NFPROTO_INET, 0, 0, 0)) + b"".join((
        rtnetlink.attribute(NFTA_OBJ_TABLE, TABLE.removeprefix("inet ").encode() + b"\0"),
        rtnetlink.attribute(NFTA_OBJ_TYPE, kind.to_bytes(4, "big")),
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
        return {name: _number(data[NFTA_COUNTER_PACKETS]) for name, data in self._objects(NFT_OBJECT_COUNTER).items()}

    def quota(self, name: str) -> tuple[int, int]:
        """Bytes that it lets pass, and that have passed. Raises OSError; LookupError: there is no such quota."""
        data = self._objects(NFT_OBJECT_QUOTA)[name]
        return _number(data[NFTA_QUOTA_BYTES]), _number(data[NFTA_QUOTA_CONSUMED])

    def _objects(self, kind: int) -> dict[str, dict[int, memoryview]]:
        if self._socket is None:
            self._socket = rtnetlink.open_socket(NETLINK_NETFILTER)
        try:
            found = rtnetlink.dump(self._socket, GET_OBJECTS, ours(kind))
        except OSError:
            self._socket.close()  # what it may still hold is no answer to the next question
            self._socket = None
            raise
        objects = [rtnetlink.attributes(payload[NFGENMSG:]) for _, payload in found]
        return {
            bytes(each[NFTA_OBJ_NAME]).rstrip(b"\0").decode(errors="replace"): rtnetlink.attributes(each[NFTA_OBJ_DATA])
            for each in objects
        }


def _number(value: memoryview) -> int:
    return int.from_bytes(value, "big")
