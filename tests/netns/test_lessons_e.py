"""E11 and what else can only be seen of a daemon that runs."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lab.subject import Subject

pytestmark = pytest.mark.netns

LISTEN = """
import socket, time
sock = socket.socket()
sock.bind(("127.0.0.1", 7777))
sock.listen()
print("on", flush=True)
time.sleep(99)
"""


def listening(subject: Subject) -> set[str]:
    """Where something listens on the laptop, TCP or UDP: program and local address."""
    found = set()
    for line in subject.lab.laptop.run("ss", "-Hlntup").stdout.splitlines():
        kind, _, _, _, local, *rest = line.split()
        found.add(f"{kind} {local} {' '.join(rest[1:])}")
    return found


def test_e11_nothing_of_ours_listens_on_the_network(subject: Subject) -> None:
    """Loopback TCP carries no identity: the daemon is asked over Unix sockets and the bus alone. With the control."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    assert subject.process is not None
    deadline = time.monotonic() + 20
    # But for the tunnel's own UDP port and the DHCP client's; a check for leaks has sockets for a second.
    while ours := [each for each in listening(subject) if "wireguard" not in each and "udhcpc" not in each]:
        assert time.monotonic() < deadline, ours
    other = lab.laptop.start("/usr/bin/python3", "-I", "-c", LISTEN)
    try:
        other.wait_output("on")
        assert any("tcp 127.0.0.1:7777" in each for each in listening(subject)), "the control: it would be seen"
    finally:
        other.kill()


def test_e4_the_daemon_uses_nothing_of_whoever_starts_it(subject: Subject) -> None:
    """Isolated (`-I`), and no child of it has more of an environment than what it is given."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    assert subject.process is not None
    pid = subject.process.pid
    command = Path(f"/proc/{pid}/cmdline").read_text()
    assert "-I" in command.split("\0")
    assert b"HOME=" in Path(f"/proc/{pid}/environ").read_bytes(), "the control: the daemon was given one"
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    judged = 0
    for child in children:
        try:
            if Path(f"/proc/{child}/cmdline").read_text() in (command, ""):
                continue  # a copy of the daemon that is about to become another program, or one that has ended
            told = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            program = os.readlink(f"/proc/{child}/exe")
        except (FileNotFoundError, ProcessLookupError):
            continue  # some live for a moment only
        names = {each.partition(b"=")[0].decode() for each in told if each}
        assert not names & {"PYTHONPATH", "LD_PRELOAD", "LD_LIBRARY_PATH", "HOME", "PWD"}, (child, names)
        assert program.startswith("/") and Path(program).stat().st_uid == 0
        judged += 1
    assert judged, "the control: the tunnel's program runs"
