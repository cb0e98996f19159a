"""rtnetlink requests: batches of changes, questions, and whole dumps.

The kernel handles a message within send() and refills a dump within recv(), so nothing here waits and nothing is async.
5,000 routes take 30 ms; pyroute2 needs seconds.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator, Sequence

from daemon.linux import ports

# <linux/netlink.h>
SOL_NETLINK, NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK = 270, 10, 11, 12
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_DUMP_INTR, NLM_F_ACK_TLVS = 0x10, 0x200
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED, NLA_TYPE = 0x8000, 0x3FFF  # without the flags for nesting and byte order
WITH_ACK = NLM_F_REQUEST | NLM_F_ACK
BATCH = 64  # requests: their refusals must fit into the queue of a socket
TRIES = 4

_HEADER = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = struct.Struct("=HH")  # nlattr: length, type
_TLVS = {NLMSG_ERROR: 20, NLMSG_DONE: 4}  # behind the negative errno; an error repeats the request's header before them

Request = tuple[int, int, bytes]  # type, flags beside NLM_F_REQUEST, body


def open_socket(protocol: int = socket.NETLINK_ROUTE) -> socket.socket:
    """A socket for requests, in the network namespace of the calling thread. Raises OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    try:
        sock.setblocking(False)
        for option in (NETLINK_CAP_ACK, NETLINK_EXT_ACK, NETLINK_GET_STRICT_CHK):
            sock.setsockopt(SOL_NETLINK, option, 1)
        sock.bind((0, 0))
        ports.remember(protocol, sock.getsockname()[0])
    except BaseException:
        sock.close()
        raise
    return sock


def change(sock: socket.socket, requests: Sequence[Request]) -> list[OSError | None]:
    """Send the requests in their order; what the kernel said to each, with its own sentence. Raises OSError.

    One that is refused does not keep those after it from being done.
    """
    answers: list[OSError | None] = []
    for start in range(0, len(requests), BATCH):
        part = requests[start : start + BATCH]
        last = len(part) - 1
        sock.send(
            b"".join(
                _HEADER.pack(_HEADER.size + len(body), kind, flags | (WITH_ACK if at == last else NLM_F_REQUEST), at, 0)
                + body
                for at, (kind, flags, body) in enumerate(part)
            )
        )
        # A refusal always comes. That the last one was done says that all before it have been tried.
        refused: dict[int, OSError | None] = {}
        while last not in refused:
            for kind, flags, at, payload in _messages(sock):
                if kind == NLMSG_ERROR:
                    refused[at] = _refusal(kind, flags, payload)
        answers += [refused.get(at) for at in range(len(part))]
    return answers


def dump(sock: socket.socket, request: int, body: bytes) -> list[tuple[int, memoryview]]:
    """(type, payload) of everything the kernel lists. Raises OSError.

    Anew when something changed meanwhile; under a storm of changes the last try is taken as it is.
    """
    for _ in range(TRIES):
        sock.send(_HEADER.pack(_HEADER.size + len(body), request, NLM_F_REQUEST | NLM_F_DUMP, request, 0) + body)
        found: list[tuple[int, memoryview]] = []
        interrupted = done = False
        while not done:
            for kind, flags, _, payload in _messages(sock):
                interrupted |= bool(flags & NLM_F_DUMP_INTR)
                if kind in (NLMSG_ERROR, NLMSG_DONE):
                    if refused := _refusal(kind, flags, payload):
                        raise refused
                    done = True
                else:
                    found.append((kind, payload))
        if not interrupted:
            break
    return found


def ask(sock: socket.socket, request: int, body: bytes) -> tuple[int, memoryview]:
    """(type, payload) of the one answer. Raises OSError."""
    sock.send(_HEADER.pack(_HEADER.size + len(body), request, NLM_F_REQUEST, request, 0) + body)
    for kind, flags, _, payload in _messages(sock):
        if kind == NLMSG_ERROR and (refused := _refusal(kind, flags, payload)):
            raise refused
        return kind, payload
    raise OSError(errno.EBADMSG, "rtnetlink answer malformed")


def attribute(kind: int, value: bytes) -> bytes:
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def number(kind: int, value: int) -> bytes:
    """An attribute of 32 bits."""
    return attribute(kind, value.to_bytes(4, sys.byteorder))


def each(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(type, value) of the attributes, in their order; whatever is cut short ends them."""
    start = 0
    while start + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, start)
        if length < _ATTRIBUTE.size or start + length > len(data):
            break
        yield kind & NLA_TYPE, data[start + _ATTRIBUTE.size : start + length]
        start += (length + 3) & ~3


def attributes(data: memoryview) -> dict[int, memoryview]:
    """The last of each type."""
    return dict(each(data))


def _messages(sock: socket.socket) -> Iterator[tuple[int, int, int, memoryview]]:
    """(type, flags, sequence number, payload) of each message of one datagram."""
    data, _, flags, sender = sock.recvmsg(1 << 16)
    if flags & socket.MSG_TRUNC:
        raise OSError(errno.EMSGSIZE, "rtnetlink answer too long")
    if sender[0] != 0:  # only the kernel has port 0
        return
    view, offset = memoryview(data), 0
    while offset + _HEADER.size <= len(data):
        length, kind, message_flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size or offset + length > len(data):
            raise OSError(errno.EBADMSG, "rtnetlink answer malformed")
        yield kind, message_flags, sequence, view[offset + _HEADER.size : offset + length]
        offset += (length + 3) & ~3


def _refusal(kind: int, flags: int, payload: memoryview) -> OSError | None:
    code = -int.from_bytes(payload[:4], sys.byteorder, signed=True)
    if code <= 0:
        return None
    said = attributes(payload[_TLVS[kind] :]).get(NLMSGERR_ATTR_MSG) if flags & NLM_F_ACK_TLVS else None
    return OSError(code, bytes(said).rstrip(b"\0").decode("utf-8", "replace") if said else os.strerror(code))
