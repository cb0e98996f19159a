"""The daemon as a service: at boot, inside its sandbox, killed, restarted, stopped, misconfigured."""

from __future__ import annotations

import json
import time

import pytest

from lab.air import AccessPoint, Air
from lab.networkmanager_stand_in import NAME as NETWORKMANAGER
from lab.networkmanager_stand_in import NetworkManagerStandIn
from tests.boot.machine import UNIT, WATCH, Machine

pytestmark = pytest.mark.boot

CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF = 12, 13, 39  # <linux/capability.h>


def at(machine: Machine, unit: str) -> int:
    """When a unit was up, in microseconds of the machine's clock."""
    return int(machine.box.show(unit, "ActiveEnterTimestampMonotonic")["ActiveEnterTimestampMonotonic"])


# --- at boot, so first ------------------------------------------------------------------------------------------------


def test_it_is_there_before_any_network(machine: Machine) -> None:
    """K2, L6. Also where something like cloud-init sits between the network and the rest, the bus with it."""
    assert machine.active() == "active"
    assert machine.restarts == 0
    assert 0 < at(machine, UNIT) <= at(machine, "network-pre.target") <= at(machine, "sysinit.target")
    assert "chain output" in machine.box.read("/run/early.table")
    assert "system_bus_socket" not in machine.box.read("/run/early.bus")
    assert "ordering cycle" not in machine.box.journal()
    # It was there before the bus. It finds it.
    machine.wait("on the bus", lambda: machine.run("busctl", "status", "org.tunwarden.Daemon1"), 20)


def test_systemd_is_told_when_it_is_ready(machine: Machine) -> None:
    shown = machine.box.show(UNIT, "Type", "NotifyAccess", "SubState", "Result", "UnitFileState")
    assert shown.pop("UnitFileState") == "enabled"
    assert shown == {"Type": "notify", "NotifyAccess": "main", "SubState": "running", "Result": "success"}


def test_the_journal_knows_what_is_grave(fresh: Machine) -> None:
    fresh.run("journalctl", "--sync")
    lines = fresh.run("journalctl", "--boot", f"--unit={UNIT}", "--output=json", "_COMM=python").stdout.splitlines()
    messages = {entry["MESSAGE"]: entry["PRIORITY"] for entry in map(json.loads, lines)}
    assert not [text for text in messages if text.startswith("<")]
    assert {priority for text, priority in messages.items() if "event=ready" in text} == {"6"}


# --- the sandbox ------------------------------------------------------------------------------------------------------


def test_all_it_needs_it_may(fresh: Machine) -> None:
    """A whole connection within the unit's limits: nft, rules, sysctls, wireguard-go and its device, resolv.conf."""
    resolvers = fresh.box.read("/etc/resolv.conf")
    fresh.import_profile()
    fresh.run("tunwarden", "connect", "--wait", "--timeout", "15")
    assert fresh.status()["protected"] is True
    assert "nameserver 10.7.0.1" in fresh.box.read("/etc/resolv.conf")
    assert fresh.box.read("/proc/sys/net/ipv4/conf/all/src_valid_mark") == "1\n"
    assert fresh.box.read("/proc/sys/net/ipv4/conf/all/arp_ignore") == "2\n"
    assert "0x74756e77" in fresh.rules()
    fresh.run("tunwarden", "disconnect")
    fresh.wait_state("idle")
    assert fresh.box.read("/etc/resolv.conf") == resolvers
    assert fresh.box.read("/proc/sys/net/ipv4/conf/all/arp_ignore") == "0\n"
    assert fresh.status()["warnings"] == []


def test_a_resolv_conf_that_is_a_link_elsewhere(fresh: Machine) -> None:
    """As with systemd-resolved: the link is replaced, and given back."""
    fresh.run("ln", "--symbolic", "--force", "/run/elsewhere/stub-resolv.conf", "/etc/resolv.conf")
    try:
        fresh.import_profile()
        fresh.run("tunwarden", "connect", "--wait", "--timeout", "15")
        assert "nameserver 10.7.0.1" in fresh.box.read("/etc/resolv.conf")
        fresh.run("tunwarden", "disconnect")
        fresh.wait_state("idle")
        assert fresh.run("readlink", "/etc/resolv.conf").stdout.strip() == "/run/elsewhere/stub-resolv.conf"
    finally:
        fresh.run("tunwarden", "disconnect", check=False)
        fresh.run("sh", "-c", "rm -f /etc/resolv.conf; echo '# There is no network.' >/etc/resolv.conf")


def test_what_it_does_not_need_it_may_not(fresh: Machine) -> None:
    status = dict(line.split(":\t", 1) for line in fresh.box.read(f"/proc/{fresh.main_pid}/status").splitlines())
    needed = 1 << CAP_NET_ADMIN | 1 << CAP_BPF
    assert int(status["CapBnd"], 16) == int(status["CapEff"], 16) == needed
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"
    inside = ("nsenter", "--target", str(fresh.main_pid), "--mount", "--")
    for path in ("/usr/lib/tunwarden/x", "/usr/bin/x", "/etc/tunwarden/x", "/boot/x", "/proc/sys/kernel/core_pattern"):
        assert "Read-only file system" in fresh.run(*inside, "touch", path, check=False).stderr
        assert "Read-only file system" in fresh.run(*inside, "dd", f"of={path}", "if=/dev/null", check=False).stderr
    assert fresh.run(*inside, "ls", "/home", "/root").stdout.split() == ["/home:", "/root:"]
    devices = fresh.run(*inside, "find", "/dev", "-xdev", "-type", "b", "-o", "-xdev", "-type", "c").stdout.split()
    allowed = ("null", "zero", "full", "random", "urandom", "tty", "net/tun")
    assert set(devices) <= {f"/dev/{name}" for name in allowed}


def test_networkmanager_is_heard_over_the_real_bus(fresh: Machine) -> None:
    fresh.box.write("/etc/tunwarden/tunwarden.toml", 'version = 1\n[[links]]\nname = "wlan*"\nkind = "wifi"\n')
    fresh.run("systemctl", "restart", UNIT)
    fresh.box.write(
        "/etc/dbus-1/system.d/stand-in.conf",
        f'<busconfig><policy user="root"><allow own="{NETWORKMANAGER}"/></policy>'
        f'<policy context="default"><allow send_destination="{NETWORKMANAGER}"/></policy></busconfig>',
    )
    fresh.run("systemctl", "reload", "dbus")
    fresh.run("sh", "-ec", "ip link add wlan0 type veth peer name air0; ip link set air0 up; ip link set wlan0 up")
    parameters = json.dumps({"Version": "1.42.4", "State": 20})
    fresh.run(
        "systemd-run", "--quiet", "--collect", "--unit=stand-in", "/usr/bin/python3", "-m", "dbusmock", "--system",
        "--template", "networkmanager", "--parameters", parameters,
    )  # fmt: skip
    network_manager = NetworkManagerStandIn(fresh.box)  # type: ignore[arg-type]
    try:
        network_manager.ready("02:00:00:00:00:01", "02:00:00:00:00:02")
        network_manager.associated(AccessPoint(b"Cafe", "02:00:00:00:00:10", Air.OPEN))

        def heard() -> bool:
            networks = fresh.status()["networks"]
            assert isinstance(networks, list)
            return any((each["ssid"], each["security"]) == ("Cafe", "open") for each in networks)

        fresh.wait("the network's name", heard)
        reads_strangers_confined(fresh)
    finally:
        network_manager.close()
        fresh.run("systemctl", "stop", "stand-in.service")
        fresh.run("ip", "link", "delete", "wlan0")


def reads_strangers_confined(machine: Machine) -> None:
    """N13: on that network a child of the watching service reads frames, with nothing of what that one may."""

    def watcher() -> int:
        return int(machine.box.show(WATCH, "MainPID")["MainPID"])

    def child() -> str:
        found = machine.run("pgrep", "--parent", str(watcher()), "--full", "confinement.py", check=False).stdout
        about = machine.run("cat", f"/proc/{found.strip()}/status", check=False).stdout
        return about if "Seccomp:\t2" in about and "CapEff:\t0000000000000000" in about else ""

    def status_of(text: str) -> dict[str, str]:
        return dict(line.split(":\t", 1) for line in text.splitlines())

    seen = [""]
    machine.wait("the reader", lambda: seen.append(child()) or seen[-1])  # type: ignore[func-returns-value]
    reader = status_of(seen[-1])
    opener = status_of(machine.box.read(f"/proc/{watcher()}/status"))
    assert {reader[name] for name in ("CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
    assert int(reader["Seccomp_filters"]) > 1  # the unit's, and its own
    assert {opener[name] for name in ("CapPrm", "CapEff", "CapBnd")} == {f"{1 << CAP_NET_RAW:016x}"}
    assert opener["CapAmb"] == "0" * 16
    assert 0 not in {int(each) for about in (reader, opener) for each in about["Uid"].split()}
    assert machine.run("pgrep", "--parent", str(machine.main_pid), "--full", "confinement.py", check=False).stdout == ""
    assert "not looked for" not in machine.box.journal()
    # It is killed: the daemon asks again, and who asks is answered by the next one.
    former = watcher()
    machine.run("kill", "-KILL", str(former))
    machine.wait("another reader", lambda: watcher() not in (0, former) and child(), 40)
    assert machine.active() == "active"


# --- killed, restarted, stopped ---------------------------------------------------------------------------------------


def test_unprotected_the_talker_is_heard(fresh: Machine) -> None:
    """The positive control of everything below."""
    fresh.talk()
    fresh.wait("open", fresh.open)
    fresh.protect()
    assert not fresh.open()


def test_kill_9_while_protected(fresh: Machine) -> None:
    fresh.protect()
    former, restarts = fresh.main_pid, fresh.restarts
    with fresh.sealed():
        for number in (1, 2):
            fresh.run("kill", "-KILL", str(fresh.main_pid))
            begun = time.monotonic()
            fresh.wait("restarted", lambda number=number: fresh.restarts == restarts + number)  # type: ignore[misc]
            fresh.wait("ready", lambda: fresh.active() == "active" and fresh.status())
            print(f"ready {time.monotonic() - begun:.2f} s after SIGKILL")
        fresh.wait_state("connecting", "blocked", "reconnecting")
    assert fresh.main_pid != former
    assert fresh.status()["blocking"] is True


HASTY = """
[Service]
WatchdogSec=8
"""


def test_a_daemon_that_hangs_is_killed_and_comes_back_blocked(fresh: Machine) -> None:
    """The watchdog: a stopped process answers nobody, and feeds nobody."""
    assert fresh.box.show(UNIT, "WatchdogUSec")["WatchdogUSec"] == "30s"
    fresh.box.write(f"/run/systemd/system/{UNIT}.d/50-hasty.conf", HASTY)
    fresh.run("systemctl", "daemon-reload")
    try:
        fresh.run("systemctl", "restart", UNIT)
        fresh.protect()
        former, restarts = fresh.main_pid, fresh.restarts
        with fresh.sealed():
            time.sleep(9)
            assert fresh.main_pid == former, "a daemon that is well is left alone"
            fresh.run("kill", "-STOP", str(former))
            fresh.wait("another daemon", lambda: fresh.main_pid not in (0, former) and fresh.active() == "active")
            fresh.wait_state("connecting", "blocked", "reconnecting")
        assert fresh.restarts == restarts + 1
        assert "watchdog" in fresh.box.journal("--unit", UNIT).lower()
    finally:
        fresh.run("rm", f"/run/systemd/system/{UNIT}.d/50-hasty.conf")
        fresh.run("systemctl", "daemon-reload")


def test_kill_9_five_times(fresh: Machine) -> None:
    """At its weakest moments too: while it starts."""
    fresh.protect()
    with fresh.sealed():
        for _ in range(5):
            former = fresh.main_pid
            fresh.run("systemctl", "kill", "--kill-whom=main", "--signal=SIGKILL", UNIT)
            fresh.wait("the next process", lambda former=former: fresh.main_pid not in (0, former))  # type: ignore[misc]
        fresh.wait_state("connecting", "blocked", "reconnecting")


def test_it_never_gives_up(machine: Machine) -> None:
    """However often it is killed: otherwise the machine would stay blocked, and nobody there to unblock it."""
    shown = machine.box.show(UNIT, "StartLimitIntervalUSec", "Restart")
    assert shown == {"StartLimitIntervalUSec": "0", "Restart": "always"}


ENGINES = ("pgrep", "--full", "^/usr/bin/wireguard-go -f tunwarden0")


def engines(machine: Machine) -> list[str]:
    """The wireguard-go processes of the tunnel."""
    return machine.run(*ENGINES, check=False).stdout.split()


def test_the_tunnel_outlives_the_daemon(fresh: Machine) -> None:
    """Killed, restarted, stopped: its process goes on behind the same firewall until the next daemon replaces it."""
    fresh.import_profile()
    fresh.run("tunwarden", "connect", "--wait", "--timeout", "15")
    engine = engines(fresh)
    if not engine:
        pytest.skip("this kernel has WireGuard: there is no process")
    with fresh.sealed():
        # In one breath: the next daemon, which replaces it, begins half a second later.
        killed = fresh.run("sh", "-c", f'kill -KILL {fresh.main_pid}; exec "$@"', "sh", *ENGINES)
        assert killed.stdout.split() == engine
        fresh.wait("connected again", lambda: fresh.status()["protected"])
        second = engines(fresh)
        assert len(second) == 1
        assert second != engine
        fresh.run("systemctl", "restart", UNIT)
        fresh.wait("connected again", lambda: fresh.status()["protected"])
        third = engines(fresh)
        assert len(third) == 1
        fresh.run("systemctl", "stop", UNIT)
        assert engines(fresh) == third
        fresh.run("systemctl", "start", UNIT)
        fresh.wait("connected again", lambda: fresh.status()["protected"])
    assert len(engines(fresh)) == 1


def test_restart_while_protected(fresh: Machine) -> None:
    fresh.protect()
    former = fresh.main_pid
    with fresh.sealed():
        begun = time.monotonic()
        fresh.run("systemctl", "restart", UNIT)
        print(f"systemctl restart took {time.monotonic() - begun:.2f} s")
        fresh.wait_state("connecting", "blocked", "reconnecting")
    assert fresh.main_pid != former


def test_stop_while_protected(fresh: Machine) -> None:
    """Whoever stops the service has not said that traffic may leave."""
    fresh.protect()
    rules = fresh.rules()
    with fresh.sealed():
        fresh.run("systemctl", "stop", UNIT)
        assert fresh.active() == "inactive"
        time.sleep(0.3)
        assert fresh.active() == "inactive"
    assert fresh.rules() == rules
    with fresh.sealed():
        fresh.run("systemctl", "start", UNIT)
        fresh.wait_state("connecting", "blocked", "reconnecting")


def test_stop_while_unprotected(fresh: Machine) -> None:
    """Nothing of ours stays: the machine is as it was."""
    fresh.talk()
    assert fresh.table()
    fresh.run("systemctl", "stop", UNIT)
    assert fresh.table() == ""
    assert "74756e77" not in fresh.rules()
    fresh.wait("open", fresh.open)


def test_protected_over_a_reboot(machine: Machine) -> None:
    """The choice is on the disk: after the reboot the block is there before any network is."""
    machine.start_over()
    machine.protect()
    machine.reboot()
    assert machine.status()["target"] == "protected"
    assert "policy drop" in machine.box.read("/run/early.table")
    machine.talk()
    assert not machine.open()


# --- misconfigured ----------------------------------------------------------------------------------------------------


def test_an_error_in_the_settings(fresh: Machine) -> None:
    """Told in the journal with its line, and closed; no crash, no loop; right again, it opens."""
    fresh.run("systemctl", "stop", UNIT)
    fresh.run("sh", "-c", "rm -rf /var/lib/tunwarden/*")  # with last good settings, those would count
    fresh.box.write("/etc/tunwarden/tunwarden.toml", 'version = 1\n[wifi]\nunsecured = "maybe"\n')
    fresh.run("systemctl", "start", UNIT)
    time.sleep(1.2)  # longer than RestartSec and a start
    assert (fresh.active(), fresh.restarts) == ("active", 0)
    told = fresh.box.journal(f"--unit={UNIT}", "--priority=warning")
    assert "tunwarden.toml" in told
    assert "unsecured" in told
    status = fresh.status()
    assert (status["state"], status["blocking"]) == ("blocked", True)
    fresh.talk()
    assert not fresh.open()
    fresh.box.write("/etc/tunwarden/tunwarden.toml", fresh.settings)
    fresh.run("systemctl", "reload", UNIT)
    fresh.wait_state("idle")
    fresh.wait("open", fresh.open)
