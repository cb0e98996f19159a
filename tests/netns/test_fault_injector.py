"""K5: SIGKILL between any two changes the daemon makes. Nothing leaves, and the next start takes over without opening.

`lab/fault_injector.py` counts the changes. Each scenario is played until the daemon survives it: killed in the gap
before its first change, between the first and the second, and so on. A gap is hit at its beginning or at its end, by
turns. Traffic of nine kinds goes on all the time.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ipc.client import NotRunningError
from ipc.structs import Status
from lab.meter import Meter
from lab.probes import exit_address
from lab.processes import LabError
from lab.subject import Subject
from lab.topology import Laboratory
from policies.firewall import TUNNEL_IFNAME
from tests.netns.asking import until

pytestmark = pytest.mark.netns

DEAD_S = 0.12  # seconds of traffic while no daemon runs
SETTLED_S = 0.5  # what is reached, and followed by no change for that long, is the end of a scenario
LONG_S = 30.0
CONNECTED, IDLE = "connected", "idle"
# What making a tunnel, protecting an open machine and opening a protected one must have been seen to change.
TUNNEL = ("nft", "routing", "wireguard configure", "link", "addr")
OTHERS = ("sysctl", "database", "rename")
OPENING = ("nft", "routing", "sysctl", "database", "unlink")


class Mortal:
    """A daemon that is killed in each gap between its changes, one after the other."""

    def __init__(self, lab: Laboratory) -> None:
        self.lab, self.subject = lab, Subject(lab)
        self.gap = 0  # number of changes after which it dies

    def start(self, later: bool = True, mortal: bool = True) -> None:
        """With `later` it is well until `deed`. Returns when it answers, or is dead."""
        number, moment = (self.gap, "after") if self.gap % 2 else (self.gap + 1, "before")
        program = ("lab.fault_injector", str(number if mortal else 0), moment, *(["later"] if later else []))
        self.subject.program = program
        try:
            self.subject.start(LONG_S)
        except LabError:
            if not self.dead:
                raise

    @property
    def dead(self) -> bool:
        assert self.subject.process is not None
        return not self.subject.process.running

    def deed(self, act: Callable[[], object]) -> None:
        """Count from here on, and do it: whoever asks a daemon that dies gets no answer."""
        process = self.subject.process
        assert process is not None
        process.send(signal.SIGUSR1)
        process.wait_output("counting")
        with contextlib.suppress(NotRunningError, OSError):
            act()

    def outlives(self, reached: Callable[[Status], bool]) -> bool:
        """Wait for its death, or until it has reached that and changes nothing any more."""
        process = self.subject.process
        assert process is not None
        deadline = time.monotonic() + LONG_S
        while not process.ended_within(0.005):
            with contextlib.suppress(NotRunningError, OSError):
                if reached(self.subject.status()):
                    before = self.changes()
                    if not process.ended_within(SETTLED_S) and self.changes() == before:
                        return True
            assert time.monotonic() < deadline, f"neither dead nor done in gap {self.gap}:\n{process.output()[-4000:]}"
        process.wait()
        assert f"dies {'after' if self.gap % 2 else 'before'} change" in process.output(), process.output()[-4000:]
        return False

    def changes(self) -> list[str]:
        """What it changed since counting began, in order."""
        assert self.subject.process is not None
        return re.findall(r"^change \d+: (.*)$", self.subject.process.output(), re.MULTILINE)

    def where(self) -> str:
        done = self.changes()
        return f"killed in gap {self.gap}, after {done[-1] if done else 'nothing'}"

    def wanted(self, folder: Path) -> str:
        """The target on the disk of a daemon that is dead."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for part in self.lab.laptop.path("/var/lib/tunwarden").glob("tunwarden.db*"):
            shutil.copy(part, folder)  # a copy: looking would change it
        with contextlib.closing(sqlite3.connect(folder / "tunwarden.db")) as database:
            ((intent,),) = database.execute("SELECT value FROM kept WHERE name = 'intent'").fetchall()
        return str(json.loads(intent)["target"])


@pytest.fixture
def mortal(lab: Laboratory) -> Mortal:
    """Idle, with the laboratory's profile; nothing is joined."""
    made = Mortal(lab)
    made.start(mortal=False)
    made.subject.set_up()
    return made


@pytest.fixture
def at_cafe(mortal: Mortal) -> Mortal:
    """Connected, then killed: its rules are in the kernel, and its tunnel works."""
    mortal.lab.join("cafe")
    mortal.subject.wait(CONNECTED, LONG_S)
    mortal.subject.kill()
    return mortal


def gaps(mortal: Mortal) -> Iterator[int]:
    for mortal.gap in itertools.count():
        yield mortal.gap


def is_in(state: str) -> Callable[[Status], bool]:
    return lambda status: status.state == state


def told(mortal: Mortal, least: int, *kinds: str) -> None:
    """How many gaps there were is part of the report, and a scenario that has lost its changes is no test any more."""
    changes = mortal.changes()
    print(f"killed in {mortal.gap} gaps; the last run changed {', '.join(changes)}")
    assert mortal.gap >= least
    assert set(kinds) <= set(changes)


def sealed_so_far(meter: Meter, mortal: Mortal) -> None:
    assert meter.leaks() == [], mortal.where()


def test_during_a_start_over_the_remains_of_the_one_before(at_cafe: Mortal, sealed: Any) -> None:
    """Each start is itself killed, a gap later than the one before: many times in a row without a whole one between."""
    with sealed() as meter:
        for _ in gaps(at_cafe):
            at_cafe.start(later=False)
            if not at_cafe.dead and at_cafe.outlives(is_in(CONNECTED)):
                break
            time.sleep(DEAD_S)
            sealed_so_far(meter, at_cafe)
    told(at_cafe, 12, *TUNNEL, "database")
    assert exit_address(at_cafe.lab.laptop, at_cafe.lab.plan.internet4) == at_cafe.lab.plan.server4


def test_while_an_open_network_is_joined(mortal: Mortal, sealed: Any) -> None:
    """From the guard of an unprotected laptop to the tunnel: the network is closed from its first moment (N10)."""
    lab, subject = mortal.lab, mortal.subject
    subject.kill()
    with sealed() as meter:
        for gap in gaps(mortal):
            mortal.start()
            if gap:
                subject.wait(CONNECTED, LONG_S)  # what the last one began is finished
                lab.leave()
                with subject.client() as client:
                    client.disconnect()
            subject.wait(IDLE, LONG_S)
            mortal.deed(lambda: lab.join("cafe"))
            if mortal.outlives(is_in(CONNECTED)):
                break
            time.sleep(DEAD_S)
            sealed_so_far(meter, mortal)
    told(mortal, 15, *TUNNEL, *OTHERS)


@pytest.mark.parametrize("change", ["the tunnel is lost", "another server", "SIGTERM"])
def test_while_protected(at_cafe: Mortal, sealed: Any, change: str) -> None:
    lab, subject = at_cafe.lab, at_cafe.subject
    server = ""

    def deed() -> None:
        match change:
            case "the tunnel is lost":
                lab.laptop.run("ip", "link", "del", TUNNEL_IFNAME)
            case "another server":
                with subject.client(LONG_S) as client:
                    client.connect("other" if "[" not in server else "office")
            case "SIGTERM":
                assert subject.process is not None
                subject.process.send(signal.SIGTERM)

    at_cafe.start(mortal=False)
    with subject.client() as client:
        client.connect("office")
        client.import_profile("other", lab.client_config(ipv6_endpoint=True))
    subject.kill()
    with sealed() as meter:
        for _ in gaps(at_cafe):
            at_cafe.start()
            before = subject.wait(CONNECTED, LONG_S)
            server, link = before.server or "", ifindex(lab)
            at_cafe.deed(deed)
            if change == "SIGTERM":
                assert subject.process is not None
                if subject.process.wait(LONG_S) == 0:
                    break  # handed over: the next one is started below
            elif at_cafe.outlives(anew(lab, link)):
                break
            time.sleep(DEAD_S)
            sealed_so_far(meter, at_cafe)
        if change == "SIGTERM":
            sealed_so_far(meter, at_cafe)
    told(at_cafe, 1 if change == "SIGTERM" else 8, *(() if change == "SIGTERM" else TUNNEL))


def anew(lab: Laboratory, link: str) -> Callable[[Status], bool]:
    """Connected over another link than that one."""
    return lambda status: status.state == CONNECTED and ifindex(lab) not in ("", link)


def ifindex(lab: Laboratory) -> str:
    """The number of the tunnel's link, "" when there is none: each new tunnel has another."""
    shown = lab.laptop.run("cat", f"/sys/class/net/{TUNNEL_IFNAME}/ifindex", check=False)
    return shown.stdout.strip()


@pytest.mark.parametrize("way", ["disconnect", "known network"])
def test_while_protection_ends_as_it_is_wanted(at_cafe: Mortal, tmp_path: Path, way: str) -> None:
    """Until the wish is on the disk, nothing leaves and the next start protects. After that the next start opens."""
    lab, subject = at_cafe.lab, at_cafe.subject
    kept, opened = 0, 0

    def disconnect() -> None:
        with subject.client(LONG_S) as client:
            client.disconnect()

    with lab.meter() as meter:
        for gap in gaps(at_cafe):
            at_cafe.start()
            if way == "known network" and gap:
                subject.wait(IDLE, LONG_S)  # at home this is so whatever happened
                lab.leave()
                lab.join("cafe")
            elif subject.wait(lambda status: status.state in (IDLE, CONNECTED), LONG_S).state == IDLE:
                with subject.client(LONG_S) as client:
                    client.connect()
            subject.wait(CONNECTED, LONG_S)
            if way == "known network":
                lab.leave()
                subject.wait(lambda status: status.cause == "no-network", LONG_S)
            meter.reset()
            with lab.traffic(rate=40):
                at_cafe.deed(disconnect if way == "disconnect" else lambda: lab.join("home"))
                if at_cafe.outlives(is_in(IDLE)):
                    break
                time.sleep(DEAD_S)
            if at_cafe.wanted(tmp_path / "copy") == "protected":
                assert meter.leaks() == [], at_cafe.where()
                kept += 1
            else:
                opened += 1
        meter.positive_control()
    told(at_cafe, 10, *OPENING)
    assert kept >= 1
    assert opened >= 5


def test_while_an_unprotected_user_connects(at_cafe: Mortal, tmp_path: Path) -> None:
    """Before the first rule is set the machine is what it was: open. From that rule on it is closed for good."""
    lab, subject = at_cafe.lab, at_cafe.subject
    untouched, closed = 0, 0

    def connect() -> None:
        with subject.client(LONG_S) as client:
            client.connect()

    with lab.meter() as meter:
        for _ in gaps(at_cafe):
            at_cafe.start()
            if subject.wait(lambda status: status.state in (IDLE, CONNECTED), LONG_S).state == CONNECTED:
                with subject.client(LONG_S) as client:
                    client.disconnect()
            subject.wait(IDLE, LONG_S)
            at_cafe.deed(connect)
            survived = at_cafe.outlives(is_in(CONNECTED))
            meter.reset()
            with lab.traffic(rate=40):
                if "nft" not in at_cafe.changes():
                    assert until(lambda: bool(meter.leaks())), "nobody has closed anything yet"
                    untouched += 1
                    continue
                time.sleep(DEAD_S)
                if survived:
                    break
            assert at_cafe.wanted(tmp_path / "copy") == "protected", at_cafe.where()
            assert meter.leaks() == [], at_cafe.where()
            closed += 1
        assert meter.leaks() == []
        meter.positive_control()
    told(at_cafe, 14, *TUNNEL, *OTHERS)
    assert untouched >= 1
    assert closed >= 12


@pytest.mark.parametrize("first", [1, 8])
def test_twice_in_a_row(at_cafe: Mortal, sealed: Any, first: int) -> None:
    """Killed while it makes its tunnel anew, and its successor killed while it takes that over."""
    lab, subject = at_cafe.lab, at_cafe.subject
    with sealed() as meter:
        for second in (0, 3, 8, 11, 14):
            at_cafe.gap = first
            at_cafe.start()
            subject.wait(CONNECTED, LONG_S)
            at_cafe.deed(lambda: lab.laptop.run("ip", "link", "del", TUNNEL_IFNAME))
            assert not at_cafe.outlives(lambda _: False)
            at_cafe.gap = second
            at_cafe.start(later=False)
            assert at_cafe.dead or not at_cafe.outlives(lambda _: False)
            time.sleep(DEAD_S)
            sealed_so_far(meter, at_cafe)
        at_cafe.start(mortal=False)
        subject.wait(CONNECTED, LONG_S)


def test_without_an_earlier_daemon(lab: Laboratory) -> None:
    """A machine on which nothing has blocked yet: what was open stays so until the first rules, which are whole."""
    mortal = Mortal(lab)
    before, after = 0, 0
    for _ in gaps(mortal):
        lab.laptop.run("nft", "flush", "ruleset")
        lab.laptop.run("rm", "-rf", "/var/lib/tunwarden")
        mortal.start(later=False)
        if not mortal.dead and mortal.outlives(is_in(IDLE)):
            break
        there = lab.laptop.run("nft", "list", "table", "inet", "tunwarden", check=False).stdout
        if "nft" in mortal.changes():
            assert there.count("hook") >= 3
            after += 1
        else:
            assert there == ""
            before += 1
    told(mortal, 6, "nft", "database", "mkdir")
    assert before >= 3
    assert after >= 1
    mortal.subject.kill()
    mortal.start(mortal=False)
    mortal.subject.set_up()
    lab.join("cafe")
    mortal.subject.wait(CONNECTED, LONG_S)
