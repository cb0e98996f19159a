"""A store that is damaged, gone, full or not ours alone: the start is closed, and people are told."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ipc.errors import ServiceError
from lab.subject import PROFILE, Subject
from lab.topology import Laboratory
from tests.netns.bad_input import STATE, connected, restart, told

__all__ = ["connected"]
pytestmark = pytest.mark.netns


def rewritten(statement: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        db = sqlite3.connect(folder / "tunwarden.db", isolation_level=None)
        db.execute(statement)
        db.close()

    return damage


def other_database(folder: Path) -> None:
    (folder / "tunwarden.db").unlink()
    db = sqlite3.connect(folder / "tunwarden.db")
    db.execute("CREATE TABLE kept (who TEXT)")
    db.close()


def put(name: str, data: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def replaced_by_folder(folder: Path) -> None:
    (folder / "tunwarden.db").unlink()
    (folder / "tunwarden.db").mkdir()


DAMAGES: dict[str, Callable[[Path], object]] = {
    "emptied": put("tunwarden.db", b""),
    "cut": lambda folder: os.truncate(folder / "tunwarden.db", 4096),
    "garbage": put("tunwarden.db", b"garbage " * 4096),
    "garbage in the WAL": put("tunwarden.db-wal", b"garbage " * 4096),
    "garbage in a page": lambda folder: os.pwrite(
        os.open(folder / "tunwarden.db", os.O_WRONLY), b"garbage " * 512, 4096
    ),
    "another database": other_database,
    "a newer layout": rewritten("PRAGMA user_version=1000"),
    "no intent": rewritten("DELETE FROM kept WHERE name = 'intent'"),
    "a senseless target": rewritten("UPDATE kept SET value = replace(value, 'protected', 'maybe')"),
    "a senseless profile": rewritten("UPDATE kept SET value = replace(value, '\"profile\": null', '\"profile\": []')"),
    "a senseless network": rewritten('INSERT INTO known VALUES (\'41\', \'{"ssid_hex": "41", "action": 1}\')'),
    "gone": lambda folder: (folder / "tunwarden.db").unlink(),
    "a folder": replaced_by_folder,
}


def test_a_damaged_store_starts_closed(connected: Subject, sealed: Any, tmp_path: Path) -> None:
    """Set aside with a copy, closed, told, whatever the damage; closed at every start until somebody decides."""
    lab = connected.lab
    folder = lab.laptop.path(STATE)
    good, work = tmp_path / "good", tmp_path / "work"  # SQLite itself would leave the laptop through /proc/PID/root
    connected.kill()
    shutil.copytree(folder, good)
    with sealed():
        for name, damage in DAMAGES.items():
            shutil.copytree(good, work)
            damage(work)
            shutil.rmtree(folder)
            shutil.move(work, folder)
            wanted = (folder / "tunwarden.db").read_bytes() if (folder / "tunwarden.db").is_file() else b""
            connected.start()
            status = connected.status()
            assert (status.state, status.cause, status.blocking) == ("blocked", "store-broken", True), name
            (warning,) = status.warnings
            if name != "gone":
                (aside,) = (each for each in folder.glob("*.damaged-*") if not each.name.endswith(("-wal", "-shm")))
                assert f"{STATE}/{aside.name}" in warning
                assert aside.is_dir() or aside.read_bytes() == wanted, name
            connected.kill()
        connected.start()  # nobody has decided: this start is as closed as the last one
        assert (connected.status().cause, connected.status().warnings) == ("store-broken", (warning,))
        connected.cli("connect", "--wait")
        restart(connected)
        assert connected.wait("connected").warnings == ()
    connected.cli("disconnect")
    connected.wait("idle")
    restart(connected)
    assert connected.wait("idle").warnings == ()


def test_a_store_that_others_could_write_is_not_believed(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    connected.kill()
    with sealed():
        lab.laptop.run("chmod", "777", STATE)
        connected.start()
        status = connected.status()
        assert (status.state, status.cause, status.blocking) == ("blocked", "store-broken", True)
        told(connected, "somebody else than root may write this folder")
        connected.kill()
        lab.laptop.run("chmod", "755", STATE)
        connected.start()
        connected.wait("connected")
    assert lab.laptop.run("stat", "-c", "%a", STATE).stdout.strip() == "700"


def test_a_damaged_profile_is_no_reason_to_open(lab: Laboratory, sealed: Any) -> None:
    """The only profile, never named by anybody: a machine that was set up stays so, and the profile can be replaced."""
    subject = Subject(lab)
    subject.start()
    subject.set_up()
    file = f"{STATE}/profiles/{PROFILE}.json"
    sound = lab.laptop.read(file)
    for content in (
        "",
        sound[:-20],
        "[" * 100_000,
        sound.replace('"kind"', '"kinds"'),
        sound.replace("office", "other"),
    ):
        lab.laptop.write(file, content, mode=0o600)
        restart(subject)
        told(subject, f"The profile file {file} is damaged")
    with sealed():
        lab.join("cafe")
        status = subject.wait("blocked")
        assert (status.target, status.cause, status.blocking) == ("protected", "no-profile", True)
        subject.cli("profiles", "remove", PROFILE)
        subject.set_up()
        assert subject.wait("connected").warnings == ()


def test_a_full_disk(lab: Laboratory, sealed: Any) -> None:
    """What stood goes on; what cannot be kept is said; the next start knows what was wanted and protects."""
    lab.laptop.run("mkdir", STATE)
    lab.laptop.run("mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "tmpfs", STATE)
    subject = Subject(lab)
    subject.start()
    subject.set_up()
    lab.join("cafe")
    subject.wait("connected")
    subject.cli("connect")
    with sealed():
        lab.laptop.run("dd", "if=/dev/zero", f"of={STATE}/fill", "bs=1k", check=False)
        subject.cli("lockdown", "on")
        told(subject, "could not be saved")
        with pytest.raises(ServiceError, match="Nothing was changed"), subject.client() as client:
            client.import_profile("second", lab.client_config())
        assert os.listdir(lab.laptop.path(f"{STATE}/profiles")) == [f"{PROFILE}.json"]
        restart(subject)
        assert subject.wait("connected").target == "protected"
        lab.laptop.run("rm", f"{STATE}/fill")
        restart(subject)
        assert subject.wait("connected").warnings == ()


def test_a_state_folder_that_is_read_only(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    connected.kill()
    lab.laptop.run("mount", "--bind", STATE, STATE)
    lab.laptop.run("mount", "-o", "remount,bind,ro", STATE)
    with sealed():
        connected.start()
        status = connected.status()
        assert (status.state, status.cause, status.blocking) == ("blocked", "store-broken", True)
        told(connected, "nothing is kept")
        connected.cli("lockdown", "on")
        lab.laptop.run("umount", STATE)
        restart(connected)
        assert connected.wait("connected").warnings == ()  # not even set aside: it was never damaged
