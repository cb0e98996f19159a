"""What `leak-test` does to the kernel: sends the probes, and watches what leaves over every link by AF_PACKET."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cli.leak_probes import ETH_ARP, PORTS, TOKEN_BYTES, Frame, Kind, Probe, control, payload

# Linux only, so Python has these names only there.
AF_PACKET, ETH_P_ALL = 17, 3  # <linux/socket.h>, <linux/if_ether.h>
SO_RCVBUFFORCE, SO_BINDTODEVICE = 33, 25  # <asm-generic/socket.h>
PACKET_OUTGOING, SOL_PACKET, PACKET_STATISTICS = 4, 263, 6  # <linux/if_packet.h>
RECEIVE_BYTES = 8 << 20
SIOCGIFFLAGS, SIOCGIFADDR, IFF_UP, IFF_RUNNING = 0x8913, 0x8915, 1, 0x40  # <linux/sockios.h>, <linux/if.h>
NET = Path("/sys/class/net")


class Wire:
    """Everything that leaves this machine, over whichever link, from the construction on. Raises OSError."""

    def __init__(self) -> None:
        # SOCK_DGRAM: from the network header on, whatever the link's own header looks like.
        self._packets = socket.socket(AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL))
        self._packets.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BYTES)
        self._packets.setblocking(False)

    def close(self) -> None:
        self._packets.close()

    def frames(self) -> list[Frame]:
        """What has left since the last call. The loopback link is no way out."""
        found: list[Frame] = []
        while True:
            try:
                packet, (ifname, ethertype, kind, *_) = self._packets.recvfrom(1 << 16)
            except BlockingIOError:
                return found
            except OSError as err:
                if err.errno != errno.ENETDOWN:  # one of the links went down: the others go on
                    raise
                continue
            if kind == PACKET_OUTGOING and ifname != "lo":
                found.append(Frame(ifname, ethertype, packet))

    def lost(self) -> int:
        """How many frames the kernel could not hand over since the last call."""
        _, dropped = struct.unpack("II", self._packets.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        return int(dropped)

    def sees(self, links: Sequence[str], timeout_s: float = 1.5) -> dict[str, str]:
        """The positive control: put a harmless frame on each link, below every firewall, and look for it.

        The links that cannot be watched, each with the reason; empty is well.
        """
        blind: dict[str, str] = {}
        tokens: dict[str, bytes] = {}
        for link in links:
            token = secrets.token_bytes(TOKEN_BYTES)
            try:
                with socket.socket(AF_PACKET, socket.SOCK_DGRAM) as sender:  # the kernel hides a sender's own
                    sender.bind((link, 0))
                    address = sender.getsockname()[4]
                    sender.sendto(control(address, token), (link, ETH_ARP, 0, 0, b"\xff" * len(address)))
                tokens[link] = token
            except OSError as err:
                blind[link] = f"the control frame could not be sent: {err.strerror}"
        deadline = time.monotonic() + timeout_s
        while tokens and time.monotonic() < deadline:
            for frame in self.frames():
                if frame.ifname in tokens and tokens[frame.ifname] in frame.packet:
                    del tokens[frame.ifname]
            time.sleep(0.005)
        return blind | dict.fromkeys(tokens, "the control frame was not seen")


@dataclass
class Sent:
    """A probe that was sent. `refused`: why the kernel did not take it, or took it back; None: it said nothing."""

    probe: Probe
    refused: str | None = None
    source_port: int | None = None
    socket: socket.socket | None = None

    def close(self) -> None:
        """An error that came later, such as a TCP reset, is a refusal as well."""
        if self.socket is None:
            return
        if late := self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.refused = self.refused or f"rejected ({os.strerror(late)})"
        self.socket.close()
        self.socket = None


def send(probe: Probe, hops: int) -> Sent:
    """Send it as any program would, but with so few hops that it gets no further than the first routers. Never raises
    OSError. Close the result when it is too late for answers."""
    sent = Sent(probe)
    try:
        sent.socket = one = _socket(probe, hops)
        goes_to = (str(probe.target), PORTS[probe.kind])
        if probe.kind is Kind.ICMP:
            one.sendto(payload(probe), goes_to)
            return sent
        one.connect(goes_to)  # UDP too: then a rejection finds its way back
        sent.source_port = one.getsockname()[1]
        if probe.kind is not Kind.TCP:
            one.send(payload(probe))
    except BlockingIOError:  # TCP: the SYN is on its way, and the kernel has chosen its port
        with contextlib.suppress(OSError):
            sent.source_port = one.getsockname()[1]
    except OSError as err:
        sent.refused = f"refused ({err.strerror})"
    return sent


def _socket(probe: Probe, hops: int) -> socket.socket:
    six = probe.target.version == 6
    family = socket.AF_INET6 if six else socket.AF_INET
    match probe.kind:
        case Kind.TCP:
            made = socket.socket(family, socket.SOCK_STREAM)
        case Kind.ICMP:
            made = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP)
        case Kind.UDP | Kind.DNS:
            made = socket.socket(family, socket.SOCK_DGRAM)
    try:
        made.setblocking(False)
        if six:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
        else:
            made.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
        if probe.link is not None:
            made.setsockopt(socket.SOL_SOCKET, SO_BINDTODEVICE, probe.link.encode() + b"\0")
    except OSError:
        made.close()
        raise
    return made


# --- links -----------------------------------------------------------------------------------------------------------


def running(link: str) -> bool:
    """Whether it is up and has a carrier."""
    flags = _ask(SIOCGIFFLAGS, link)
    return flags is not None and struct.unpack_from("=H", flags)[0] & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING


def has_address(link: str, version: int) -> bool:
    """Whether it has an address that reaches beyond the link; without one, nothing could be sent."""
    if version == 4:
        return _ask(SIOCGIFADDR, link) is not None
    try:
        lines = Path("/proc/net/if_inet6").read_text(encoding="ascii").splitlines()
    except OSError:
        return False
    return any(name == link and scope == "00" for _, _, _, scope, _, name in map(str.split, lines))


def physical(tunnel: str) -> list[str]:
    """The running links with hardware behind them. Where there is none, as in a container: all but our tunnel."""
    links = [name for _, name in socket.if_nameindex() if name not in ("lo", tunnel) and running(name)]
    return [name for name in links if (NET / name / "device").exists()] or links


def _ask(what: int, link: str) -> bytes | None:
    """The answer after the name in `struct ifreq`."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        try:
            return fcntl.ioctl(any_socket, what, struct.pack("16s24x", link.encode()[:15]))[16:]
        except OSError:
            return None
