"""What of others keeps the VPN's own packets in, or their answers out (K8): which rule, in which chain of which table.

Routing is asked at once. For the firewalls the VPN's next attempt is followed through all of them: its packets and
their answers are marked for the kernel's `nftrace`, by a table of ours that accepts everything and that the kernel
removes when we end (`flags owner`). Rules that nftables does not know of, such as those of iptables-legacy, are told
by a datagram that is sent as the VPN sends, unless our own firewall is seen to refuse it: a byte that is no WireGuard
message, so the server ignores it.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Sequence
from pathlib import Path

from daemon.host import HostError
from daemon.linux.libnftables import LibNft, NftError
from daemon.linux.nft_render import TABLE as OURS
from daemon.linux.nft_trace import NF_DROP, Step, steps
from daemon.linux.tamper import NETLINK_NETFILTER, received, subscribed
from daemon.linux.way import astray
from policies.facts import Endpoint
from policies.firewall import MARK

NFNLGRP_NFTRACE = 9  # <linux/netfilter/nfnetlink.h>
SO_MARK = 36  # <asm-generic/socket.h>
PROBE = "inet tunwarden_probe"
PRIORITY = -450  # before everybody else's chains, those that reassemble fragments (-400) too
AT_MOST = "limit rate 20/second"  # packets: an address can be forged
WAIT_S = 120.0  # for the next attempt; the longest wait between two is 30 s unless set otherwise
LISTEN_S = 3.0  # for an answer to the attempt
SETTLE_S = 0.3  # for the news of where a packet has ended
LEGACY = ("ip_tables_names", "ip6_tables_names")  # in /proc/self/net: tables of iptables-legacy


class NftObstacles:
    """Implements `daemon.host.Obstacles`."""

    def __init__(self, connect: Callable[[], LibNft] = LibNft) -> None:
        self._connect = connect

    async def find(self, servers: Sequence[Endpoint]) -> tuple[str, ...]:
        """A sentence for each thing that stops the VPN; waits for its next attempt. Raises HostError."""
        found = [sentence for server in servers if (sentence := await astray(server))]
        return tuple(dict.fromkeys(found)) or await self._firewalls(servers)

    async def _firewalls(self, servers: Sequence[Endpoint]) -> tuple[str, ...]:
        if not servers:
            return ()
        try:
            nft = self._connect()
            with subscribed(NETLINK_NETFILTER, (NFNLGRP_NFTRACE,)) as trace:
                await nft.run(probe_table(servers))
                try:
                    return await _follow(trace, servers)
                finally:
                    with contextlib.suppress(NftError):
                        await nft.run(f"delete table {PROBE}")
        except (NftError, OSError) as err:
            raise HostError("look for what stops the VPN", str(err)) from err


def probe_table(servers: Sequence[Endpoint]) -> str:
    """Nothing is refused or changed by it."""
    out, back = [], []
    for server in servers:
        family = "ip" if server.address.version == 4 else "ip6"
        out.append(f"meta mark {MARK:#x} {family} daddr {server.address} {server.protocol} dport {server.port}")
        back.append(f"{family} saddr {server.address} {server.protocol} sport {server.port}")
    return "\n".join([
        f"table {PROBE} {{", "\tflags owner",
        "\tchain out {", f"\t\ttype filter hook output priority {PRIORITY}; policy accept;",
        *(f"\t\t{match} {AT_MOST} meta nftrace set 1" for match in out), "\t}",
        "\tchain back {", f"\t\ttype filter hook prerouting priority {PRIORITY}; policy accept;",
        *(f"\t\t{match} {AT_MOST} meta nftrace set 1" for match in back), "\t}", "}",
    ]) + "\n"  # fmt: skip


async def _follow(trace: socket.socket, servers: Sequence[Endpoint]) -> tuple[str, ...]:
    told: asyncio.Queue[Step] = asyncio.Queue()

    def readable() -> None:
        for data in received(trace):  # what an overrun has lost is lost
            for step in steps(data):
                told.put_nowait(step)

    loop = asyncio.get_running_loop()
    loop.add_reader(trace, readable)
    try:
        return await _judge(told, servers)
    finally:
        loop.remove_reader(trace)


async def _judge(told: asyncio.Queue[Step], servers: Sequence[Endpoint]) -> tuple[str, ...]:
    """Until the first packet that somebody else drops, or until nothing more is to be expected."""
    clock = asyncio.get_running_loop().time
    incoming: set[bytes] = set()  # packets from the server
    attempt, sent, refused = False, False, ""
    deadline = clock() + WAIT_S
    while True:
        try:
            async with asyncio.timeout_at(deadline):
                step = await told.get()
        except TimeoutError:
            if sent or not attempt:
                return (refused,) if refused else ()
            sent, refused = True, send(servers)
            deadline = clock() + (SETTLE_S if refused else LISTEN_S)
            continue
        if step.verdict == NF_DROP and step.table != OURS:
            return (dropped(step, servers, incoming=step.packet in incoming),)
        if step.table == PROBE and step.chain == "back":
            incoming.add(step.packet)
        elif step.table == PROBE and not attempt:
            attempt, deadline = True, clock() + SETTLE_S
        elif step.table == OURS and step.verdict == NF_DROP and step.packet not in incoming:
            refused = ""  # it was our own firewall, for the attempt is over
            if not sent:
                attempt, deadline = False, clock() + WAIT_S


def send(servers: Sequence[Endpoint]) -> str:
    """Send the datagram to each server as the VPN would; a sentence if the kernel refuses one, else ""."""
    for server in servers:
        if server.protocol != "udp":
            continue
        family = socket.AF_INET if server.address.version == 4 else socket.AF_INET6
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.setsockopt(socket.SOL_SOCKET, SO_MARK, MARK)
                probe.setblocking(False)
                probe.sendto(b"\0", (str(server.address), server.port))
        except PermissionError:
            return unseen(server, legacy_tables())
        except OSError:  # such as a network that has just gone: no obstacle
            continue
    return ""


def legacy_tables(folder: Path = Path("/proc/self/net")) -> tuple[str, ...]:
    """Which tables of iptables-legacy there are; it is the only one that reads them."""
    names: list[str] = []
    for name in LEGACY:
        with contextlib.suppress(OSError, UnicodeError):
            names += (folder / name).read_text(encoding="ascii").split()
    return tuple(dict.fromkeys(names))


def dropped(step: Step, servers: Sequence[Endpoint], *, incoming: bool) -> str:
    """The sentence for a packet that a chain of somebody else's drops."""
    where = ", ".join(_endpoint(server) for server in servers)
    what = f"the answers of the VPN's server ({where})" if incoming else f"the VPN's own packets to {where}"
    by = "its policy" if step.handle is None else f"its rule with handle {step.handle}"
    return (
        f"The firewall table `{step.table}` of another program drops {what}: chain `{step.chain}`, by {by}. "
        f"{_remedy(step, servers[0], incoming=incoming)}"
    )


def _remedy(step: Step, server: Endpoint, *, incoming: bool) -> str:
    see = f"see `nft -a list chain {step.table} {step.chain}`"
    if step.chain.startswith("ufw") or (step.table in ("ip filter", "ip6 filter") and _ufw_is_on()):
        way = ("in", "from") if incoming else ("out", "to")
        allow = f"ufw allow {way[0]} proto {server.protocol} {way[1]} {server.address} port {server.port}"
        return f"ufw is in use: `{allow}`, or {see}."
    if step.table.startswith("inet firewalld"):
        return f"It is firewalld's: allow them in its zones and policies; {see}."
    return f"Allow them there; {see}."


def _ufw_is_on(configuration: Path = Path("/etc/ufw/ufw.conf")) -> bool:
    try:
        return "ENABLED=yes" in configuration.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False


def unseen(server: Endpoint, tables: Sequence[str]) -> str:
    """The sentence where the kernel refuses the VPN's packets and no chain of nftables says so."""
    to = f"the VPN's own packets to {_endpoint(server)}"
    if tables:
        option = "" if server.address.version == 4 else "6"
        return (
            f"Rules of iptables-legacy (tables: {', '.join(tables)}) drop {to}. Allow them there; see "
            f"`ip{option}tables-legacy-save`."
        )
    return f"The kernel refuses {to}, and no firewall says so: perhaps an eBPF program, see `bpftool cgroup tree`."


def _endpoint(server: Endpoint) -> str:
    host = f"[{server.address}]" if server.address.version == 6 else str(server.address)
    return f"{host}:{server.port}"
