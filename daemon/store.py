"""What must outlive the process: the intent, the known networks users saved, the last good settings, the profiles.

SQLite in WAL mode with synchronous=FULL: a choice is on the disk before it is acted on. A damaged database is set aside
under another name and a new one begun; the caller then starts closed and says so. Profiles are files of their own
(root-only, one each), so that a damaged database loses no keys.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TypeVar

from daemon import files
from policies.decide import Intent, Manual
from policies.profiles import WireGuardProfile, from_json, to_json
from policies.settings import KnownNetwork, known_from_json, known_to_json
from policies.states import Target

_SCHEMA = """
CREATE TABLE IF NOT EXISTS kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS known (ssid TEXT PRIMARY KEY, network TEXT NOT NULL) STRICT;
"""
_VERSION = 1
LARGEST = 4 << 20  # bytes of a profile file: the longest text that can be imported, with room for its JSON

T = TypeVar("T")


class StoreError(Exception):
    """The store cannot be written: `str()` says which file and why."""


class Store:
    """One folder, root-only. Open it once; every method returns when the change is on the disk."""

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self.folder = folder
        self.damaged: str | None = None  # where a damaged database was set aside, in this start
        self.warnings: list[str] = []
        self._file = folder / "tunwarden.db"
        self._now = now
        files.make_folder(folder / "profiles")
        folder.chmod(0o700)
        self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        try:
            return self._connect()
        except sqlite3.DatabaseError:
            aside = self._set_aside()
            self.damaged = str(aside)
            return self._connect()

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA cache_size=-256")
            (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if sound != "ok":
                raise sqlite3.DatabaseError(sound)
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version > _VERSION:
                raise sqlite3.DatabaseError(f"written by a newer version ({version})")
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version={_VERSION}")
            # Whatever is in there must also be readable, or it is as good as damaged.
            self._read_all(db)
        except Exception as err:
            db.close()
            raise err if isinstance(err, sqlite3.DatabaseError) else sqlite3.DatabaseError(str(err)) from err
        return db

    def _read_all(self, db: sqlite3.Connection) -> None:
        for (value,) in db.execute("SELECT value FROM kept WHERE name = 'intent'"):
            _intent_from_json(value)
        for (network,) in db.execute("SELECT network FROM known"):
            known_from_json(network)

    def _set_aside(self) -> Path:
        aside = self.folder / f"tunwarden.db.damaged-{int(self._now())}"
        for suffix in ("", "-wal", "-shm"):
            part = self._file.with_name(self._file.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        return aside

    def close(self) -> None:
        self._db.close()

    def _write(self, statement: str, values: tuple[str, ...]) -> None:
        try:
            self._db.execute(statement, values)
        except sqlite3.Error as err:
            raise StoreError(f"{self._file}: {err}") from err

    def _kept(self, name: str) -> str | None:
        row = self._db.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
        return None if row is None else str(row[0])

    # --- intent ------------------------------------------------------------------------------------------------------

    def intent(self) -> Intent:
        """What was wanted last; a fresh install wants nothing."""
        text = self._kept("intent")
        return Intent() if text is None else _intent_from_json(text)

    def save_intent(self, intent: Intent) -> None:
        """Raises StoreError."""
        self._write("INSERT OR REPLACE INTO kept VALUES ('intent', ?)", (json.dumps(asdict(intent)),))

    # --- settings ----------------------------------------------------------------------------------------------------

    def last_good_settings(self) -> str | None:
        """The text of the settings file when it last had no errors."""
        return self._kept("settings")

    def save_good_settings(self, text: str) -> None:
        """Raises StoreError."""
        if text != self._kept("settings"):
            self._write("INSERT OR REPLACE INTO kept VALUES ('settings', ?)", (text,))

    # --- known networks ----------------------------------------------------------------------------------------------

    def known(self) -> tuple[KnownNetwork, ...]:
        """The networks users saved, by SSID bytes."""
        rows = self._db.execute("SELECT network FROM known ORDER BY ssid").fetchall()
        return tuple(known_from_json(text) for (text,) in rows)

    def save_known(self, network: KnownNetwork) -> None:
        """Replaces the one of the same SSID. Raises StoreError."""
        self._write("INSERT OR REPLACE INTO known VALUES (?, ?)", (network.ssid.hex(), known_to_json(network)))

    def forget_known(self, ssid: bytes) -> bool:
        """Whether there was one. Raises StoreError."""
        there = any(network.ssid == ssid for network in self.known())
        self._write("DELETE FROM known WHERE ssid = ?", (ssid.hex(),))
        return there

    # --- profiles ----------------------------------------------------------------------------------------------------

    def profiles(self) -> Mapping[str, WireGuardProfile]:
        """All readable profiles, by name; an unreadable one is left where it is and named in `warnings`."""
        found: dict[str, WireGuardProfile] = {}
        self.warnings = []
        for file in sorted((self.folder / "profiles").glob("*.json")):
            try:
                profile = from_json(files.read(file, LARGEST).decode())
            except (OSError, ValueError):
                self.warnings.append(f"The profile file {file} is damaged: import the profile again.")
                continue
            found[profile.name] = profile
        return found

    def save_profile(self, profile: WireGuardProfile) -> None:
        """Raises StoreError."""
        self._profile_file(profile.name, lambda file: files.write(file, to_json(profile).encode()))

    def remove_profile(self, name: str) -> None:
        """Raises StoreError; a profile that is not there is no error."""
        self._profile_file(name, files.remove)

    def _profile_file(self, name: str, change: Callable[[Path], object]) -> None:
        file = self.folder / "profiles" / f"{name}.json"  # the parser admitted the name: no slash, no leading dot
        try:
            change(file)
        except OSError as err:
            raise StoreError(f"{file}: {err.strerror}") from err


def _intent_from_json(text: str) -> Intent:
    values = json.loads(text)
    manual = values.pop("manual")
    target = Target(values.pop("target"))
    chosen = Manual(Target(manual["choice"]), str(manual["network"])) if manual else None
    intent = Intent(target=target, manual=chosen, **values)
    if not isinstance(intent.kill_switch, bool) or not isinstance(intent.lockdown, bool):
        raise ValueError("kill_switch and lockdown must be true or false")
    return intent
