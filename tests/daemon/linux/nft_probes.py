"""Packets that a hostile or careless program may send, and under which policies each of them leaves."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass

from policies.firewall import LOGIN_MARK, MARK, NEVER_MARK, ONLY_MARK
from tests.daemon.linux.nft_policies import POLICIES, SERVERS

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
