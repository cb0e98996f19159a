"""Asks resolvers for addresses: the confined part of `portals.py`, for their answers are a stranger's.

RFC 1035, 4.1: headers, questions, records, compressed names. RFC 3596: AAAA.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

A, AAAA = 1, 28
IN = 1
TRIES, TRY_S = 3, 1.2  # each question goes to all resolvers, again after so many seconds
LATE_S = 0.3  # after the first address of a name, for the other kind of address
MOST = 4  # addresses of each kind that are kept of a name
LONGEST = 4096  # bytes of an answer

Asked = Mapping[int, tuple[str, int, bytes]]  # by id: name, type, question as sent


def main(sockets: Sequence[socket.socket], argument: bytes) -> bytes:
    """`argument`: JSON, names and record types. JSON of the addresses by name; a name that nobody answered is absent.

    `sockets`: UDP, connected to a resolver each.
    """
    names, kinds = json.loads(argument)
    asked = {_id(): (name, kind, question(name, kind)) for name in names for kind in kinds}
    found: dict[str, list[str]] = {}
    open_ids = set(asked)
    for _ in range(TRIES):
        for each in sockets:
            for number in open_ids:
                _send(each, struct.pack("!6H", number, 0x0100, 1, 0, 0, 0) + asked[number][2])
        deadline = time.monotonic() + TRY_S
        while open_ids and time.monotonic() < deadline:
            if all(found.get(name) for name in names):
                deadline = min(deadline, time.monotonic() + LATE_S)
            for data in _received(sockets, deadline):
                if told := answer(data, asked):
                    number, addresses = told
                    open_ids.discard(number)
                    kept = found.setdefault(asked[number][0], [])
                    kept += [each for each in addresses if each not in kept]
        if not open_ids or all(found.get(name) for name in names):
            break
    return json.dumps(found).encode()


def question(name: str, kind: int) -> bytes:
    """One question. Raises ValueError for what is no name."""
    labels = [label.encode("ascii") for label in name.rstrip(".").split(".")]
    if not all(0 < len(label) < 64 for label in labels) or len(name) > 253:
        raise ValueError("not a name")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0" + struct.pack("!HH", kind, IN)


def answer(data: bytes, asked: Asked) -> tuple[int, list[str]] | None:
    """The id and the addresses of an answer to one of our questions; None for anything else. Never raises."""
    if not 12 <= len(data) <= LONGEST:
        return None
    number, flags, questions, answers = struct.unpack_from("!4H", data)
    about = asked.get(number)
    if about is None or not flags & 0x8000 or questions != 1 or flags & 0x0200:
        return None
    # Some resolvers answer in the case of their cache (RFC 4343).
    if data[12 : 12 + len(about[2])].lower() != about[2].lower():
        return None
    return number, [] if flags & 0xF else [*_addresses(data, 12 + len(about[2]), answers, about[1])][:MOST]


def _addresses(data: bytes, at: int, records: int, wanted: int) -> Iterator[str]:
    for _ in range(min(records, 64)):
        name_ends = _after_name(data, at)
        if name_ends is None or name_ends + 10 > len(data):
            return
        kind, of, _, size = struct.unpack_from("!HHIH", data, name_ends)
        at = name_ends + 10 + size
        value = data[name_ends + 10 : at]
        if at > len(data):
            return
        if (kind, of) == (wanted, IN) and len(value) == (4 if wanted == A else 16):
            yield str(IPv4Address(value) if wanted == A else IPv6Address(value))


def _after_name(data: bytes, at: int) -> int | None:
    """Where a name ends; what a compressed one points at is of no interest."""
    while at < len(data):
        length = data[at]
        if length >= 0xC0:
            return at + 2
        if length > 63:
            return None
        at += 1 + length
        if length == 0:
            return at
    return None


def _received(sockets: Sequence[socket.socket], deadline: float) -> Iterator[bytes]:
    waits = select.poll()
    for each in sockets:
        waits.register(each, select.POLLIN)
    by_number = {each.fileno(): each for each in sockets}
    for number, _ in waits.poll(max(0.0, deadline - time.monotonic()) * 1000):
        try:
            yield by_number[number].recv(LONGEST + 1, socket.MSG_DONTWAIT)
        except OSError:  # refused: nobody listens there
            continue


def _send(each: socket.socket, data: bytes) -> None:
    with contextlib.suppress(OSError):  # the answer to an earlier question was a refusal, or the network is gone
        each.send(data)


def _id() -> int:
    return int.from_bytes(os.urandom(2))
