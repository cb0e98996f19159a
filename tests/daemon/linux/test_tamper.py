"""K4: whoever touches our rules is noticed, and named where the kernel tells."""

from __future__ import annotations

import os
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.host import QuotaSpent, Touch
from daemon.linux.tamper import FirewallEvents, messages, routing_events
from lab.hosts import Host
from policies.firewall import MARK

OUR_PORT, THEIR_PORT = 7, 8


def attribute(kind: int, value: bytes) -> bytes:
    raw = struct.pack("=HH", 4 + len(value), kind) + value
    return raw + b"\0" * (-len(raw) % 4)


def message(kind: int, payload: bytes, port: int = THEIR_PORT) -> bytes:
    raw = struct.pack("=IHHII", 16 + len(payload), kind, 0, 0, port) + payload
    return raw + b"\0" * (-len(raw) % 4)


def nft(kind: int, family: int, *attrs: bytes, port: int = THEIR_PORT) -> bytes:
    return message(10 << 8 | kind, struct.pack(">BBH", family, 0, 0) + b"".join(attrs), port)


def foreign(protocol: int, port: int) -> bool:
    """As `ports.foreign` would tell if OUR_PORT were ours."""
    assert protocol in (0, 12)
    return port not in (0, OUR_PORT)


DELTABLE, NEWRULE, NEWGEN, NEWOBJ = 2, 6, 15, 18
OURS, THEIRS = attribute(1, b"tunwarden\0"), attribute(1, b"filter\0")
UNNAMED = "a process the kernel does not name"
BY_NFT = (attribute(2, struct.pack(">I", 4711)), attribute(3, b"nft\0"))


@pytest.mark.parametrize(
    "data, told",
    [
        (nft(DELTABLE, 1, OURS) + nft(NEWGEN, 0, *BY_NFT), ["the firewall table was changed by nft (process 4711)"]),
        (
            nft(NEWRULE, 1, OURS) + nft(NEWGEN, 0),
            ["the firewall table was changed by a process the kernel does not name"],
        ),
        (nft(NEWRULE, 1, THEIRS) + nft(NEWGEN, 0, *BY_NFT), []),
        (nft(NEWRULE, 2, OURS) + nft(NEWGEN, 0, *BY_NFT), []),  # a table of our name in another family
        (nft(NEWGEN, 0, *BY_NFT), []),
        (nft(DELTABLE, 1, OURS), []),  # its transaction has not ended yet
        (nft(NEWOBJ, 1, OURS) + nft(NEWGEN, 0, *BY_NFT), ["the firewall table was changed by nft (process 4711)"]),
    ],
)
def test_transactions(data: bytes, told: list[str]) -> None:
    assert list(FirewallEvents(foreign).take(data)) == [Touch(what, True) for what in told]


def test_a_transaction_may_come_in_pieces() -> None:
    events = FirewallEvents(foreign)
    assert list(events.take(nft(DELTABLE, 1, OURS))) == []
    assert len(list(events.take(nft(NEWGEN, 0, *BY_NFT)))) == 1
    assert list(events.take(nft(NEWGEN, 0, *BY_NFT))) == []


@pytest.mark.parametrize("family", [1, 2, 10])
def test_a_spent_quota(family: int) -> None:
    """The kernel tells with the family of the packet; of others' tables it is nothing to us, and nothing is changed."""
    events = FirewallEvents(foreign)
    assert list(events.take(nft(NEWOBJ, family, THEIRS, port=0))) == []
    assert list(events.take(nft(NEWOBJ, family, OURS, port=0))) == [QuotaSpent()]
    assert list(events.take(nft(NEWGEN, 0, *BY_NFT))) == []


@pytest.mark.parametrize("port, certain", [(THEIR_PORT, True), (OUR_PORT, False), (0, False)])
def test_whose_change_it_was(port: int, certain: bool) -> None:
    """Port 0: the kernel itself, such as the routes of a link that has gone."""
    transaction = nft(DELTABLE, 1, OURS, port=port) + nft(NEWGEN, 0, *BY_NFT, port=port)
    (touch,) = FirewallEvents(foreign).take(transaction)
    assert touch.foreign is certain
    assert ("nft (process 4711)" in touch.what) is certain, "we do not accuse ourselves by name"
    assert [touch.foreign for touch in routing_events(route(25, MARK, port), foreign)] == [certain]


def route(kind: int, table: int, port: int = THEIR_PORT) -> bytes:
    return message(kind, b"\0" * 12 + attribute(15, struct.pack("=I", table)), port)


@pytest.mark.parametrize(
    "data, told",
    [
        (route(25, MARK), ["a routing route was removed"]),
        (route(33, MARK), ["a routing rule was removed"]),
        (route(32, MARK), ["a routing rule was added"]),
        (route(25, 254), []),
    ],
)
def test_routing(data: bytes, told: list[str]) -> None:
    assert list(routing_events(data, foreign)) == [Touch(what, True) for what in told]


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    list(messages(data))
    list(FirewallEvents().take(data))
    list(routing_events(data))


WATCHER = """
import asyncio
from daemon.linux.tamper import LinuxTamper

async def main():
    watch = LinuxTamper().watch()
    first = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0.05)
    print("watching", flush=True)
    print(1, await first, flush=True)
    count = 1
    async for touch in watch:
        count += 1
        print(count, touch, flush=True)

asyncio.run(main())
"""


@pytest.mark.netns
@pytest.mark.parametrize(
    "command, told",
    [
        (("nft", "flush", "ruleset"), "the firewall table was changed by nft"),
        (("nft", "delete", "table", "inet", "tunwarden"), "the firewall table was changed by nft"),
        (("nft", "flush", "chain", "inet", "tunwarden", "output"), "the firewall table was changed by nft"),
        (("nft", "insert", "rule", "inet", "tunwarden", "output", "accept"), "the firewall table was changed by nft"),
        (("ip", "rule", "del", "table", str(MARK)), "a routing rule was removed"),
        (("ip", "route", "flush", "table", str(MARK)), "a routing route was removed"),
        (("ip", "-6", "route", "flush", "table", str(MARK)), "a routing route was removed"),
    ],
)
def test_the_kernel_tells(command: tuple[str, ...], told: str) -> None:
    with Host("tamper") as host:
        host.run("ip", "link", "set", "lo", "up")
        host.run("nft", "-f", "-", input="table inet tunwarden {\nchain output {\ntcp dport 1 accept\n}\n}\n")
        host.run("ip", "rule", "add", "not", "fwmark", str(MARK), "table", str(MARK))
        for family in ("-4", "-6"):
            host.run("ip", family, "route", "add", "unreachable", "default", "table", str(MARK))
        watcher = host.start(sys.executable, "-I", "-c", WATCHER)
        watcher.wait_output("watching")
        host.run("nft", "add", "table", "inet", "someone_else")  # not about us
        host.run(*command)
        seen = watcher.wait_output(told)
        assert len(seen.splitlines()) <= 3, seen


METERED = """
table inet tunwarden {
    quota allowance { over 1000 bytes }
    chain output { type filter hook output priority 0; udp dport 9 quota name allowance drop; }
}
"""


SEND = """
import contextlib, socket
for _ in range(9):
    with contextlib.suppress(PermissionError):
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(bytes(500), ("127.0.0.1", 9))
"""


@pytest.mark.netns
def test_the_kernel_tells_that_a_quota_is_spent() -> None:
    """A2: once, not for each packet that is refused, and again after it was raised. That is no tampering."""
    with Host("spent") as host:
        host.run("ip", "link", "set", "lo", "up")
        host.run("nft", "-f", "-", input=METERED)
        watcher = host.start(sys.executable, "-I", "-c", WATCHER)
        watcher.wait_output("watching")
        for count in (1, 3):
            host.run(sys.executable, "-c", SEND)
            watcher.wait_output(f"{count} QuotaSpent()")
            host.run("nft", "add quota inet tunwarden allowance { over 6000 bytes }")
            watcher.wait_output(f"{count + 1} Touch(what='the firewall table was changed by nft")


OURSELVES = """
import asyncio, socket
from daemon.linux import rtnetlink, tamper
from daemon.linux.libnftables import LibNft, NftProgram
from daemon.linux.route_messages import added_rule, deleted_rule
from daemon.linux.route_plan import OURS

async def main():
    nft = tamper.subscribed(tamper.NETLINK_NETFILTER, (tamper.NFNLGRP_NFTABLES,))
    routes = tamper.subscribed(socket.NETLINK_ROUTE, (tamper.RTNLGRP_IPV4_RULE, tamper.RTNLGRP_IPV4_ROUTE))
    first, second = LibNft(), LibNft()
    await first.run("add table inet tunwarden; add chain inet tunwarden one")
    await second.run("add chain inet tunwarden two")
    await NftProgram().run("add chain inet tunwarden three")
    rule = (socket.AF_INET, OURS)
    with rtnetlink.open_socket() as sock, rtnetlink.open_socket() as other:
        for each in (sock, other):
            done = rtnetlink.change(each, [added_rule(*rule), deleted_rule(*rule)])
            assert done == [None, None], done
    events = tamper.FirewallEvents()
    seen = [touch for data in tamper.received(nft) for touch in events.take(data)]
    seen += [touch for data in tamper.received(routes) for touch in tamper.routing_events(data)]
    print(len(seen), [touch for touch in seen if touch.foreign], flush=True)
    await asyncio.sleep(0)
    print("now others", flush=True)
    input()
    seen = [touch for data in tamper.received(nft) for touch in events.take(data)]
    seen += [touch for data in tamper.received(routes) for touch in tamper.routing_events(data)]
    print("others:", [(touch.what.rpartition(" (")[0] or touch.what, touch.foreign) for touch in seen], flush=True)

asyncio.run(main())
"""


@pytest.mark.netns
def test_what_we_do_ourselves_is_not_foreign() -> None:
    """By either way to nftables, and over two sockets for routing at once. The control: what others do is."""
    with Host("ourselves") as host:
        host.run("ip", "link", "set", "lo", "up")
        program = host.start(sys.executable, "-I", "-c", OURSELVES, stdin=subprocess.PIPE)
        seen = program.wait_output("now others", 25)
        assert seen.splitlines()[0] == "7 []", seen
        host.run("nft", "delete", "table", "inet", "tunwarden")
        host.run("ip", "rule", "add", "priority", "100", "table", str(MARK))
        os.write(program.stdin, b"\n")
        told = program.wait_output("others:", 25)
        assert "('the firewall table was changed by nft', True)" in told
        assert "('a routing rule was added', True)" in told
