"""T5: a tunnel that died is noticed, one on a bad line is not. The decision itself: test_wireguard_vigil.py."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from lab import slow_line
from lab.addresses import ECHO_PORT
from lab.processes import Process
from lab.subject import Subject
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

PATIENCE = 25.0  # seconds
DELAY, LOSS = 0.4, 0.3  # seconds and share, each way
WATCHED = 40.0  # seconds on the bad line


@contextlib.contextmanager
def asking(lab: Laboratory, pause: float = 0.2) -> Iterator[list[int]]:
    """A program on the laptop that asks through the tunnel all the time; [questions, answers] so far."""
    counts, stop = [0, 0], threading.Event()
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as asker:
        asker.setblocking(False)

        def ask() -> None:
            while not stop.wait(pause):
                with contextlib.suppress(OSError):
                    asker.sendto(b"?", (str(lab.plan.internet4), ECHO_PORT))
                    counts[0] += 1
                with contextlib.suppress(OSError):
                    while asker.recv(100):
                        counts[1] += 1

        thread = threading.Thread(target=ask)
        thread.start()
        try:
            yield counts
        finally:
            stop.set()
            thread.join()


@contextlib.contextmanager
def pushing(lab: Laboratory) -> Iterator[None]:
    """The server sends into the tunnel all the time, whatever it hears."""
    stop = threading.Event()
    with lab.server.socket(socket.AF_INET, socket.SOCK_DGRAM) as pusher:

        def push() -> None:
            while not stop.wait(0.1):
                with contextlib.suppress(OSError):
                    pusher.sendto(bytes(600), (str(lab.plan.tunnel_client[0]), 9))

        thread = threading.Thread(target=push)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


@pytest.mark.parametrize("pushes", [False, True], ids=["it is silent", "it goes on sending"])
def test_the_way_to_the_server_ends(subject: Subject, pushes: bool) -> None:
    """The server hears nothing any more. What it sends by itself proves nothing."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected", PATIENCE)
    with contextlib.ExitStack() as stack:
        if pushes:
            stack.enter_context(pushing(lab))
        counts = stack.enter_context(asking(lab))
        until_answered(counts)
        before = subject.wait("connected", PATIENCE)
        lab.block_server()
        begun = time.monotonic()
        subject.wait(lambda status: not status.protected, PATIENCE)
        print(f"noticed after {time.monotonic() - begun:.1f} s")
        lab.unblock_server()
        after = subject.wait("connected", PATIENCE)
        assert after.since >= before.since
        counts[1] = 0
        until_answered(counts)


def until_answered(counts: list[int]) -> None:
    """A few seconds of traffic: long enough for the daemon to have learned who answers."""
    deadline = time.monotonic() + PATIENCE
    while counts[1] < 12:
        assert time.monotonic() < deadline, f"{counts[0]} questions, {counts[1]} answers"
        time.sleep(0.05)


@pytest.fixture
def line(lab: Laboratory) -> Process:
    """In front of the server; perfect until SIGUSR1."""
    return slow_line.in_front_of(lab.vpn, lab.python, DELAY, LOSS, lab.seed)


def test_no_false_alarm_on_a_slow_and_lossy_line(line: Process, subject: Subject) -> None:
    """30 % lost each way and 800 ms there and back, while a program asks now and then, and nobody says it is dead.

    The positive controls: the line is as bad as that, and a server behind it that does die is noticed.
    """
    laboratory = subject.lab
    laboratory.join("cafe")
    subject.wait("connected", PATIENCE)
    with asking(laboratory, pause=0.5) as counts:
        until_answered(counts)
        line.send(signal.SIGUSR1)
        line.wait_output("slow", PATIENCE)
        begun, before = time.monotonic(), subject.status()
        counts[:] = [0, 0]
        while time.monotonic() < begun + WATCHED:
            status = subject.status()
            assert status.state == "connected"
            assert status.since == before.since, "it was never away, not even for a moment"
            time.sleep(0.1)
        assert 0 < counts[1] < 0.8 * counts[0], f"{counts[0]} questions, {counts[1]} answers"
        laboratory.kill_server()
        subject.wait(lambda status: not status.protected, 2 * PATIENCE)
