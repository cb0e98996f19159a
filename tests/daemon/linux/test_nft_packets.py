"""Which packets really leave under each policy: the kernel and the wire judge (nft_place.py, nft_probes.py)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import struct
import threading
import time
from dataclasses import replace

import pytest

from daemon.linux.nft import NftFirewall
from tests.daemon.linux.nft_place import Place, open_again, place
from tests.daemon.linux.nft_policies import BLOCKED, CONNECTED, CONNECTING, HOME, POLICIES
from tests.daemon.linux.nft_probes import PROBES, TCP

__all__ = ["open_again", "place"]
pytestmark = pytest.mark.netns


def test_positive_control_every_probe_is_seen_without_the_table(place: Place) -> None:
    assert place.leaving(PROBES) == {probe.name for probe in PROBES}, "a probe that cannot be seen proves nothing"


@pytest.mark.parametrize("name", POLICIES)
def test_what_leaves(place: Place, name: str) -> None:
    place.set(POLICIES[name])
    expected = {probe.name for probe in PROBES if name in probe.passes}
    assert place.leaving(PROBES) == expected


def test_fail_fast(place: Place) -> None:
    """Programs learn at once that they are blocked, instead of waiting for minutes (and of leaking a retry later)."""
    place.set(BLOCKED)

    def attempt() -> dict[str, int]:
        results = {}
        for name, family, kind, target in (
            ("tcp4", socket.AF_INET, socket.SOCK_STREAM, ("198.51.100.1", 443)),
            ("tcp6", socket.AF_INET6, socket.SOCK_STREAM, ("2001:db8::1", 443)),
            ("dns4", socket.AF_INET, socket.SOCK_DGRAM, ("192.168.7.1", 53)),
            ("dns tcp", socket.AF_INET, socket.SOCK_STREAM, ("192.168.7.1", 53)),
            ("udp6", socket.AF_INET6, socket.SOCK_DGRAM, ("2001:db8::1", 9)),
        ):
            with socket.socket(family, kind) as client:
                client.settimeout(20)
                try:
                    client.connect(target)
                    client.send(b"?")
                    client.recv(1)
                except OSError as err:
                    results[name] = err.errno or 0
                if kind is socket.SOCK_STREAM:
                    tried = client.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
                    assert struct.unpack_from("=I", tried, 100) == (0,), "tcpi_total_retrans: it was told at once"
        return results

    results = place.laptop.inside(attempt)
    assert results == {
        "tcp4": errno.ECONNREFUSED, "tcp6": errno.ECONNREFUSED, "dns4": errno.EPERM, "udp6": errno.EPERM,
        "dns tcp": errno.ECONNREFUSED,
    }  # fmt: skip
    abroad = (socket.inet_aton("198.51.100.1"), socket.inet_pton(socket.AF_INET6, "2001:db8::1"))
    assert not [frame for frame in place.heard("eth0") if frame[30:34] == abroad[0] or frame[38:54] == abroad[1]]


def test_l18_blocked_dns_leaves_no_icmp_error_behind(place: Place) -> None:
    """systemd-resolved answers that error by asking again at once, for ever."""
    place.set(BLOCKED)

    def pending() -> dict[int, int]:
        with contextlib.ExitStack() as stack:
            clients = {}
            for port in (53, 9):  # in this order: whatever the first is told, it is told before the second
                clients[port] = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
                clients[port].connect(("192.168.7.1", port))
                with contextlib.suppress(PermissionError):
                    clients[port].send(b"?")
            gone = select.poll()
            gone.register(clients[9], 0)  # an error is told in any case
            gone.poll(20_000)
            return {port: each.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) for port, each in clients.items()}

    assert place.laptop.inside(pending) == {53: 0, 9: errno.EHOSTUNREACH}


def test_blocked_packets_are_counted_across_replacements(place: Place) -> None:
    async def work() -> list[int]:
        firewall = NftFirewall()
        counts = [await firewall.blocked()]
        for policy in (BLOCKED, CONNECTING, CONNECTED):
            await firewall.set(policy)
            for _ in range(5):
                place.send(PROBES[0])
            counts.append(await firewall.blocked())
        await firewall.reset()
        return [*counts, await firewall.blocked()]

    assert place.laptop.inside(lambda: asyncio.run(work())) == [0, 5, 10, 15, 15]


def test_l10_a_flow_from_before_the_block_dies_at_once(place: Place) -> None:
    place.set(POLICIES["idle"])
    server = place.wire.socket(socket.AF_INET, socket.SOCK_STREAM)
    client = place.laptop.socket(socket.AF_INET, socket.SOCK_STREAM)
    with server, client:
        server.bind(("198.51.100.1", 7000))
        server.listen()
        client.settimeout(5)
        client.connect(("198.51.100.1", 7000))
        peer, _ = server.accept()
        with peer:
            peer.settimeout(5)
            client.send(b"before")
            assert peer.recv(100) == b"before"
            place.set(CONNECTING)
            place.heard("eth0")
            with pytest.raises(OSError):
                client.send(b"after the block")
                client.recv(1)
            peer.send(b"from the server")  # neither does an answer of ours leave
            time.sleep(0.3)
            frames = place.heard("eth0")
            assert not [frame for frame in frames if frame[12:14] == b"\x08\0" and frame[23] == TCP]


@pytest.mark.parametrize(("name", "ends"), [("held", False), ("idle", False), ("blocked", True)])
def test_a_hold_is_silent_to_connections_that_may_go_on(place: Place, name: str, ends: bool) -> None:
    """A reset would end them before the verdict. New ones are refused at once, and nothing leaves in any state."""
    place.set(POLICIES["idle"])
    client = place.laptop.socket(socket.AF_INET, socket.SOCK_STREAM)
    new = place.laptop.socket(socket.AF_INET, socket.SOCK_STREAM)
    server = place.wire.socket(socket.AF_INET, socket.SOCK_STREAM)
    with server, client, new:
        server.bind(("198.51.100.1", 0))
        server.listen()
        client.settimeout(5)
        client.connect(server.getsockname())
        peer, _ = server.accept()
        with peer:
            place.set(replace(POLICIES[name], cleared=frozenset()))
            place.heard("eth0")
            client.send(b"in between")
            time.sleep(0.3)
            assert client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == (errno.ECONNRESET if ends else 0)
            new.settimeout(5)
            with pytest.raises(ConnectionRefusedError):
                new.connect(server.getsockname())
            assert not [frame for frame in place.heard("eth0") if frame[12:14] == b"\x08\0" and frame[23] == TCP]
            place.set(POLICIES["idle"])
            peer.settimeout(10)
            if not ends:
                assert peer.recv(100) == b"in between", "sent again, once it may be"


def test_replacing_the_table_under_traffic_leaks_nothing(place: Place) -> None:
    """300 replacements while 2 threads send: one commit each, and no packet slips between two rulesets."""
    probes = [probe for probe in PROBES if probe.name in ("udp4", "udp6", "dns4", "server unmarked")]
    policies = [BLOCKED, CONNECTING, CONNECTED, replace(BLOCKED, lan=HOME), POLICIES["held"]]
    stop = threading.Event()
    sent = [0, 0]

    def flood(number: int) -> None:
        while not stop.is_set():
            for probe in probes:
                place.send(probe)
                sent[number] += 1

    async def replace_all() -> int:
        firewall = NftFirewall()
        for number in range(300):
            await firewall.set(policies[number % len(policies)])
        return await firewall.blocked()

    def both() -> int:
        # Threads inherit the network namespace of the thread that starts them.
        senders = [threading.Thread(target=flood, args=(number,)) for number in range(2)]
        for sender in senders:
            sender.start()
        try:
            return asyncio.run(replace_all())
        finally:
            stop.set()
            for sender in senders:
                sender.join()

    assert place.leaving(tuple(probes)) == {probe.name for probe in probes}  # the control
    place.set(BLOCKED)
    place.heard("eth0")
    blocked = place.laptop.inside(both)
    frames = place.heard("eth0")
    assert not [probe.name for probe in probes if any(probe.payload in frame for frame in frames)]
    assert sum(sent) > 2000
    assert 0 < blocked <= sum(sent), "counted, but for the moments between reading and replacing"
