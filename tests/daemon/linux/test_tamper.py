"""K4: whoever touches our rules is noticed, and named where the kernel tells."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.linux.tamper import FirewallEvents, attributes, messages, routing_events
from lab.hosts import Host
from policies.firewall import MARK

TOP = Path(__file__).parents[3]


def attribute(kind: int, value: bytes) -> bytes:
    raw = struct.pack("=HH", 4 + len(value), kind) + value
    return raw + b"\0" * (-len(raw) % 4)


def message(kind: int, payload: bytes) -> bytes:
    raw = struct.pack("=IHHII", 16 + len(payload), kind, 0, 0, 0) + payload
    return raw + b"\0" * (-len(raw) % 4)


def nft(kind: int, family: int, *attrs: bytes) -> bytes:
    return message(10 << 8 | kind, struct.pack(">BBH", family, 0, 0) + b"".join(attrs))


DELTABLE, NEWRULE, NEWGEN = 2, 6, 15
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
    ],
)
def test_transactions(data: bytes, told: list[str]) -> None:
    assert list(FirewallEvents().take(data)) == told


def test_a_transaction_may_come_in_pieces() -> None:
    events = FirewallEvents()
    assert list(events.take(nft(DELTABLE, 1, OURS))) == []
    assert len(list(events.take(nft(NEWGEN, 0, *BY_NFT)))) == 1
    assert list(events.take(nft(NEWGEN, 0, *BY_NFT))) == []


def route(kind: int, table: int) -> bytes:
    return message(kind, b"\0" * 12 + attribute(15, struct.pack("=I", table)))


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
    assert list(routing_events(data)) == told


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data: bytes) -> None:
    list(messages(data))
    attributes(data)
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
    print(await first, flush=True)
    async for text in watch:
        print(text, flush=True)

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
