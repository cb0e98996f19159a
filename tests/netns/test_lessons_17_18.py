"""L17 and L18: names. Answers nobody asked for, name resolution after the tunnel, and a blocked systemd-resolved."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import struct
import time
from collections.abc import Collection, Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

import pytest

from lab.frames import ETH_IPV4, ETH_IPV6
from lab.probes import dns_query, ipv4_udp, ipv6_udp, resolve
from lab.processes import Process
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from tests.conftest import next_seed
from tests.netns.conftest import Layers
from tests.netns.open_machine import open_machine

pytestmark = pytest.mark.netns

DNS = 53
FORGED = b"forged"
QUIET_S = 0.3  # without an answer, after which none is waited for
ETH_P_ALL = 3  # <linux/if_ether.h>


# --- L17: answers -----------------------------------------------------------------------------------------------------


class Forger:
    """On the LAN: sends "answers" of any resolver to a program on the laptop that waits at `port`, on both families."""

    def __init__(self, lab: Laboratory) -> None:
        self.lab = lab
        self.own4: IPv4Address | None = None
        self.own6: IPv6Address | None = None

    @contextlib.contextmanager
    def program(self) -> Iterator[socket.socket]:
        """A program with one socket for both families, as a stub resolver has."""
        with self.lab.laptop.socket(socket.AF_INET6, socket.SOCK_DGRAM) as waiting:
            waiting.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            waiting.bind(("::", 0))
            waiting.settimeout(QUIET_S)
            yield waiting

    def look_up_addresses(self) -> None:
        shown = json.loads(self.lab.laptop.run("ip", "-4", "-j", "address", "show", "wlan0").stdout)
        self.own4 = IPv4Address(shown[0]["addr_info"][0]["local"])
        self.own6 = self.lab.card.address6("wlan0", self.lab.plan.cafe)
        assert self.own6 is not None

    def send(self, port: int) -> None:
        """From the LAN's resolver, from the tunnel's, and from one on the internet."""
        plan, own4, own6 = self.lab.plan, self.own4, self.own6
        assert own4 is not None
        assert own6 is not None
        packets = [
            (ETH_IPV4, ipv4_udp(source, own4, port, FORGED, DNS))
            for source in (plan.cafe.host4(1), plan.tunnel_server[0], plan.internet4)
        ] + [
            (ETH_IPV6, ipv6_udp(source, own6, port, FORGED, DNS))
            for source in (plan.cafe.host6(1), plan.tunnel_server[1], plan.internet6)
        ]
        ends = b"".join(bytes.fromhex(plan.mac(name).replace(":", "")) for name in ("wlan0", "cafe/lan"))

        def send() -> None:
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
                wire.bind(("lan", 0))
                for ethertype, packet in packets:
                    wire.send(ends + struct.pack(">H", ethertype) + packet)

        self.lab.cafe.inside(send)

    def heard(self, waiting: socket.socket, expected: Collection[str] = ()) -> set[str]:
        """Whose "answers" the program has got, after they were sent again. `expected`: waits, and sends, until then."""
        found: set[str] = set()
        deadline = time.monotonic() + 20
        while True:
            self.send(waiting.getsockname()[1])
            with contextlib.suppress(TimeoutError):
                while True:
                    data, sender = waiting.recvfrom(2048)
                    if data == FORGED:
                        found.add(str(IPv6Address(sender[0]).ipv4_mapped or sender[0]))
            if found.issuperset(expected) or time.monotonic() > deadline:
                return found

    @property
    def everybody(self) -> set[str]:
        plan = self.lab.plan
        four = {str(plan.cafe.host4(1)), str(plan.tunnel_server[0]), str(plan.internet4)}
        return four | {str(plan.cafe.host6(1)), str(plan.tunnel_server[1]), str(plan.internet6)}


@pytest.mark.parametrize("allow_lan", [False, True], ids=["", "lan allowed"])
def test_l17_answers_are_taken_only_for_questions_asked(layers: Layers, allow_lan: bool) -> None:
    """In every state that blocks: of a program that asked nothing, that asked before the block, and that asks the
    tunnel's resolver. Routing does not look at what comes in: the firewall is the layer that holds."""
    with Laboratory(next_seed(), private_lan=True) as lab:
        settings = SETTINGS.replace('unsecured = "auto_connect"', 'unsecured = "ignore"')
        settings = settings.replace('connect_timeout = "4s"', 'connect_timeout = "2s"')
        settings += "\n[protection]\nallow_lan = true\n" if allow_lan else ""
        subject = layers(settings, lab)
        forger = Forger(lab)
        lab.join("cafe")
        subject.wait_cleared()
        forger.look_up_addresses()
        passing = forger.everybody if layers.name == "routing" else set()
        with forger.program() as silent, forger.program() as earlier:
            everybody = forger.everybody
            assert forger.heard(silent, everybody) == everybody, "the positive control: idle, the network is cleared"
            earlier.sendto(dns_query("whoami.test", 1), (f"::ffff:{lab.plan.cafe.host4(1)}", DNS))
            earlier.settimeout(20)
            earlier.recv(2048)  # the real answer, so that the kernel knows the flow
            earlier.settimeout(QUIET_S)
            lab.block_server()
            subject.cli("connect")
            subject.went_through("connecting")  # an attempt is short, and may be over by now
            assert forger.heard(silent, passing) == forger.heard(earlier, passing) == passing
            subject.wait(lambda status: status.state in ("blocked", "reconnecting"), 25)
            assert forger.heard(silent, passing) == forger.heard(earlier, passing) == passing
            lab.unblock_server()
            subject.wait("connected", 25)
            assert forger.heard(silent, passing) == forger.heard(earlier, passing) == passing
            if layers.name != "firewall":  # without the routing layer no question gets into the tunnel
                with forger.program() as asking:
                    asking.settimeout(20)
                    asking.sendto(dns_query("whoami.test", 1), (f"::ffff:{lab.plan.tunnel_server[0]}", DNS))
                    assert lab.plan.tunnel_server[0].packed in asking.recv(2048)
                    asking.settimeout(QUIET_S)
                    assert forger.heard(asking, passing) == passing
            open_machine(subject)
            assert forger.heard(silent, everybody) == everybody, "the positive control: the same machine without us"


def test_l17_the_vpn_server_cannot_send_what_nobody_asked_for(subject: Subject) -> None:
    """Through the tunnel only answers come in; the positive control is the same packet after the same question."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected", 25)
    inside = str(lab.plan.tunnel_server[0])
    with (
        lab.server.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
        lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as waiting,
    ):
        other.bind((inside, 5353))
        waiting.bind((str(lab.plan.tunnel_client[0]), 0))
        waiting.settimeout(0.5)
        other.sendto(FORGED, waiting.getsockname())
        with pytest.raises(TimeoutError):
            waiting.recv(2048)
        waiting.sendto(b"question", (inside, 5353))
        other.settimeout(20)
        assert other.recv(2048) == b"question"
        other.sendto(FORGED, waiting.getsockname())
        waiting.settimeout(20)
        assert waiting.recv(2048) == FORGED


# --- L17: afterwards --------------------------------------------------------------------------------------------------


def nameservers(lab: Laboratory) -> list[IPv4Address | IPv6Address]:
    lines = lab.laptop.read("/etc/resolv.conf").splitlines()
    return [ip_address(line.split()[1]) for line in lines if line.startswith("nameserver")]


def whoami(lab: Laboratory, timeout: float = 20.0) -> IPv4Address | IPv6Address | None:
    """Which resolver answers, asked as /etc/resolv.conf says, as any program would."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            return resolve(lab.laptop, nameservers(lab)[0], "whoami.test")
        except OSError:
            if time.monotonic() > deadline:
                raise


@pytest.mark.parametrize(
    "state, kills", [("connected", 0), ("connected", 2), ("connecting", 0), ("connecting", 1), ("disconnecting", 1)]
)
def test_l17_names_resolve_again_after_disconnecting(subject: Subject, state: str, kills: int) -> None:
    """/etc/resolv.conf comes back byte by byte, also after SIGKILL on the way, once and twice in a row.

    A crash between any two of its file operations: tests/daemon/linux/test_resolver_file.py.
    """
    lab = subject.lab
    lab.join("cafe", dhcp=False)
    lab.address(lab.networks["cafe"])
    subject.wait("connected", 25)
    assert whoami(lab) == lab.plan.tunnel_server[0]
    if state == "connecting":
        lab.block_server()
        subject.cli("reconnect")
        subject.wait(lambda status: not status.protected, 25)
    for _ in range(kills):
        if state == "disconnecting":
            with subject.client() as client:
                client.disconnect()  # its answer comes when the wish is on the disk, at the latest
        subject.kill()
        subject.start(25)
    subject.cli("disconnect", check=False)  # it may have been wanted before the kill
    subject.wait("idle", 25)
    assert lab.laptop.read("/etc/resolv.conf") == f"# wlan0\nnameserver {lab.plan.cafe.host4(1)}\n"
    assert whoami(lab) == lab.plan.cafe.host4(1)


# --- L18 --------------------------------------------------------------------------------------------------------------

# Unpacked by lab/install-missing, not installed: installing it would take this machine's own /etc/resolv.conf.
RESOLVED = [
    Path(place)
    for place in ("/usr/lib/systemd/systemd-resolved", "/usr/local/lib/tunwarden-lab/systemd-resolved")
    if Path(place).exists()
]
STUB, MEASURED_S, BATCH = "127.0.0.53", 3.0, 5
MODEST = 0.25  # of one processor; the known spin takes all of one, and this machine may be busy otherwise


def cpu_s(process: Process) -> float:
    """Seconds of processor time so far, user and system (proc_pid_stat(5), fields 14 and 15)."""
    fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def share_while_asking(lab: Laboratory, resolved: Process, pause_s: float = 0.5) -> float:
    """The share of one processor that it takes while programs ask it for names, some at a time."""
    begun, before, number = time.monotonic(), cpu_s(resolved), 0
    with contextlib.ExitStack() as programs:
        while time.monotonic() < begun + MEASURED_S:
            program = programs.enter_context(lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM))
            for _ in range(BATCH):
                number += 1
                program.sendto(dns_query(f"name{number}.example.com", 1, number & 0xFFFF), (STUB, DNS))
            time.sleep(pause_s)
        return (cpu_s(resolved) - before) / (time.monotonic() - begun)


@pytest.fixture
def resolved(lab: Laboratory) -> Process:
    """The real one in the laptop, without a bus of its own; the cafe's router is its uplink resolver."""
    if not RESOLVED:
        pytest.skip("systemd-resolved is not here: run lab/install-missing")
    laptop = lab.laptop
    for path, line in (("/etc/passwd", "systemd-resolve:x:64996:64996::/:/usr/sbin/nologin"),
                       ("/etc/group", "systemd-resolve:x:64996:")):  # fmt: skip
        if "systemd-resolve:" not in laptop.read(path):
            laptop.write(path, f"{laptop.read(path)}{line}\n")
    laptop.run("install", "-d", "-o", "systemd-resolve", "-g", "systemd-resolve", "/run/systemd/resolve")
    uplinks = f"{lab.plan.cafe.host4(1)} {lab.plan.cafe.host6(1)}"
    settings = ("LLMNR=no", "MulticastDNS=no", "DNSSEC=no", "DNSOverTLS=no", "FallbackDNS=", f"DNS={uplinks}")
    laptop.write("/etc/systemd/resolved.conf", "\n".join(("[Resolve]", *settings)) + "\n")
    process = laptop.start(str(RESOLVED[0]))
    process.wait_output("Using system hostname", 20)
    return process


def stub_answers(lab: Laboratory, timeout: float = 20.0) -> bool:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if resolve(lab.laptop, IPv4Address(STUB), "internet.test") == lab.plan.internet4:
                return True
    return False


def errors_while_asking(lab: Laboratory, resolved: Process) -> tuple[float, int]:
    """Its share of a processor, and the ICMP errors (RFC 792 type 3, RFC 4443 type 1) that its questions met.

    Not those that its answers met, to programs that have asked and gone.
    """
    with lab.laptop.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_ALL)) as lo:
        lo.bind(("lo", ETH_P_ALL))
        lo.setblocking(False)
        share, errors = share_while_asking(lab, resolved), 0
        with contextlib.suppress(BlockingIOError):
            while True:
                packet = lo.recv(128)
                four = packet[0] >> 4 == 4 and packet[9] == socket.IPPROTO_ICMP and packet[20] == 3
                six = packet[0] >> 4 == 6 and packet[6] == socket.IPPROTO_ICMPV6 and packet[40] == 1
                question = packet[50:52] if four else packet[90:92]  # the port that the packet in question was for
                errors += (four or six) and int.from_bytes(question) == DNS
    return share, errors


REJECTING = """
table inet rejecting {
    chain output {
        type filter hook output priority filter
        oifname != "lo" udp dport 53 reject with icmpx admin-prohibited
    }
}
"""


def test_l18_a_blocked_systemd_resolved_does_not_spin(resolved: Process, subject: Subject) -> None:
    """Connected, then blocked without a server; with the tunnel gone by a user's wish, it answers again.

    It spins where a question meets an ICMP error (systemd #33719 and #33862, versions 255 and 256). Debian 12's 252
    takes those calmly, so beside its own calm the cause is looked for: our block makes no such error, a reject does.
    """
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected", 25)
    calm = [errors_while_asking(lab, resolved)]
    lab.block_server()
    subject.cli("reconnect")
    subject.wait(lambda status: not status.protected, 25)
    calm.append(errors_while_asking(lab, resolved))
    for share, errors in calm:
        assert share < MODEST
        assert errors == 0
    subject.cli("disconnect")
    subject.wait("idle", 25)
    assert stub_answers(lab)
    lab.laptop.run("nft", "-f", "-", input=REJECTING)
    assert errors_while_asking(lab, resolved)[1] > 0, "the positive control: what a reject in our place would make"
    lab.laptop.run("nft", "delete", "table", "inet", "rejecting")
    # Last: with thousands of questions under way, 252 has died of such errors.
    hard = share_while_asking(lab, resolved, pause_s=0.001)
    assert hard > max(share for share, _ in calm), "the positive control: work is seen"
