"""Whatever is done to the service of a protected machine: nothing leaves. tcpdump outside the machine is the judge."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lab.frames import TCP, UDP
from tests.boot.machine import UNIT, Machine
from tests.boot.outside import Wiretap, start_outliver, wiretap

pytestmark = pytest.mark.boot

# Four kinds of packets without end, to the other end of the second wire. What refuses them is hoped for.
CHATTER = """
import contextlib, pathlib, socket, time
while True:
    for kind, port in ((socket.SOCK_DGRAM, 9), (socket.SOCK_DGRAM, 53), (socket.SOCK_STREAM, 443)):
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.connect(("192.0.2.1", port))
                sock.send(b"in the clear")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock, contextlib.suppress(OSError):
        sock.sendto(b"in the clear", ("2001:db8::1", 9))
    pathlib.Path("/run/chatters").touch()
    time.sleep(0.004)
"""
ERRORS = "settings file has errors"
CLOSED = ("connecting", "blocked", "reconnecting")


def chatter(machine: Machine) -> None:
    machine.run("rm", "-f", "/run/chatters")
    machine.run("systemd-run", "--quiet", "--collect", "--unit=chatter", "/usr/bin/python3", "-I", "-c", CHATTER)
    machine.wait("it chatters", machine.box.path("/run/chatters").exists)


def another_daemon(machine: Machine, former: int) -> None:
    machine.wait("another daemon", lambda: machine.main_pid not in (0, former) and machine.active() == "active")
    machine.wait_state(*CLOSED)


def restarts(machine: Machine) -> None:
    former = machine.main_pid
    machine.run("systemctl", "restart", UNIT)
    another_daemon(machine, former)


def stops_and_starts(machine: Machine) -> None:
    machine.run("systemctl", "stop", UNIT)
    assert machine.active() == "inactive"
    machine.run("systemctl", "start", UNIT)
    machine.wait_state(*CLOSED)


def reloads(machine: Machine) -> None:
    """The settings are read again: as they were, changed, and with an error."""
    former = machine.main_pid
    for settings in (machine.settings, "version = 1\n[protection]\nallow_lan = false\n", "version = nonsense\n"):
        machine.box.write("/etc/tunwarden/tunwarden.toml", settings)
        machine.run("systemctl", "reload", UNIT)
        machine.wait_state(*CLOSED)
    machine.run("kill", "-HUP", str(former))
    machine.wait("the error is told", lambda: ERRORS in machine.box.journal("--unit", UNIT))
    machine.box.write("/etc/tunwarden/tunwarden.toml", machine.settings)
    machine.run("systemctl", "reload", UNIT)
    machine.wait("the settings are well again", lambda: ERRORS not in str(machine.status()["warnings"]))
    assert machine.main_pid == former


def is_killed_five_times(machine: Machine) -> None:
    for _ in range(5):
        former = machine.main_pid
        machine.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", UNIT)
        machine.wait("the next process", lambda former=former: machine.main_pid not in (0, former))  # type: ignore[misc]
    machine.wait_state(*CLOSED)


def is_reset_by_systemd(machine: Machine) -> None:
    """daemon-reexec, as an upgrade of systemd does it, and every unit read anew."""
    former = machine.main_pid
    machine.run("systemctl", "daemon-reexec")
    machine.run("systemctl", "daemon-reload")
    machine.wait_state(*CLOSED)
    assert machine.main_pid == former


DEEDS = (restarts, stops_and_starts, reloads, is_killed_five_times, is_reset_by_systemd)


def kind(packet: bytes) -> tuple[int, int, int]:
    """IP's version, the protocol and the port it goes to."""
    version = packet[0] >> 4
    transport = 40 if version == 6 else (packet[0] & 15) * 4
    return version, packet[6 if version == 6 else 9], int.from_bytes(packet[transport + 2 : transport + 4])


def tapped(machine: Machine, tap: Wiretap) -> None:
    """Chatters over the wire, heard while unprotected: the positive control. Protected and silent when this returns."""
    chatter(machine)
    heard: set[tuple[int, int, int]] = set()

    def all_heard() -> bool:
        heard.update(map(kind, tap.leaks()))
        return heard >= {(4, UDP, 9), (4, UDP, 53), (4, TCP, 443), (6, UDP, 9)}

    machine.wait("the tap hears it", all_heard)
    machine.protect()
    tap.leaks()  # until it was protected


@pytest.mark.parametrize("deed", DEEDS, ids=lambda deed: deed.__name__)
def test_nothing_leaves_while_it(fresh: Machine, deed: Callable[[Machine], None]) -> None:
    with wiretap(fresh) as tap:
        try:
            tapped(fresh, tap)
            deed(fresh)
            assert fresh.box.show("chatter.service", "ActiveState")["ActiveState"] == "active"
            assert tap.leaks() == []
            assert fresh.status()["blocking"] is True
        finally:
            fresh.run("systemctl", "stop", "chatter.service", check=False)
            fresh.run("ip", "link", "delete", "wire", check=False)


def test_nothing_leaves_while_the_machine_shuts_down(fresh: Machine) -> None:
    """Until its kernel takes the wire away. Somebody sends to the very end."""
    with wiretap(fresh) as tap:
        tapped(fresh, tap)
        start_outliver(fresh)
        fresh.reboot()
        assert tap.leaks() == []
