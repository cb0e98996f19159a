"""The database of the store, open, whatever became of it since it was closed.

A damaged one is set aside under another name and a new one begun, in which `trouble` is written first: until a user
decides anew, every start is a closed one. Where the disk refuses (read-only, full, not ours alone), there is a database
in memory, `unkept` says why, and the start is closed as well.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from daemon import files
from policies.decision import Intent
from policies.intents import from_json as intent_from_json
from policies.intents import to_json as intent_to_json
from policies.own_settings import from_json as own_from_json
from policies.own_settings import to_json as own_to_json
from policies.settings_known import known_from_json
from policies.split import from_json as programs_from_json
from policies.split import to_json as programs_to_json

_SCHEMA = """
CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE known (ssid TEXT PRIMARY KEY, network TEXT NOT NULL) STRICT;
"""
_VERSION = 2
NO_PROGRAMS, NO_SETTINGS = programs_to_json(()), own_to_json({})
KEEP = "INSERT OR REPLACE INTO kept VALUES (?, ?)"
_ALONE = "PRAGMA locking_mode=EXCLUSIVE"  # so no shared memory is needed, whose file cannot be made on a full disk
_DECIDE = "Connect or disconnect to decide anew."


# What the database answers when nothing is wrong with it, but with the disk or another program (primary result codes
# of https://sqlite.org/rescode.html). It must not be set aside for that.
DISK_REFUSES = frozenset(
    {
        sqlite3.SQLITE_PERM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOLFS, sqlite3.SQLITE_AUTH,
    }
)  # fmt: skip
_HEADER, _WAL_MAGIC = 32, (0x377F0682, 0x377F0683)  # https://sqlite.org/fileformat2.html


def _files_of_the_good_settings(db: sqlite3.Connection) -> None:
    """1 -> 2: of the last good settings the names of the files are kept too; there was one."""
    for (text,) in db.execute("SELECT value FROM kept WHERE name = 'settings'").fetchall():
        db.execute(KEEP, ("settings", json.dumps([["/etc/tunwarden/tunwarden.toml", text]])))


_MIGRATIONS = {1: _files_of_the_good_settings}  # by the layout that they take to the next one


class _DamagedError(Exception):
    """The database is there, but is not one of ours in good health."""


class StoreFile:
    """`db` is the file in that folder, or stands for it. Never fails to open."""

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self.folder, self._now = folder, now
        self.path = folder / "tunwarden.db"
        self.trouble: str | None = None  # why nobody knows what was wanted last
        self.unkept: str | None = None  # why nothing can be kept; then `trouble` is set too
        try:
            self.db = self._prepared()
        except (OSError, sqlite3.Error) as err:
            self.unkept = f"{self.path}: {_reason(err)}"
            self.trouble = f"The saved state cannot be used, and nothing is kept: {self.unkept}. {_DECIDE}"
            self.db = self._create(":memory:", None)

    def _prepared(self) -> sqlite3.Connection:
        """Raises OSError, sqlite3.Error: then the disk refuses."""
        files.make_folder(self.folder)
        self.folder.chmod(0o700)
        files.make_folder(self.folder / "profiles")
        try:
            if not self._parts():
                used = list(self.folder.glob("profiles/*.json")) + list(self.folder.glob("tunwarden.db.damaged-*"))
                lost = f"The saved state {self.path} has gone. {_DECIDE}" if used else None
                return self._create(self.path, lost)
            return self._connect()
        except _DamagedError as err:
            aside = self._set_aside()
            return self._create(self.path, f"The saved state was damaged ({err}); a copy is {aside}. {_DECIDE}")

    def _create(self, file: Path | str, trouble: str | None) -> sqlite3.Connection:
        """A new database, whole: a crash leaves none, or one that says what became of the former."""
        db = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        try:
            db.execute(_ALONE)
            _prepare(db)
            kept = {"intent": intent_to_json(Intent())} | ({"trouble": trouble} if trouble else {})
            db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={_VERSION};")
            db.executemany(KEEP, kept.items())
            db.execute("COMMIT")
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except BaseException:
            db.close()
            raise
        self.trouble = trouble or self.trouble
        return db

    def _connect(self) -> sqlite3.Connection:
        """Raises _DamagedError, sqlite3.Error, OSError."""
        if self.path.is_symlink() or not self.path.is_file():
            raise _DamagedError("it is not a file")
        self._check_files()
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
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
            if disk_refuses(err):
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
        size, wal = self.path.stat().st_size, self.path.with_name(self.path.name + "-wal")
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
        if size % (int.from_bytes(_beginning(self.path)[16:18]) or size):
            raise _DamagedError("it was cut short")

    def _read_all(self, db: sqlite3.Connection) -> None:
        kept = dict(db.execute("SELECT name, value FROM kept"))
        intent_from_json(kept["intent"])
        for (network,) in db.execute("SELECT network FROM known"):
            known_from_json(network)
        own_from_json(kept.get("own", NO_SETTINGS))
        programs_from_json(kept.get("programs", NO_PROGRAMS))
        self.trouble = kept.get("trouble")

    def _parts(self) -> list[Path]:
        named = [self.path.with_name(self.path.name + suffix) for suffix in ("", "-wal", "-shm", "-journal")]
        return [part for part in named if os.path.lexists(part)]

    def _set_aside(self) -> Path:
        number, name = 0, f"tunwarden.db.damaged-{int(self._now())}"
        while list(self.folder.glob(f"{name}*")):  # the clock may stand still or go back: never over an earlier copy
            number += 1
            name = f"tunwarden.db.damaged-{int(self._now())}.{number}"
        for part in self._parts():
            part.rename(self.folder / part.name.replace("tunwarden.db", name, 1))
        return self.folder / name


def disk_refuses(err: sqlite3.Error) -> bool:
    """Whether nothing is wrong with the database itself, but with the disk or another program."""
    return getattr(err, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in DISK_REFUSES


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


def _prepare(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute("PRAGMA cache_size=-256")


def _reason(err: OSError | sqlite3.Error) -> str:
    return (err.strerror if isinstance(err, OSError) else None) or str(err)
