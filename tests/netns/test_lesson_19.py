"""L19: more events than a queue holds. The daemon sleeps through thousands of them, and through what mattered too."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Callable

import pytest

from lab.probes import exit_address
from lab.subject import PATIENT, Subject
from lab.topology import Laboratory
from policies.firewall import TUNNEL_IFNAME
from tests.netns.chatter import chatter
from tests.netns.test_tamper import TABLE, ruleset

pytestmark = pytest.mark.netns

# More than each queue holds: 8 MiB for links and routes, 1 MiB for each kind of tampering (the kernel doubles both).
ROUTES, RULES = 40_000, 20_000
STORM_TABLE = "4242"
LOST = "more changes than could be counted"  # of the warning: the overrun itself is what told


def storm(lab: Laboratory) -> None:
    """Routes and firewall rules of somebody else, added and taken away."""
    routes = (
        f"route add 198.{18 + (i >> 16)}.{i >> 8 & 255}.{i & 255} dev lo table {STORM_TABLE}" for i in range(ROUTES)
    )
    lab.laptop.run("ip", "-batch", "-", input="\n".join(routes) + "\n", timeout=120)
    rules = "\n".join(f"udp dport {1 + i % 60000} counter" for i in range(RULES))
    lab.laptop.run("nft", "-f", "-", input=f"table inet storm {{\nchain quiet {{\n{rules}\n}}\n}}\n", timeout=120)
    lab.laptop.run("nft", "delete", "table", "inet", "storm", timeout=120)
    lab.laptop.run("ip", "route", "flush", "table", STORM_TABLE, timeout=120)


def delete_table(lab: Laboratory) -> None:
    lab.laptop.run("nft", "delete", "table", "inet", "tunwarden")


def delete_rules(lab: Laboratory) -> None:
    for family in ("-4", "-6"):
        while lab.laptop.run("ip", family, "rule", "del", "table", TABLE, check=False).returncode == 0:
            continue


def complete(subject: Subject, routing: bool) -> bool:
    """Whether both layers stand."""
    ours = ruleset(subject.lab)
    return "hook output" in ours and (ours.count(f"lookup {TABLE}") == 3) == routing


def at_idle(subject: Subject) -> None:
    subject.wait("idle", 25)


def at_held(subject: Subject) -> None:
    lab = subject.lab
    assert lab.networkmanager is not None
    lab.networkmanager.associating()
    lab.associate(lab.networks["cafe"])
    subject.wait("held", 25)


def at_connecting(subject: Subject) -> None:
    subject.lab.block_server()
    subject.lab.join("cafe")
    subject.wait("connecting", 25)


def at_connected(subject: Subject) -> None:
    subject.lab.join("cafe")
    subject.wait("connected", 25)


def at_blocked(subject: Subject) -> None:
    subject.lab.block_server()
    subject.lab.join("cafe")
    subject.wait(lambda status: status.cause == "server-unreachable", 25)


def carrier(lab: Laboratory) -> None:
    """A network is joined, and nobody but the kernel says so."""
    lab.associate(lab.networks["cafe"])


def tunnel_gone(lab: Laboratory) -> None:
    lab.laptop.run("ip", "link", "del", TUNNEL_IFNAME)


def network_gone(lab: Laboratory) -> None:
    """The carrier goes, and nobody but the kernel says so."""
    lab.air.ip("link set air-wlan0 down", "link set air-wlan0 nomaster")
    lab.joined = None
    lab.card.wait_carrier("wlan0", False)


Case = tuple[Callable[[Subject], None], Callable[[Laboratory], None], Callable[[Subject], None]]


def is_held(subject: Subject) -> None:
    subject.wait("held", 25)


def is_offline(subject: Subject) -> None:
    """Protected and offline is blocked, unprotected and offline idle."""
    subject.wait(lambda status: not status.networks or not any(n.ssid for n in status.networks), 25)
    subject.wait(lambda status: status.state in ("blocked", "idle"), 25)


def is_protected(subject: Subject) -> None:
    lab, deadline = subject.lab, time.monotonic() + 25
    while True:  # at first it still says "connected", for it has not looked yet
        subject.wait("connected", 25)
        with contextlib.suppress(OSError):
            assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4
            return
        assert time.monotonic() < deadline, "the internet is not reached"


# A state, what changes in it while nobody looks, and what has to come of it.
CASES: dict[str, Case] = {
    "idle": (at_idle, carrier, is_held),
    "held": (at_held, network_gone, is_offline),
    "connecting": (at_connecting, network_gone, is_offline),
    "connected": (at_connected, tunnel_gone, is_protected),
    "blocked": (at_blocked, network_gone, is_offline),
}


@pytest.mark.parametrize("state", CASES)
@pytest.mark.parametrize("layer", [delete_table, delete_rules])
def test_l19_after_an_overrun_everything_is_read_again(
    lab: Laboratory, state: str, layer: Callable[[Laboratory], None]
) -> None:
    """A change and a deletion that fall into the overrun are both handled, and nothing leaves meanwhile. Both watches
    go on: the next deletion is noticed without any storm."""
    reach, change, right = CASES[state]
    settings = PATIENT.replace('retry_longest = "2s"', 'retry_longest = "1s"')
    if state == "connecting":  # for as long as it takes to get there
        settings = settings.replace('connect_timeout = "4s"', 'connect_timeout = "1m"')
    subject = Subject(lab, settings)
    subject.start(25)
    subject.set_up()
    reach(subject)
    process = subject.process
    assert process is not None
    assert "events lost" not in process.output()
    with lab.meter() as meter, chatter(lab):
        process.send(signal.SIGSTOP)
        try:
            storm(lab)  # the queues are full from here on: what follows is lost
            change(lab)
            layer(lab)
        finally:
            process.send(signal.SIGCONT)
        right(subject)
        # Unprotected, the table is the only layer: until the daemon has looked, nothing else could hold.
        if (state, layer) != ("idle", delete_table):
            assert meter.leaks() == []
    assert "rtnetlink events lost" in process.output()
    wait_complete(subject)
    with lab.meter() as meter, chatter(lab):
        time.sleep(0.3)
        assert meter.leaks() == []
    watches_go_on(subject)


@pytest.mark.parametrize("layer", [delete_table, delete_rules])
def test_l19_a_deletion_within_an_overrun_is_told(subject: Subject, layer: Callable[[Laboratory], None]) -> None:
    """Nothing else has changed: only the overrun itself says that there is something to look for."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected", 25)
    process = subject.process
    assert process is not None
    with lab.meter() as meter, chatter(lab):
        process.send(signal.SIGSTOP)
        try:
            storm(lab)
            layer(lab)
        finally:
            process.send(signal.SIGCONT)
        subject.wait(lambda status: any(LOST in text for text in status.warnings), 25)
        wait_complete(subject)
        assert meter.leaks() == []
        meter.positive_control()
    watches_go_on(subject)


def watches_go_on(subject: Subject) -> None:
    process = subject.process
    assert process is not None
    before = process.output().count("tampered with")
    delete_table(subject.lab)
    deadline = time.monotonic() + 25
    while process.output().count("tampered with") == before:
        assert time.monotonic() < deadline, process.output()[-3000:]
        time.sleep(0.02)
    wait_complete(subject)


def wait_complete(subject: Subject) -> None:
    """Until both layers stand; in idle there is only the guard."""
    deadline = time.monotonic() + 25
    while not complete(subject, routing=subject.status().state != "idle"):
        assert time.monotonic() < deadline, ruleset(subject.lab)
        time.sleep(0.02)
