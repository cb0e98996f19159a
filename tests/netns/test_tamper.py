"""K4, L13: whoever takes our rules away, they are back at once, and people are told what happened and by whom."""

from __future__ import annotations

import re
import time
from typing import Any

import pytest

from ipc.structs import Status
from lab.flood import flood
from lab.subject import PATIENT, SETTINGS, Subject
from lab.topology import Laboratory
from tests.netns.open_machine import wait_for_leaks

pytestmark = pytest.mark.netns

TABLE = "1953853047"
ATTACKS = {
    "flush ruleset": ("nft", "flush", "ruleset"),
    "delete table": ("nft", "delete", "table", "inet", "tunwarden"),
    "flush chain": ("nft", "flush", "chain", "inet", "tunwarden", "output"),
    "insert accept": ("nft", "insert", "rule", "inet", "tunwarden", "output", "accept"),
    "clear a link": ("nft", "add", "element", "inet", "tunwarden", "cleared", "{ wlan0 }"),
    "rule del": ("ip", "rule", "del", "table", TABLE),
    "rule del, IPv6": ("ip", "-6", "rule", "del", "table", TABLE),
    "route flush": ("ip", "route", "flush", "table", TABLE),
    # iproute2 never flushes an IPv6 last resort of this metric, so it is named.
    "route del, IPv6": ("ip", "-6", "route", "del", "unreachable", "default", "metric", "4294967295", "table", TABLE),
    "foreign route": ("ip", "route", "add", "203.0.113.0/24", "dev", "wlan0", "table", TABLE),
}


@pytest.fixture
def blocked(lab: Laboratory) -> Subject:
    """At the cafe, wanting protection, without a server: nothing may leave. No retry rewrites the rules meanwhile."""
    settings = SETTINGS.replace('connect_timeout = "4s"', 'connect_timeout = "1s"')
    settings = settings.replace('retry_first = "500ms"', 'retry_first = "60s"').replace('= "2s"', '= "60s"')
    subject = Subject(lab, settings)
    subject.start()
    subject.set_up()
    subject.lab.block_server()
    subject.lab.join("cafe")
    subject.wait(lambda status: status.cause == "server-unreachable")
    return subject


def ruleset(lab: Laboratory) -> str:
    """Our table without its counters, and our rules and routes of both families."""
    shown = lab.laptop.run("nft", "--stateless", "list", "table", "inet", "tunwarden", check=False).stdout
    for family in ("-4", "-6"):
        for what in (("rule", "show", "table", TABLE), ("route", "show", "table", TABLE)):
            shown += lab.laptop.run("ip", family, *what, check=False).stdout
    return shown


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS.keys())
def test_one_layer_is_taken_away(blocked: Subject, attack: tuple[str, ...]) -> None:
    """The other layer holds every packet until the first is back (K3)."""
    lab = blocked.lab
    blocked.wait("blocked")
    with lab.meter() as meter, flood(lab) as count:
        lab.laptop.run(*attack)
        status = blocked.wait(lambda status: any("Somebody else" in text for text in status.warnings), 10)
        tried = count.tried
        blocked.wait(lambda _: count.tried > tried + 100)  # what happened last had its share of traffic too
        assert status.blocking
        assert meter.leaks() == []
        meter.positive_control()
    (told,) = (text for text in status.warnings if "Somebody else" in text)
    assert ("nft (process" in told) == (attack[0] == "nft"), told
    ours = ruleset(lab)
    assert "hook output" in ours
    assert ours.count(f"lookup {TABLE}") == 3
    assert ours.count("unreachable default") == 2


def test_without_either_layer_the_flood_leaves(blocked: Subject) -> None:
    """The positive control: the same flood, and nobody who puts anything back."""
    lab = blocked.lab
    blocked.kill()
    lab.laptop.run("nft", "flush", "ruleset")
    for family in ("-4", "-6"):
        lab.laptop.run("ip", family, "rule", "flush", "table", TABLE)
    with lab.meter() as meter, flood(lab):
        wait_for_leaks(meter, ("clear4", "clear6"), 100)


def test_both_layers_are_taken_away_again_and_again(blocked: Subject, sealed: Any) -> None:
    """Whoever has root can open the machine for a moment: it is closed again, and said each time."""
    lab = blocked.lab
    for _ in range(5):
        for attack in ("flush ruleset", "rule del", "rule del, IPv6"):
            lab.laptop.run(*ATTACKS[attack], check=False)
    blocked.wait(lambda status: any("times" in text for text in status.warnings), 10)
    blocked.wait(lambda status: status.blocking)
    with sealed():
        time.sleep(0.5)


def test_tampering_amid_our_own_transitions(subject: Subject) -> None:
    """Our own next policy may repair a rule before we have heard that it is gone: it is told all the same."""
    lab = subject.lab
    lab.join("cafe")
    for number in range(1, 16):
        subject.wait("connected", 25)
        subject.cli("reconnect")
        time.sleep(0.003 * (number % 5))
        lab.laptop.run("ip", "rule", "del", "table", TABLE, check=False)
        subject.wait(lambda status, number=number: times_told(status) >= number, 25)  # type: ignore[misc]


def times_told(status: Status) -> int:
    """How often the daemon has said that somebody else changed its rules."""
    told = [text for text in status.warnings if "Somebody else" in text]
    counted = re.search(r"so far (\d+) times", told[0]) if told else None
    return int(counted[1]) if counted else len(told)


def test_our_own_changes_are_nobodys_tampering(subject: Subject) -> None:
    """Joining, connecting, losing, leaving: no false alarm."""
    lab = subject.lab
    lab.join("cafe")
    subject.wait("connected")
    subject.cli("reconnect")
    subject.wait("connected")
    lab.leave()
    lab.join("home")
    status = subject.wait("idle")
    assert not [text for text in status.warnings if "Somebody else" in text]


def test_the_guard_comes_back_too(lab: Laboratory, sealed: Any) -> None:
    """N10 while unprotected: without its table, the next network would be joined unguarded."""
    subject = Subject(lab, PATIENT)
    subject.start(25)
    subject.set_up()
    lab.laptop.run("nft", "flush", "ruleset")
    subject.wait(lambda status: any("Somebody else" in text for text in status.warnings))
    with sealed():
        lab.networkmanager.associating()
        lab.associate(lab.networks["cafe"])
        subject.wait("held")
        time.sleep(0.4)
