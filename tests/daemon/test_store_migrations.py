"""S4: every layout of the store that was ever released becomes the present one: snapshots in golden/store."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest

from daemon import store_file as module
from daemon.store import Store
from policies.decision import Intent, Manual
from policies.known_network import KnownNetwork
from policies.settings_tables import WifiAction
from policies.states import Target

SNAPSHOTS = Path(__file__).parent.parent / "golden/store"


def made(folder: Path, version: int) -> Path:
    folder.mkdir(mode=0o700)
    db = sqlite3.connect(folder / "tunwarden.db")
    db.executescript((SNAPSHOTS / f"{version}.sql").read_text())
    db.close()
    return folder


def dumped(folder: Path) -> str:
    db = sqlite3.connect(folder / "tunwarden.db")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    text = "\n".join((f"PRAGMA user_version={version};", *db.iterdump(), ""))
    db.close()
    return text


def test_there_is_a_snapshot_of_every_layout() -> None:
    there = {int(path.stem) for path in SNAPSHOTS.glob("*.sql")}
    assert there == set(range(1, module._VERSION + 1))
    assert set(module._MIGRATIONS) == there - {module._VERSION}


@pytest.mark.parametrize("version", range(1, module._VERSION + 1))
def test_an_upgrade_keeps_everything(tmp_path: Path, version: int) -> None:
    folder = made(tmp_path / "state", version)
    store = Store(folder, lambda: 1.0)
    assert (store.trouble, store.unkept) == (None, None)
    manual = Manual(Target.PROTECTED, "wlan0 x")
    assert store.intent() == Intent(Target.PROTECTED, manual, kill_switch=False, lockdown=True, profile="office")
    assert store.known() == (KnownNetwork(ssid=b"Home", action=WifiAction.IGNORE),)
    assert store.last_good_settings() == (
        ("/etc/tunwarden/tunwarden.toml", 'version = 1\n[wifi]\nsecured = "prompt"\n'),
    )
    store.close()
    assert dumped(folder) == (SNAPSHOTS / f"{module._VERSION}.sql").read_text()


def test_a_migration_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(tmp_path / "state", 1)
    before = dumped(folder)

    def failing(db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM known")
        raise sqlite3.OperationalError("no")

    monkeypatch.setitem(module._MIGRATIONS, 1, failing)
    store = Store(folder, lambda: 1.0)
    assert store.trouble is not None and "damaged (no)" in store.trouble
    store.close()
    (aside,) = folder.glob("tunwarden.db.damaged-*[0-9]")
    aside.rename(folder / "tunwarden.db")
    assert dumped(folder) == before
