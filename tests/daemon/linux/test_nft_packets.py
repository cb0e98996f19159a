"""Which packets really leave, are really heard and really forwarded under each policy: the kernel and the wire judge.

    container --- ctr0 [ laptop ] eth0 ------- wire: the café
                                  wlan0 ------ wire: another network
                                  tunwarden0 - far:  stands for the tunnel, and shows what goes into it

Probes are whole packets from raw sockets bound to a link, the way a hostile or careless program sends them. Each has a
name in its payload, and a frame that no firewall sees closes each round, so nothing is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest

from daemon.linux.nft import NftFirewall
from lab.hosts import Host
from policies.facts import Endpoint, Tunnel
from policies.firewall import LOGIN_MARK, MARK, NEVER_MARK, ONLY_MARK, FirewallPolicy
from policies.states import Phase

pytestmark = pytest.mark.netns

TUNNEL = Tunnel(
    "tunwarden0",
    (ip_interface("10.66.0.2/32"), ip_interface("fd66::2/128")),
    (ip_address("10.66.0.1"), ip_address("fd66::1")),
)
GUARDED = tuple(address.ip for address in TUNNEL.addresses)
HOME = frozenset({"eth0", "ctr0"})
SERVERS = (Endpoint(ip_address("203.0.113.7"), 51820), Endpoint(ip_address("2001:db8:7::1"), 51820))
LAN_SERVERS = (Endpoint(ip_address("192.168.7.9"), 51820),)

INSIDE = (("ctr0", ip_network("172.17.0.0/24")), ("ctr0", ip_network("fd17::/64")))
SUBNETS = (ip_network("100.64.0.0/10"), ip_network("2001:db8:64::/48"))

CONNECTING = FirewallPolicy(Phase.CONNECTING, servers=SERVERS, guarded=GUARDED, capture=True)
CONNECTED = FirewallPolicy(Phase.CONNECTED, servers=SERVERS, tunnel=TUNNEL, guarded=GUARDED, capture=True)
BLOCKED = FirewallPolicy(Phase.BLOCKED, guarded=GUARDED, capture=True)
SPLIT: dict[str, Any] = {
    "never": True, "beside": frozenset({"eth0"}), "beside_dns": 30054, "only": True,
    "subnets": SUBNETS, "subnet_links": frozenset({"eth0"}),
}  # fmt: skip
POLICIES = {
    "idle": FirewallPolicy(Phase.IDLE, cleared=frozenset({"eth0", "ctr0"}), guarded=GUARDED),
    "idle, nothing cleared": FirewallPolicy(Phase.IDLE, guarded=GUARDED),
    "held": FirewallPolicy(Phase.HELD, guarded=GUARDED, capture=True),
    "connecting": CONNECTING,
    "connecting, LAN": replace(CONNECTING, lan=HOME),
    "connecting, server in the LAN": replace(CONNECTING, servers=LAN_SERVERS, lan=HOME),
    "connected": CONNECTED,
    "connected, LAN": replace(CONNECTED, lan=HOME),
    "reconnecting": replace(CONNECTING, phase=Phase.RECONNECTING),
    "blocked": BLOCKED,
    "blocked, LAN": replace(BLOCKED, lan=HOME),
    "disconnecting": replace(BLOCKED, phase=Phase.DISCONNECTING),
    "connected, inside": replace(CONNECTED, inside=INSIDE),
    "blocked, inside": replace(BLOCKED, inside=INSIDE),
    "blocked, LAN and inside": replace(BLOCKED, lan=frozenset({"eth0"}), inside=INSIDE),
    "connected, subnets": replace(CONNECTED, lan=frozenset({"eth0"}), lan_subnets=SUBNETS),
    "blocked, subnets without a LAN": replace(BLOCKED, lan_subnets=SUBNETS),
    "held, login": FirewallPolicy(Phase.HELD, guarded=GUARDED, login=frozenset({"eth0"}), capture=True),
    "portal": FirewallPolicy(Phase.PORTAL, guarded=GUARDED, capture=True),
    "portal, login": FirewallPolicy(Phase.PORTAL, guarded=GUARDED, login=frozenset({"eth0"}), capture=True),
    "portal, tree": FirewallPolicy(
        Phase.PORTAL, guarded=GUARDED, login=frozenset({"eth0"}), tree=frozenset({"eth0"}), tree_dns=30053, capture=True
    ),
    "idle, split": FirewallPolicy(
        Phase.IDLE, cleared=frozenset({"eth0", "ctr0"}), guarded=GUARDED, never=True, only=True
    ),
    "blocked, split": replace(BLOCKED, **SPLIT),
    "connected, split": replace(CONNECTED, **SPLIT),
    "connecting, LAN and login": replace(CONNECTING, lan=HOME, login=frozenset({"eth0"})),
}

# --- packets ------------------------------------------------------------------------------------------------------

HOP_BY_HOP, TCP, UDP, ICMP, FRAGMENT, ICMP6, DESTINATION = 0, 6, 17, 1, 44, 58, 60


def udp(source: int, target: int, data: bytes) -> bytes:
    return struct.pack("!4H", source, target, 8 + len(data), 0) + data


def tcp(source: int, target: int, data: bytes, flags: int = 0x02) -> bytes:
    return struct.pack("!2H2IBBHHH", source, target, 7, 7 if flags & 0x10 else 0, 5 << 4, flags, 8192, 0, 0) + data


def ip4(protocol: int, source: str, target: str, payload: bytes, offset: int = 0) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET, source) + socket.inet_pton(socket.AF_INET, target)
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 7, offset, 64, protocol, 0) + addresses
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + payload


def ip6(protocol: int, source: str, target: str, payload: bytes, hops: int = 255) -> bytes:
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, target)
    if protocol == ICMP6:
        pseudo = addresses + struct.pack("!II", len(payload), ICMP6)
        payload = payload[:2] + struct.pack("!H", checksum(pseudo + payload[:2] + b"\0\0" + payload[4:])) + payload[4:]
    return struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops) + addresses + payload


def icmp6(kind: int, data: bytes, code: int = 0) -> bytes:
    return struct.pack("!BBHI", kind, code, 0, 0) + data


def checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1])) + (data[-1] << 8 if len(data) & 1 else 0)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@dataclass(frozen=True)
class Probe:
    """`build` makes the packet around a payload. `passes` names the policies under which it may leave."""

    name: str
    build: Callable[[bytes], bytes]
    passes: frozenset[str]
    link: str = "eth0"
    mark: int = 0

    @property
    def payload(self) -> bytes:
        return f"<{self.name}>".encode()


ME4, ME6, LOCAL6 = "192.168.7.2", "fd07::2", "fe80::2"
ALL = frozenset(POLICIES)
NEVER: frozenset[str] = frozenset()
IDLE = frozenset({"idle", "idle, split"})
LAN = frozenset(name for name, policy in POLICIES.items() if policy.lan) | IDLE
SERVER = frozenset(name for name, policy in POLICIES.items() if policy.servers == SERVERS)
LAN_SERVER = frozenset({"connecting, server in the LAN"})
TUNNELLED = frozenset({"connected", "connected, LAN", "connected, inside", "connected, subnets", "connected, split"})
WITHIN = frozenset(name for name, policy in POLICIES.items() if policy.inside)
BRIDGED = frozenset(name for name, policy in POLICIES.items() if "ctr0" in policy.lan | policy.cleared)
BESIDE = frozenset({"blocked, split", "connected, split"})
SPLITTING = BESIDE | {"idle, split"}
SUBNETTED = frozenset({"connected, subnets"}) | BESIDE
TREE = frozenset({"portal, tree"}) | IDLE
LOGIN = frozenset(name for name, policy in POLICIES.items() if policy.login) | IDLE
CTR4, CTR6, CTRL = "172.17.0.1", "fd17::1", "fe80::17"
LAPTOP = bytes.fromhex("020000000002")

PROBES = (
    # everyday traffic past the tunnel
    Probe("udp4", lambda data: ip4(UDP, ME4, "198.51.100.1", udp(4000, 9999, data)), IDLE),
    Probe("tcp4", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 443, data)), IDLE),
    Probe("tcp4 ack", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 443, data, 0x18)), IDLE),
    Probe("icmp4", lambda data: ip4(ICMP, ME4, "198.51.100.1", b"\x08\0\0\0\0\1\0\1" + data), IDLE),
    Probe("gre4", lambda data: ip4(47, ME4, "198.51.100.1", data), IDLE),
    Probe("udp6", lambda data: ip6(UDP, ME6, "2001:db8::1", udp(4000, 9999, data)), IDLE),
    Probe("tcp6", lambda data: ip6(TCP, ME6, "2001:db8::1", tcp(4001, 443, data)), IDLE),
    Probe("icmp6", lambda data: ip6(ICMP6, ME6, "2001:db8::1", icmp6(128, data)), IDLE),
    # the administrator's own local networks
    Probe("shared address space", lambda data: ip4(UDP, ME4, "100.64.0.1", udp(4000, 9999, data)), IDLE | SUBNETTED),
    Probe("its last address", lambda data: ip4(UDP, ME4, "100.127.255.255", udp(4000, 9999, data)), IDLE | SUBNETTED),
    Probe("just above it", lambda data: ip4(UDP, ME4, "100.128.0.0", udp(4000, 9999, data)), IDLE),
    Probe("just below it", lambda data: ip4(UDP, ME4, "100.63.255.255", udp(4000, 9999, data)), IDLE),
    Probe("subnet6", lambda data: ip6(UDP, ME6, "2001:db8:64::1", udp(4000, 9999, data)), IDLE | SUBNETTED),
    Probe("just above subnet6", lambda data: ip6(UDP, ME6, "2001:db8:65::", udp(4000, 9999, data)), IDLE),
    Probe("subnet dns", lambda data: ip4(UDP, ME4, "100.64.0.1", udp(4000, 53, data)), IDLE),
    Probe("subnet dot6", lambda data: ip6(TCP, ME6, "2001:db8:64::1", tcp(4001, 853, data)), IDLE),
    Probe("wlan subnet", lambda data: ip4(UDP, "192.168.8.2", "100.64.0.1", udp(4000, 9999, data)), NEVER, "wlan0"),
    # containers and virtual machines
    Probe("ctr udp4", lambda data: ip4(UDP, CTR4, "172.17.0.2", udp(4000, 9999, data)), BRIDGED | WITHIN, "ctr0"),
    Probe("ctr tcp4", lambda data: ip4(TCP, CTR4, "172.17.0.2", tcp(4001, 80, data)), BRIDGED | WITHIN, "ctr0"),
    Probe("ctr udp6", lambda data: ip6(UDP, CTR6, "fd17::2", udp(4000, 9999, data)), BRIDGED | WITHIN, "ctr0"),
    Probe("ctr dns", lambda data: ip4(UDP, CTR4, "172.17.0.2", udp(4000, 53, data)), IDLE, "ctr0"),
    Probe("ctr dns answer", lambda data: ip4(UDP, CTR4, "172.17.0.2", udp(53, 4000, data)), BRIDGED | WITHIN, "ctr0"),
    Probe("ctr dhcp answer", lambda data: ip4(UDP, CTR4, "255.255.255.255", udp(67, 68, data)), BRIDGED | WITHIN,
          "ctr0"),
    Probe("ctr router advertisement", lambda data: ip6(ICMP6, CTRL, "ff02::1", icmp6(134, bytes(8) + data)),
          BRIDGED | WITHIN, "ctr0"),
    Probe("ctr dhcp6 answer", lambda data: ip6(UDP, CTRL, "fe80::2", udp(547, 546, data)), BRIDGED | WITHIN, "ctr0"),
    Probe("ctr neighbour advertisement", lambda data: ip6(ICMP6, CTR6, "fd17::2", icmp6(136, bytes(16) + data)),
          BRIDGED | WITHIN, "ctr0"),
    Probe("ctr mdns4", lambda data: ip4(UDP, CTR4, "224.0.0.251", udp(5353, 5353, data)), BRIDGED | WITHIN, "ctr0"),
    Probe("ctr ssdp4", lambda data: ip4(UDP, CTR4, "239.255.255.250", udp(4000, 1900, data)), BRIDGED, "ctr0"),
    Probe("ctr abroad", lambda data: ip4(UDP, CTR4, "198.51.100.1", udp(4000, 9999, data)), IDLE, "ctr0"),
    Probe("ctr abroad 6", lambda data: ip6(UDP, CTR6, "2001:db8:17::9", udp(4000, 9999, data)), IDLE, "ctr0"),
    Probe("ctr other private", lambda data: ip4(UDP, CTR4, "172.17.1.2", udp(4000, 9999, data)), BRIDGED, "ctr0"),
    Probe("ctr from the tunnel's source", lambda data: ip4(UDP, "10.66.0.2", "172.17.0.2", udp(4000, 9999, data)),
          NEVER, "ctr0"),
    Probe("ctr server unmarked", lambda data: ip4(UDP, CTR4, "203.0.113.7", udp(4000, 51820, data)), IDLE, "ctr0"),
    Probe("the container's address on the uplink", lambda data: ip4(UDP, ME4, "172.17.0.2", udp(4000, 9999, data)),
          LAN),
    Probe("the container's address on another uplink", lambda data: ip4(
        UDP, "192.168.8.2", "172.17.0.2", udp(4000, 9999, data)), NEVER, "wlan0"),
    # an uplink that nobody has cleared
    Probe("wlan udp4", lambda data: ip4(UDP, "192.168.8.2", "198.51.100.1", udp(4000, 9999, data)), NEVER, "wlan0"),
    Probe("wlan dns4", lambda data: ip4(UDP, "192.168.8.2", "198.51.100.1", udp(4000, 53, data)), NEVER, "wlan0"),
    Probe("wlan udp6", lambda data: ip6(UDP, "fd08::2", "2001:db8::1", udp(4000, 9999, data)), NEVER, "wlan0"),
    Probe("wlan lan", lambda data: ip4(UDP, "192.168.8.2", "192.168.8.1", udp(4000, 9999, data)), NEVER, "wlan0"),
    # DNS, also to the local network and inside extension headers
    Probe("dns4", lambda data: ip4(UDP, ME4, "198.51.100.1", udp(4000, 53, data)), IDLE),
    Probe("dns6", lambda data: ip6(UDP, ME6, "2001:db8::1", udp(4000, 53, data)), IDLE),
    Probe("dot4", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 853, data)), IDLE),
    Probe("lan dns4", lambda data: ip4(UDP, ME4, "192.168.7.1", udp(4000, 53, data)), IDLE),
    Probe("lan dns tcp", lambda data: ip4(TCP, ME4, "192.168.7.1", tcp(4001, 53, data)), IDLE),
    Probe("lan dot", lambda data: ip4(TCP, ME4, "192.168.7.1", tcp(4001, 853, data)), IDLE),
    Probe("lan doq", lambda data: ip4(UDP, ME4, "192.168.7.1", udp(4000, 853, data)), IDLE),
    Probe("lan dns6", lambda data: ip6(UDP, ME6, "fd07::1", udp(4000, 53, data)), IDLE),
    Probe("lan dns6 behind an extension header", lambda data: ip6(
        DESTINATION, ME6, "fd07::1", bytes((UDP, 0, 1, 4, 0, 0, 0, 0)) + udp(4000, 53, data)), IDLE),
    Probe("resolver's address past the tunnel", lambda data: ip4(UDP, ME4, "10.66.0.1", udp(4000, 53, data)), IDLE),
    # the local network
    Probe("lan udp4", lambda data: ip4(UDP, ME4, "192.168.7.1", udp(4000, 9999, data)), LAN),
    Probe("lan udp6", lambda data: ip6(UDP, ME6, "fd07::1", udp(4000, 9999, data)), LAN),
    Probe("link-local udp6", lambda data: ip6(UDP, LOCAL6, "fe80::1", udp(4000, 9999, data)), LAN),
    Probe("mdns4", lambda data: ip4(UDP, ME4, "224.0.0.251", udp(5353, 5353, data)), LAN),
    Probe("mdns6", lambda data: ip6(UDP, LOCAL6, "ff02::fb", udp(5353, 5353, data)), LAN),
    Probe("ssdp4", lambda data: ip4(UDP, ME4, "239.255.255.250", udp(4000, 1900, data)), LAN),
    Probe("broadcast", lambda data: ip4(UDP, ME4, "255.255.255.255", udp(4000, 9999, data)), LAN),
    Probe("global multicast 6", lambda data: ip6(UDP, ME6, "ff0e::1", udp(4000, 9999, data)), IDLE),
    Probe("ping all nodes", lambda data: ip6(ICMP6, LOCAL6, "ff02::1", icmp6(128, data)), LAN),
    # the server: only with the mark, only exactly there
    Probe("server", lambda data: ip4(UDP, ME4, "203.0.113.7", udp(4000, 51820, data)), SERVER | IDLE, mark=MARK),
    Probe("server6", lambda data: ip6(UDP, ME6, "2001:db8:7::1", udp(4000, 51820, data)), SERVER | IDLE, mark=MARK),
    Probe("server unmarked", lambda data: ip4(UDP, ME4, "203.0.113.7", udp(4000, 51820, data)), IDLE),
    Probe("server6 unmarked", lambda data: ip6(UDP, ME6, "2001:db8:7::1", udp(4000, 51820, data)), IDLE),
    Probe("server other mark", lambda data: ip4(UDP, ME4, "203.0.113.7", udp(4000, 51820, data)), IDLE, mark=MARK + 1),
    Probe("server other port", lambda data: ip4(UDP, ME4, "203.0.113.7", udp(4000, 51821, data)), IDLE, mark=MARK),
    Probe("server by tcp", lambda data: ip4(TCP, ME4, "203.0.113.7", tcp(4001, 51820, data)), IDLE, mark=MARK),
    Probe("server's neighbour", lambda data: ip4(UDP, ME4, "203.0.113.8", udp(4000, 51820, data)), IDLE, mark=MARK),
    Probe("marked dns", lambda data: ip4(UDP, ME4, "198.51.100.1", udp(4000, 53, data)), LOGIN | BESIDE, mark=MARK),
    Probe("lan server", lambda data: ip4(UDP, ME4, "192.168.7.9", udp(4000, 51820, data)), LAN, mark=MARK),
    Probe("lan server unmarked", lambda data: ip4(UDP, ME4, "192.168.7.9", udp(4000, 51820, data)), LAN - LAN_SERVER),
    # the login to a captive portal: only with the mark, only where people log in, only what it needs
    Probe("login dns tcp", lambda data: ip4(TCP, ME4, "192.168.7.1", tcp(4001, 53, data)), LOGIN, mark=MARK),
    Probe("login dns6", lambda data: ip6(UDP, ME6, "fd07::1", udp(4000, 53, data)), LOGIN | BESIDE, mark=MARK),
    Probe("login http", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 80, data)), LOGIN, mark=MARK),
    Probe("login http6", lambda data: ip6(TCP, ME6, "2001:db8::1", tcp(4001, 80, data)), LOGIN, mark=MARK),
    Probe("login https", lambda data: ip4(TCP, ME4, "192.168.7.1", tcp(4001, 443, data)), LOGIN | LAN, mark=MARK),
    Probe("login https to the server", lambda data: ip4(TCP, ME4, "203.0.113.7", tcp(4001, 443, data)), LOGIN,
          mark=MARK),
    Probe("login quic", lambda data: ip4(UDP, ME4, "198.51.100.1", udp(4000, 443, data)), IDLE, mark=MARK),
    Probe("login dot", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 853, data)), IDLE, mark=MARK),
    Probe("login other port", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 8080, data)), IDLE, mark=MARK),
    Probe("login ping", lambda data: ip4(ICMP, ME4, "198.51.100.1", b"\x08\0\0\0\0\1\0\1" + data), IDLE, mark=MARK),
    Probe("login from the tunnel's source", lambda data: ip4(TCP, "10.66.0.2", "198.51.100.1", tcp(4001, 80, data)),
          NEVER, mark=MARK),
    Probe("login elsewhere", lambda data: ip4(TCP, "192.168.8.2", "198.51.100.1", tcp(4001, 80, data)), NEVER, "wlan0",
          MARK),
    Probe("http unmarked", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 80, data)), IDLE),
    Probe("http with another mark", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 80, data)), IDLE,
          mark=MARK + 1),
    # its process tree: another mark, and less
    Probe("tree http", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 80, data)), TREE, mark=LOGIN_MARK),
    Probe("tree http6", lambda data: ip6(TCP, ME6, "2001:db8::1", tcp(4001, 80, data)), TREE, mark=LOGIN_MARK),
    Probe("tree https", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 443, data)), TREE, mark=LOGIN_MARK),
    Probe("tree dns", lambda data: ip4(UDP, ME4, "198.51.100.1", udp(4000, 53, data)), IDLE, mark=LOGIN_MARK),
    Probe("tree dns6", lambda data: ip6(UDP, ME6, "2001:db8::1", udp(4000, 53, data)), IDLE, mark=LOGIN_MARK),
    Probe("tree dns tcp", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 53, data)), IDLE, mark=LOGIN_MARK),
    Probe("tree dot", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 853, data)), IDLE, mark=LOGIN_MARK),
    Probe("tree quic", lambda data: ip4(UDP, ME4, "198.51.100.1", udp(4000, 443, data)), IDLE, mark=LOGIN_MARK),
    Probe("tree ssh", lambda data: ip6(TCP, ME6, "2001:db8::1", tcp(4001, 22, data)), IDLE, mark=LOGIN_MARK),
    Probe("tree ping", lambda data: ip4(ICMP, ME4, "198.51.100.1", b"\x08\0\0\0\0\1\0\1" + data), IDLE,
          mark=LOGIN_MARK),
    Probe("tree to the server", lambda data: ip4(UDP, ME4, "203.0.113.7", udp(4000, 51820, data)), IDLE,
          mark=LOGIN_MARK),
    Probe("tree elsewhere", lambda data: ip4(TCP, "192.168.8.2", "198.51.100.1", tcp(4001, 80, data)), NEVER, "wlan0",
          LOGIN_MARK),
    Probe("tree from the tunnel's source", lambda data: ip4(TCP, "10.66.0.2", "198.51.100.1", tcp(4001, 80, data)),
          NEVER, mark=LOGIN_MARK),
    # programs that never use the tunnel
    Probe("never udp4", lambda data: ip4(UDP, ME4, "198.51.100.1", udp(4000, 9999, data)), IDLE | BESIDE,
          mark=NEVER_MARK),
    Probe("never tcp6", lambda data: ip6(TCP, ME6, "2001:db8::1", tcp(4001, 443, data)), IDLE | BESIDE,
          mark=NEVER_MARK),
    Probe("never ping", lambda data: ip4(ICMP, ME4, "198.51.100.1", b"\x08\0\0\0\0\1\0\1" + data), IDLE | BESIDE,
          mark=NEVER_MARK),
    Probe("never lan", lambda data: ip4(UDP, ME4, "192.168.7.1", udp(4000, 9999, data)), LAN | BESIDE,
          mark=NEVER_MARK),
    Probe("never dot", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 853, data)), IDLE | BESIDE,
          mark=NEVER_MARK),
    Probe("never dns", lambda data: ip4(UDP, ME4, "198.51.100.1", udp(4000, 53, data)), IDLE, mark=NEVER_MARK),
    Probe("never dns6", lambda data: ip6(UDP, ME6, "2001:db8::1", udp(4000, 53, data)), IDLE, mark=NEVER_MARK),
    Probe("never lan dns", lambda data: ip4(UDP, ME4, "192.168.7.1", udp(4000, 53, data)), IDLE, mark=NEVER_MARK),
    Probe("never dns tcp", lambda data: ip4(TCP, ME4, "198.51.100.1", tcp(4001, 53, data)), IDLE, mark=NEVER_MARK),
    Probe("never to the tunnel's resolver", lambda data: ip4(UDP, ME4, "10.66.0.1", udp(4000, 9999, data)),
          LAN | {"blocked, split"}, mark=NEVER_MARK),
    Probe("never to the server", lambda data: ip4(UDP, ME4, "203.0.113.7", udp(4000, 51820, data)),
          IDLE | {"blocked, split"}, mark=NEVER_MARK),
    Probe("never from the tunnel's source", lambda data: ip4(UDP, "10.66.0.2", "198.51.100.1", udp(4000, 9999, data)),
          NEVER, mark=NEVER_MARK),
    Probe("never elsewhere", lambda data: ip4(UDP, "192.168.8.2", "198.51.100.1", udp(4000, 9999, data)), NEVER,
          "wlan0", NEVER_MARK),
    Probe("never in the tunnel", lambda data: ip4(UDP, "10.66.0.2", "198.51.100.1", udp(4000, 9999, data)),
          TUNNELLED - BESIDE, "tunwarden0", NEVER_MARK),
    # programs that use nothing but the tunnel
    Probe("only udp4", lambda data: ip4(UDP, ME4, "198.51.100.1", udp(4000, 9999, data)), IDLE - SPLITTING,
          mark=ONLY_MARK),
    Probe("only tcp6", lambda data: ip6(TCP, ME6, "2001:db8::1", tcp(4001, 443, data)), IDLE - SPLITTING,
          mark=ONLY_MARK),
    Probe("only dns", lambda data: ip4(UDP, ME4, "192.168.7.1", udp(4000, 53, data)), IDLE - SPLITTING,
          mark=ONLY_MARK),
    Probe("only lan", lambda data: ip4(UDP, ME4, "192.168.7.1", udp(4000, 9999, data)), LAN - SPLITTING,
          mark=ONLY_MARK),
    Probe("only subnet", lambda data: ip4(UDP, ME4, "100.64.0.1", udp(4000, 9999, data)),
          (IDLE | SUBNETTED) - SPLITTING, mark=ONLY_MARK),
    Probe("only to a container", lambda data: ip4(UDP, CTR4, "172.17.0.2", udp(4000, 9999, data)),
          (BRIDGED | WITHIN) - SPLITTING, "ctr0", ONLY_MARK),
    Probe("only dhcp", lambda data: ip4(UDP, "0.0.0.0", "255.255.255.255", udp(68, 67, data)), ALL - SPLITTING,
          mark=ONLY_MARK),
    Probe("only in the tunnel", lambda data: ip4(UDP, "10.66.0.2", "198.51.100.1", udp(4000, 9999, data)), TUNNELLED,
          "tunwarden0", ONLY_MARK),
    # what every network needs
    Probe("dhcp4", lambda data: ip4(UDP, "0.0.0.0", "255.255.255.255", udp(68, 67, data)), ALL),
    Probe("dhcp4 to one server", lambda data: ip4(UDP, ME4, "198.51.100.1", udp(68, 67, data)), IDLE),
    Probe("dhcp6", lambda data: ip6(UDP, LOCAL6, "ff02::1:2", udp(546, 547, data)), ALL),
    Probe("dhcp6 from a global address", lambda data: ip6(UDP, ME6, "ff02::1:2", udp(546, 547, data)), LAN),
    Probe("dhcp6 to one server", lambda data: ip6(UDP, LOCAL6, "2001:db8::1", udp(546, 547, data)), IDLE),
    Probe("router solicitation", lambda data: ip6(ICMP6, LOCAL6, "ff02::2", icmp6(133, data)), ALL),
    Probe("neighbour solicitation", lambda data: ip6(ICMP6, LOCAL6, "ff02::1:ff00:1", icmp6(135, bytes(16) + data)),
          ALL),
    Probe("neighbour advertisement", lambda data: ip6(ICMP6, LOCAL6, "fe80::1", icmp6(136, bytes(16) + data)), ALL),
    Probe("neighbour solicitation abroad", lambda data: ip6(ICMP6, ME6, "2001:db8::1", icmp6(135, bytes(16) + data)),
          IDLE),
    Probe("redirect", lambda data: ip6(ICMP6, LOCAL6, "fe80::1", icmp6(137, bytes(32) + data)), LAN),
    Probe("router advertisement", lambda data: ip6(ICMP6, LOCAL6, "ff02::1", icmp6(134, bytes(8) + data)), LAN),
    Probe("mld2 report", lambda data: ip6(
        HOP_BY_HOP, LOCAL6, "ff02::16", bytes((ICMP6, 0, 5, 2, 0, 0, 1, 0)) + icmp6(143, data), 1), ALL),
    Probe("mld1 report", lambda data: ip6(
        HOP_BY_HOP, LOCAL6, "ff02::fb", bytes((ICMP6, 0, 5, 2, 0, 0, 1, 0)) + icmp6(131, bytes(16) + data), 1), ALL),
    Probe("mld1 report abroad", lambda data: ip6(ICMP6, LOCAL6, "ff0e::1", icmp6(131, bytes(16) + data), 1), IDLE),
    # oddities
    Probe("tunnel's source 4", lambda data: ip4(UDP, "10.66.0.2", "198.51.100.1", udp(4000, 9999, data)), NEVER),
    Probe("tunnel's source 6", lambda data: ip6(UDP, "fd66::2", "2001:db8::1", udp(4000, 9999, data)), NEVER),
    Probe("tunnel's source to the lan", lambda data: ip4(UDP, "10.66.0.2", "192.168.7.1", udp(4000, 9999, data)),
          NEVER),
    Probe("second fragment", lambda data: ip4(UDP, ME4, "198.51.100.1", data, offset=3), IDLE - SPLITTING),  # waits for
    # the first, where flows are told apart
    Probe("fragment header 6", lambda data: ip6(
        FRAGMENT, ME6, "2001:db8::1", bytes((UDP, 0, 0, 0, 0, 0, 0, 7)) + udp(4000, 9999, data)), IDLE),
    # the tunnel
    Probe("tun udp4", lambda data: ip4(UDP, "10.66.0.2", "198.51.100.1", udp(4000, 9999, data)), TUNNELLED,
          "tunwarden0"),
    Probe("tun udp6", lambda data: ip6(UDP, "fd66::2", "2001:db8::1", udp(4000, 9999, data)), TUNNELLED, "tunwarden0"),
    Probe("tun private", lambda data: ip4(UDP, "10.66.0.2", "192.168.50.1", udp(4000, 9999, data)), TUNNELLED,
          "tunwarden0"),
    Probe("tun resolver", lambda data: ip4(UDP, "10.66.0.2", "10.66.0.1", udp(4000, 53, data)), TUNNELLED,
          "tunwarden0"),
    Probe("tun resolver tcp", lambda data: ip4(TCP, "10.66.0.2", "10.66.0.1", tcp(4001, 53, data)), TUNNELLED,
          "tunwarden0"),
    Probe("tun resolver 6", lambda data: ip6(UDP, "fd66::2", "fd66::1", udp(4000, 53, data)), TUNNELLED, "tunwarden0"),
    Probe("tun other dns", lambda data: ip4(UDP, "10.66.0.2", "198.51.100.1", udp(4000, 53, data)), NEVER,
          "tunwarden0"),
    Probe("tun other dns 6", lambda data: ip6(TCP, "fd66::2", "2001:db8::1", tcp(4001, 853, data)), NEVER,
          "tunwarden0"),
)  # fmt: skip


# --- the place ----------------------------------------------------------------------------------------------------


class Place:
    """Four hosts and their cables; `firewall` acts inside the laptop."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.stack = stack
        self.laptop, self.wire, self.far, self.container = (
            self.stack.enter_context(Host(name)) for name in ("laptop", "wire", "far", "container")
        )
        for link, peer, other in (
            ("eth0", "eth0", self.wire), ("wlan0", "wlan0", self.wire), ("tunwarden0", "tun0", self.far),
            ("ctr0", "eth0", self.container),
        ):  # fmt: skip
            self.laptop.ip(f"link add {link} type veth peer name {peer} netns {other.pid}")
            other.ip(f"link set {peer} address 02:00:00:00:00:01")
            self.laptop.ip(f"link set {link} address 02:00:00:00:00:02")
        for host in (self.laptop, self.wire, self.far, self.container):
            host.sysctl(
                ("net/ipv6/conf/all/accept_dad", "0"), ("net/ipv6/conf/default/accept_dad", "0"),
                ("net/ipv4/conf/all/rp_filter", "0"), ("net/ipv4/conf/default/rp_filter", "0"),
            )  # fmt: skip
            host.ip("link set lo up")
        for host in (self.wire, self.far, self.container):
            host.ip(*(f"link set {link} up" for link in host.inside(links)))
        self.laptop.sysctl(("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1"))
        self.laptop.ip(
            *(f"link set {link} up" for link in ("eth0", "wlan0", "tunwarden0", "ctr0")),
            "addr add 192.168.7.2/24 dev eth0", "addr add fd07::2/64 dev eth0 nodad",
            "addr add fe80::2/64 dev eth0 nodad",
            "addr add 192.168.8.2/24 dev wlan0", "addr add fd08::2/64 dev wlan0 nodad",
            "addr add 172.17.0.1/24 dev ctr0", "addr add fd17::1/64 dev ctr0 nodad",
            "addr add fe80::17/64 dev ctr0 nodad",
            "route add 2001:db8:17::/64 dev ctr0",
            "addr add 10.66.0.2/32 dev tunwarden0", "addr add fd66::2/128 dev tunwarden0 nodad",
            "route add default via 192.168.7.1 dev eth0 metric 10", "route add default via fd07::1 dev eth0 metric 10",
            "route add default via 192.168.8.1 dev wlan0 metric 20",
            "route add default via fd08::1 dev wlan0 metric 20",
            "route add default via 10.66.0.1 dev tunwarden0 metric 30 onlink",
            "route add default via fd66::1 dev tunwarden0 metric 30 onlink",
            *(f"neigh replace {address} lladdr 02:00:00:00:00:01 dev {link} nud permanent"
              for link, addresses in {
                  "eth0": ("192.168.7.1", "192.168.7.9", "fd07::1", "fe80::1"), "wlan0": ("192.168.8.1", "fd08::1"),
                  "tunwarden0": ("10.66.0.1", "fd66::1"),
                  "ctr0": ("172.17.0.2", "172.17.1.2", "198.51.100.1", "203.0.113.7", "fd17::2", "fe80::2",
                           "2001:db8:17::9"),
              }.items() for address in addresses),
        )  # fmt: skip
        self.wire.ip(
            "addr add 192.168.7.1/24 dev eth0", "addr add fd07::1/64 dev eth0 nodad",
            "addr add fe80::1/64 dev eth0 nodad",
            "addr add 198.51.100.1/32 dev lo", "addr add 203.0.113.7/32 dev lo",
            "route add default via 192.168.7.2 dev eth0", "route add default via fd07::2 dev eth0",
            *(f"neigh replace {address} lladdr 02:00:00:00:00:02 dev eth0 nud permanent"
              for address in ("192.168.7.2", "fd07::2", "fe80::2")),
        )  # fmt: skip
        self.far.ip(
            "addr add 10.66.0.1/32 dev tun0", "addr add 198.51.100.1/32 dev lo", "route add default dev tun0",
            "neigh replace 10.66.0.2 lladdr 02:00:00:00:00:02 dev tun0 nud permanent",
        )  # fmt: skip
        self.container.ip(
            "addr add 172.17.0.2/24 dev eth0", "addr add fd17::2/64 dev eth0 nodad",
            "route add default via 172.17.0.1", "route add default via fd17::1",
        )  # fmt: skip
        self.taps = {
            "eth0": self.tap(self.wire, "eth0"), "wlan0": self.tap(self.wire, "wlan0"),
            "tunwarden0": self.tap(self.far, "tun0"), "ctr0": self.tap(self.container, "eth0"),
        }  # fmt: skip
        self.fences = {link: self.tap(self.laptop, link) for link in self.taps}
        self.count = 0

    def tap(self, host: Host, link: str) -> socket.socket:
        def open_tap() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))  # ETH_P_ALL
            made.setsockopt(socket.SOL_SOCKET, 33, 1 << 25)  # SO_RCVBUFFORCE
            made.bind((link, 0))
            return made

        return self.stack.enter_context(host.inside(open_tap))

    def set(self, policy: FirewallPolicy | None) -> None:
        async def work() -> None:
            firewall = NftFirewall()
            await (firewall.set(policy) if policy else firewall.reset())

        self.laptop.inside(lambda: asyncio.run(work()))

    def heard(self, link: str) -> list[bytes]:
        """Every frame that has left by that link since the last call: up to a fence that the firewall cannot see."""
        self.count += 1
        fence = b"fence %d" % self.count
        self.fences[link].send(b"\x02\0\0\0\0\x01\x02\0\0\0\0\x02\x88\xb5" + fence)
        frames: list[bytes] = []
        tap, deadline = self.taps[link], time.monotonic() + 20
        while time.monotonic() < deadline:
            if select.select([tap], [], [], 0.5)[0]:
                frame = tap.recv(65535)
                if frame.endswith(fence):
                    return frames
                if frame[6:12] == LAPTOP:  # not the answers
                    frames.append(frame)
        raise AssertionError(f"the fence on {link} was not seen")

    def send(self, probe: Probe) -> None:
        """From the laptop, as any program with raw sockets would. A refusal of the kernel is the firewall's answer."""

        packet = probe.build(probe.payload)
        family = socket.AF_INET if packet[0] >> 4 == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sender:
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, probe.link.encode())
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            sender.setsockopt(socket.SOL_SOCKET, 36, probe.mark)  # SO_MARK
            address = socket.inet_ntop(family, packet[16:20] if family == socket.AF_INET else packet[24:40])
            scope = () if family == socket.AF_INET else (0, socket.if_nametoindex(probe.link))
            with contextlib.suppress(PermissionError):
                sender.sendto(packet, (address, 0, *scope))

    def leaving(self, probes: tuple[Probe, ...]) -> set[str]:
        for link in self.taps:
            self.heard(link)
        self.laptop.inside(lambda: [self.send(probe) for probe in probes])
        frames = {link: self.heard(link) for link in self.taps}
        seen = {probe.name for probe in probes if any(probe.payload in frame for frame in frames[probe.link])}
        for probe in probes:
            for link in frames.keys() - {probe.link}:
                assert not any(probe.payload in frame for frame in frames[link]), f"{probe.name} left by {link}"
        return seen


def links() -> list[str]:
    return [name for _, name in socket.if_nameindex()]


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    with contextlib.ExitStack() as stack:
        yield Place(stack)


@pytest.fixture(autouse=True)
def open_again(place: Place) -> Iterator[None]:
    place.set(None)
    yield
    place.set(None)


# --- out ----------------------------------------------------------------------------------------------------------


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


# --- in -----------------------------------------------------------------------------------------------------------


def hears(sender: socket.socket, receiver: socket.socket, target: tuple[str, int], expected: bool = False) -> bool:
    """What is `expected` may be late on a busy machine."""
    sender.sendto(b"knock", target)
    return bool(select.select([receiver], [], [], 20 if expected else 0.02)[0] and receiver.recv(100) == b"knock")


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


# --- forwarded ----------------------------------------------------------------------------------------------------

CONTAINER = {
    "web": (socket.AF_INET, ("198.51.100.1", 443)),
    "dns": (socket.AF_INET, ("198.51.100.1", 53)),
    "web6": (socket.AF_INET6, ("2001:db8::1", 443)),
    "lan": (socket.AF_INET, ("192.168.7.1", 9999)),
    "lan dns": (socket.AF_INET, ("192.168.7.1", 53)),
    "server": (socket.AF_INET, ("203.0.113.7", 51820)),
}
FORWARDED = {
    # policy -> what of the container's gets through, and by which link
    None: {(name, "eth0") for name in CONTAINER},
    "idle": {(name, "eth0") for name in CONTAINER},
    "idle, nothing cleared": set(),
    "held": set(),
    "connecting": set(),
    "connecting, LAN": {("lan", "eth0")},
    "connected": set(),
    "blocked": set(),
    "blocked, LAN": {("lan", "eth0")},
    "disconnecting": set(),
    "connected, inside": set(),
    "blocked, inside": set(),
    "blocked, LAN and inside": {("lan", "eth0")},
    "connected, subnets": set(),
    "portal, login": set(),
}  # fmt: skip


def forwarded(place: Place) -> set[tuple[str, str]]:
    for link in place.taps:
        place.heard(link)

    def send() -> None:
        for name, (family, target) in CONTAINER.items():
            with socket.socket(family, socket.SOCK_DGRAM) as sender, contextlib.suppress(OSError):
                sender.sendto(f"<{name}>".encode(), target)

    place.container.inside(send)
    time.sleep(0.05)
    frames = {link: place.heard(link) for link in ("eth0", "wlan0", "tunwarden0")}
    return {(name, link) for link, seen in frames.items() for name in CONTAINER
            if any(f"<{name}>".encode() in frame for frame in seen)}  # fmt: skip


@pytest.mark.parametrize("name", FORWARDED)
def test_l5_forwarded_packets(place: Place, name: str | None) -> None:
    place.set(POLICIES[name] if name else None)
    assert forwarded(place) == FORWARDED[name]


def test_l5_forwarded_packets_go_through_the_tunnel(place: Place) -> None:
    place.laptop.ip("route replace default via 10.66.0.1 dev tunwarden0 metric 5 onlink",
                    "route replace default via fd66::1 dev tunwarden0 metric 5 onlink")  # fmt: skip
    try:
        place.set(CONNECTED)
        assert forwarded(place) == {("web", "tunwarden0"), ("web6", "tunwarden0")}
        place.set(replace(CONNECTED, lan=HOME))
        assert forwarded(place) == {("web", "tunwarden0"), ("web6", "tunwarden0"), ("lan", "eth0")}
    finally:
        place.laptop.ip("route del default via 10.66.0.1 dev tunwarden0 metric 5",
                        "route del default via fd66::1 dev tunwarden0 metric 5")  # fmt: skip


@pytest.mark.parametrize("name", ["connected", "connected, LAN"])
def test_the_tunnels_other_end_does_not_reach_containers_or_the_lan(place: Place, name: str) -> None:
    """Not even with the local network allowed, which is allowed to us and not to whoever runs the server."""

    def sends() -> set[str]:
        place.heard("eth0"), place.heard("ctr0")
        with place.far.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for target in ("172.17.0.2", "192.168.7.1"):
                place.far.ip(f"route replace {target} dev tun0", f"neigh replace {target} lladdr 02:00:00:00:00:02 "
                             "dev tun0 nud permanent")  # fmt: skip
                sender.sendto(b"<intruder>", (target, 7005))
        time.sleep(0.05)
        return {link for link in ("eth0", "ctr0") if any(b"<intruder>" in frame for frame in place.heard(link))}

    assert sends() == {"eth0", "ctr0"}, "the control"
    place.set(POLICIES[name])
    assert sends() == set()


@pytest.mark.parametrize(
    ("name", "heard"),
    [
        (None, {"neighbour", "stranger", "subnet"}), ("idle", {"neighbour", "stranger", "subnet"}), ("held", set()),
        ("blocked", set()), ("blocked, inside", set()), ("connected, inside", set()),
        ("blocked, LAN and inside", {"neighbour"}), ("connected, subnets", set()),
    ],
)  # fmt: skip
def test_who_reaches_a_container_from_outside(place: Place, name: str | None, heard: set[str]) -> None:
    """A published port, a routed virtual machine: for the local network where it is allowed, and never for others."""
    place.set(POLICIES[name] if name else None)
    place.wire.ip("addr replace 100.64.0.1/32 dev lo")
    found = set()
    with place.container.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("", 7006))
        for who, source in (("neighbour", "192.168.7.1"), ("stranger", "198.51.100.1"), ("subnet", "100.64.0.1")):
            with place.wire.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.bind((source, 7007))
                if hears(sender, receiver, ("172.17.0.2", 7006), who in heard):
                    found.add(who)
    assert found == heard


@pytest.mark.parametrize(("name", "told"), [("blocked", False), ("blocked, inside", True), ("connected, inside", True)])
def test_a_container_is_told_at_once_that_it_is_blocked(place: Place, name: str, told: bool) -> None:
    place.set(POLICIES[name])
    for family, target in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1")):
        with place.container.socket(family, socket.SOCK_STREAM) as client:
            client.settimeout(10 if told else 0.3)
            with pytest.raises(ConnectionRefusedError if told else TimeoutError):
                client.connect((target, 443))


def test_what_containers_send_into_the_tunnel_bears_its_address(place: Place) -> None:
    """Routed networks have no NAT of their own, and the server would drop their addresses."""
    place.laptop.ip("route replace default via 10.66.0.1 dev tunwarden0 metric 5 onlink",
                    "route replace default via fd66::1 dev tunwarden0 metric 5 onlink")  # fmt: skip
    try:
        for policy, v4, v6 in (
            (CONNECTED, "172.17.0.2", "fd17::2"),
            (POLICIES["connected, inside"], "10.66.0.2", "fd66::2"),
        ):
            place.set(policy)
            forwarded_frames = frames_of_the_tunnel(place)
            assert {frame[26:30] for frame in forwarded_frames["web"]} == {socket.inet_aton(v4)}
            assert {frame[22:38] for frame in forwarded_frames["web6"]} == {socket.inet_pton(socket.AF_INET6, v6)}
    finally:
        place.laptop.ip("route del default via 10.66.0.1 dev tunwarden0 metric 5",
                        "route del default via fd66::1 dev tunwarden0 metric 5")  # fmt: skip


def frames_of_the_tunnel(place: Place) -> dict[str, list[bytes]]:
    place.heard("tunwarden0")

    def send() -> None:
        for name in ("web", "web6"):
            family, target = CONTAINER[name]
            with socket.socket(family, socket.SOCK_DGRAM) as sender:
                sender.sendto(f"<{name}>".encode(), target)

    place.container.inside(send)
    time.sleep(0.05)
    frames = place.heard("tunwarden0")
    return {name: [frame for frame in frames if f"<{name}>".encode() in frame] for name in ("web", "web6")}
