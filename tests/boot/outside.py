"""Somebody on the booted machine who sends until its last moment, and somebody outside it who hears that."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lab.capture import Captured, CaptureFile
from lab.frames import LEAKS, Expect, classify_payload
from lab.hosts import Host
from lab.processes import LabError
from tests.boot.machine import Machine

SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
OUTLIVER = """
import contextlib, os, socket, sys, time
daemon = f"/proc/{sys.argv[1]}"
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    while True:
        with contextlib.suppress(OSError):
            sock.sendto(b"before" if os.path.exists(daemon) else b"after", ("192.0.2.1", 9))
        with contextlib.suppress(OSError):  # /run goes before we do
            open("/run/outlives", "w").close()
        time.sleep(0.002)
"""
# systemd-shutdown spares processes whose name begins with "@": this one ends with the machine itself.
OUTLIVER_UNIT = """
[Unit]
DefaultDependencies=no
[Service]
KillMode=none
ExecStart=@/usr/bin/python3 @outliver -I /run/outliver {pid}
"""


@contextmanager
def second_wire(machine: Machine) -> Iterator[Host]:
    """The other end of a second wire of the machine, in a namespace that outlives it."""
    with Host("outside") as host:
        host.run("ip", "link", "set", "lo", "up")
        wire = ("ip", "link", "add", "wire", "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        subprocess.run(["nsenter", "--target", str(machine.box.pid), "--net", "--", *wire], check=True)
        host.ip("link set eth0 up", "address add 192.0.2.1/24 dev eth0", "address add 2001:db8::1/64 dev eth0 nodad")
        here = "ip address add 192.0.2.2/24 dev wire; ip address add 2001:db8::2/64 dev wire nodad; ip link set wire up"
        machine.run("sh", "-ec", here)
        yield host


@contextmanager
def outside(machine: Machine) -> Iterator[socket.socket]:
    """A socket at the other end of a second wire that hears port 9."""
    with second_wire(machine) as host, host.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 8 << 20)
        heard.bind(("192.0.2.1", 9))
        heard.setblocking(False)
        yield heard


def received(heard: socket.socket) -> list[bytes]:
    found = []
    with suppress(BlockingIOError):
        while True:
            found.append(heard.recv(100))
    return found


class Wiretap:
    """tcpdump at the other end of the second wire, whose every frame is judged."""

    def __init__(self, host: Host, file: CaptureFile, wire: int) -> None:
        self._host, self._file, self._wire = host, file, wire
        self._seen: list[Captured] = []
        self._barriers = 0

    def leaks(self) -> list[bytes]:
        """What has left the machine since the last call that no policy of a protected one allows.

        What was sent before this call is seen: a datagram of our own to ourselves goes the same way behind it.
        """
        self._barriers += 1
        token = f"barrier {self._barriers}".encode()
        with self._host.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.sendto(token, ("127.0.0.1", 9))
        deadline = time.monotonic() + 20
        while not any(token in frame.payload for frame in self._seen if frame.ifindex != self._wire):
            if time.monotonic() > deadline:
                raise LabError("tcpdump does not see its own barrier")
            time.sleep(0.01)
            self._seen += self._file.fresh()
        frames, self._seen = self._seen, []
        judged = [each for each in frames if each.ifindex == self._wire]
        return [each.payload for each in judged if classify_payload(each.ethertype, each.payload, NOTHING) in LEAKS]


NOTHING = Expect(frozenset())  # no VPN server is behind this wire


@contextmanager
def wiretap(machine: Machine) -> Iterator[Wiretap]:
    """Sees all that leaves the machine over the second wire, to the machine's last moment and beyond."""
    with second_wire(machine) as host:
        index = int(host.run("cat", "/sys/class/net/eth0/ifindex").stdout)
        path = "/run/wire.pcap"
        # Not "-i eth0": a capture of a link that goes, as this one does with the machine, ends with it.
        tcpdump = host.start(
            "tcpdump", "-i", "any", "-y", "LINUX_SLL2", "-Q", "in", "-n", "-U", "--immediate-mode", "-Z", "root",
            "-s", "320", "-w", path,
        )  # fmt: skip
        tcpdump.wait_output("listening on")
        yield Wiretap(host, CaptureFile(host.path(path)), index)
        tcpdump.send(signal.SIGINT)
        tcpdump.wait()
        assert re.search(r"^0 packets dropped by kernel", tcpdump.output(), re.MULTILINE), tcpdump.output()


def start_outliver(machine: Machine) -> None:
    """It says with each datagram whether the daemon that runs now is still there. Returns when it has begun."""
    machine.box.write("/run/outliver", OUTLIVER)
    machine.box.write("/run/systemd/system/outliver.service", OUTLIVER_UNIT.format(pid=machine.main_pid))
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "outliver.service")
    machine.wait("it sends", machine.box.path("/run/outlives").exists)
