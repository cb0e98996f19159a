"""The kernel's WireGuard, as bytes, for machines whose kernel has none. Where it has, test_wireguard_live.py uses it.

The layout is taken by hand from include/uapi/linux/wireguard.h and linux/netlink.h: a generic netlink header (command,
version, two bytes of nothing), then attributes of (length, type) in the machine's byte order, padded to four bytes.
The parser below knows nothing of the daemon's.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
import sys
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from daemon.linux.wireguard_device import PeerState, Unsupported
from daemon.linux.wireguard_kernel import WireGuardKernel, configuration, parse_peers, request
from lab.hosts import Host
from policies.facts import Endpoint
from policies.wireguard import WireGuardPeer, WireGuardProfile

NESTED = 0x8000  # NLA_F_NESTED
PRIVATE, PRESHARED, PUBLIC = bytes(range(32)), bytes(range(100, 132)), bytes(range(50, 82))
PEER = WireGuardPeer(
    public_key=PUBLIC,
    host="vpn.example",
    port=51820,
    allowed_ips=(ip_network("198.51.100.0/24"), ip_network("::/0")),
    preshared_key=PRESHARED,
    keepalive=25,
    addresses=(ip_address("192.0.2.1"),),
)
PROFILE = WireGuardProfile(
    name="lab",
    private_key=PRIVATE,
    addresses=(ip_interface("198.51.100.130/26"),),
    resolvers=(),
    search=(),
    peers=(PEER,),
)


def attributes(data: bytes) -> list[tuple[int, bytes]]:
    found = []
    while data:
        length, kind = struct.unpack_from("=HH", data)
        assert 4 <= length <= len(data)
        found.append((kind & ~NESTED, data[4:length]))
        data = data[(length + 3) & ~3 :]
    return found


def encoded(change: bytes, command: int = 1) -> list[tuple[int, bytes]]:
    """The attributes of a request after the checked generic header."""
    data = request("tunwarden0", command, change)
    assert struct.unpack_from("=BBH", data) == (command, 1, 0), "WG_CMD_*, WG_GENL_VERSION"
    return attributes(data[4:])


def test_the_device_message() -> None:
    device, peer = list(configuration(PROFILE))
    assert encoded(device) == [
        (2, b"tunwarden0\0"),  # WGDEVICE_A_IFNAME
        (3, PRIVATE),  # WGDEVICE_A_PRIVATE_KEY
        (5, struct.pack("=I", 1)),  # WGDEVICE_A_FLAGS: WGDEVICE_F_REPLACE_PEERS
        (6, struct.pack("=H", 0)),  # WGDEVICE_A_LISTEN_PORT
        (7, struct.pack("=I", 0x74756E77)),  # WGDEVICE_A_FWMARK
    ]
    assert peer


def test_the_peer_message() -> None:
    _, change = configuration(PROFILE)
    (ifname, (kind, peers)) = encoded(change)
    assert (ifname, kind) == ((2, b"tunwarden0\0"), 8), "WGDEVICE_A_PEERS"
    ((_, peer),) = attributes(peers)
    fields = dict(attributes(peer))
    networks = fields.pop(9)  # WGPEER_A_ALLOWEDIPS
    assert fields == {
        1: PUBLIC,  # WGPEER_A_PUBLIC_KEY
        2: PRESHARED,  # WGPEER_A_PRESHARED_KEY
        3: struct.pack("=I", 2),  # WGPEER_A_FLAGS: WGPEER_F_REPLACE_ALLOWEDIPS
        4: struct.pack("=H", 2) + struct.pack("!H4s8x", 51820, bytes([192, 0, 2, 1])),  # WGPEER_A_ENDPOINT: sockaddr_in
        5: struct.pack("=H", 25),  # WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL
    }
    assert [dict(attributes(network)) for _, network in attributes(networks)] == [
        {1: struct.pack("=H", 2), 2: bytes([198, 51, 100, 0]), 3: b"\x18"},  # WGALLOWEDIP_A_FAMILY, _IPADDR, _CIDR_MASK
        {1: struct.pack("=H", 10), 2: bytes(16), 3: b"\0"},
    ]


def test_an_ipv6_endpoint() -> None:
    _, change = configuration(replace(PROFILE, peers=(replace(PEER, addresses=(ip_address("2001:db8::1"),)),)))
    _, (_, peers) = encoded(change)
    fields = dict(attributes(attributes(peers)[0][1]))
    address = ip_address("2001:db8::1").packed
    assert fields[4] == struct.pack("=H", 10) + struct.pack("!HI16sI", 51820, 0, address, 0), "sockaddr_in6"


def test_a_link_local_endpoint_keeps_its_scope() -> None:
    _, change = configuration(replace(PROFILE, peers=(replace(PEER, addresses=(ip_address("fe80::1%3"),)),)))
    _, (_, peers) = encoded(change)
    data = dict(attributes(attributes(peers)[0][1]))[4]
    assert data[8:24] == ip_address("fe80::1").packed
    assert data[24:] == struct.pack("=I", 3), "in the machine's byte order"


def test_many_networks_are_spread_over_messages() -> None:
    many = tuple(ip_network((0x0A000000 + 256 * n, 24)) for n in range(2500))
    _, *changes = configuration(replace(PROFILE, peers=(replace(PEER, allowed_ips=many),)))
    flags, counts = [], []
    for change in changes:
        _, (_, peers) = encoded(change)
        assert len(peers) < 0xFFFF, "the length of an attribute has 16 bits"
        fields = dict(attributes(attributes(peers)[0][1]))
        flags.append(struct.unpack("=I", fields[3])[0])
        counts.append(len(attributes(fields[9])))
    assert flags == [2, 4, 4], "the first replaces, the others only add (WGPEER_F_UPDATE_ONLY)"
    assert counts == [1000, 1000, 500]
    ipv6 = tuple(ip_network((n << 64, 64)) for n in range(1000))
    _, change = configuration(replace(PROFILE, peers=(replace(PEER, allowed_ips=ipv6),)))
    assert len(encoded(change)[1][1]) < 0xFFFF


def test_renewing_removes_then_adds_in_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[bytes] = []
    monkeypatch.setattr(WireGuardKernel, "_set", lambda _, what, changes: sent.extend(changes))
    asyncio.run(WireGuardKernel().renew(PEER))
    (both,) = sent
    _, (_, peers) = encoded(both)
    (_, removal), (_, addition) = attributes(peers)
    assert attributes(removal) == [(1, PUBLIC), (3, struct.pack("=I", 1))], "WGPEER_F_REMOVE_ME"
    _, (_, configured) = encoded(list(configuration(PROFILE))[1])
    assert addition == attributes(configured)[0][1]


def attribute(kind: int, *values: bytes) -> bytes:
    data = b"".join(values)
    return struct.pack("=HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def reply(*peers: bytes) -> memoryview:
    """The payload of a WG_CMD_GET_DEVICE reply, as net/wireguard would send it: with every secret in it."""
    body = struct.pack("=BBH", 0, 1, 0) + b"".join(
        (
            attribute(1, struct.pack("=I", 7)),
            attribute(2, b"tunwarden0\0"),
            attribute(3, PRIVATE),
            attribute(4, PUBLIC),
            attribute(6, struct.pack("=H", 40000)),
            attribute(7, struct.pack("=I", 0x74756E77)),
            attribute(8 | NESTED, *(attribute(0 | NESTED, peer) for peer in peers)),
        )
    )
    return memoryview(body)


NETWORKS = attribute(
    9 | NESTED, attribute(0 | NESTED, attribute(1, b"\2\0"), attribute(2, bytes(4)), attribute(3, b"\0"))
)
FULL = b"".join(
    (
        attribute(1, PUBLIC),
        attribute(2, PRESHARED),
        attribute(4, struct.pack("=H", 2) + struct.pack("!H4s8x", 443, bytes([192, 0, 2, 7]))),
        attribute(5, struct.pack("=H", 25)),
        attribute(6, struct.pack("=qq", 1_700_000_000, 500_000_000)),  # struct __kernel_timespec
        attribute(7, struct.pack("=Q", 92)),
        attribute(8, struct.pack("=Q", 180)),
        NETWORKS,
        attribute(10, struct.pack("=I", 1)),
    )
)


def test_a_reply_becomes_peers_without_secrets() -> None:
    peers = parse_peers(reply(FULL, attribute(1, bytes(32))))
    assert peers == {
        PUBLIC: PeerState(rx=92, tx=180, handshake=1_700_000_000.5, endpoint=Endpoint(ip_address("192.0.2.7"), 443)),
        bytes(32): PeerState(),
    }
    scoped = struct.pack("=H", 10) + struct.pack("!HI16s", 443, 0, ip_address("fe80::1").packed) + struct.pack("=I", 3)
    (state,) = parse_peers(reply(attribute(1, PUBLIC) + attribute(4, scoped))).values()
    assert state.endpoint == Endpoint(ip_address("fe80::1%3"), 443)
    for key in (PRIVATE, PRESHARED):
        assert repr(key)[2:-1] not in repr(peers)
    assert repr(PUBLIC)[2:-1] in repr(peers), "the form above would have been found"
    assert parse_peers(reply()) == {}


def test_containers_say_that_they_are_nested() -> None:
    """Since Linux 5.2 the kernel refuses those of new families that do not (NL_VALIDATE_NESTED)."""

    def nested(data: bytes, deeper: dict[int, Any]) -> None:
        while data:
            length, kind = struct.unpack_from("=HH", data)
            below = deeper.get(kind & ~NESTED, deeper.get(-1))
            assert bool(kind & NESTED) is (below is not None), kind
            if below is not None:
                nested(data[4:length], below)
            data = data[(length + 3) & ~3 :]

    every = {-1: {9: {-1: {}}}}  # any peer: its networks: any network
    for change in configuration(PROFILE):
        nested(change, {8: every})


@pytest.mark.parametrize("cut", [1, 3, 17, 40])
def test_what_the_kernel_cut_short_is_an_error_or_nothing(cut: int) -> None:
    with contextlib.suppress(LookupError, struct.error):  # which `_talk` makes a HostError
        assert parse_peers(reply(FULL)[:-cut]).keys() <= {PUBLIC}


@pytest.mark.netns
def test_a_kernel_without_wireguard_is_unsupported() -> None:
    with Host("kernel") as host:
        probe = host.run("ip", "link", "add", "probe", "type", "wireguard", check=False)
        if probe.returncode == 0:
            pytest.skip("this kernel has WireGuard: only here it can be missing")
        script = (
            "import asyncio\nfrom daemon.linux.wireguard_kernel import *\n"
            "try: asyncio.run(WireGuardKernel().create())\nexcept Unsupported as err: print(err)"
        )
        result = host.run(sys.executable, "-c", script, env={"PYTHONPATH": str(Path(__file__).parents[3])})
    assert result.stdout.strip() == "create the tunnel link: this kernel has no WireGuard"
    assert issubclass(Unsupported, Exception)
