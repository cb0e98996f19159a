"""L4: crash, double crash, double start and upgrade leak nothing (Mullvad 2020.6 to 2021.3, IVPN #124).

L6 (boot and shutdown) and the upgrade by `make install` need a real systemd: tests/boot. SIGKILL in each state is in
test_faults.py, and after every single kernel operation in test_fault_injector.py.
"""

from __future__ import annotations

import time
from typing import Any

import pytest

from daemon.linux.route_plan import PRIORITY
from lab.probes import exit_address
from lab.processes import Process
from lab.subject import Subject
from policies.firewall import MARK
from tests.netns.conftest import Layers
from tests.netns.open_machine import open_machine, wait_for_leaks

pytestmark = pytest.mark.netns

# What happens to the daemon, in order: "kill" and "stop" end the running one, "start" waits for the next one to answer,
# "begin" does not, "again" starts a second one beside it.
ORDERS = {
    "crash, twice": ("kill", "start", "kill", "start"),
    "crash while it starts, twice": ("kill", "begin", "kill", "begin", "kill", "start"),
    "stop, and crash while it starts": ("stop", "start", "stop", "begin", "kill", "start"),
    "start twice, and crash": ("again", "kill", "start"),
    "upgrade, twice, and back": ("stop", "other version", "stop", "other version", "stop", "start"),
    "upgrade after a crash": ("kill", "other version"),
    "crash in the upgrade": ("stop", "begin other version", "kill", "start"),
    "no daemon for a second": ("kill", "nothing", "start"),
}


def begin(subject: Subject, *program: str) -> Process:
    lab = subject.lab
    return lab.laptop.start(lab.python, "-I", "-m", *program)


def do(subject: Subject, what: str, program: tuple[str, ...]) -> None:
    other = ("lab.other_version", *program[1:])
    match what:
        case "kill":
            subject.kill()
        case "stop":
            assert subject.stop() == 0
        case "start" | "other version":
            subject.program = program if what == "start" else other
            subject.start(25)
        case "begin" | "begin other version":
            subject.process = begin(subject, *(program if what == "begin" else other))
            time.sleep(0.15)  # somewhere in its imports or its first reading
        case "again":
            second = begin(subject, *program)
            assert second.wait(25) != 0, "there is one already"
            assert "Traceback" not in second.output(), second.output()
        case "nothing":
            time.sleep(1)
        case _:
            raise AssertionError(what)


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
def test_l4_crash_restart_and_upgrade_leak_nothing(layers: Layers, sealed: Any, order: tuple[str, ...]) -> None:
    """Each layer by itself outlives its daemon, and is taken over by the next one without opening."""
    lab, subject = layers.lab, layers()
    program = tuple(subject.program)
    lab.join("cafe")
    subject.wait("connected", 25)
    with sealed(bound=layers.name != "routing"):  # L11 is another lesson
        for what in order:
            do(subject, what, program)
        subject.wait("connected", 30)
        if layers.name != "firewall":  # which alone leads nothing into the tunnel
            assert exit_address(lab.laptop, lab.plan.internet4, 15) == lab.plan.server4
            (rule,) = lab.laptop.run("ip", "rule", "show", "table", str(MARK)).stdout.splitlines()
            priority = PRIORITY + (order[-1] == "other version")
            assert rule.startswith(f"{priority}:"), "the rules of the version that runs, and no others"


def test_l4_control_without_us_a_crash_leaks(subject: Subject) -> None:
    """The same crash, on a laptop whose rules went with it."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected", 25)
    with lab.meter() as meter, lab.traffic(rate=40):
        time.sleep(0.2)
        assert meter.leaks() == []
        open_machine(subject)
        wait_for_leaks(meter)
