"""Probes that must not leave, watched on the links (K7): the light check that follows each connect.

What it does to its surroundings: six small packets, and six more a link, to random addresses of the documentation
ranges (RFC 5737, RFC 3849), each with one hop to live. While protected, those bound to no link go into the tunnel and
end at the server; the others are refused, which the counter `blocked_out` of our table shows. What leaks ends at the
first router. No connection comes about, no name is asked for; connection tracking forgets the six within two minutes.
UDP goes to the port where traceroute begins, and looks like it to whoever watches the network. Each link sees two ARP
probes (RFC 5227) for an address that nobody has: they are the positive control. Sockets are open for half a second,
and nothing runs afterwards.

The tunnel's own packets are encrypted, so no probe is ever found in them.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import fcntl
import secrets
import socket
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from daemon.host import HostError
from policies.firewall import TUNNEL_IFNAME

WATCH_S = 0.5  # for what leaves late: a queue, a question for a hardware address
CONTROL_S, LOOK_S = 1.0, 0.02
SHOWN_BYTES = 64  # of a frame, as evidence
RECEIVE_BYTES = 1 << 20
TOKEN_BYTES = 16
DRAWS = 100  # of a random target, before one is used twice
TARGETS = (IPv4Network("203.0.113.0/24"), IPv6Network("2001:db8::/32"))
KINDS = ("UDP", "TCP", "ICMP")
PORTS = {"UDP": 33434, "TCP": 443, "ICMP": 0}

ETH_P_ALL, ETH_IPV4, ETH_ARP, ETH_IPV6 = 3, 0x0800, 0x0806, 0x86DD  # <linux/if_ether.h>
PACKET_OUTGOING, SOL_PACKET, PACKET_STATISTICS = 4, 263, 6  # <linux/if_packet.h>
SO_ATTACH_FILTER, SO_RCVBUFFORCE, SO_BINDTOIFINDEX = 26, 33, 62  # <asm-generic/socket.h>
SIOCGIFFLAGS, IFF_UP, IFF_RUNNING = 0x8913, 1, 0x40  # <linux/sockios.h>, <linux/if.h>
TCP, ICMPV6, NEIGHBOUR_SOLICITATION = 6, 58, 135
LOOPBACK = 1  # the ifindex of lo, always: LOOPBACK_IFINDEX in <net/net_namespace.h>
HOPS = 1

# Classic BPF, <linux/bpf_common.h>: only what leaves and may be a probe is handed to us, so an upload costs nothing.
# By hop limit or by target, for other people's rules may change one of them. Offsets are from the network header.
LDB, LDH, LD, AND, JEQ, JGT, RET = 0x30, 0x28, 0x20, 0x54, 0x15, 0x25, 0x06
AD = 0xFFFFF000  # SKF_AD_OFF: what is not in the packet: + 0 its protocol, + 4 its type, + 8 the ifindex
FILTER = (
    (LDB, 0, 0, AD + 4),
    (JEQ, 0, 17, PACKET_OUTGOING),
    (LD, 0, 0, AD + 8),
    (JEQ, 15, 0, LOOPBACK),
    (LDH, 0, 0, AD),
    (JEQ, 14, 0, ETH_ARP),
    (JEQ, 0, 5, ETH_IPV4),
    (LDB, 0, 0, 8),  # time to live
    (JGT, 0, 11, HOPS),
    (LD, 0, 0, 16),  # destination
    (AND, 0, 0, int(TARGETS[0].netmask)),
    (JEQ, 8, 7, int(TARGETS[0].network_address)),
    (JEQ, 0, 6, ETH_IPV6),
    (LDB, 0, 0, 7),  # hop limit
    (JGT, 0, 5, HOPS),
    (LDB, 0, 0, 6),  # next header
    (JEQ, 3, 0, ICMPV6),
    (LD, 0, 0, 24),  # the first 32 bits of the destination
    (JEQ, 1, 0, int(TARGETS[1].network_address) >> 96),
    (RET, 0, 0, 0),
    (RET, 0, 0, 0xFFFF),
)


@dataclass(frozen=True, slots=True)
class Probe:
    """One packet. `link`: name and ifindex of the link its socket is bound to. `source_port`: of TCP, once sent."""

    kind: str
    target: IPv4Address | IPv6Address
    link: tuple[str, int] | None
    token: bytes
    source_port: int = 0

    @property
    def way(self) -> str:
        return f"over IPv{self.target.version}" + (", bound to the link" if self.link else "")


class LinuxLeakCheck:
    """Implements `daemon.host.LeakCheck`. Needs CAP_NET_RAW."""

    def __init__(self, excluded: tuple[IPv4Network | IPv6Network, ...] = ()) -> None:
        self.excluded, self.tunnel = excluded, TUNNEL_IFNAME

    async def check(self, ifnames: Sequence[str]) -> tuple[str, ...]:
        links = _present({name: _ifindex(name) for name in ifnames})
        if not links:
            return ()  # a link that is gone or has no carrier lets nothing out
        with ExitStack() as stack:
            try:
                capture = stack.enter_context(closing(Capture(self.tunnel)))
            except OSError as err:
                raise HostError("check for leaks", f"the links cannot be watched: {err.strerror}") from err
            await _control(capture, links)
            sent = [_send(probe, stack) for probe in _probes(_present(links), self.excluded)]
            await asyncio.sleep(WATCH_S)
            seen = capture.frames()
            await _control(capture, _present(links))  # still seeing, or the silence proves nothing
            if lost := capture.lost():
                raise HostError("check for leaks", f"the kernel lost {lost} frames before they were looked at")
        return _sentences(sent, seen)


class Capture:
    """What leaves over any link but the loopback, and may be a probe. Raises OSError."""

    def __init__(self, tunnel: str = TUNNEL_IFNAME) -> None:
        self._tunnel = tunnel
        program = (ctypes.c_ubyte * (8 * len(FILTER))).from_buffer_copy(
            b"".join(struct.pack("=HBBI", *instruction) for instruction in FILTER)
        )
        # SOCK_DGRAM: from the network header on, whatever the link's own header looks like.
        self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        try:
            # struct sock_fprog
            self._packets.setsockopt(
                socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(FILTER), ctypes.addressof(program))
            )
            try:
                self._packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
            except PermissionError:  # that is for CAP_NET_ADMIN; as much as everybody may have
                self._packets.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BYTES)
            self._packets.setblocking(False)
        except OSError:
            self._packets.close()
            raise

    def close(self) -> None:
        self._packets.close()

    def frames(self) -> list[tuple[str, int, bytes]]:
        """Link, Ethertype and packet of what was captured since the last call.

        Without the tunnel, and without links that have vanished: one of them may have been the tunnel.
        """
        found: list[tuple[str, int, bytes]] = []
        while True:
            try:
                packet, (ifname, ethertype, kind, *_) = self._packets.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            except OSError as err:
                if err.errno != errno.ENETDOWN:  # one of the links went down; the others go on
                    raise HostError("check for leaks", f"the links cannot be watched: {err.strerror}") from err
                continue
            if kind == PACKET_OUTGOING and ifname not in ("", self._tunnel):
                found.append((str(ifname), int(ethertype), packet))

    def lost(self) -> int:
        """How many frames did not fit into the buffer since the last call."""
        return int(struct.unpack("II", self._packets.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))[1])


async def _control(capture: Capture, links: Mapping[str, int]) -> None:
    """A frame put on each link, below every firewall, has to be seen there. Raises HostError.

    It asks for an address of the reserved part of 169.254.0.0/16 (RFC 3927, 2.1) and names none of ours.
    """
    awaited: dict[str, bytes] = {}
    for name in links:
        token = secrets.token_bytes(TOKEN_BYTES)
        with contextlib.suppress(OSError), socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender:
            sender.bind((name, 0))
            own = sender.getsockname()[4]
            head = struct.pack(">HHBBH", 1, ETH_IPV4, 6, 4, 1) + own[:6].ljust(6, b"\0")
            asked = bytes((169, 254, 0, 1 + secrets.randbelow(254)))
            sender.sendto(head + bytes(4 + 6) + asked + token, (name, ETH_ARP, 0, 0, b"\xff" * len(own)))
        awaited[name] = token
    deadline = asyncio.get_running_loop().time() + CONTROL_S
    while True:
        for ifname, _, packet in capture.frames():
            if ifname in awaited and awaited[ifname] in packet:
                del awaited[ifname]
        blind = awaited.keys() & _present(links).keys()
        if not blind:
            return
        if asyncio.get_running_loop().time() > deadline:
            raise HostError("check for leaks", f"what leaves over {', '.join(sorted(blind))} cannot be seen")
        await asyncio.sleep(LOOK_S)


def _probes(links: Mapping[str, int], excluded: Sequence[IPv4Network | IPv6Network] = ()) -> Iterable[Probe]:
    """Each has a target of its own, so that whoever asks the link for it is known to look for this probe's way."""
    taken: set[IPv4Address | IPv6Address] = set()
    for link in (None, *links.items()):
        for network in TARGETS:
            for kind in KINDS:
                drawn = (network[1 + secrets.randbelow(network.num_addresses - 2)] for _ in range(DRAWS))
                target = next((each for each in drawn if each not in taken), network[1])
                taken.add(target)
                if any(target in each for each in excluded if each.version == target.version):
                    continue
                yield Probe(kind, target, link, secrets.token_bytes(TOKEN_BYTES))


def _send(probe: Probe, stack: ExitStack) -> Probe:
    """As a program would that knows nothing of us. A refusal is what we hope for, so it is no error."""
    six = probe.target.version == 6
    family = socket.AF_INET6 if six else socket.AF_INET
    icmp = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP
    types = {"UDP": (socket.SOCK_DGRAM, 0), "TCP": (socket.SOCK_STREAM, 0), "ICMP": (socket.SOCK_RAW, icmp)}
    with contextlib.suppress(OSError):
        one = stack.enter_context(closing(socket.socket(family, *types[probe.kind])))
        one.setblocking(False)
        if six:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, HOPS)
        else:
            one.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, HOPS)
        if probe.link is not None:
            one.setsockopt(socket.SOL_SOCKET, SO_BINDTOIFINDEX, probe.link[1])
        goes_to = (str(probe.target), PORTS[probe.kind])
        match probe.kind:
            case "TCP":
                one.connect_ex(goes_to)
                return Probe(probe.kind, probe.target, probe.link, probe.token, one.getsockname()[1])
            case "ICMP":
                one.sendto(_echo_request(probe), goes_to)
            case _:
                one.sendto(b"tunwarden leak check " + probe.token, goes_to)
    return probe


def _echo_request(probe: Probe) -> bytes:
    """RFC 792, RFC 4443. For ICMPv6 the kernel computes the checksum."""
    data = struct.pack(">BBHHH", 8 if probe.target.version == 4 else 128, 0, 0, 0x7477, 1) + probe.token
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return data[:2] + struct.pack(">H", ~total & 0xFFFF) + data[4:]


def _is(probe: Probe, ethertype: int, packet: bytes) -> bool:
    """Whether the frame is the probe, or asks the link for the probe's target, for then only an answer was missing."""
    target = probe.target.packed
    if probe.token in packet:
        return True
    if ethertype == ETH_ARP:
        return packet[24:28] == target
    if ethertype == ETH_IPV6:
        protocol, hops, goes_to, transport = packet[6:7], packet[7:8], packet[24:40], packet[40:]
        if protocol == bytes((ICMPV6,)) and transport[:1] == bytes((NEIGHBOUR_SOLICITATION,)):
            return transport[8:24] == target
    else:
        protocol, hops, goes_to, transport = packet[9:10], packet[8:9], packet[16:20], packet[(packet[0] & 15) * 4 :]
    # A SYN carries no token. Somebody may have changed its target or its hops.
    if probe.kind != "TCP" or protocol != bytes((TCP,)) or transport[:2] != struct.pack(">H", probe.source_port):
        return False
    return goes_to == target or hops == bytes((HOPS,))


def _sentences(sent: Sequence[Probe], seen: Iterable[tuple[str, int, bytes]]) -> tuple[str, ...]:
    """One for each link: what left over it, and the first frame as evidence."""
    found: dict[str, dict[Probe, bytes]] = {}
    for ifname, ethertype, packet in seen:
        for probe in sent:
            if _is(probe, ethertype, packet):
                found.setdefault(ifname, {}).setdefault(probe, packet)
    return tuple(_sentence(ifname, left) for ifname, left in found.items())


def _sentence(ifname: str, left: Mapping[Probe, bytes]) -> str:
    ways: dict[str, list[str]] = {}
    for probe in left:
        ways.setdefault(probe.way, []).append(probe.kind)
    shown = "; ".join(f"{', '.join(kinds)} {way}" for way, kinds in ways.items())
    first = next(iter(left.values()))
    return (
        f"Test packets left over {ifname} outside the tunnel ({shown}). "
        f"The first of {len(first)} bytes: {first[:SHOWN_BYTES].hex()}."
    )


# --- links -----------------------------------------------------------------------------------------------------------


def _ifindex(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError:
        return 0


def _present(links: Mapping[str, int]) -> dict[str, int]:
    """Those that are still the same link, up and with a carrier: the others let nothing out."""
    return {name: index for name, index in links.items() if index and _ifindex(name) == index and _running(name)}


def _running(name: str) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            answer = fcntl.ioctl(any_socket, SIOCGIFFLAGS, struct.pack("16s24x", name.encode()))
        except OSError:
            return False
    (flags,) = struct.unpack_from("=H", answer, 16)
    return bool(flags & IFF_UP and flags & IFF_RUNNING)
