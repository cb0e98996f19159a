"""Somebody on the booted machine who sends until its last moment, and somebody outside it who hears that."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from lab.hosts import Host
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
def outside(machine: Machine) -> Iterator[socket.socket]:
    """The other end of a second wire, in a namespace that outlives the machine; a socket that hears port 9."""
    with Host("outside") as host:
        host.run("ip", "link", "set", "lo", "up")
        wire = ("ip", "link", "add", "wire", "type", "veth", "peer", "name", "eth0", "netns", str(host.pid))
        subprocess.run(["nsenter", "--target", str(machine.box.pid), "--net", "--", *wire], check=True)
        host.ip("link set eth0 up", "address add 192.0.2.1/24 dev eth0")
        machine.run("sh", "-ec", "ip address add 192.0.2.2/24 dev wire; ip link set wire up")
        with host.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
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


def start_outliver(machine: Machine) -> None:
    """It says with each datagram whether the daemon that runs now is still there. Returns when it has begun."""
    machine.box.write("/run/outliver", OUTLIVER)
    machine.box.write("/run/systemd/system/outliver.service", OUTLIVER_UNIT.format(pid=machine.main_pid))
    machine.run("systemctl", "daemon-reload")
    machine.run("systemctl", "start", "outliver.service")
    machine.wait("it sends", machine.box.path("/run/outlives").exists)
