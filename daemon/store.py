"""What must outlive the process: the intent, the known networks users saved, the last good settings, the profiles.

SQLite in WAL mode with synchronous=FULL: a choice is on the disk before it is acted on, and in the database itself
before the next one, so a lost or damaged WAL file loses nothing. What becomes of a damaged one: `store_file.py`.

Profiles are files of their own (root-only, one each), so that a damaged database loses no keys.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from daemon import files
from daemon.store_file import KEEP, NO_PROGRAMS, NO_SETTINGS, StoreFile
from policies.decision import Intent
from policies.intents import from_json as intent_from_json
from policies.intents import to_json as intent_to_json
from policies.known_network import KnownNetwork
from policies.own_settings import from_json as own_from_json
from policies.own_settings import to_json as own_to_json
from policies.profiles import Profile, from_json, to_json
from policies.profiles_errors import ProfileError
from policies.server_lists import from_json as servers_from_json
from policies.server_lists import to_json as servers_to_json
from policies.servers import ServerList
from policies.settings_known import known_from_json, known_to_json
from policies.split import Program
from policies.split import from_json as programs_from_json
from policies.split import to_json as programs_to_json

Files = Sequence[tuple[str, str]]  # names and texts of settings files

LARGEST = 4 << 20  # bytes of a profile file: the longest text that can be imported, with room for its JSON


class StoreError(Exception):
    """The store cannot be read or written: `str()` says which file and why."""


class Store:
    """One folder, root-only. Open it once; every method returns when the change is on the disk. Never fails to open."""

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self.folder = folder.resolve()  # an administrator may have moved it to another disk
        self.warnings: list[str] = []  # about profile files
        self.damaged_profiles: frozenset[str] = frozenset()
        self._intent = ""  # as it was saved last
        opened = StoreFile(self.folder, now)
        self._db, self._file = opened.db, opened.path
        self.trouble = opened.trouble  # why nobody knows what was wanted last, until `decided`
        self.unkept = opened.unkept  # why nothing can be kept in this run; then `trouble` is set too

    def close(self) -> None:
        self._db.close()

    # --- reading and writing -----------------------------------------------------------------------------------------

    def _write(self, statement: str, values: tuple[str, ...]) -> None:
        if self.unkept:
            raise StoreError(self.unkept)
        try:
            self._db.execute(statement, values)
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as err:
            raise StoreError(f"{self._file}: {err}") from err

    def _write_all(self, statement: str, rows: list[tuple[str, str]]) -> None:
        """All of them, or none."""
        if self.unkept:
            raise StoreError(self.unkept)
        try:
            with self._db:
                self._db.execute("BEGIN IMMEDIATE")
                self._db.executemany(statement, rows)
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as err:
            raise StoreError(f"{self._file}: {err}") from err

    def _read(self, statement: str, *values: str) -> list[Any]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as err:
            raise StoreError(f"{self._file}: {err}") from err

    def _kept(self, name: str) -> str | None:
        rows = self._read("SELECT value FROM kept WHERE name = ?", name)
        return str(rows[0][0]) if rows else None

    # --- intent ------------------------------------------------------------------------------------------------------

    def intent(self) -> Intent:
        """What was wanted last; a fresh install wants nothing. Raises StoreError."""
        try:
            return intent_from_json(self._kept("intent") or "")
        except (ValueError, TypeError, LookupError, AttributeError) as err:
            raise StoreError(f"{self._file}: the intent is damaged") from err

    def save_intent(self, intent: Intent) -> None:
        """Raises StoreError."""
        text = intent_to_json(intent)
        if text != self._intent:  # what does not outlive a restart is not worth the wait for the disk
            self._write(KEEP, ("intent", text))
            self._intent = text

    def decided(self) -> None:
        """A user has said what is wanted: `trouble` ends, also for the next start. Raises StoreError."""
        if self.trouble is None:
            return
        self.trouble = None
        self._write("DELETE FROM kept WHERE name = ?", ("trouble",))

    # --- settings ----------------------------------------------------------------------------------------------------

    def last_good_settings(self) -> Files | None:
        """Raises StoreError."""
        try:
            kept = self._kept("settings")
            return None if kept is None else tuple((str(file), str(text)) for file, text in json.loads(kept))
        except (ValueError, TypeError) as err:
            raise StoreError(f"{self._file}: the last good settings are damaged") from err

    def save_good_settings(self, files: Files) -> None:
        """Raises StoreError."""
        text = json.dumps(files)
        if text != self._kept("settings"):
            self._write(KEEP, ("settings", text))

    def programs(self) -> frozenset[Program]:
        """What users have listed for split tunnelling. Raises StoreError."""
        try:
            return programs_from_json(self._kept("programs") or NO_PROGRAMS)
        except (ValueError, TypeError) as err:
            raise StoreError(f"{self._file}: the list of programs is damaged") from err

    def save_programs(self, programs: frozenset[Program]) -> None:
        """Raises StoreError."""
        self._write(KEEP, ("programs", programs_to_json(programs)))

    def own_settings(self) -> dict[str, str]:
        """The users' own settings: texts by key. Raises StoreError."""
        try:
            own = self._kept("own")
            return own_from_json(NO_SETTINGS if own is None else own)
        except ValueError as err:
            raise StoreError(f"{self._file}: the users' settings are damaged") from err

    def save_own_settings(self, own: Mapping[str, str]) -> None:
        """Raises StoreError."""
        self._write(KEEP, ("own", own_to_json(own)))

    # --- known networks ----------------------------------------------------------------------------------------------

    def known(self) -> tuple[KnownNetwork, ...]:
        """The networks users saved: names by their bytes, then patterns by theirs. Raises StoreError."""
        try:
            return tuple(known_from_json(text) for (text,) in self._read("SELECT network FROM known ORDER BY ssid"))
        except ValueError as err:
            raise StoreError(f"{self._file}: {err}") from err

    def save_known(self, *networks: KnownNetwork) -> None:
        """Replaces those of the same names; all or none. Raises StoreError."""
        rows = [(_known_key(network.key), known_to_json(network)) for network in networks]
        self._write_all("INSERT OR REPLACE INTO known VALUES (?, ?)", rows)

    def forget_known(self, key: tuple[bool, bytes]) -> bool:
        """By `KnownNetwork.key`; whether there was one. Raises StoreError."""
        there = bool(self._read("SELECT 1 FROM known WHERE ssid = ?", _known_key(key)))
        self._write("DELETE FROM known WHERE ssid = ?", (_known_key(key),))
        return there

    # --- profiles ----------------------------------------------------------------------------------------------------

    def profiles(self) -> Mapping[str, Profile]:
        """All readable profiles, by name; an unreadable one is left where it is, named in `damaged_profiles`."""
        found: dict[str, Profile] = {}
        damaged: dict[str, Path] = {}
        for file in sorted((self.folder / "profiles").glob("*.json")):
            try:
                profile = from_json(files.read(file, LARGEST).decode())
                if profile.name != file.stem:
                    raise ValueError("it is another profile's")
            except (OSError, ValueError):
                damaged[file.stem] = file
            else:
                found[profile.name] = profile
        self.damaged_profiles = frozenset(damaged)
        self.warnings = [f"The profile file {file} is damaged: import or remove it." for file in damaged.values()]
        return found

    def save_profile(self, profile: Profile) -> None:
        """Raises StoreError."""
        self._profile_file(profile.name, lambda file: files.write(file, to_json(profile).encode()))

    def remove_profile(self, name: str) -> None:
        """Raises StoreError; a profile that is not there is no error."""
        self._profile_file(name, files.remove)

    def listed(self) -> frozenset[str]:
        """The profiles that have a list of servers."""
        return frozenset(file.stem for file in (self.folder / "profiles").glob("*.servers"))

    def servers(self, name: str) -> ServerList:
        """A profile's list, read each time: it may be long, and is needed seldom. Raises StoreError."""
        file = self._servers_file(name)
        try:
            return servers_from_json(files.read(file, LARGEST).decode())
        except OSError as err:
            raise StoreError(f"{file}: {err.strerror}") from err
        except ValueError as err:  # never with its cause, which may quote a key
            raise StoreError(f"{file} is damaged: import the list of servers again") from (
                err if isinstance(err, ProfileError) else None
            )

    def save_servers(self, name: str, servers: ServerList) -> None:
        """Raises StoreError."""
        self._write_file(self._servers_file(name), lambda file: files.write(file, servers_to_json(servers).encode()))

    def remove_servers(self, name: str) -> None:
        """Raises StoreError; a list that is not there is no error."""
        self._write_file(self._servers_file(name), files.remove)

    def _servers_file(self, name: str) -> Path:
        return self.folder / "profiles" / f"{name}.servers"  # a profile's name has no slash and no leading dot

    def _profile_file(self, name: str, change: Callable[[Path], object]) -> None:
        # The parser admitted the name: no slash, no leading dot.
        self._write_file(self.folder / "profiles" / f"{name}.json", change)

    @staticmethod
    def _write_file(file: Path, change: Callable[[Path], object]) -> None:
        try:
            change(file)
        except OSError as err:
            raise StoreError(f"{file}: {err.strerror}") from err


def _known_key(key: tuple[bool, bytes]) -> str:
    """A name as its hexadecimal digits, a pattern marked as one: none of them sorts or reads as the other."""
    pattern, ssid = key
    return f"pattern {ssid.hex()}" if pattern else ssid.hex()
