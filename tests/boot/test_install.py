"""`make install`, what it leaves on a machine, who may do what there, and `make uninstall`."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest

from tests.boot.machine import OFFLINE, PROJECT, UNIT, WATCH, Machine
from tests.boot.test_units import WORST_EXPOSURE

pytestmark = pytest.mark.boot

TOP = Path(__file__).parents[2]
ENVIRONMENT = "/usr/lib/tunwarden"
PYTHON = f"{ENVIRONMENT}/bin/python"
OBJECT = ("org.tunwarden.Daemon1", "/org/tunwarden/Daemon1")
SEND = ("dbus-send", "--system", "--print-reply", f"--dest={OBJECT[0]}", OBJECT[1])
LOCKDOWN = "tunwarden-lockdown.service"
SOCKETS = ("tunwarden.socket", "tunwarden-read.socket", "tunwarden-watch.socket")


def pinned(lock: Path) -> dict[str, str]:
    """The packages of a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", lock.read_text(), re.MULTILINE))


def test_the_build_backend_is_the_one_of_pyproject() -> None:
    wanted = tomllib.loads((TOP / "pyproject.toml").read_text())["build-system"]["requires"]
    assert [f"{name}=={version}" for name, version in pinned(TOP / "systemd" / "build.lock").items()] == wanted


def test_the_environment_is_the_lock_and_nothing_else(machine: Machine) -> None:
    code = "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions()]"
    lines = machine.run(PYTHON, "-I", "-c", code).stdout.splitlines()
    found = {name.lower().replace("_", "-"): version for name, version in (line.split() for line in lines)}
    assert found.pop("tunwarden")
    assert found == pinned(TOP / "requirements.lock")


def test_e4_nothing_in_it_is_anybody_elses(machine: Machine) -> None:
    """E4: all that root's process can import, and the programs themselves."""
    others = ("!", "-user", "root", "-o", "!", "-type", "l", "-perm", "/022")
    assert machine.run("find", ENVIRONMENT, *others).stdout == ""
    paths = machine.run(PYTHON, "-I", "-c", "import sys, daemon; print(sys.path, daemon.__file__)").stdout
    assert PROJECT not in paths
    assert machine.run("find", ENVIRONMENT, "-name", "lab").stdout == ""
    assert f"{ENVIRONMENT}/lib" in paths
    # No PYTHONPATH of whoever calls it as root is believed.
    assert machine.box.read(f"{ENVIRONMENT}/bin/tunwarden").splitlines()[0] == f"#!{PYTHON} -I"
    assert machine.run("ls", f"{ENVIRONMENT}/bin").stdout.split() == ["python", "python3", "python3.11", "tunwarden"]


def test_e10_no_program_of_ours_lends_its_group_or_its_user(machine: Machine) -> None:
    """Nothing is setuid or setgid, so no client acts for whoever starts it. The control: the machine has some."""
    lends = ("-xdev", "-type", "f", "-perm", "/6000")
    assert machine.run("find", ENVIRONMENT, *lends).stdout == ""
    assert machine.run("find", "/usr/bin", *lends).stdout != ""


@pytest.mark.parametrize(
    "path, expected",
    [
        (ENVIRONMENT, "755 root root directory"),
        (f"{ENVIRONMENT}/closed.nft", "644 root root regular file"),
        ("/etc/tunwarden", "755 root root directory"),
        ("/etc/tunwarden/tunwarden.toml", "644 root root regular file"),
        ("/run/tunwarden", "755 root root directory"),
        ("/run/tunwarden/tunwarden.sock", "660 root tunwarden socket"),
        ("/run/tunwarden/read.sock", "666 root root socket"),
        ("/run/tunwarden/daemon.pid", "600 root root regular file"),
        ("/run/wireguard", "755 root root directory"),
        ("/var/lib/tunwarden", "700 root root directory"),
        ("/var/lib/tunwarden/profiles", "700 root root directory"),
        ("/var/lib/tunwarden/tunwarden.db", "600 root root regular file"),
    ],
)
def test_owners_and_modes(machine: Machine, path: str, expected: str) -> None:
    assert machine.run("stat", "--format=%a %U %G %F", path).stdout.strip() == expected


@pytest.mark.parametrize("user", [None, "alice", "nobody"])
def test_everybody_may_ask(fresh: Machine, user: str | None) -> None:
    assert fresh.run("tunwarden", "status", user=user).stdout.startswith("Not protected")


def test_the_manual_and_completion_are_there(fresh: Machine) -> None:
    for page in ("man1/tunwarden.1", "man5/tunwarden.toml.5", "man8/tunwardend.8"):
        shown = fresh.run("stat", "--format=%a %U %G", f"/usr/share/man/{page}").stdout
        assert shown == "644 root root\n"
    assert "keeps this computer" in fresh.run("cat", "/usr/share/man/man1/tunwarden.1").stdout
    code = ". /usr/share/bash-completion/completions/tunwarden; COMP_WORDS=(tunwarden st) COMP_CWORD=1; _tunwarden"
    assert fresh.run("bash", "-c", f'{code}; echo "${{COMPREPLY[*]}}"').stdout == "status\n"


def test_the_group_the_folders_and_the_preset_are_systemds(machine: Machine) -> None:
    """`install` uses sysusers.d, tmpfiles.d and the preset, so that packages can too."""
    for kind, place in (
        ("sysusers", "/usr/lib/sysusers.d/tunwarden.conf"), ("tmpfiles", "/usr/lib/tmpfiles.d/tunwarden.conf"),
        ("preset", "/usr/lib/systemd/system-preset/80-tunwarden.preset"),
    ):  # fmt: skip
        assert machine.box.read(place) == (TOP / f"systemd/tunwarden.{kind}").read_text()
        assert machine.run("stat", "--format=%a %U", place).stdout == "644 root\n"
    assert "Creating group 'tunwarden'" in machine.installed_output
    shown = machine.run("systemctl", "list-unit-files", "--no-legend", "--no-pager", "tunwarden*").stdout.splitlines()
    assert {tuple(line.split()) for line in shown} == {
        *((unit, "enabled", "enabled") for unit in (UNIT, LOCKDOWN, *SOCKETS)),
        (WATCH, "static", "-"),  # started when it is asked
    }


def test_who_may_change_what(fresh: Machine) -> None:
    def code(user: str, *argv: str) -> int:
        return fresh.run("tunwarden", *argv, user=user, check=False).returncode

    fresh.import_profile()
    fresh.run("cp", "/run/office.conf", "/tmp/office.conf")
    fresh.run("chmod", "644", "/tmp/office.conf")
    assert code("nobody", "connect") == 4
    assert code("nobody", "lockdown", "on") == 4
    assert code("alice", "profiles", "import", "mine", "/tmp/office.conf") == 4
    assert code("alice", "killswitch", "off") == 4
    assert fresh.status()["target"] == "unprotected"
    assert code("alice", "connect", "--wait") == 0
    assert code("nobody", "disconnect") == 4
    assert fresh.status()["protected"] is True
    assert code("alice", "disconnect") == 0


def test_the_bus_of_the_machine(fresh: Machine) -> None:
    """The real dbus-daemon accepts our policy: anybody reads, nobody but root changes or takes the name."""
    get = ("org.freedesktop.DBus.Properties.Get", "string:org.tunwarden.Daemon1.Manager", "string:State")
    state = fresh.run(*SEND, *get, user="nobody")
    assert 'string "idle"' in state.stdout
    for user, arguments in (("nobody", ("SetLockdown", "boolean:true")), ("alice", ("SetKillSwitch", "boolean:false"))):
        member, value = arguments
        refused = fresh.run(*SEND, f"org.tunwarden.Daemon1.Manager.{member}", value, user=user, check=False)
        assert refused.returncode == 1
        # The machine's own polkitd would want a password, and this call allows no question.
        assert "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired" in refused.stderr
    fresh.run(*SEND, "org.tunwarden.Daemon1.Manager.SetLockdown", "boolean:true")
    assert fresh.status()["lockdown"] is True
    assert fresh.status()["kill_switch"] is True
    bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus")
    taken = fresh.run(
        "busctl", "call", *bus, "RequestName", "su", "org.tunwarden.Daemon1.Mine", "0", user="nobody", check=False
    )
    assert taken.returncode == 1
    fresh.run("systemctl", "stop", UNIT)
    taken = fresh.run("busctl", "call", *bus, "RequestName", "su", OBJECT[0], "0", user="nobody", check=False)
    assert "denied" in (taken.stderr + taken.stdout).lower()


def test_polkit_knows_our_actions(machine: Machine) -> None:
    shown = machine.run("pkaction", "--verbose", "--action-id", "org.tunwarden.control").stdout
    assert re.search(r"implicit any: +auth_admin\n +implicit inactive: +auth_admin\n +implicit active: +yes", shown)
    shown = machine.run("pkaction", "--verbose", "--action-id", "org.tunwarden.administer").stdout
    assert re.search(
        r"implicit any: +auth_admin\n +implicit inactive: +auth_admin\n +implicit active: +auth_admin_keep", shown
    )


def test_a_question_starts_the_daemon(fresh: Machine) -> None:
    """Bus activation: whoever asks a stopped daemon gets his answer, and protection."""
    fresh.run("systemctl", "stop", UNIT)
    assert fresh.run("systemctl", "is-active", UNIT, check=False).stdout.strip() == "inactive"
    assert 'string "' in fresh.run(*SEND, "org.tunwarden.Daemon1.Manager.GetVersion", user="nobody").stdout
    assert fresh.run("systemctl", "is-active", UNIT).stdout.strip() == "active"


NO_CACHE = {"MANWIDTH": "70"}  # at its usual width, `man` keeps what it has formatted


@pytest.mark.parametrize("name", [UNIT, LOCKDOWN, WATCH, *SOCKETS])
def test_the_unit_has_no_flaw_that_systemd_knows(machine: Machine, name: str) -> None:
    """With the manual pages that it names, where there is a `man` to look for them."""
    man = "--man=yes" if machine.run("sh", "-c", "command -v man", check=False).stdout else "--man=no"
    verified = machine.run("systemd-analyze", "verify", man, f"/etc/systemd/system/{name}", env=NO_CACHE)
    assert verified.stdout + verified.stderr == ""


@pytest.mark.parametrize("name", WORST_EXPOSURE)
def test_the_exposure_as_it_is_loaded(machine: Machine, name: str) -> None:
    """As test_units.py has it offline; here with what the manager made of the unit and its drop-ins."""
    shown = machine.run("systemd-analyze", "security", "--no-pager", "--json=short", name).stdout
    missing = {each["name"]: each["exposure"] for each in json.loads(shown) if float(each["exposure"] or 0) > 0}
    total = machine.run("systemd-analyze", "security", "--no-pager", name).stdout.strip().splitlines()[-1]
    print(total, missing)
    found = re.search(r"\d+\.\d", total)
    assert found
    assert float(found[0]) <= WORST_EXPOSURE[name], missing


def test_an_upgrade_lets_nothing_out(fresh: Machine) -> None:
    """L4: the daemon, its environment and the units are replaced on a protected machine, twice in a row."""
    fresh.protect()
    with fresh.sealed():
        for _ in range(2):
            former = fresh.main_pid
            assert "tunwarden runs" in fresh.install()
            fresh.wait_state("connecting", "blocked", "reconnecting")
            assert fresh.main_pid != former
    assert fresh.status()["target"] == "protected"
    assert fresh.run("sh", "-c", f"ls -d {ENVIRONMENT}*").stdout.split() == [ENVIRONMENT]
    # The next boot begins closed, as before.
    assert fresh.run("systemctl", "is-enabled", UNIT, LOCKDOWN, *SOCKETS).stdout.split() == ["enabled"] * 5
    kept = fresh.box.read("/var/lib/tunwarden/lockdown.nft")
    assert kept == fresh.box.read(f"{ENVIRONMENT}/closed.nft")


def test_a_failed_upgrade_changes_nothing(fresh: Machine) -> None:
    """The package index is out of reach, or gives something else than what is pinned."""
    former = fresh.main_pid
    failed = fresh.run("make", "-C", PROJECT, "install", env=OFFLINE | {"PIP_FIND_LINKS": "/mnt"}, check=False)
    assert failed.returncode != 0
    assert fresh.main_pid == former
    assert fresh.run("sh", "-c", f"ls -d {ENVIRONMENT}*").stdout.split() == [ENVIRONMENT]
    fresh.run("systemctl", "restart", UNIT)
    fresh.wait_state("idle")


def named_after_us(machine: Machine) -> list[str]:
    """Files with our name that came since the container was made (with its /etc/hostname)."""
    # This machine's own files show through: the laboratory's and other tests' may come at any moment.
    theirs = ("lab", "radio*", "test-*", "checkout-*", "portal-*", "postgres-*")
    others = (word for name in theirs for word in ("!", "-name", f"tunwarden-{name}"))
    new = ("-newer", "/etc/hostname", "-iname", "*tunwarden*", *others, "-print")
    return sorted(machine.run("find", "/etc", "/usr", "/var", "/run", "/opt", "/root", "/tmp", *new).stdout.split())


def test_uninstall_opens_the_machine(fresh: Machine) -> None:
    """Last, for obvious reasons. Lockdown is on: the daemon by itself would stay closed."""
    before = fresh.rules(), fresh.box.read("/etc/resolv.conf")
    fresh.import_profile()
    fresh.run("tunwarden", "connect", "--wait")
    fresh.run("tunwarden", "lockdown", "on")
    assert fresh.table()
    assert fresh.rules() != before[0]
    fresh.talk()
    assert not fresh.open()

    fresh.run("make", "-C", PROJECT, "uninstall")
    fresh.wait("open", fresh.open)
    assert fresh.table() == ""
    assert (fresh.rules(), fresh.box.read("/etc/resolv.conf")) == before
    for name in ("src_valid_mark", "arp_ignore"):
        assert fresh.box.read(f"/proc/sys/net/ipv4/conf/all/{name}") == "0\n"
    assert fresh.run("ip", "link", "show", "tunwarden0", check=False).returncode == 1
    for unit in (UNIT, LOCKDOWN, WATCH, *SOCKETS):
        assert fresh.run("systemctl", "cat", unit, check=False).returncode == 1
    assert fresh.run("ls", "/var/lib/tunwarden").stdout.split() == ["profiles", "traffic.db", "tunwarden.db"]
    kept = [path for path in named_after_us(fresh) if not path.startswith("/var/lib/tunwarden")]
    assert kept == ["/etc/tunwarden", "/etc/tunwarden/tunwarden.toml"]
    fresh.run(f"{PROJECT}/systemd/uninstall", "--purge")
    assert named_after_us(fresh) == []
    assert "tunwarden" not in fresh.box.read("/etc/group")
