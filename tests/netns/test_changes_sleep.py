"""T5: the machine sleeps and wakes up somewhere else, and its carrier is back before anybody has told the daemon.

logind is played by its stand-in, the freeze by a SIGSTOP of the daemon. The laptop goes on sending meanwhile, which is
the harder case: a real machine sends nothing while it sleeps, but may as soon as it wakes up.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lab.air import Air
from lab.first_byte import protected_again
from lab.logind_stand_in import LogindStandIn
from lab.subject import Subject
from lab.topology import Laboratory
from tests.netns.asking import until

pytestmark = pytest.mark.netns

AIRPORT: dict[str, Any] = {"ssid": b"Airport", "air": Air.OPEN}


@pytest.fixture
def logind(lab: Laboratory) -> LogindStandIn:
    return lab.add_logind()


@contextmanager
def night(subject: Subject, logind: LogindStandIn | None) -> Iterator[None]:
    """The machine sleeps within; with logind, which asks before and tells afterwards, or as without it."""
    assert subject.process is not None
    if logind is not None:
        assert logind.wait_lock(), "the daemon asks logind to wait for it"
        assert logind.suspend(20), "sleep was delayed until the daemon was ready, and no longer"
    subject.process.send(signal.SIGSTOP)
    yield
    subject.process.send(signal.SIGCONT)
    subject.process.resume()
    if logind is not None:
        logind.resume()


def same_place(lab: Laboratory) -> None:
    return None


def same_network(lab: Laboratory) -> None:
    lab.leave()
    lab.join("cafe")


def another_network(lab: Laboratory) -> None:
    lab.leave()
    lab.join("home", **AIRPORT)


def an_ipv6_only_network(lab: Laboratory) -> None:
    lab.leave()
    lab.join("cafe6")


def wired(lab: Laboratory) -> None:
    lab.leave()
    lab.plug()


@pytest.mark.parametrize("where", [same_place, same_network, another_network, wired])
def test_protected_before_and_after(
    subject: Subject, logind: LogindStandIn, sealed: Any, where: Callable[[Laboratory], None]
) -> None:
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected", 25)
    with lab.traffic(rate=40, device="eth0"), sealed() as meter:
        with night(subject, logind):
            where(lab)
        protected_again(subject)
        assert logind.wait_lock(), "the next sleep will be delayed as well"
        assert meter.leaks() == []
        if lab.joined is None:
            lab.join("cafe")  # `sealed` looks at this wire in the end


def test_wakes_up_where_the_server_can_be_reached_by_ipv6_alone(
    lab: Laboratory, logind: LogindStandIn, sealed: Any
) -> None:
    subject = Subject(lab)
    subject.start()
    with subject.client() as client:
        client.import_profile("six", lab.client_config(ipv6_endpoint=True))
    lab.join("cafe")
    subject.wait("connected", 25)
    with sealed():
        with night(subject, logind):
            an_ipv6_only_network(lab)
        protected_again(subject)


@pytest.mark.parametrize("where", [another_network, an_ipv6_only_network])
def test_unprotected_at_home_and_awake_in_a_strange_place(
    subject: Subject, logind: LogindStandIn, sealed: Any, where: Callable[[Laboratory], None]
) -> None:
    """At home everything may pass. Closed before sleep, so not one packet leaves at the other place."""
    lab = subject.lab
    lab.join("home")
    subject.wait("idle")
    assert logind.wait_lock()
    assert logind.suspend(20)
    assert subject.status().state == "held"
    assert subject.process is not None
    subject.process.send(signal.SIGSTOP)
    with sealed() as meter:
        where(lab)
        time.sleep(0.5)
        assert meter.leaks() == []
        subject.process.send(signal.SIGCONT)
        subject.process.resume()
        time.sleep(0.3)  # logind is late
        logind.resume()
        if where is another_network:
            protected_again(subject)
        else:
            subject.wait(lambda status: status.state == "blocked", 25)  # its server has an IPv4 address only


def test_nobody_tells_and_the_same_leaks(subject: Subject) -> None:
    """The positive control: without a logind to tell, the frozen daemon leaves the link as it was at home."""
    lab = subject.lab
    lab.join("home")
    subject.wait("idle")
    with night(subject, None), lab.meter() as meter, lab.traffic(rate=40):
        another_network(lab)
        assert until(lambda: len(meter.leaks()) > 10)
    protected_again(subject)


def test_home_again(subject: Subject, logind: LogindStandIn) -> None:
    """Awake where it went to sleep, the machine is as open as it was; also after a sleep that came to nothing."""
    lab = subject.lab
    lab.join("home")
    subject.wait("idle")
    for _ in range(3):
        with night(subject, logind):
            pass
        subject.wait("idle", 25)
    logind.prepare(True)
    subject.wait("held", 25)
    logind.kill()  # and nobody will ever say that the machine is awake
    subject.wait("idle", 25)


def test_sleep_while_connecting(subject: Subject, logind: LogindStandIn, sealed: Any) -> None:
    lab = subject.lab
    lab.block_server()
    lab.join("cafe")
    subject.wait("connecting", 25)
    with sealed():
        with night(subject, logind):
            same_network(lab)
            lab.unblock_server()
        protected_again(subject)
