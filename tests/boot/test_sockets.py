"""Socket activation: systemd listens, so that who asks before, between or without a daemon waits and is answered."""

from __future__ import annotations

import json

import pytest

from tests.boot.machine import UNIT, Machine

pytestmark = pytest.mark.boot

SOCKETS = ("tunwarden.socket", "tunwarden-read.socket")
FILES = ("/run/tunwarden/tunwarden.sock", "/run/tunwarden/read.sock")
# Asks as soon as there is somewhere to ask, and before the daemon is started.
EARLY_BIRD = f"""
[Unit]
DefaultDependencies=no
After={" ".join(SOCKETS)}
Before={UNIT}
[Service]
Type=exec
ExecStart=/usr/bin/tunwarden --json status
StandardOutput=file:/run/early-bird
[Install]
WantedBy=sysinit.target
"""


def inodes(machine: Machine) -> list[str]:
    return machine.run("stat", "--format=%i", *FILES).stdout.split()


def starts(machine: Machine, unit: str) -> int:
    shown = machine.box.show(unit, "ExecMainStartTimestampMonotonic", "ActiveEnterTimestampMonotonic")
    return int(shown.get("ExecMainStartTimestampMonotonic") or shown["ActiveEnterTimestampMonotonic"])


def test_who_asks_before_the_first_daemon_of_a_boot(machine: Machine) -> None:
    machine.box.write("/etc/systemd/system/early-bird.service", EARLY_BIRD)
    machine.run("systemctl", "--quiet", "enable", "early-bird.service")
    try:
        machine.reboot()
        answer: dict[str, object] = {}

        def answered() -> bool:
            nonlocal answer
            text = machine.box.read("/run/early-bird")
            answer = json.loads(text) if text.endswith("}\n") else {}
            return bool(answer)

        machine.wait("an answer", answered)
        assert answer["state"] == "idle"
        assert "ordering cycle" not in machine.box.journal()
        asked, started = starts(machine, "early-bird.service"), starts(machine, UNIT)
        assert 0 < asked < started, "it asked before there was a daemon"
        for unit in SOCKETS:
            entered = machine.box.show(unit, "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"]
            assert 0 < int(entered) <= asked
    finally:
        machine.run("systemctl", "--quiet", "disable", "early-bird.service", check=False)


@pytest.mark.parametrize("user", [None, "alice", "nobody"])
def test_a_question_starts_a_stopped_daemon(fresh: Machine, user: str | None) -> None:
    before = inodes(fresh)
    fresh.run("systemctl", "stop", UNIT)
    assert fresh.active() == "inactive"
    assert inodes(fresh) == before
    assert fresh.run("tunwarden", "status", user=user).stdout.startswith("Not protected")
    assert fresh.active() == "active"
    assert inodes(fresh) == before


def test_who_asks_while_it_is_killed_or_restarted_is_answered(fresh: Machine) -> None:
    """No question is refused or cut off, whatever happens to the daemon beneath it."""
    fresh.protect()
    before = inodes(fresh)
    for _ in range(3):
        former = fresh.main_pid
        fresh.run("kill", "-KILL", str(former))
        for user in (None, "nobody"):
            assert fresh.run("tunwarden", "--json", "status", user=user).returncode == 0
        assert fresh.main_pid != former
    fresh.run("systemctl", "restart", "--no-block", UNIT)
    for _ in range(8):  # before, while and after it is restarted
        fresh.run("tunwarden", "--json", "status")
    assert fresh.status()["target"] == "protected"
    assert inodes(fresh) == before


def test_with_its_sockets_stopped_nobody_starts_it(fresh: Machine) -> None:
    """How an administrator stops it for good; starting it brings its sockets back."""
    fresh.run("systemctl", "stop", "tunwarden*")
    assert fresh.run("tunwarden", "status", check=False).returncode == 3
    assert fresh.active() == "inactive"
    fresh.run("systemctl", "start", UNIT)
    assert fresh.run("systemctl", "is-active", *SOCKETS).stdout.split() == ["active", "active"]
    assert fresh.status()["state"] == "idle"


def test_without_its_socket_units_it_makes_its_own(fresh: Machine) -> None:
    """It has no CAP_CHOWN: what takes changes is root's alone then, never everybody's. Reading goes on."""
    fresh.run("systemctl", "stop", *SOCKETS, UNIT)
    away = "for each in tunwarden.socket tunwarden-read.socket; do mv {}/$each {}/; done; systemctl daemon-reload"
    fresh.run("sh", "-ec", away.format("/etc/systemd/system", "/run"))
    try:
        fresh.run("systemctl", "start", UNIT)
        shown = fresh.run("stat", "--format=%a %U %G", *FILES).stdout.splitlines()
        assert shown == ["660 root root", "666 root root"]
        assert fresh.status()["state"] == "idle"
        assert fresh.run("tunwarden", "status", user="alice").stdout.startswith("Not protected")
        assert fresh.run("tunwarden", "connect", user="alice", check=False).returncode == 4
        assert "only tunwarden.socket may give it to a group" in fresh.box.journal("--unit", UNIT)
        fresh.run("systemctl", "stop", UNIT)
        assert fresh.run("ls", *FILES, check=False).stdout == ""
    finally:
        fresh.run("sh", "-ec", away.format("/run", "/etc/systemd/system"))
        fresh.run("systemctl", "restart", UNIT)
    assert fresh.run("stat", "--format=%a %U %G", FILES[0]).stdout == "660 root tunwarden\n"


def test_a_socket_that_is_too_open_is_refused(fresh: Machine) -> None:
    """Somebody's drop-in. The machine is guarded all the same, and the bus says what is wrong."""
    place = f"/run/systemd/system/{SOCKETS[0]}.d/50-open.conf"
    fresh.box.write(place, "[Socket]\nSocketMode=0666\n")
    try:
        fresh.run("systemctl", "daemon-reload")
        fresh.run("systemctl", "stop", UNIT, *SOCKETS)
        fresh.run("systemctl", "start", UNIT)
        status = ("busctl", "--json=short", "call", "org.tunwarden.Daemon1", "/org/tunwarden/Daemon1")

        def told() -> bool:
            return "too open by mode 0006" in fresh.run(*status, "org.tunwarden.Daemon1.Manager", "GetStatus").stdout

        fresh.wait("a warning", told)
        assert fresh.active() == "active"
    finally:
        fresh.run("rm", "-r", place.rpartition("/")[0])
        fresh.run("systemctl", "daemon-reload")
        fresh.run("systemctl", "stop", UNIT, *SOCKETS)
    fresh.run("systemctl", "start", UNIT)
    assert fresh.run("tunwarden", "status").stdout.startswith("Not protected")
