"""S4: settings change while protection is wanted, by users and by the administrator: not one clear frame leaves.

The daemon sees by itself when a file was changed; SIGHUP asks for it. Traffic of nine kinds goes on throughout.
"""

from __future__ import annotations

import signal
from typing import Any

import pytest

from ipc.structs import Setting
from lab.hosts import CommandError
from lab.subject import SETTINGS, Subject

pytestmark = pytest.mark.netns

FILE = "/etc/tunwarden/tunwarden.toml"
DROP_INS = "/etc/tunwarden/tunwarden.d"


@pytest.fixture
def connected(subject: Subject) -> Subject:
    subject.lab.join("cafe")
    subject.wait("connected", 25)
    return subject


def setting(subject: Subject, key: str) -> Setting:
    with subject.client() as client:
        return next(each for each in client.list_settings() if each.key == key)


def until(subject: Subject, key: str, value: str) -> None:
    """Wait for a value to be in force. Each look also sees that protection never stopped."""

    def there(status: Any) -> bool:
        assert status.protected and status.blocking, status
        return setting(subject, key).value == value

    subject.wait(there, 25)


def test_users_change_settings_while_protected(connected: Subject, sealed: Any) -> None:
    with sealed():
        for key, value in (
            ("wifi.criteria.wps", "true"),
            ("wifi.hold_while_asking", "false"),
            ("wired.action", "prompt"),
            ("protection.lan_subnets", "100.64.0.0/10"),
            ("protection.lockdown", "true"),
            ("portal.detect", "false"),
        ):
            connected.cli("settings", "set", key, value)
            until(connected, key, value)
        connected.cli("settings", "reset", "--all")
        until(connected, "protection.lockdown", "false")
        assert connected.status().warnings == ()


def test_the_administrator_changes_files_while_protected(connected: Subject, sealed: Any) -> None:
    """In place, by renaming, with drop-ins, with errors, at SIGHUP and by itself."""
    laptop = connected.lab.laptop
    with sealed():
        laptop.write(FILE, SETTINGS + '[cellular]\naction = "prompt"\n')
        until(connected, "cellular.action", "prompt")
        laptop.write(f"{FILE}.new", SETTINGS + '[cellular]\naction = "auto_connect"\n')
        laptop.run("mv", f"{FILE}.new", FILE)
        until(connected, "cellular.action", "auto_connect")
        laptop.run("mkdir", "-p", DROP_INS)
        laptop.write(f"{DROP_INS}/10-lock.toml", "[protection]\nlockdown = true\nallow_lan = false\n")
        until(connected, "protection.lockdown", "true")
        locked = setting(connected, "protection.lockdown")
        assert (locked.origin, locked.place) == ("administrator", f"{DROP_INS}/10-lock.toml:2")
        with pytest.raises(CommandError, match=f"protection.allow_lan is fixed to false in {DROP_INS}/10-lock.toml:3"):
            connected.cli("settings", "set", "protection.allow_lan", "true")
        with pytest.raises(CommandError, match=f"{DROP_INS}/10-lock.toml:2"):
            connected.cli("lockdown", "off")
        laptop.write(f"{DROP_INS}/20-wrong.toml", "[protection]\nlockdown = maybe\n")
        status = connected.wait(lambda status: any("20-wrong.toml:2" in each for each in status.warnings), 25)
        assert status.protected and status.lockdown
        laptop.run("rm", f"{DROP_INS}/20-wrong.toml", f"{DROP_INS}/10-lock.toml")
        until(connected, "protection.lockdown", "false")
        connected.wait(lambda status: not status.warnings, 25)
        assert connected.process is not None
        for _ in range(20):
            connected.process.send(signal.SIGHUP)
        laptop.write(FILE, SETTINGS)
        until(connected, "cellular.action", "ignore")


def test_what_users_set_outlives_the_daemon(connected: Subject, sealed: Any) -> None:
    with sealed():
        connected.cli("settings", "set", "wired.action", "auto_connect")
        connected.kill()
        connected.start()
        connected.wait("connected", 25)
        kept = setting(connected, "wired.action")
        assert (kept.value, kept.origin) == ("auto_connect", "user")
