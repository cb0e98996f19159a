"""K2, L6: closed from the first moment of a boot to the last of a shutdown, and never more closed than it has to be.

The first unit of the network is ours here: `first.service` makes the wire, sends over it before any daemon could have
decided, and tells what it found; `talker.service` goes on sending until the end.
"""

from __future__ import annotations

import os
import re
import time

import pytest

from lab.processes import LabError
from tests.boot.machine import NETWORK, PROJECT, TALKER, TALKS, UNIT, Machine
from tests.boot.outside import outside, received, start_outliver

pytestmark = pytest.mark.boot

LOCKDOWN = "tunwarden-lockdown.service"
FILE = "/var/lib/tunwarden/lockdown.nft"
COUNT = "ip netns exec neighbour nft list counter inet sink seen"
FIRST_UNIT = f"""
[Unit]
DefaultDependencies=no
After={LOCKDOWN}
Before={UNIT} network.target
Wants=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -e /etc/first
[Install]
WantedBy=sysinit.target
"""
FIRST = f"""{NETWORK}
nft list table inet tunwarden >/run/first.table 2>&1 || true
/usr/bin/python3 -I /etc/talker &
until [ -e {TALKS} ]; do sleep 0.02; done
sleep 0.3
kill $!
wait $! || true
rm {TALKS}
{COUNT} >/run/first.count
"""
TALKER_UNIT = f"""
[Unit]
DefaultDependencies=no
After=first.service
Before={UNIT}
[Service]
ExecStart=/usr/bin/python3 -I /etc/talker
[Install]
WantedBy=sysinit.target
"""


@pytest.fixture(scope="module")
def early(machine: Machine) -> Machine:
    """The machine, with its wire made by the first unit of the network from the next boot on."""
    for path, text in (
        ("/etc/systemd/system/first.service", FIRST_UNIT), ("/etc/first", FIRST), ("/etc/talker", TALKER),
        ("/etc/systemd/system/talker.service", TALKER_UNIT),
    ):  # fmt: skip
        machine.box.write(path, text)
    machine.run("systemctl", "--quiet", "enable", "first.service", "talker.service")
    return machine


@pytest.fixture
def fresh(early: Machine) -> Machine:
    """As on the day of the installation."""
    early.run("systemctl", "--quiet", "enable", UNIT, LOCKDOWN)
    early.start_over()
    return early


def reboot(machine: Machine) -> None:
    machine.reboot(network=False)
    machine.wait_talking()


def talk(machine: Machine) -> None:
    machine.run("rm", "-f", TALKS)
    machine.run("systemctl", "restart", "talker.service")
    machine.wait_talking()


def left_at_first(machine: Machine) -> int:
    """Datagrams that had left before the daemon was started."""
    return int(machine.box.read("/run/first.count").split("packets")[1].split()[0])


def condition(machine: Machine) -> str:
    return machine.box.show(LOCKDOWN, "ConditionResult")["ConditionResult"]


def at(machine: Machine, unit: str, event: str) -> int:
    """In microseconds of the machine's clock; 0: never in this boot."""
    return int(machine.box.show(unit, f"{event}TimestampMonotonic")[f"{event}TimestampMonotonic"])


def without_its_daemon(machine: Machine) -> None:
    """The next boot has no daemon: nothing but the early unit can block."""
    machine.run("systemctl", "--quiet", "disable", UNIT)  # and its sockets with it, so that no question starts it


# --- boot -------------------------------------------------------------------------------------------------------------


def test_a_fresh_machine_boots_open(fresh: Machine) -> None:
    """Nobody has set it up, so nothing could ever open it. The positive control of all that follows, too."""
    reboot(fresh)
    assert condition(fresh) == "no"
    assert "No such file" in fresh.box.read("/run/first.table")
    assert left_at_first(fresh) > 0
    fresh.wait_state("idle")
    fresh.wait("open", fresh.open)


def test_closed_until_the_daemon_has_decided(fresh: Machine) -> None:
    """Unprotected, but set up: which network it wakes up in, nobody knows before the daemon has looked."""
    fresh.import_profile()
    assert fresh.run("stat", "--format=%a %U %F", FILE).stdout == "600 root regular file\n"
    reboot(fresh)
    assert condition(fresh) == "yes"
    assert 0 < at(fresh, LOCKDOWN, "ActiveEnter") <= at(fresh, "network-pre.target", "ActiveEnter")
    assert at(fresh, LOCKDOWN, "ActiveEnter") <= at(fresh, UNIT, "InactiveExit")
    assert at(fresh, LOCKDOWN, "ActiveEnter") <= at(fresh, "first.service", "InactiveExit")
    order = fresh.box.show(LOCKDOWN, "Before", "Wants", "RemainAfterExit")
    assert {"network-pre.target", UNIT} <= set(order["Before"].split())
    assert "network-pre.target" in order["Wants"].split()  # or the order is void: MUL22-02
    assert order["RemainAfterExit"] == "yes"
    assert "policy drop" in fresh.box.read("/run/first.table")
    assert left_at_first(fresh) == 0
    assert "ordering cycle" not in fresh.box.journal()
    fresh.wait_state("idle")
    fresh.wait("open", fresh.open)


def test_protected_nothing_leaves_while_the_daemon_takes_over(fresh: Machine) -> None:
    """From the first moment of the network, through the daemon's start, its first decision, its first attempts."""
    fresh.protect()
    reboot(fresh)
    fresh.wait_state("connecting", "blocked", "reconnecting")
    assert not fresh.open()
    assert fresh.left_in_the_clear() == 0


@pytest.mark.parametrize("broken", ["disabled", "its environment is damaged"])
def test_without_a_daemon_it_stays_closed(fresh: Machine, broken: str) -> None:
    fresh.import_profile()
    python = "/usr/lib/tunwarden/bin/python3"
    if broken == "disabled":
        without_its_daemon(fresh)
    else:
        fresh.run("mv", python, f"{python}.away")
    try:
        reboot(fresh)
        assert fresh.run("tunwarden", "status", check=False).returncode != 0
        assert "policy drop" in fresh.box.read("/run/early.table")  # of a unit that is only After=network-pre.target
        assert "policy drop" in fresh.table()
        assert not fresh.open()
        assert fresh.left_in_the_clear() == 0
        for verb in ("stop", "restart", "stop"):
            fresh.run("systemctl", verb, LOCKDOWN)
            assert "policy drop" in fresh.table()
        assert not fresh.open()
    finally:
        fresh.run("sh", "-c", f"[ ! -e {python}.away ] || mv {python}.away {python}")
    fresh.run("systemctl", "start", UNIT)
    fresh.wait_state("idle")
    fresh.wait("open", fresh.open)


DAMAGE = {
    "nonsense": f"echo nonsense >{FILE}",
    "half of it": f"truncate -s 900 {FILE}",
    "empty": f"truncate -s 0 {FILE}",
    "root may not read it": f"chmod 0 {FILE}",
    "the disk has not come": "mv /var/lib/tunwarden /var/lib/elsewhere",
    "the fixed one is damaged": "echo nonsense >/usr/lib/tunwarden/closed.nft",
    "the fixed one has gone": "rm /usr/lib/tunwarden/closed.nft",
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_ruleset_closes_all_the_same(fresh: Machine, damage: str) -> None:
    """The unit as it runs at boot, on a machine whose daemon and rules have gone."""
    fresh.import_profile()
    fresh.run("systemctl", "stop", UNIT, LOCKDOWN)
    assert fresh.table() == ""
    fresh.run("cp", "/usr/lib/tunwarden/closed.nft", "/run/closed.nft")
    try:
        fresh.run("sh", "-ec", DAMAGE[damage])
        fresh.run("systemctl", "start", LOCKDOWN, check=False)
        assert fresh.table().count("policy drop") == 3
        # An empty file is a valid transaction that changes nothing.
        spared = damage == "empty" or damage.startswith("the fixed one")
        assert fresh.box.show(LOCKDOWN, "ActiveState")["ActiveState"] == ("active" if spared else "failed")
    finally:
        fresh.run("sh", "-c", "[ ! -e /var/lib/elsewhere ] || mv /var/lib/elsewhere /var/lib/tunwarden")
        fresh.run("cp", "/run/closed.nft", "/usr/lib/tunwarden/closed.nft")
    fresh.run("systemctl", "reset-failed", LOCKDOWN, check=False)
    fresh.run("systemctl", "start", UNIT)  # which repairs the file
    fresh.wait_state("idle")
    assert fresh.box.read(FILE) == fresh.box.read("/usr/lib/tunwarden/closed.nft")


def test_a_damaged_store_is_closed_at_the_next_boot(fresh: Machine) -> None:
    """Nobody knows what was wanted, so also a machine that nobody has set up is closed from its beginning."""
    fresh.run("systemctl", "stop", UNIT)
    fresh.box.write("/var/lib/tunwarden/tunwarden.db", "nonsense", mode=0o600)
    fresh.run("systemctl", "start", UNIT)
    fresh.wait_state("blocked")
    reboot(fresh)
    assert left_at_first(fresh) == 0
    assert not fresh.open()
    fresh.run("tunwarden", "disconnect")
    fresh.wait_state("idle")
    fresh.wait("open", fresh.open)


# --- what must work while it is closed --------------------------------------------------------------------------------

LOOPBACK = """
import socket
for family, here in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
    with socket.create_server((here, 0), family=family) as server:
        with socket.create_connection(server.getsockname()[:2], timeout=5) as asker, server.accept()[0] as answerer:
            asker.sendall(b"over TCP")
            assert answerer.recv(20) == b"over TCP"
    with socket.socket(family, socket.SOCK_DGRAM) as one, socket.socket(family, socket.SOCK_DGRAM) as other:
        other.bind((here, 0)), other.settimeout(5)
        one.sendto(b"over UDP", other.getsockname())
        assert other.recv(20) == b"over UDP"
print("well")
"""


def test_people_can_log_in_while_it_is_closed(fresh: Machine) -> None:
    """Mullvad #6006: an early block that stopped the first login. Loopback, the bus, sessions, DHCP."""
    fresh.import_profile()
    without_its_daemon(fresh)
    reboot(fresh)
    assert fresh.table()
    assert not fresh.open()
    assert fresh.run("/usr/bin/python3", "-I", "-c", LOOPBACK).stdout == "well\n"
    assert "UniqueName=" in fresh.run("busctl", "status", "org.freedesktop.login1").stdout
    session = fresh.run(
        "systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--property=PAMName=login", "--property=User=alice",
        "/bin/sh", "-c", "echo $XDG_SESSION_ID; id -un; systemctl --user is-system-running --wait",
        check=False,
    ).stdout.split()  # fmt: skip
    assert session[1:] == ["alice", "running"], session
    fresh.run("ip", "-n", "neighbour", "address", "add", "203.0.113.1/24", "dev", "eth0")
    fresh.run(
        "systemd-run", "--quiet", "--collect", "--unit=dhcp", "ip", "netns", "exec", "neighbour", "dnsmasq",
        "--keep-in-foreground", "--port=0", "--conf-file=/dev/null", "--leasefile-ro", "--no-ping",
        "--dhcp-range=203.0.113.50,203.0.113.60,1h", "--interface=eth0", "--bind-interfaces",
    )  # fmt: skip
    try:
        leased = fresh.run("udhcpc", "-i", "uplink", "-n", "-q", "-f", "-t", "20", "-T", "1", "-s", "/bin/true")
    finally:
        fresh.run("systemctl", "stop", "dhcp.service")
    assert re.search(r"lease of 203\.0\.113\.(5\d|60) ", leased.stdout + leased.stderr)
    assert fresh.left_in_the_clear() == 0


# --- panic ------------------------------------------------------------------------------------------------------------

# Holds a process as a debugger does: unlike after SIGSTOP, nothing but SIGKILL gets through to it.
HANG = """
import ctypes, os, sys
SEIZE, INTERRUPT = 0x4206, 0x4207  # <linux/ptrace.h>
WALL = 0x40000000  # <linux/wait.h>
pid = int(sys.argv[1])
for request in (SEIZE, INTERRUPT):
    assert ctypes.CDLL(None).ptrace(request, pid, None, None) == 0
while not os.WIFSIGNALED(os.waitpid(pid, WALL)[1]):
    pass
"""


def hang(machine: Machine) -> None:
    """The daemon does nothing any more."""
    pid = machine.main_pid
    hold = ("systemd-run", "--quiet", "--collect", "--unit=hang", "/usr/bin/python3", "-I", "-c", HANG, str(pid))
    machine.run(*hold)
    machine.wait("it hangs", lambda: "State:\tt" in machine.box.read(f"/proc/{pid}/status"))


def test_panic_reset_of_a_daemon_that_hangs(fresh: Machine) -> None:
    """K6: stopped, opened, and open also at the next boot, from its beginning, until somebody connects."""
    fresh.protect()
    fresh.run("tunwarden", "lockdown", "on")
    talk(fresh)
    assert not fresh.open()
    hang(fresh)
    said = fresh.run("tunwarden", "panic-reset", "--yes").stdout
    assert "Daemon: stopped." in said
    assert fresh.active() in ("inactive", "failed")
    fresh.wait("open", fresh.open)
    reboot(fresh)
    assert left_at_first(fresh) > 0
    status = fresh.wait_state("idle")
    assert (status["target"], status["lockdown"]) == ("unprotected", False)
    warnings = status["warnings"]
    assert isinstance(warnings, list)
    assert any("opened by hand" in text for text in warnings), warnings
    fresh.wait("open", fresh.open)
    assert fresh.box.read(FILE)  # the daemon is well, so the boot after that waits for it again
    fresh.run("tunwarden", "connect")
    fresh.wait_state("connecting", "blocked", "reconnecting")
    assert not fresh.open()


# --- shutdown ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protected", [True, False], ids=["protected", "control: unprotected"])
def test_shutdown_to_its_last_moment(fresh: Machine, protected: bool) -> None:
    """L6, Atredis MUL22-02: the daemon ends first, the wire with the machine. Heard from outside the machine."""
    if protected:
        fresh.protect()
    else:
        fresh.import_profile()
        fresh.wait_state("idle")
    with outside(fresh) as heard:
        start_outliver(fresh)
        if not protected:
            deadline = time.monotonic() + 20
            while not received(heard):
                assert time.monotonic() < deadline, fresh.box.journal("--unit=outliver")
                time.sleep(0.01)
        reboot(fresh)
        told = received(heard)
    assert (b"after" in told) is not protected, (len(told), set(told))
    assert not (protected and told), (len(told), set(told))


# --- the end ----------------------------------------------------------------------------------------------------------


def test_uninstall_with_nothing_that_works(fresh: Machine) -> None:
    """Last, for obvious reasons. A dead daemon, half an environment, a damaged store: open, also after a boot."""
    fresh.protect()
    fresh.run("tunwarden", "lockdown", "on")
    talk(fresh)
    assert not fresh.open()
    fresh.run("systemctl", "kill", "--signal=KILL", UNIT)
    fresh.run("sh", "-ec", "rm -r /usr/lib/tunwarden/bin; echo nonsense >/var/lib/tunwarden/tunwarden.db")
    fresh.run("make", "-C", PROJECT, "uninstall")
    assert fresh.table() == ""
    assert "74756e77" not in fresh.rules()
    fresh.wait("open", fresh.open)
    left = fresh.run(
        "find", "/etc/systemd", "/run/systemd/system", "/usr/lib/tunwarden", "-name", "*tunwarden*", check=False
    )
    assert left.stdout == ""
    assert os.path.basename(FILE) not in fresh.run("ls", "-a", "/var/lib/tunwarden").stdout
    with pytest.raises(LabError):
        fresh.box.read("/var/lib/tunwarden/panic-reset")
    reboot(fresh)
    assert left_at_first(fresh) > 0
