"""DNS for a process tree: addresses of names, and little else. Of a login to a captive portal, and beside the tunnel.

Runs in the confined child (`confined.py`) for as long as it is needed. Firewall rules lead the tree's questions here
and keep everybody else's away. Both sides are strangers: the tree may be a browser that shows a hostile page, and the
network's resolver belongs to whoever runs the network. So nothing is passed on: of a question that is allowed a new one
is made, and of what comes back a new answer with addresses and nothing else, for the parsers of C libraries have had
holes (CVE-2015-7547).

- Only A and AAAA (RFC 1035, RFC 3596) of one name made of letters, digits, hyphens and underscores; the rest is
  REFUSED. With a limited rate, so that little else can be carried inside questions.
- An address of this computer itself is no answer: a page must not get at programs here by a name of its own.
- Aliases are followed and left out, so an answer always fits into 512 bytes, and nobody has to ask again over TCP.
"""

from __future__ import annotations

import json
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

PER_S, BURST = 20.0, 100.0  # questions that are passed on
PATIENCE_S = 1.0  # before the next resolver is asked
ROUNDS = 2  # through all resolvers; then whoever asked gives up, or asks again
WAITING = 256  # questions at the same time
LONGEST = 4096  # bytes that a resolver may answer, told it by EDNS0 (RFC 6891)
LONGEST_ANSWER = 512  # bytes: RFC 1035, 4.2.1
RECORDS, HOPS, NAME_BYTES, LABEL_BYTES = 128, 32, 255, 63
TTL_S = 300  # at most: behind the portal, the same name may be somewhere else

A, CNAME, AAAA, OPT, INTERNET = 1, 5, 28, 41, 1
RESPONSE, OPCODE, RECURSION, AVAILABLE = 0x8000, 0x7800, 0x0100, 0x0080
REFUSED, LAST_ERROR = 5, 5
ADDRESS_BYTES = {A: 4, AAAA: 16}
QUESTION = 12  # its offset in every message, and what answers point to
LETTERS = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")

Address = tuple[str | int, ...]  # of a socket, as the socket module has it


class MalformedError(Exception):
    """Not a message that means anything."""


class Question(NamedTuple):
    number: int
    name: bytes  # as on the wire, uncompressed
    kind: int

    @property
    def tail(self) -> bytes:
        return self.name + struct.pack(">HH", self.kind, INTERNET)


class Waiting(NamedTuple):
    """A question that a resolver was asked."""

    client: Address
    listener: int
    question: Question
    asked: int  # how many resolvers
    until: float


# --- messages: pure ---------------------------------------------------------------------------------------------------


def question(message: bytes) -> Question:
    """What is asked. Raises MalformedError; a kind that is not answered is the caller's to see."""
    if not QUESTION < len(message) <= LONGEST_ANSWER:
        raise MalformedError("length")
    number, flags, questions, answers, authorities, more = struct.unpack_from(">6H", message)
    if flags & (RESPONSE | OPCODE) or (questions, answers, authorities) != (1, 0, 0) or more > 1:
        raise MalformedError("header")
    name, end = read_name(message, QUESTION, pointers=False)
    if end + 4 > len(message):
        raise MalformedError("cut short")
    kind, of = struct.unpack_from(">HH", message, end)
    if of != INTERNET or not _is_host(name):
        kind = 0  # nothing we answer
    return Question(number, name, kind)


def read_name(message: bytes, start: int, *, pointers: bool = True) -> tuple[bytes, int]:
    """A name without compression, in lower case unless `pointers` is off, and where it ends. Raises MalformedError."""
    labels, at, end, hops = bytearray(), start, 0, 0
    while True:
        if at >= len(message):
            raise MalformedError("a name is cut short")
        length = message[at]
        if length > LABEL_BYTES:
            if not pointers or length < 0xC0 or at + 2 > len(message) or hops == HOPS:
                raise MalformedError("a pointer")
            end, hops = end or at + 2, hops + 1
            at = struct.unpack_from(">H", message, at)[0] & 0x3FFF
            continue
        labels += message[at : at + 1 + length]
        if at + 1 + length > len(message) or len(labels) > NAME_BYTES:
            raise MalformedError("a name is too long")
        at += 1 + length
        if length == 0:
            return (bytes(labels).lower() if pointers else bytes(labels)), end or at


def asks(asked: Question, number: int) -> bytes:
    """The question to a resolver."""
    edns = struct.pack(">BHHIH", 0, OPT, LONGEST, 0, 0)
    return struct.pack(">6H", number, RECURSION, 1, 0, 0, 1) + asked.tail + edns


def answers(message: bytes, asked: Question) -> tuple[int, int, list[bytes]]:
    """Return code, time to live in seconds and addresses of a resolver's answer to `asked`. Raises MalformedError."""
    if len(message) < QUESTION:
        raise MalformedError("length")
    _, flags, questions, count, _, _ = struct.unpack_from(">6H", message)
    if not flags & RESPONSE or flags & OPCODE or questions != 1:
        raise MalformedError("header")
    name, at = read_name(message, QUESTION)
    if name != asked.name.lower() or message[at : at + 4] != asked.tail[-4:]:
        raise MalformedError("another question")
    at += 4
    aliases: dict[bytes, bytes] = {}
    found: list[tuple[bytes, int, bytes]] = []
    for _ in range(min(count, RECORDS)):
        owner, at = read_name(message, at)
        if at + 10 > len(message):
            break  # cut short: what was read so far counts
        kind, of, ttl, length = struct.unpack_from(">HHIH", message, at)
        at += 10
        if at + length > len(message):
            break
        if (kind, of) == (CNAME, INTERNET):
            aliases[owner] = read_name(message, at)[0]
        elif (kind, of, length) == (asked.kind, INTERNET, ADDRESS_BYTES[asked.kind]):
            found.append((owner, ttl, message[at : at + length]))
        at += length
    for _ in range(HOPS):
        name = aliases.get(name, name)
    mine = [(ttl, address) for owner, ttl, address in found if owner == name and _is_elsewhere(address)]
    return min(flags & 15, LAST_ERROR), min([TTL_S, *(ttl for ttl, _ in mine)]), [address for _, address in mine]


def answer(asked: Question, code: int, ttl: int = 0, addresses: Sequence[bytes] = ()) -> bytes:
    """What whoever asked is told: as many addresses as fit."""
    message = asked.tail
    room = LONGEST_ANSWER - QUESTION - len(message)
    told = addresses[: room // (12 + ADDRESS_BYTES.get(asked.kind, 16))]
    for address in told:
        message += struct.pack(">HHHIH", 0xC000 | QUESTION, asked.kind, INTERNET, ttl, len(address)) + address
    return struct.pack(">6H", asked.number, RESPONSE | RECURSION | AVAILABLE | code, 1, len(told), 0, 0) + message


def _is_host(name: bytes) -> bool:
    at = 0
    while name[at]:
        if not LETTERS.issuperset(name[at + 1 : at + 1 + name[at]]):
            return False
        at += 1 + name[at]
    return at > 0


def _is_elsewhere(packed: bytes) -> bool:
    address: IPv4Address | IPv6Address = IPv4Address(packed) if len(packed) == 4 else IPv6Address(packed)
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return False
    return not (address.is_loopback or address.is_unspecified or address.is_multicast)


# --- between the two sides --------------------------------------------------------------------------------------------


class Forwarder:
    """`asked` and `answered` take datagrams and send others by the two functions given. Times in seconds."""

    def __init__(
        self,
        resolvers: int,
        ask: Callable[[int, bytes], None],
        reply: Callable[[int, bytes, Address], None],
        draw: Callable[[], int] = lambda: int.from_bytes(os.urandom(2)),
        per_s: float = PER_S,
        burst: float = BURST,
    ) -> None:
        self._resolvers, self._ask, self._reply, self._draw = resolvers, ask, reply, draw
        self._waiting: dict[int, Waiting] = {}  # by the number that resolvers see
        self._per_s, self._burst = per_s, burst  # questions that are passed on
        self._budget, self._since = burst, 0.0

    def asked(self, message: bytes, listener: int, client: Address, now: float) -> None:
        """By the tree."""
        try:
            wanted = question(message)
        except MalformedError:
            return
        if wanted.kind not in ADDRESS_BYTES:
            self._reply(listener, answer(wanted, REFUSED), client)
            return
        self._budget = min(self._burst, self._budget + max(0.0, now - self._since) * self._per_s)
        self._since = now
        if self._budget < 1 or len(self._waiting) >= WAITING or not self._resolvers:
            return  # programs ask again after some seconds
        self._budget -= 1
        number = self._draw()
        while number in self._waiting:
            number = self._draw()
        self._waiting[number] = Waiting(client, listener, wanted, 1, now + PATIENCE_S)
        self._ask(0, asks(wanted, number))

    def answered(self, message: bytes) -> None:
        """By a resolver."""
        waiting = self._waiting.get(int.from_bytes(message[:2]))
        if waiting is None:
            return
        try:
            code, ttl, addresses = answers(message, waiting.question)
        except MalformedError:
            return
        del self._waiting[int.from_bytes(message[:2])]
        self._reply(waiting.listener, answer(waiting.question, code, ttl, addresses), waiting.client)

    def overdue(self, now: float) -> None:
        """Ask the next resolver for what has waited too long."""
        for number, waiting in tuple(self._waiting.items()):
            if waiting.until > now:
                continue
            if waiting.asked >= ROUNDS * self._resolvers:
                del self._waiting[number]
            else:
                self._waiting[number] = waiting._replace(asked=waiting.asked + 1, until=now + PATIENCE_S)
                self._ask(waiting.asked % self._resolvers, asks(waiting.question, number))


def serve(sockets: Sequence[socket.socket], argument: bytes, tell: Callable[[bytes], None]) -> None:
    """For ever: the first `argument["listening"]` sockets are asked, the others, connected, lead to resolvers."""
    said = json.loads(argument)
    count = int(said["listening"])
    listeners, resolvers = sockets[:count], sockets[count:]

    def ask(resolver: int, message: bytes) -> None:
        try:
            resolvers[resolver].send(message)
        except OSError:
            return  # no way to it now, or the error of an earlier one; the next is asked in time

    def reply(listener: int, message: bytes, client: Address) -> None:
        try:
            listeners[listener].sendto(message, client)
        except OSError:
            return  # whoever asked has gone

    per_s, burst = float(said.get("per_s", PER_S)), float(said.get("burst", BURST))
    forwarder = Forwarder(len(resolvers), ask, reply, per_s=per_s, burst=burst)
    poll = select.poll()
    by_number = {each.fileno(): at for at, each in enumerate(sockets)}
    for each in sockets:
        poll.register(each, select.POLLIN)
    while True:
        for number, _ in poll.poll(PATIENCE_S * 250):
            at = by_number[number]
            try:
                message, sender = sockets[at].recvfrom(LONGEST)
            except OSError:
                continue  # refused by the other side
            if at < count:
                forwarder.asked(message, at, sender, time.monotonic())
            else:
                forwarder.answered(message)
        forwarder.overdue(time.monotonic())
