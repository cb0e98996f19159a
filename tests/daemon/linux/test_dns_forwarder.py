"""N12: names for the process tree of a login. Both sides may be hostile."""

from __future__ import annotations

import asyncio
import socket
import struct
from ipaddress import IPv4Address, IPv6Address
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.linux import dns_forwarder as dns
from daemon.linux.confined import Confined
from lab.probes import dns_query

CLIENT: dns.Address = ("127.0.0.1", 4000)
FOUR, SIX = IPv4Address("203.0.113.7").packed, IPv6Address("2001:db8::7").packed


def wire(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.encode() for label in name.split(".") if label) + b"\0"


def record(owner: bytes, kind: int, data: bytes, ttl: int = 60, of: int = 1) -> bytes:
    return owner + struct.pack(">HHIH", kind, of, ttl, len(data)) + data


def reply(asked: bytes, *records: bytes, flags: int = 0x8180) -> bytes:
    """A resolver's answer to a question as it was sent: its number and question, and these records."""
    end = dns.read_name(asked, dns.QUESTION)[1] + 4
    return asked[:2] + struct.pack(">5H", flags, 1, len(records), 0, 0) + asked[12:end] + b"".join(records)


class Both:
    """A forwarder between a tree and resolvers that do as the test says."""

    def __init__(self, resolvers: int = 1) -> None:
        numbers = count(0x100)
        self.asked: list[tuple[int, bytes]] = []
        self.told: list[tuple[int, bytes, dns.Address]] = []
        self.forwarder = dns.Forwarder(
            resolvers,
            lambda to, message: self.asked.append((to, message)),
            lambda listener, message, client: self.told.append((listener, message, client)),
            lambda: next(numbers),
        )

    def ask(self, message: bytes, now: float = 0.0, client: dns.Address = CLIENT) -> None:
        self.forwarder.asked(message, 0, client, now)

    def answer(self, *records: bytes, **how: Any) -> tuple[int, list[bytes]]:
        """Return code and addresses of what the tree is told."""
        self.forwarder.answered(reply(self.asked[-1][1], *records, **how))
        return said(self.told[-1][1])


def said(message: bytes) -> tuple[int, list[bytes]]:
    flags, questions, answers, _, _ = struct.unpack_from(">5H", message, 2)
    assert flags & 0x8000
    assert questions == 1
    at = dns.read_name(message, 12)[1] + 4
    found = []
    for _ in range(answers):
        pointer, _, _, _, length = struct.unpack_from(">HHHIH", message, at)
        assert pointer == 0xC00C, "of the name that was asked for"
        found.append(message[at + 12 : at + 12 + length])
        at += 12 + length
    assert at == len(message), "and nothing behind"
    return flags & 15, found


# --- what is asked ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "address"), [(dns.A, FOUR), (dns.AAAA, SIX)])
def test_an_address_is_asked_for_and_told(kind: int, address: bytes) -> None:
    both = Both()
    both.ask(dns_query("Portal.test", kind, number=0x1234))
    ((_, sent),) = both.asked
    assert sent[:2] == b"\x01\x00", "a number of our own"
    assert sent[12:].startswith(wire("Portal.test") + struct.pack(">HH", kind, 1))
    assert sent.endswith(struct.pack(">BHHIH", 0, 41, 4096, 0, 0)), "room for a long answer"
    assert both.answer(record(b"\xc0\x0c", kind, address)) == (0, [address])
    _, told, client = both.told[0]
    assert told[:2] == b"\x12\x34"
    assert client == CLIENT


@pytest.mark.parametrize("kind", [0, 2, 5, 10, 12, 15, 16, 28 + 1, 33, 35, 41, 64, 65, 252, 255, 65280])
def test_n12_nothing_but_addresses(kind: int) -> None:
    """TXT, NULL, ANY, HTTPS and the like are how tunnels are built: REFUSED, and no resolver hears of it."""
    both = Both()
    both.ask(dns_query("secret.test", kind))
    assert both.asked == []
    assert [said(told) for _, told, _ in both.told] == [(5, [])]


@pytest.mark.parametrize("name", [b"\x03a b\0", b"\x02\xff\xfe\0", b"\x01.\0", b"\x04a\0bc\0", b"\x03a\\b\0", b"\0"])
def test_n12_only_names_of_hosts(name: bytes) -> None:
    both = Both()
    both.ask(struct.pack(">6H", 1, 0x100, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1))
    assert both.asked == []
    assert [said(told)[0] for _, told, _ in both.told] == [5]


def test_what_is_no_question_is_not_answered() -> None:
    good = dns_query("portal.test", 1)
    both = Both()
    for broken in (
        b"", good[:11], good[:12], good[:-1], good + bytes(500),
        good[:2] + b"\x81\x80" + good[4:],  # an answer
        good[:2] + b"\x28\x00" + good[4:],  # an update
        good[:4] + b"\0\2" + good[6:], good[:4] + b"\0\0" + good[6:],  # not one question
        good[:6] + b"\0\1" + good[8:], good[:8] + b"\0\1" + good[10:], good[:10] + b"\0\2" + good[12:],
        good[:12] + b"\xc0\x0c" + good[-4:],  # a name that points at itself
        good[:12] + b"\x40" + good[13:], good[:12] + b"\x3f" + good[13:],
        good[:12] + b"\x3fx" * 200 + good[-4:],
    ):  # fmt: skip
        both.ask(broken)
    assert (both.asked, both.told) == ([], [])


def test_what_hides_behind_a_question_stays_here() -> None:
    both = Both()
    secret = b"\0\0\x29\x10\0\0\0\0\0\0\x0a" + struct.pack(">HH", 65001, 6) + b"secret"
    query = dns_query("portal.test", 1)
    both.ask(query[:10] + b"\0\1" + query[12:] + secret)
    ((_, sent),) = both.asked
    assert b"secret" not in sent


def test_n12_the_rate_is_limited() -> None:
    both = Both()
    for number in range(1000):
        both.ask(dns_query(f"n{number}.test", 1))
        both.answer(record(b"\xc0\x0c", 1, FOUR)) if len(both.asked) > len(both.told) else None
    assert len(both.asked) == dns.BURST
    for number in range(1000):
        both.ask(dns_query(f"m{number}.test", 1), now=10.0)
        both.answer(record(b"\xc0\x0c", 1, FOUR)) if len(both.asked) > len(both.told) else None
    assert len(both.asked) == dns.BURST + min(dns.BURST, 10 * dns.PER_S)


def test_who_never_gets_an_answer_takes_no_room_for_ever() -> None:
    both = Both(resolvers=3)
    both.ask(dns_query("portal.test", 1))
    for now in range(20):
        both.forwarder.overdue(now)
    assert [to for to, _ in both.asked] == [0, 1, 2, 0, 1, 2], "each resolver, twice"
    assert both.forwarder._waiting == {}
    both.forwarder.answered(reply(both.asked[0][1], record(b"\xc0\x0c", 1, FOUR)))
    assert both.told == [], "too late"


def test_without_a_resolver_nothing_is_kept() -> None:
    both = Both(resolvers=0)
    both.ask(dns_query("portal.test", 1))
    both.forwarder.overdue(10)
    assert (both.asked, both.told) == ([], [])


# --- what is answered -------------------------------------------------------------------------------------------------


def test_an_alias_is_followed_and_left_out() -> None:
    both = Both()
    both.ask(dns_query("www.portal.test", 1))
    chain = (
        record(b"\xc0\x0c", 5, wire("a.test")), record(wire("A.test"), 5, wire("b.test")),
        record(wire("b.test"), 1, FOUR), record(wire("other.test"), 1, b"\1\2\3\4"),
    )  # fmt: skip
    assert both.answer(*chain) == (0, [FOUR])


def test_aliases_in_a_circle_end() -> None:
    both = Both()
    both.ask(dns_query("a.test", 1))
    assert both.answer(record(wire("a.test"), 5, wire("b.test")), record(wire("b.test"), 5, wire("a.test"))) == (0, [])


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "127.8.9.1", "0.0.0.0", "224.0.0.1", "::1", "::", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "ff02::1"],
)  # fmt: skip
def test_n12_this_computer_is_no_answer(address: str) -> None:
    """A hostile page must not reach this computer's own services by a name (DNS rebinding)."""
    packed = (IPv6Address(address) if ":" in address else IPv4Address(address)).packed
    kind = dns.AAAA if ":" in address else dns.A
    both = Both()
    both.ask(dns_query("evil.test", kind))
    good = SIX if kind == dns.AAAA else FOUR
    assert both.answer(record(b"\xc0\x0c", kind, packed), record(b"\xc0\x0c", kind, good)) == (0, [good])


def test_a_long_answer_is_cut_to_what_fits() -> None:
    both = Both()
    both.ask(dns_query("x" * 60 + ".test", dns.AAAA))
    code, found = both.answer(
        *(record(b"\xc0\x0c", dns.AAAA, IPv6Address(f"2001:db8::{n:x}").packed) for n in range(1, 99))
    )
    assert code == 0
    assert 10 < len(found) < 20
    assert len(both.told[0][1]) <= 512


@pytest.mark.parametrize(("flags", "code"), [(0x8183, 3), (0x8182, 2), (0x8185, 5), (0x818F, 5), (0x8180, 0)])
def test_a_return_code_is_passed_on(flags: int, code: int) -> None:
    both = Both()
    both.ask(dns_query("nobody.test", 1))
    assert both.answer(flags=flags) == (code, [])


def test_an_answer_to_something_else_is_none() -> None:
    both = Both()
    both.ask(dns_query("portal.test", 1))
    sent = both.asked[0][1]
    good = reply(sent, record(b"\xc0\x0c", 1, FOUR))
    for wrong in (
        b"\xff\xff" + good[2:], good[:2] + b"\1\0" + good[4:], good[:12], good[:5], b"",
        good.replace(b"\x06portal", b"\x06Qortal"), good.replace(b"\x04test\0\0\1", b"\x04test\0\0\x1c"),
        good[:4] + b"\0\2" + good[6:],
    ):  # fmt: skip
        both.forwarder.answered(wrong)
    assert both.told == []
    both.forwarder.answered(good.replace(b"portal", b"PORTAL", 1))
    assert said(both.told[0][1]) == (0, [FOUR]), "another case is the same name"
    both.forwarder.answered(good)
    assert len(both.told) == 1, "once"


def test_an_answer_cut_short_counts_as_far_as_it_goes() -> None:
    both = Both()
    both.ask(dns_query("portal.test", 1))
    whole = reply(both.asked[0][1], record(b"\xc0\x0c", 1, FOUR), record(b"\xc0\x0c", 1, b"\1\2\3\4"))
    both.forwarder.answered(whole[:-2])
    assert said(both.told[0][1]) == (0, [FOUR])


# --- anything ---------------------------------------------------------------------------------------------------------

QUERY, ANSWER = dns_query("portal.test", 1), reply(dns_query("portal.test", 1), record(b"\xc0\x0c", 1, FOUR))


def damaged(message: bytes) -> st.SearchStrategy[bytes]:
    """The message with some bytes replaced, and cut or longer; or anything."""
    change = st.tuples(st.integers(0, len(message) - 1), st.integers(0, 255))

    def apply(changes: list[tuple[int, int]], length: int, more: bytes) -> bytes:
        data = bytearray(message)
        for at, value in changes:
            data[at] = value
        return bytes(data[:length]) + more

    some = st.builds(apply, st.lists(change, max_size=6), st.integers(0, len(message)), st.binary(max_size=40))
    return some | st.binary(max_size=600)


@given(damaged(QUERY))
def test_any_question_is_answered_refused_or_dropped(message: bytes) -> None:
    both = Both()
    both.ask(message)
    assert len(both.asked) + len(both.told) <= 1
    for _, sent in both.asked:
        assert dns.question(sent[:10] + b"\0\0" + sent[12:-11]).kind in (dns.A, dns.AAAA)
        assert dns.answer(dns.question(message), 0) == dns.answer(dns.question(message), 0)


@given(damaged(ANSWER))
def test_any_answer_tells_addresses_or_nothing(message: bytes) -> None:
    both = Both()
    both.ask(QUERY)
    both.forwarder.answered(both.asked[0][1][:2] + message[2:])
    for _, told, _ in both.told:
        code, found = said(told)
        assert code <= 5
        assert all(len(each) == 4 for each in found)
        assert told[:2] == QUERY[:2]


# --- as it runs -------------------------------------------------------------------------------------------------------


def test_it_serves_in_the_confined_child() -> None:
    """Real sockets, and the child that has nothing else."""

    async def check() -> None:
        loop = asyncio.get_running_loop()
        kinds = socket.AF_INET, socket.SOCK_DGRAM
        with (
            socket.socket(*kinds) as listener,
            socket.socket(*kinds) as upstream,
            socket.socket(*kinds) as client,
            socket.socket(*kinds) as resolver,
        ):
            for each in (listener, resolver):
                each.bind(("127.0.0.1", 0))
            upstream.connect(resolver.getsockname())
            for each in (listener, upstream, client, resolver):
                each.setblocking(False)
            client.connect(listener.getsockname())
            async with Confined("daemon.linux.dns_forwarder", [listener, upstream], b'{"listening": 1}') as child:
                client.send(b"rubbish")
                client.send(dns_query("portal.test", 16))
                refused = await asyncio.wait_for(loop.sock_recv(client, 600), 20)
                assert said(refused) == (5, [])
                client.send(dns_query("portal.test", 1))
                asked, sender = await asyncio.wait_for(loop.sock_recvfrom(resolver, 600), 20)
                resolver.sendto(b"\0" * 3000, sender)
                resolver.sendto(reply(asked, record(b"\xc0\x0c", 1, FOUR)), sender)
                assert said(await asyncio.wait_for(loop.sock_recv(client, 600), 20)) == (0, [FOUR])
                client.send(dns_query("silent.test", 1))
                await asyncio.wait_for(loop.sock_recv(resolver, 600), 20)
                again = await asyncio.wait_for(loop.sock_recv(resolver, 600), 20)
                assert b"silent" in again, "asked again after a while"
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(child.hear(), 0.01)  # it goes on

    asyncio.run(check())
