"""K6: an administrator opens the machine with whatever is left of it, and it stays open until somebody connects."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from daemon import panic
from lab.hosts import CommandError
from lab.probes import exit_address
from lab.subject import PATIENT, SETTINGS, Subject
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

TOP = Path(__file__).parents[2]
STATE = "/var/lib/tunwarden"
MARKER, LOCKDOWN = f"{STATE}/panic-reset", f"{STATE}/lockdown.nft"
# Without our environment's packages, which may be damaged: the system's own Python, as `make uninstall` does it.
MAIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); import cli.main; sys.exit(cli.main.main())"


@pytest.fixture
def closed(lab: Laboratory) -> Subject:
    """At the cafe, wanting protection, locked down, without a server; then the daemon dies and the block stays."""
    subject = Subject(lab, SETTINGS.replace('connect_timeout = "4s"', 'connect_timeout = "1s"'))
    subject.start(20)
    subject.set_up()
    subject.cli("lockdown", "on")
    lab.block_server()
    lab.join("cafe")
    subject.wait(lambda status: status.cause == "server-unreachable")
    subject.kill()
    assert not is_open(lab)
    return subject


def panic_reset(lab: Laboratory, check: bool = True) -> subprocess.CompletedProcess[str]:
    return lab.laptop.run("/usr/bin/python3", "-I", "-S", "-c", MAIN, str(TOP), "panic-reset", "--yes", check=check)


def is_open(lab: Laboratory) -> bool:
    """Whether a web server answers, over IPv4 and over IPv6; never only one of them."""
    found = set()
    for address in (lab.plan.internet4, lab.plan.internet6):
        try:
            exit_address(lab.laptop, address)
        except OSError:
            found.add(False)
        else:
            found.add(True)
    assert len(found) == 1
    return found.pop()


def there(lab: Laboratory, path: str) -> bool:
    return lab.laptop.run("test", "-e", path, check=False).returncode == 0


RUIN = {
    "a dead daemon": "true",
    "a corrupt store": f"echo nonsense >{STATE}/tunwarden.db",
    "no bus": "rm -r /run/dbus",
    "no table": "nft flush ruleset",
    "no rules": "ip rule flush table 1953853047; ip -6 rule flush table 1953853047",
    "damaged profiles": f"for each in {STATE}/profiles/*; do echo nonsense >$each; done",
    "no state": f"rm -r {STATE}",
    "half an upgrade": "rm -rf /run/tunwarden /etc/tunwarden",
}


@pytest.mark.parametrize("ruin", RUIN)
def test_it_opens_and_stays_open(closed: Subject, ruin: str) -> None:
    """Also through the start of the next daemon, and the one after that, whatever was wanted and locked before."""
    lab = closed.lab
    lab.laptop.run("sh", "-ec", RUIN[ruin])
    panic_reset(lab)
    assert is_open(lab)
    said = lab.laptop.read(MARKER)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n", said)
    assert lab.laptop.run("stat", "--format=%a %u %F", MARKER).stdout == "600 0 regular file\n"
    assert not there(lab, LOCKDOWN)
    if ruin == "half an upgrade":
        lab.laptop.write("/etc/tunwarden/tunwarden.toml", SETTINGS)
    closed.start(20)
    status = closed.wait("idle")
    assert any(f"by hand with panic-reset at {said.strip()}" in text for text in status.warnings)
    assert not there(lab, MARKER)
    closed.kill()
    closed.start(20)
    status = closed.wait("idle")
    assert (status.target, status.lockdown) == ("unprotected", False)
    assert is_open(lab)


def test_protection_comes_back_when_it_is_asked_for(closed: Subject, sealed: Any) -> None:
    lab = closed.lab
    panic_reset(lab)
    lab.unblock_server()
    closed.start(20)
    closed.wait("idle")
    closed.cli("connect", "--wait", "--timeout", "25")
    with sealed():
        assert closed.status().protected
    closed.wait(lambda status: not any("by hand" in text for text in status.warnings))


def test_the_administrators_settings_still_count(closed: Subject) -> None:
    """Who fixed lockdown in the settings file has said it for good; the daemon's next start closes, and tells."""
    lab = closed.lab
    lab.laptop.write("/etc/tunwarden/tunwarden.toml", SETTINGS + "[protection]\nlockdown = true\n")
    panic_reset(lab)
    assert is_open(lab)
    closed.start(20)
    status = closed.wait(lambda status: status.cause == "lockdown")
    assert any("by hand" in text for text in status.warnings)
    assert not is_open(lab)


def test_a_disk_that_refuses(closed: Subject) -> None:
    """Open now. What comes later cannot be kept: told, with what prevents it, and the next start is a closed one."""
    lab = closed.lab
    lab.laptop.run("mount", "-o", "remount,ro", "/var/lib")
    done = panic_reset(lab, check=False)
    assert done.returncode == 1
    assert is_open(lab)
    for sign in (f"FAILED: Next start of the daemon: {MARKER}", "systemctl disable tunwarden\n",
                 f"FAILED: Next boot: {LOCKDOWN}", "systemctl disable tunwarden-lockdown"):  # fmt: skip
        assert sign in done.stdout
    closed.start(20)
    closed.wait(lambda status: status.cause == "store-broken")
    assert not is_open(lab)


def test_a_running_daemon_is_told_of_and_goes_on(closed: Subject) -> None:
    """Here no systemd can stop it. It puts its rules back and tells people; the command fails and says what to do."""
    lab = closed.lab
    closed.start(20)
    assert closed.process is not None
    closed.wait(lambda status: status.blocking)
    done = panic_reset(lab, check=False)
    assert done.returncode == 1
    pid = lab.laptop.read("/run/tunwarden/daemon.pid").strip()
    assert f"FAILED: Daemon: process {pid} still runs" in done.stdout
    closed.wait(lambda status: status.blocking and any("Somebody else" in text for text in status.warnings), 20)
    assert not is_open(lab)


@pytest.mark.parametrize(
    "marker",
    [
        f"ln -s /etc/hostname {MARKER}",
        f"mkdir {MARKER}",
        f"mkfifo {MARKER}",
        f"echo 2026-11-22T01:02:03Z >{MARKER}; chown 65534 {MARKER}",
        f"echo 2026-11-22T01:02:03Z >{MARKER}; chmod 666 {MARKER}",
    ],
    ids=["link", "folder", "FIFO", "somebody's", "anybody's"],
)
def test_no_other_marker_is_believed(closed: Subject, marker: str) -> None:
    """E5: what root alone cannot have written opens nothing."""
    lab = closed.lab
    lab.laptop.run("sh", "-ec", f"umask 077; {marker}")
    closed.start(20)
    status = closed.wait(lambda status: status.blocking)
    assert status.target == "protected"
    assert not is_open(lab)
    assert closed.process is not None
    assert "not believed" in closed.process.output()


def test_the_marker_is_never_written_through_a_link(closed: Subject) -> None:
    lab = closed.lab
    lab.laptop.write("/etc/victim", "mine\n")
    lab.laptop.run("ln", "-s", "/etc/victim", MARKER)
    panic_reset(lab)
    assert lab.laptop.read("/etc/victim") == "mine\n"
    assert panic.LONGEST > len(lab.laptop.read(MARKER)) > 10


def by_hand(text: str) -> str:
    """The indented commands that follow the words of the documentation."""
    found = re.findall(r"^ +(?:nft|ip) .*$", text, re.MULTILINE)
    assert len(found) == 2, found
    return "\n".join(line.strip() for line in found)


def test_by_hand_as_documented(closed: Subject) -> None:
    """The pair of `panic-reset --help` and of SECURITY.md is one text, and does it, taken word for word."""
    lab = closed.lab
    commands = by_hand(closed.cli("panic-reset", "--help"))
    assert by_hand((TOP / "SECURITY.md").read_text()) == commands
    assert lab.laptop.run("sh", "-ec", commands).stderr == ""
    assert is_open(lab)
    shown = "".join(lab.laptop.run("ip", family, "rule").stdout for family in ("-4", "-6"))
    assert "1953853047" not in shown
    with pytest.raises(CommandError):
        lab.laptop.run("nft", "list", "table", "inet", "tunwarden")


@pytest.mark.parametrize("joins", ["before the start", "while it starts", "afterwards"])
def test_a_boot_after_it_stays_open_on_any_network(closed: Subject, joins: str) -> None:
    """The daemon starts before any network is there; a rule of the network that comes then closes nothing."""
    lab = closed.lab
    panic_reset(lab)
    if joins == "afterwards":
        lab.leave()
    if joins == "while it starts":
        lab.laptop.write("/etc/tunwarden/tunwarden.toml", PATIENT)
        lab.networkmanager.associating()
    closed.start(20)
    if joins == "while it starts":
        closed.wait("held")
        lab.networkmanager.associated(lab.networks["cafe"].point)
    if joins == "afterwards":
        lab.join("home")
        lab.leave()
        lab.join("cafe")
    closed.wait(lambda status: any(network.verdict == "unsecured" for network in status.networks))
    status = closed.wait("idle")
    assert status.target == "unprotected"
    assert is_open(lab)
    closed.kill()
    closed.start(20)
    closed.wait("idle")
    assert is_open(lab)
    lab.unblock_server()
    closed.cli("connect", "--wait", "--timeout", "25")
