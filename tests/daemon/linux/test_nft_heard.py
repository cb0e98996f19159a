"""Which packets are really heard under each policy: the kernel judges (nft_place.py)."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import time

import pytest

from policies.firewall import MARK
from tests.daemon.linux.nft_place import Place, hears, open_again, place
from tests.daemon.linux.nft_policies import CONNECTING, POLICIES
from tests.daemon.linux.nft_probes import ICMP6, TCP, checksum, icmp6, ip4, ip6, tcp

__all__ = ["open_again", "place"]
pytestmark = pytest.mark.netns

HEARD = {
    # policy -> who is heard: a stranger on eth0, the local network on eth0, the other end of the tunnel, uninvited;
    # the administrator's subnet on eth0; a container, and one with an address that is not the container's
    None: {"stranger", "neighbour", "tunnel", "tunnel's neighbour", "subnet", "container", "impostor"},
    "idle": {"stranger", "neighbour", "subnet", "container", "impostor"},
    "idle, nothing cleared": set(),
    "held": set(),
    "connecting": set(),
    "connecting, LAN": {"neighbour", "container"},
    "connected": set(),
    "connected, LAN": {"neighbour", "container"},
    "connected, inside": {"container"},
    "connected, subnets": {"neighbour", "subnet"},
    "blocked": set(),
    "blocked, LAN": {"neighbour", "container"},
    "blocked, inside": {"container"},
    "blocked, LAN and inside": {"neighbour", "container"},
    "blocked, subnets without a LAN": set(),
    "portal, login": set(),
    "portal, tree": set(),
}


@pytest.mark.parametrize("name", HEARD)
def test_who_is_heard(place: Place, name: str | None) -> None:
    place.set(POLICIES[name] if name else None)
    place.far.ip("addr replace 192.168.50.1/32 dev lo")
    place.wire.ip("addr replace 100.64.0.1/32 dev lo")
    place.container.ip("addr replace 198.18.0.9/32 dev lo")
    receiver = place.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM)
    with receiver:
        receiver.bind(("", 7001))
        heard = set()
        for who, host, source, target in (
            ("stranger", place.wire, "198.51.100.1", "192.168.7.2"),
            ("neighbour", place.wire, "192.168.7.1", "192.168.7.2"),
            ("tunnel", place.far, "198.51.100.1", "10.66.0.2"),
            ("tunnel's neighbour", place.far, "192.168.50.1", "10.66.0.2"),
            ("subnet", place.wire, "100.64.0.1", "192.168.7.2"),
            ("container", place.container, "172.17.0.2", "172.17.0.1"),
            ("impostor", place.container, "198.18.0.9", "172.17.0.1"),
        ):
            with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((source, 7002))
                if hears(sender, receiver, (target, 7001), who in HEARD[name]):
                    heard.add(who)
    assert heard == HEARD[name]


@pytest.mark.parametrize("name", ["connecting", "connecting, LAN"])
def test_the_server_is_heard_only_as_an_answer(place: Place, name: str) -> None:
    place.set(POLICIES[name])
    port = 7100 + len(name)  # the kernel remembers flows for longer than this test lasts
    with (
        place.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        place.wire.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        place.wire.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        client.bind(("", port))
        client.setsockopt(socket.SOL_SOCKET, 36, MARK)
        server.bind(("203.0.113.7", 51820))
        other.bind(("203.0.113.7", 51821))
        assert not hears(server, client, ("192.168.7.2", port)), "uninvited"
        client.sendto(b"handshake", ("203.0.113.7", 51820))
        assert server.recv(100) == b"handshake"
        assert hears(server, client, ("192.168.7.2", port), expected=True)
        assert not hears(other, client, ("192.168.7.2", port)), "another port of the server"


def test_answers_of_the_server_pass_strict_reverse_path_filtering(place: Place) -> None:
    """The way back to the server is in main, which only marked packets see: so its packets get the mark on arrival."""
    place.set(CONNECTING)
    place.laptop.sysctl(("net/ipv4/conf/eth0/rp_filter", "1"), ("net/ipv4/conf/all/src_valid_mark", "1"))
    place.laptop.ip(f"rule add not fwmark {MARK:#x} lookup 4242 pref 90", "route add unreachable default table 4242")
    try:
        with (
            place.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
            place.wire.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        ):
            client.setsockopt(socket.SOL_SOCKET, 36, MARK)
            client.settimeout(20)
            server.bind(("203.0.113.7", 51820))
            client.sendto(b"handshake", ("203.0.113.7", 51820))
            _, address = server.recvfrom(100)
            server.sendto(b"answer", address)
            assert client.recv(100) == b"answer"
    finally:
        place.laptop.sysctl(("net/ipv4/conf/eth0/rp_filter", "0"), ("net/ipv4/conf/all/src_valid_mark", "0"))
        place.laptop.ip("rule del pref 90", "route flush table 4242")


@pytest.mark.parametrize(("name", "told"), [("portal, login", True), ("held, login", True), ("portal", False)])
def test_a_login_hears_answers_and_nothing_else(place: Place, name: str, told: bool) -> None:
    """Also with strict filters of the way back: marked packets alone see main, so the answers get the mark."""
    place.set(POLICIES[name])
    place.laptop.sysctl(("net/ipv4/conf/eth0/rp_filter", "1"), ("net/ipv4/conf/all/src_valid_mark", "1"))
    place.laptop.ip(f"rule add not fwmark {MARK:#x} lookup 4242 pref 90", "route add unreachable default table 4242")
    port = 7200 + len(name)
    try:
        with (
            place.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
            place.wire.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver,
            place.wire.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        ):
            client.bind(("", port))
            client.setsockopt(socket.SOL_SOCKET, 36, MARK)
            resolver.bind(("198.51.100.1", 53))
            other.bind(("203.0.113.7", 53))
            assert not hears(resolver, client, ("192.168.7.2", port)), "uninvited"
            with contextlib.suppress(PermissionError):
                client.sendto(b"question", ("198.51.100.1", 53))
            assert bool(select.select([resolver], [], [], 20 if told else 0.2)[0]) is told
            assert hears(resolver, client, ("192.168.7.2", port), told) is told
            assert not hears(other, client, ("192.168.7.2", port)), "somebody who was not asked"
            place.set(POLICIES["held"])
            assert not hears(resolver, client, ("192.168.7.2", port)), "the login is over"
    finally:
        place.laptop.sysctl(("net/ipv4/conf/eth0/rp_filter", "0"), ("net/ipv4/conf/all/src_valid_mark", "0"))
        place.laptop.ip("rule del pref 90", "route flush table 4242")


def test_l10_a_flow_from_before_the_block_gains_nothing_from_a_login(place: Place) -> None:
    """An unmarked connection to the right port, and its packets still come: they are none of the login's."""
    place.set(POLICIES["idle"])
    # Flows are tracked as soon as any rule asks for that, such as a container engine's, and from then on remembered.
    tracking = "chain c { type filter hook input priority 5; ct state established counter; }"
    place.laptop.run("nft", f"table inet lab_tracking {{ {tracking}; }}")
    place.stack.callback(place.laptop.run, "nft", "delete table inet lab_tracking", check=False)
    with (
        place.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        place.wire.socket(socket.AF_INET, socket.SOCK_DGRAM) as resolver,
    ):
        client.bind(("", 7300))
        resolver.bind(("198.51.100.1", 53))
        client.sendto(b"before", ("198.51.100.1", 53))
        assert resolver.recv(100) == b"before"
        assert hears(resolver, client, ("192.168.7.2", 7300), expected=True), "the control"
        place.set(POLICIES["portal, login"])
        assert not hears(resolver, client, ("192.168.7.2", 7300))
        assert " packets 0 " not in place.laptop.run("nft", "list table inet lab_tracking").stdout, (
            "tracked all the while"
        )
    place.laptop.run("nft", "delete table inet lab_tracking")


CVE = {None: True, **dict.fromkeys(POLICIES, False)}


@pytest.mark.parametrize("name", CVE)
def test_l2_the_tunnels_address_does_not_answer_on_other_links(place: Place, name: str | None) -> None:
    """CVE-2019-14899: a neighbour sends to the tunnel's address and learns from the answers. None may come."""
    place.set(POLICIES[name] if name else None)
    place.heard("eth0")
    head = b"\x02\0\0\0\0\x02\x02\0\0\0\0\x01"
    with place.tap(place.wire, "eth0") as raw:
        for flags in (0x02, 0x12, 0x10):  # SYN, and the forged SYN-ACK and ACK of the attack
            segment = tcp(443, 7004, b"", flags)
            pseudo = socket.inet_aton("192.168.7.1") + socket.inet_aton("10.66.0.2") + struct.pack("!HH", TCP, 20)
            segment = segment[:16] + struct.pack("!H", checksum(pseudo + segment)) + segment[18:]
            raw.send(head + b"\x08\0" + ip4(TCP, "192.168.7.1", "10.66.0.2", segment))
        raw.send(head + b"\x86\xdd" + ip6(ICMP6, "fd07::1", "fd66::2", icmp6(128, b"?")))
    time.sleep(0.05)
    frames = place.heard("eth0")
    guarded = (socket.inet_aton("10.66.0.2"), socket.inet_pton(socket.AF_INET6, "fd66::2"))
    answers = [frame for frame in frames if frame[26:30] == guarded[0] or frame[22:38] == guarded[1]]
    assert bool(answers) is CVE[name]
    if name is None:
        assert len(answers) == 4
