"""Settings files that are wrong, gone, or not files at all: nothing opens, and the last good ones count."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from ipc.client import NotRunningError
from lab.hosts import CommandError, Host
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from tests.netns.bad_input import FILE, connected, exchange, reload, restart, told, worked

__all__ = ["connected"]
pytestmark = pytest.mark.netns


HEAD = SETTINGS.count("\n")
WRONG = {  # what is appended to the good text: the line of it, and what people must be told
    "key": ("[cellular]\nacton = 1\n", 2, "cellular.acton: unknown key"),
    "type": ("[protection]\nlockdown = 'yes'\n", 2, "protection.lockdown: "),
    "address": ("[[known]]\nssid = 'x'\nbssids = ['aa:bb']\n", 3, "known.bssids: "),
    "table": ("[tunnel2]\n", 1, "tunnel2: unknown key"),
    "twice": ("[wifi]\n", 1, ""),
    "syntax": ("[wired\n", 1, ""),
}


def settings(host: Host, text: str) -> None:
    host.write(f"{FILE}.new", text)
    exchange(host, FILE)


def not_a_file(host: Host, way: str) -> None:
    """Something else stands where the settings should be."""
    new = f"{FILE}.new"
    match way:
        case "folder":
            host.run("mkdir", new)
        case "fifo":
            host.run("mkfifo", new)
        case "dangling":
            host.run("ln", "-s", "/nowhere", new)
        case "endless":
            host.run("ln", "-s", "/dev/zero", new)
        case "writable":
            host.write(new, SETTINGS, mode=0o666)
        case "somebody's":
            host.write(new, SETTINGS)
            host.run("chown", "nobody", new)
        case "binary":
            host.run("cp", "/bin/true", new)
        case "giant":
            host.write(new, "# " + "x" * (1 << 20))
    exchange(host, FILE)


WAYS = ("folder", "fifo", "dangling", "endless", "writable", "somebody's", "binary", "giant")


def test_settings_broken_and_none_ever_good(lab: Laboratory, sealed: Any) -> None:
    """It starts closed and says which line is wrong; not even a disconnect opens; a corrected file and SIGHUP do."""
    subject = Subject(lab, SETTINGS + "[protection]\nkill_switch = 1\n")
    subject.start()
    subject.set_up()
    with sealed():
        lab.join("cafe")
        status = subject.wait("blocked")
        assert (status.cause, status.blocking) == ("settings-broken", True)
        told(subject, f"{FILE}:{HEAD + 2}: protection.kill_switch: ")
        with pytest.raises(CommandError, match="the settings file has errors"):
            subject.cli("disconnect")
        for way in WAYS:
            not_a_file(lab.laptop, way)
            restart(subject)
            status = subject.status()
            assert (status.state, status.cause, status.blocking) == ("blocked", "settings-broken", True), way
            assert any(f"{FILE}:" in warning for warning in status.warnings), (way, status.warnings)
    settings(lab.laptop, SETTINGS)
    reload(subject)
    status = subject.wait("connected")
    assert status.warnings == ()


def test_settings_broken_and_the_last_good_ones_count(connected: Subject, sealed: Any) -> None:
    """At SIGHUP and at the next start alike: protection goes on under the rules that were good, and says so."""
    lab = connected.lab
    with sealed():
        for wrong, line, expected in WRONG.values():
            settings(lab.laptop, SETTINGS + wrong)
            reload(connected)
            told(connected, f"{FILE}:{HEAD + line}:{' ' + expected if expected else ''}")
            assert connected.status().protected
        settings(lab.laptop, SETTINGS.replace('"4s"', '"4 parsecs"'))
        reload(connected)
        told(connected, f"{FILE}:12: tunnel.connect_timeout: ")
        for way in WAYS:
            not_a_file(lab.laptop, way)
            reload(connected)
            told(connected, f"{FILE}:")
            assert connected.status().protected
        restart(connected)
        status = connected.wait("connected")
        assert any("the last good settings are in force" in warning for warning in status.warnings)
        settings(lab.laptop, SETTINGS)
        reload(connected)
        connected.wait(lambda status: not status.warnings)
        assert connected.status().protected


def test_settings_in_force_stay_when_a_first_file_is_broken(lab: Laboratory, sealed: Any) -> None:
    """Started without a file, the defaults are good settings too; a *start* with a broken file has none."""
    subject = Subject(lab, None)
    subject.start()
    subject.set_up()
    with sealed("eth0"):
        lab.laptop.write(FILE, "version = 'one'")
        reload(subject)
        told(subject, f"{FILE}:1: version: ")
        assert subject.status().cause is None
        restart(subject)
        assert subject.status().cause == "settings-broken"
        lab.plug()
        assert subject.wait("blocked").blocking


def test_link_rules_hold_at_once_after_a_reload(lab: Laboratory) -> None:
    """What a link is, is asked again: a cable that is declared a stranger's network is no longer open."""
    subject = Subject(lab, SETTINGS.replace('unsecured = "auto', 'unidentified = "auto_connect"\nunsecured = "auto'))
    subject.start()
    subject.set_up()
    lab.plug()
    subject.wait(lambda status: bool(status.networks) and status.networks[0].cleared)
    settings(lab.laptop, SETTINGS.replace('"wlan*"', '"eth*"'))
    reload(subject)
    subject.wait(lambda status: [each.kind for each in status.networks] == ["wifi"])
    subject.wait("connected")


def test_storms_of_sighup(connected: Subject, sealed: Any) -> None:
    """However many: answered meanwhile, protected all the time, and early ones do not end a daemon that starts."""
    process = connected.process
    assert process is not None
    with sealed():
        most = 0.0
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            for _ in range(200):
                process.send(signal.SIGHUP)
            begun = worked(connected)
            assert connected.status().protected
            most = max(most, worked(connected) - begun)
        assert most < 1.0, "it answers before it has done all that it was told"
        pid_file = connected.lab.laptop.path("/run/tunwarden/daemon.pid")
        former = pid_file.read_text()
        connected.kill()
        starting = connected.process = connected.lab.laptop.start(connected.lab.python, "-I", "-m", "daemon")
        while pid_file.read_text() in (former, ""):  # before that, Python itself is not up
            assert starting.running, starting.output()
        until = time.monotonic() + 20
        while True:
            starting.send(signal.SIGHUP)
            try:
                connected.status()
                break
            except NotRunningError:
                assert starting.running, starting.output()
                assert time.monotonic() < until, starting.output()[-2000:]
            time.sleep(0.002)  # the machine may have other work, and the daemon must get to its own
        connected.wait("connected")
