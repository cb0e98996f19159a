"""The daemon without CAP_NET_RAW, as in its unit: the service that watches links does that for it, or nobody does."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from ipc.structs import Status
from lab.air import Air
from lab.processes import Process
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from tests.netns.test_hostile import LAX, LONG_S, Attack, attack, protects, readers, stays_calm, wait_for

__all__ = ["attack"]  # a fixture
pytestmark = pytest.mark.netns

SOCKET = "/run/tunwarden/watch.sock"
CHECK = "cannot be asked at"


def service(lab: Laboratory) -> Process:
    """As systemd starts it, once."""
    lab.laptop.path(SOCKET).unlink(missing_ok=True)
    started = lab.laptop.start(
        lab.python, "-I", "-m", "lab.socket_activated", SOCKET, lab.python, "-I", "-m", "daemon.linux.watch_service"
    )
    wait_for(lab.laptop.path(SOCKET).is_socket)
    return started


@pytest.fixture
def watcher(lab: Laboratory) -> Process:
    return service(lab)


def started(lab: Laboratory, settings: str = SETTINGS, *program: str) -> Subject:
    subject = Subject(lab, settings, ("lab.without_packets", *(program or ("daemon",))))
    subject.start(25)
    subject.set_up()
    assert subject.process is not None and subject.process.pid is not None
    with open(f"/proc/{subject.process.pid}/status") as status:
        effective = next(line for line in status if line.startswith("CapEff:"))
    assert not int(effective.split()[1], 16) >> 13 & 1
    return subject


@pytest.fixture
def watching(lab: Laboratory, watcher: Process) -> Iterator[Subject]:
    subject = started(lab, LAX)
    yield subject
    if subject.process is not None and subject.process.running:
        assert "Traceback" not in subject.process.output(), subject.process.output()
    assert "Traceback" not in watcher.output(), watcher.output()


def test_evidence_of_an_attacker(lab: Laboratory, watching: Subject, attack: Attack) -> None:
    lab.join("cafe", air=Air.WPA2)
    stays_calm(watching)
    attack("arp")
    protects(watching, "evidence-gateway-moved")


def test_a_service_that_is_killed_comes_back(
    lab: Laboratory, watching: Subject, watcher: Process, attack: Attack, sealed: Any
) -> None:
    """Meanwhile nothing leaves, and afterwards an attacker is seen. systemd's part is played here."""
    lab.join("cafe", air=Air.WPA2)
    stays_calm(watching)
    watching.cli("connect")
    watching.wait("connected", LONG_S)
    with sealed():
        watcher.kill()
        wait_for(lambda: not readers(watching))  # they end with it
        time.sleep(1)
        assert watching.status().protected
        service(lab)
        wait_for(lambda: bool(readers(watching)))
    attack("router")
    watching.wait(lambda status: "evidence-rogue-router" in {each.code for each in wifi_reasons(status)}, LONG_S)


def wifi_reasons(status: Status) -> Any:
    return next(network.reasons for network in status.networks if network.ifname == "wlan0")


def test_leaks_are_seen(lab: Laboratory, watcher: Process) -> None:
    """A daemon whose rules are not there though it believes so."""
    subject = started(lab, SETTINGS, "lab.one_layer", "none")
    lab.join("cafe")
    subject.wait("connected", LONG_S)
    alarm = subject.wait(lambda status: status.alarm is not None, LONG_S).alarm
    assert alarm is not None
    assert alarm.startswith("Test packets left over wlan0 outside the tunnel (UDP, TCP, ICMP over IPv4;")


def test_where_nothing_leaks_nothing_is_said(lab: Laboratory, watcher: Process) -> None:
    """And the tunnel's server is asked through it: a dead one is noticed."""
    subject = started(lab)
    lab.join("cafe")
    subject.wait("connected", LONG_S)
    time.sleep(3)
    status = subject.status()
    assert (status.alarm, status.protected) == (None, True)
    assert not [text for text in status.warnings if "checked" in text]
    with lab.traffic(rate=40.0, device="lo"):
        lab.block_server()
        subject.wait(lambda status: not status.protected, 40)
        lab.unblock_server()
        subject.wait("connected", 40)


def test_without_the_service(lab: Laboratory, sealed: Any) -> None:
    """It protects as ever, and says that it cannot look."""
    subject = started(lab)
    with sealed():
        lab.join("cafe")
        status = subject.wait(lambda status: status.state == "connected" and bool(status.warnings), LONG_S)
        assert (status.protected, status.blocking, status.alarm) == (True, True, None)
        assert [text for text in status.warnings if CHECK in text and SOCKET in text]
    assert subject.process is not None
    assert "evidence is not looked for" in subject.process.output()
