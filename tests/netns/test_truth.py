"""Truth in the status (issue 3, part 10): blocking that fails is said at once, with its reason, and ends by itself.

The faults are real where nothing else is said. Each test measures what the other layer holds meanwhile, as the status
must not be better than the wire: `bound=False` leaves out sockets bound to a link, which routing alone cannot hold.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ipc.client import NotRunningError
from ipc.structs import Status
from lab.subject import CLI, SETTINGS, Subject
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

LONG_S = 30.0
ALARM_EXIT = 6
TABLE = "inet tunwarden"


def alarmed(status: Status) -> bool:
    return status.alarm is not None and "NOT blocked" in status.alarm


def assert_alarm(subject: Subject, reason: str) -> Status:
    """Every face says that traffic is not blocked, and why."""
    status = subject.wait(alarmed, LONG_S)
    assert (status.blocking, status.protected) == (False, False)
    assert status.alarm is not None and reason in status.alarm
    shown = subject.lab.laptop.run(CLI, "status", check=False)
    assert shown.returncode == ALARM_EXIT
    assert "NOT blocked" in shown.stdout
    as_json = subject.lab.laptop.run(CLI, "status", "--json", check=False)
    assert as_json.returncode == ALARM_EXIT
    assert reason in json.loads(as_json.stdout)["alarm"]
    return status


def assert_well(subject: Subject) -> None:
    """Connected again without anybody's help, and the alarm is over."""
    status = subject.wait("connected", LONG_S)
    assert (status.blocking, status.protected, status.alarm) == (True, True, None)
    assert subject.lab.laptop.run(CLI, "status", check=False).returncode == 0


@contextlib.contextmanager
def talk(lab: Laboratory, bound: bool = True) -> Iterator[None]:
    with lab.traffic(rate=40, device="wlan0" if bound else "lo"):
        yield
        time.sleep(0.3)


@pytest.fixture
def connected(subject: Subject) -> Subject:
    subject.lab.join("cafe")
    subject.wait("connected")
    return subject


# --- no right to do it ------------------------------------------------------------------------------------------------


def test_without_cap_net_admin(lab: Laboratory) -> None:
    """Neither layer can be set, and traffic does leave: the status says exactly that. With the right, all is well."""
    subject = Subject(lab)
    subject.start()
    subject.set_up()
    subject.stop()  # an unprotected machine is left open
    subject.process = lab.laptop.start(
        "setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin", "--", lab.python, "-I", "-m", "daemon"
    )
    answers(subject)
    with lab.meter() as meter:
        with talk(lab):
            lab.join("cafe")
            status = assert_alarm(subject, "Operation not permitted")
            assert status.state == "blocked"
        assert meter.leaks(), "it is true"
        subject.kill()
        subject.start()
        assert_well(subject)
        meter.reset()
        with talk(lab):
            pass
        assert meter.leaks() == []
        meter.positive_control()


def answers(subject: Subject) -> None:
    deadline = time.monotonic() + LONG_S
    while True:
        try:
            subject.status()
            return
        except NotRunningError:
            assert subject.process is not None
            assert subject.process.running and time.monotonic() < deadline, subject.process.output()
            time.sleep(0.01)


# --- nothing to do it with --------------------------------------------------------------------------------------------


def test_without_libnftables_and_without_nft(lab: Laboratory) -> None:
    """Both are hidden by mounts. Routing holds alone; when the program is there again, so is the firewall."""
    found = re.search(r"libnftables\.so\.1 .*=> (\S+)", lab.laptop.run("/sbin/ldconfig", "-p").stdout)
    assert found is not None
    hidden = (lab.laptop.run("realpath", found[1]).stdout.strip(), "/usr/sbin/nft")
    subject = Subject(lab)
    subject.start()
    subject.set_up()
    subject.stop()
    for path in hidden:
        lab.laptop.run("mount", "--bind", "/dev/null", path)
    subject.start(LONG_S)
    lab.join("cafe", dhcp=False)  # nothing blocks a DHCP client, but nobody shall wait for it
    with lab.meter() as meter:
        assert_alarm(subject, "/usr/sbin/nft: Permission denied")
        meter.reset()
        with talk(lab, bound=False):
            lab.address(lab.networks["cafe"])
            time.sleep(0.5)
        assert_alarm(subject, "/usr/sbin/nft: Permission denied")
        assert meter.leaks() == [], "the routing layer"
        with talk(lab):
            pass
        assert meter.leaks() == [], "IPv6 bound to the link has a rule of its own; IPv4 takes all for neighbours"
        for path in hidden:
            lab.laptop.run("umount", path)
        assert_well(subject)
        meter.reset()
        with talk(lab):
            pass
        assert meter.leaks() == []
        meter.positive_control()


# --- a kernel that refuses --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def squatter(lab: Laboratory, commands: str) -> Iterator[None]:
    """Somebody else's table of our name that belongs to its process (`flags owner`): the kernel lets nobody else in."""
    nft = lab.laptop.start("nft", "-i", stdin=subprocess.PIPE)
    try:
        os.write(nft.stdin, commands.encode())
        deadline = time.monotonic() + LONG_S
        while "owner" not in lab.laptop.run("nft", "list", "table", TABLE, check=False).stdout:
            assert time.monotonic() < deadline, nft.output()
            time.sleep(0.01)
        yield
    finally:
        nft.kill()


TAKE = f"add table {TABLE} {{ flags owner; }}\n"


def test_a_table_of_our_name_that_belongs_to_somebody_else(lab: Laboratory) -> None:
    """There before us: never a block. When its owner goes, the kernel removes it, and we are there."""
    subject = Subject(lab)
    subject.start()
    subject.set_up()
    subject.stop()
    with lab.meter() as meter:
        with squatter(lab, TAKE):
            subject.start(LONG_S)
            with talk(lab, bound=False):
                lab.join("cafe", dhcp=False)
                assert_alarm(subject, "Operation not permitted")
                meter.reset()
                lab.address(lab.networks["cafe"])
                time.sleep(0.5)
            assert meter.leaks() == [], "the routing layer"
        assert_well(subject)
        meter.reset()
        with talk(lab):
            pass
        assert meter.leaks() == []
        meter.positive_control()


def test_our_table_is_taken_over_while_connected(connected: Subject) -> None:
    """In one transaction: nothing can be put back. Said at once, also on D-Bus and to who watches; its end, too."""
    lab = connected.lab
    seen: list[Status] = []
    bus = lab.laptop.start("dbus-monitor", "--system", "interface='org.freedesktop.DBus.Properties'")
    bus.wait_output("NameLost", LONG_S)  # from here on it hears everything
    with lab.meter() as meter, watching(connected, seen.append):
        connected.wait(lambda _: bool(seen), LONG_S)
        with talk(lab, bound=False):
            with squatter(lab, f"delete table {TABLE}; {TAKE}"):
                assert_alarm(connected, "Operation not permitted")
                bus.wait_output("NOT blocked", LONG_S)
                time.sleep(0.3)
            assert_well(connected)
        assert meter.leaks() == [], "the routing layer, all the time"
        meter.reset()
        with talk(lab):
            pass
        assert meter.leaks() == []
        meter.positive_control()
    said = bus.output()
    assert "org.tunwarden.Daemon1.Manager" in said
    assert '"Alarm"' in said
    alarms = [alarmed(status) for status in seen]
    assert alarms[0] is False and True in alarms and alarms[-1] is False
    assert all(status.blocking is not alarmed(status) for status in seen if status.state != "idle")


@contextlib.contextmanager
def watching(subject: Subject, seen: Callable[[Status], object]) -> Iterator[None]:
    client = subject.client(LONG_S)

    def follow() -> None:
        with contextlib.suppress(NotRunningError, OSError):
            for status in client.watch():
                seen(status)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        client.hang_up()
        thread.join()
        client.close()


def test_sysctls_that_cannot_be_set_take_the_second_layer_only(lab: Laboratory, sealed: Any) -> None:
    """/proc/sys is read-only, as in some containers: no alarm, for the firewall holds everything; but it is said."""
    subject = Subject(lab)
    lab.laptop.run("mount", "--bind", "-o", "ro", "/proc/sys", "/proc/sys")
    subject.start()
    subject.set_up()
    with sealed():
        lab.join("cafe", dhcp=False)
        status = subject.wait(lambda status: status.cause == "routes-failed", LONG_S)
        assert (status.blocking, status.alarm) == (True, None)
        assert any("change the kernel's network settings" in text for text in status.warnings), status.warnings
        assert subject.lab.laptop.run(CLI, "status", check=False).returncode == 0
        lab.laptop.run("umount", "/proc/sys")
        lab.address(lab.networks["cafe"])
        assert_well(subject)


# --- a kernel that lies or refuses one ruleset (lab/lying_kernel.py) --------------------------------------------------


def lying(lab: Laboratory, how: str) -> Subject:
    subject = Subject(lab, SETTINGS, ("lab.lying_kernel", how, "later"))
    subject.start()
    subject.set_up()
    return subject


def misbehave(subject: Subject, on: bool = True) -> None:
    assert subject.process is not None
    subject.process.send(signal.SIGUSR2 if on else signal.SIGUSR1)


def test_rules_that_are_acknowledged_and_absent(lab: Laboratory) -> None:
    """An old kernel: an acknowledgement is not enough."""
    subject = lying(lab, "ignores")
    with lab.meter() as meter:
        misbehave(subject)
        lab.laptop.run("nft", "delete", "table", *TABLE.split())
        with talk(lab, bound=False):
            lab.join("cafe", dhcp=False)
            assert_alarm(subject, "the kernel holds other rules than were sent")
            meter.reset()
            lab.address(lab.networks["cafe"])
            time.sleep(0.3)
        assert meter.leaks() == [], "the routing layer"
        misbehave(subject, False)
        assert_well(subject)
        meter.reset()
        with talk(lab):
            pass
        assert meter.leaks() == []
        meter.positive_control()


def test_a_refused_ruleset_leaves_the_old_one_and_says_why(lab: Laboratory, sealed: Any) -> None:
    """The kernel refuses the whole transaction: what stood before still stands, is read back, and blocks."""
    subject = lying(lab, "refuses")
    old = lab.laptop.run("nft", "list", "table", TABLE).stdout
    with sealed():
        misbehave(subject)
        lab.join("cafe", dhcp=False)
        status = subject.wait(lambda status: status.cause == "firewall-failed", LONG_S)
        assert any("apply the firewall: " in text and "No such file" in text for text in status.warnings)
        assert (status.blocking, status.protected, status.alarm) == (True, False, None), "the guard of before"
        assert without_counters(lab.laptop.run("nft", "list", "table", TABLE).stdout) == without_counters(old)
        misbehave(subject, False)
        lab.address(lab.networks["cafe"])
        assert_well(subject)
        misbehave(subject)
        subject.cli("reconnect", check=False)
        status = subject.wait(lambda status: status.cause == "firewall-failed", LONG_S)
        assert (status.blocking, status.protected, status.alarm) == (True, False, None), "the rules of the tunnel"
        misbehave(subject, False)
        assert_well(subject)


def without_counters(listing: str) -> list[str]:
    return [line for line in listing.splitlines() if "packets" not in line]


def test_open_rules_that_the_kernel_does_not_replace_are_an_alarm(lab: Laboratory) -> None:
    """The old ruleset stands here, too; but it is an open one."""
    subject = Subject(
        lab, SETTINGS.replace('unsecured = "auto_connect"', 'unsecured = "ignore"'),
        ("lab.lying_kernel", "refuses", "later"),
    )  # fmt: skip
    subject.start()
    subject.set_up()
    lab.join("cafe")
    subject.wait_cleared()
    misbehave(subject)
    subject.cli("connect", check=False)
    assert_alarm(subject, "No such file")
    with lab.meter() as meter:
        with talk(lab, bound=False):
            pass
        assert meter.leaks() == [], "the routing layer"
        misbehave(subject, False)
        assert_well(subject)
        meter.positive_control()
