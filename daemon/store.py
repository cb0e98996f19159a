"""What must outlive the process: the intent, the known networks users saved, the last good settings, the profiles.

SQLite in WAL mode with synchronous=FULL: a choice is on the disk before it is acted on, and in the database itself
before the next one, so a lost or damaged WAL file loses nothing. A damaged database is set aside under another name and
a new one begun, in which `trouble` is written first: until a user decides anew, every start is a closed one. Where the
disk refuses (read-only, full, not ours alone), nothing is kept (`unkept`) and the start is closed as well.

Profiles are files of their own (root-only, one each), so that a damaged database loses no keys.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from daemon import files
from policies.decision import Answer, Intent, Manual, Rule
from policies.known_network import KnownNetwork
from policies.own_settings import from_json as own_from_json
from policies.own_settings import to_json as own_to_json
from policies.profiles import Profile, from_json, to_json
from policies.profiles_errors import ProfileError
from policies.server_lists import from_json as servers_from_json
from policies.server_lists import to_json as servers_to_json
from policies.servers import ServerList, parse_choice
from policies.settings_known import known_from_json, known_to_json
from policies.settings_tables import WifiAction
from policies.split import Program
from policies.split import from_json as programs_from_json
from policies.split import to_json as programs_to_json
from policies.states import Target

Files = Sequence[tuple[str, str]]  # names and texts of settings files

_SCHEMA = """
CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE known (ssid TEXT PRIMARY KEY, network TEXT NOT NULL) STRICT;
"""
_VERSION = 2
NO_PROGRAMS = programs_to_json(())
LARGEST = 4 << 20  # bytes of a profile file: the longest text that can be imported, with room for its JSON
_KEEP = "INSERT OR REPLACE INTO kept VALUES (?, ?)"
_ALONE = "PRAGMA locking_mode=EXCLUSIVE"  # so no shared memory is needed, whose file cannot be made on a full disk
_DECIDE = "Connect or disconnect to decide anew."

# What the database answers when nothing is wrong with it, but with the disk or another program (primary result codes
# of https://sqlite.org/rescode.html). It must not be set aside for that.
_DISK_REFUSES = frozenset(
    {
        sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_AUTH,
    }
)  # fmt: skip
_HEADER, _WAL_MAGIC = 32, (0x377F0682, 0x377F0683)  # https://sqlite.org/fileformat2.html


def _files_of_the_good_settings(db: sqlite3.Connection) -> None:
    """1 -> 2: of the last good settings the names of the files are kept too; there was one."""
    for (text,) in db.execute("SELECT value FROM kept WHERE name = 'settings'").fetchall():
        db.execute(_KEEP, ("settings", json.dumps([["/etc/tunwarden/tunwarden.toml", text]])))


_MIGRATIONS = {1: _files_of_the_good_settings}  # by the layout that they take to the next one


class StoreError(Exception):
    """The store cannot be read or written: `str()` says which file and why."""


class _DamagedError(Exception):
    """The database is there, but is not one of ours in good health."""


class Store:
    """One folder, root-only. Open it once; every method returns when the change is on the disk. Never fails to open."""

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self.folder = folder.resolve()  # an administrator may have moved it to another disk
        self.trouble: str | None = None  # why nobody knows what was wanted last, until `decided`
        self.unkept: str | None = None  # why nothing can be kept in this run; then `trouble` is set too
        self.warnings: list[str] = []  # about profile files
        self.damaged_profiles: frozenset[str] = frozenset()
        self._file = self.folder / "tunwarden.db"
        self._now = now
        self._intent = ""  # as it was saved last
        try:
            self._db = self._prepared()
        except (OSError, sqlite3.Error) as err:
            self.unkept = f"{self._file}: {_reason(err)}"
            self.trouble = f"The saved state cannot be used, and nothing is kept: {self.unkept}. {_DECIDE}"
            self._db = self._create(":memory:", None)

    # --- opening -----------------------------------------------------------------------------------------------------

    def _prepared(self) -> sqlite3.Connection:
        """Raises OSError, sqlite3.Error: then the disk refuses."""
        files.make_folder(self.folder)
        self.folder.chmod(0o700)
        files.make_folder(self.folder / "profiles")
        try:
            if not self._parts():
                used = list(self.folder.glob("profiles/*.json")) + list(self.folder.glob("tunwarden.db.damaged-*"))
                lost = f"The saved state {self._file} has gone. {_DECIDE}" if used else None
                return self._create(self._file, lost)
            return self._connect()
        except _DamagedError as err:
            aside = self._set_aside()
            return self._create(self._file, f"The saved state was damaged ({err}); a copy is {aside}. {_DECIDE}")

    def _create(self, file: Path | str, trouble: str | None) -> sqlite3.Connection:
        """A new database, whole: a crash leaves none, or one that says what became of the former."""
        db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        try:
            db.execute(_ALONE)
            _prepare(db)
            kept = {"intent": _intent_to_json(Intent())} | ({"trouble": trouble} if trouble else {})
            db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={_VERSION};")
            db.executemany(_KEEP, kept.items())
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except BaseException:
            db.close()
            raise
        self.trouble = trouble or self.trouble
        return db

    def _connect(self) -> sqlite3.Connection:
        """Raises _DamagedError, sqlite3.Error, OSError."""
        if self._file.is_symlink() or not self._file.is_file():
            raise _DamagedError("it is not a file")
        self._check_files()
        db = sqlite3.connect(self._file, isolation_level=None, check_same_thread=False)
        try:
            db.execute(_ALONE)
            (sound,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if sound != "ok":
                raise _DamagedError(sound)
            (version,) = db.execute("PRAGMA user_version").fetchone()
            if version != _VERSION and version not in _MIGRATIONS:  # of a newer program
                raise _DamagedError(f"its layout is number {version}, not {_VERSION}")
            self._read_all(db)  # whatever is in there must also be readable, or it is as good as damaged
            _prepare(db)  # not before: a copy set aside is to be what was found
            _migrate(db, version)
        except sqlite3.Error as err:
            db.close()
            if getattr(err, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _DISK_REFUSES:
                raise
            raise _DamagedError(str(err)) from err
        except Exception as err:
            db.close()
            raise _DamagedError(str(err) or type(err).__name__) from err
        return db

    def _check_files(self) -> None:
        """What SQLite takes without a word: no content for a new database, a senseless WAL for an empty one, half a
        page for a whole one. Raises _DamagedError.
        """
        size, wal = self._file.stat().st_size, self._file.with_name(self._file.name + "-wal")
        if not size:
            raise _DamagedError("it is empty")
        if os.path.lexists(wal):
            if wal.is_symlink() or not wal.is_file():
                raise _DamagedError("its WAL is not a file")
            header = _beginning(wal)
            if len(header) == _HEADER and int.from_bytes(header[:4]) not in _WAL_MAGIC:
                raise _DamagedError("its WAL is not one")
            if header:
                return  # it holds pages that the file may lack
        if size % (int.from_bytes(_beginning(self._file)[16:18]) or size):
            raise _DamagedError("it was cut short")

    def _read_all(self, db: sqlite3.Connection) -> None:
        kept = dict(db.execute("SELECT name, value FROM kept"))
        _intent_from_json(kept["intent"])
        for (network,) in db.execute("SELECT network FROM known"):
            known_from_json(network)
        _own_from_json(kept.get("own"))
        programs_from_json(kept.get("programs", NO_PROGRAMS))
        self.trouble = kept.get("trouble")

    def _parts(self) -> list[Path]:
        named = [self._file.with_name(self._file.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
        return [part for part in named if os.path.lexists(part)]

    def _set_aside(self) -> Path:
        number, name = 0, f"tunwarden.db.damaged-{int(self._now())}"
        while list(self.folder.glob(f"{name}*")):  # the clock may stand still or go back: never over an earlier copy
            number += 1
            name = f"tunwarden.db.damaged-{int(self._now())}.{number}"
        for part in self._parts():
            part.rename(self.folder / part.name.replace("tunwarden.db", name, 1))
        return self.folder / name

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
            return _intent_from_json(self._kept("intent") or "")
        except (ValueError, TypeError, LookupError, AttributeError) as err:
            raise StoreError(f"{self._file}: the intent is damaged") from err

    def save_intent(self, intent: Intent) -> None:
        """Raises StoreError."""
        text = _intent_to_json(intent)
        if text != self._intent:  # what does not outlive a restart is not worth the wait for the disk
            self._write(_KEEP, ("intent", text))
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
            self._write(_KEEP, ("settings", text))

    def programs(self) -> frozenset[Program]:
        """What users have listed for split tunnelling. Raises StoreError."""
        try:
            return programs_from_json(self._kept("programs") or NO_PROGRAMS)
        except (ValueError, TypeError) as err:
            raise StoreError(f"{self._file}: the list of programs is damaged") from err

    def save_programs(self, programs: frozenset[Program]) -> None:
        """Raises StoreError."""
        self._write(_KEEP, ("programs", programs_to_json(programs)))

    def own_settings(self) -> dict[str, str]:
        """The users' own settings: texts by key. Raises StoreError."""
        try:
            return _own_from_json(self._kept("own"))
        except ValueError as err:
            raise StoreError(f"{self._file}: the users' settings are damaged") from err

    def save_own_settings(self, own: Mapping[str, str]) -> None:
        """Raises StoreError."""
        self._write(_KEEP, ("own", own_to_json(own)))

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


def _beginning(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(_HEADER)


def _migrate(db: sqlite3.Connection, version: int) -> None:
    """From layout to layout, all or nothing."""
    if version == _VERSION:
        return
    with db:
        db.execute("BEGIN IMMEDIATE")
        for number in range(version, _VERSION):
            _MIGRATIONS[number](db)
        db.execute(f"PRAGMA user_version={_VERSION}")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _own_from_json(text: str | None) -> dict[str, str]:
    """Raises ValueError."""
    return {} if text is None else own_from_json(text)


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA cache_size=-256")


def _reason(err: OSError | sqlite3.Error) -> str:
    return (err.strerror if isinstance(err, OSError) else None) or str(err)


def _known_key(key: tuple[bool, bytes]) -> str:
    """A name as its hexadecimal digits, a pattern marked as one: none of them sorts or reads as the other."""
    pattern, ssid = key
    return f"pattern {ssid.hex()}" if pattern else ssid.hex()


def _intent_to_json(intent: Intent) -> str:
    lasting = tuple(each for each in intent.answers if each.rule is Rule.ANSWER)  # the others follow from the rules
    return json.dumps(asdict(replace(intent, answers=lasting)))


def _intent_from_json(text: str) -> Intent:
    """Raises ValueError, TypeError, LookupError, AttributeError."""
    values = json.loads(text)
    manual = values.pop("manual")
    target = Target(values.pop("target"))
    chosen = Manual(Target(manual["choice"]), str(manual["network"])) if manual is not None else None
    answers = tuple(
        Answer(str(each["network"]), WifiAction(each["action"]), Rule(each["rule"]))
        for each in values.pop("answers", ())  # earlier versions kept none
    )
    servers = tuple((str(profile), str(choice)) for profile, choice in values.pop("servers", ()))
    for _, choice in servers:
        parse_choice(choice)
    intent = Intent(target=target, manual=chosen, answers=answers, servers=servers, **values)
    if not isinstance(intent.kill_switch, bool) or not isinstance(intent.lockdown, bool):
        raise ValueError("kill_switch and lockdown must be true or false")
    if not isinstance(intent.profile, str | None):
        raise ValueError("profile must be a name or null")
    return intent
