"""K2: the ruleset of the early unit follows the daemon, and what it loads holds until a daemon takes over.

A boot is played: the kernel forgets every rule, then `nft -f` loads the file, as tunwarden-lockdown.service does.
tests/boot/test_lockdown.py has the real unit at a real boot.
"""

from __future__ import annotations

import signal
from typing import Any

import pytest

from daemon.linux.lockdown import CLOSED, NAME
from daemon.linux.nft_render import render
from lab.hosts import CommandError
from lab.probes import exit_address
from lab.subject import PROFILE, SETTINGS, Subject
from lab.topology import Laboratory
from tests.netns.open_machine import wait_for_leaks

pytestmark = pytest.mark.netns

SETTINGS_FILE = "/etc/tunwarden/tunwarden.toml"
STATE = "/var/lib/tunwarden"
FILE = f"{STATE}/{NAME}"


@pytest.fixture
def fresh(lab: Laboratory) -> Subject:
    """Started, with no profile: nobody has set this machine up."""
    subject = Subject(lab)
    subject.start(20)
    return subject


def kept(lab: Laboratory) -> str | None:
    """What the next boot would load; None: nothing."""
    if lab.laptop.run("test", "-e", FILE, check=False).returncode != 0:
        return None
    assert lab.laptop.run("stat", "--format=%a %u %F", FILE).stdout == "600 0 regular file\n"
    return lab.laptop.read(FILE)


def settled(subject: Subject) -> None:
    """The loop has dealt with all that was asked before: it keeps the file after it has published a state."""
    subject.cli("killswitch", "on")
    subject.cli("killswitch", "on")


def forget(lab: Laboratory) -> None:
    """What a reboot does to the kernel's rules."""
    lab.laptop.run("nft", "flush", "ruleset")
    for family in ("-4", "-6"):
        lab.laptop.run("ip", family, "rule", "flush", "table", "1953853047")


def test_a_machine_that_nobody_has_set_up_is_never_locked(fresh: Subject) -> None:
    lab = fresh.lab
    lab.join("home")
    fresh.wait("idle")
    settled(fresh)
    assert kept(lab) is None
    fresh.set_up()
    settled(fresh)
    assert kept(lab) == render(CLOSED)
    fresh.cli("profiles", "remove", PROFILE)
    settled(fresh)
    assert kept(lab) is None
    fresh.cli("lockdown", "on")
    settled(fresh)
    assert kept(lab) == render(CLOSED)


def test_it_is_the_same_in_every_state(subject: Subject) -> None:
    """Where the machine wakes up, nobody knows: neither cleared links nor the tunnel of today count then."""
    lab = subject.lab
    for join, state in (("home", "idle"), ("cafe", "connected")):
        lab.join(join)
        subject.wait(state)
        settled(subject)
        assert kept(lab) == render(CLOSED)
        lab.leave()
    assert subject.stop() == 0
    assert kept(lab) == render(CLOSED)


def test_broken_settings_lock(lab: Laboratory) -> None:
    """Nobody knows what the administrator allows, also on a machine that nobody has set up."""
    subject = Subject(lab, "version = 1\n[wifi]\nunsecured = 7\n")
    subject.start(20)
    subject.wait(lambda status: status.cause == "settings-broken")
    subject.wait(lambda _: kept(lab) == render(CLOSED))
    lab.laptop.write(SETTINGS_FILE, SETTINGS)
    assert subject.process is not None
    subject.process.send(signal.SIGHUP)
    subject.wait(lambda _: kept(lab) is None)


def test_a_damaged_store_locks(fresh: Subject) -> None:
    lab = fresh.lab
    fresh.kill()
    lab.laptop.write(f"{STATE}/tunwarden.db", "nonsense", mode=0o600)
    assert kept(lab) is None
    fresh.start(20)
    fresh.wait(lambda status: status.cause == "store-broken")
    fresh.wait(lambda _: kept(lab) == render(CLOSED))


def test_what_cannot_be_kept_is_told_until_it_is(subject: Subject) -> None:
    """Here a folder stands in its place. Protection goes on, and the next event tries again."""
    lab = subject.lab
    subject.kill()
    lab.laptop.run("rm", FILE)
    lab.laptop.run("mkdir", FILE)
    subject.start(20)
    lab.join("cafe")
    status = subject.wait(lambda status: status.protected and any("next boot" in text for text in status.warnings))
    assert status.blocking
    lab.laptop.run("rmdir", FILE)
    subject.cli("reconnect")
    subject.wait(lambda status: not any("next boot" in text for text in status.warnings))
    assert kept(lab) == render(CLOSED)


def test_a_boot_is_closed_from_its_beginning(subject: Subject, sealed: Any) -> None:
    """L6: without a daemon, DHCP and IPv6 autoconfiguration work and nothing else leaves; then one takes over."""
    lab = subject.lab
    subject.kill()
    forget(lab)
    for _ in range(2):  # twice is harmless
        lab.laptop.run("nft", "-f", FILE)
    with sealed():
        lab.join("cafe")
        with pytest.raises(OSError):
            exit_address(lab.laptop, lab.plan.internet4)
        subject.start(20)
        subject.wait("connected")
    assert exit_address(lab.laptop, lab.plan.internet4) != lab.plan.cafe_uplink.host4(1)


def test_without_the_file_the_same_boot_leaks(subject: Subject) -> None:
    """The positive control."""
    lab = subject.lab
    subject.kill()
    forget(lab)
    with lab.meter() as meter, lab.traffic(rate=40.0, device="wlan0"):
        lab.join("cafe")
        exit_address(lab.laptop, lab.plan.internet4)
        wait_for_leaks(meter)


def test_an_unprotected_machine_opens_when_the_daemon_has_decided(subject: Subject) -> None:
    lab = subject.lab
    lab.join("home")
    subject.wait_cleared()
    subject.kill()
    forget(lab)
    lab.laptop.run("nft", "-f", FILE)
    with pytest.raises(OSError):
        exit_address(lab.laptop, lab.plan.internet4)
    subject.start(20)
    subject.wait_cleared()
    exit_address(lab.laptop, lab.plan.internet4)


def test_half_a_file_changes_nothing(lab: Laboratory) -> None:
    """Whatever a power cut leaves of a file, nft takes all of it or nothing (and then the fixed ruleset stands)."""
    text = render(CLOSED)
    lab.laptop.run("nft", "-f", "-", input=text)
    before = lab.laptop.run("nft", "list", "ruleset").stdout
    refused = 0
    for length in range(0, len(text), 97):
        try:
            lab.laptop.run("nft", "-f", "-", input=text[:length])
        except CommandError:
            refused += 1
            assert lab.laptop.run("nft", "list", "ruleset").stdout == before
        else:
            # A beginning that is whole by itself deletes our table, which is why the kept file is written atomically.
            lab.laptop.run("nft", "-f", "-", input=text)
    assert refused > len(text) // 97 - 4
