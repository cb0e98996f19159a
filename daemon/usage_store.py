"""SQLite: what traffic was counted, by minute, hour and day, and where each link's counters stood then.

Both change in one transaction, so whatever ends the daemon, the next one goes on where the last commit stood. The
transaction stays open between commits, and questions are answered from within it: nothing has to be added up twice.
`synchronous=NORMAL`: a commit waits for no disk; a power cut takes what the system had not written yet.

The file is apart from the store of the daemon: it is written often, and its loss is no reason to block anything. A
damaged one is set aside, and a disk that refuses leaves a database in memory; `trouble` says so.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import NamedTuple

from daemon.store_file import disk_refuses
from policies.counting import Counts, Owner, Way

VERSION = 1
MINUTES, HOURS = 1440, 24 * 31  # so many are kept, of those with traffic: no clock that jumps can take them away
DAYS = 366 * 5
LARGEST_ANSWER = 1000  # rows

_COLUMNS = ", ".join(f"{name} INTEGER NOT NULL" for name in Counts._fields)
_SCHEMA = f"""
CREATE TABLE owners (id INTEGER PRIMARY KEY, way TEXT NOT NULL, kind TEXT NOT NULL, network TEXT NOT NULL,
  profile TEXT NOT NULL, {_COLUMNS}, UNIQUE (way, kind, network, profile)) STRICT;
CREATE TABLE minutes (start INTEGER, owner INTEGER, {_COLUMNS}, PRIMARY KEY (start, owner)) STRICT, WITHOUT ROWID;
CREATE TABLE hours (start INTEGER, owner INTEGER, {_COLUMNS}, PRIMARY KEY (start, owner)) STRICT, WITHOUT ROWID;
CREATE TABLE days (start INTEGER, owner INTEGER, {_COLUMNS}, PRIMARY KEY (start, owner)) STRICT, WITHOUT ROWID;
CREATE TABLE months (start INTEGER, owner INTEGER, {_COLUMNS}, PRIMARY KEY (start, owner)) STRICT, WITHOUT ROWID;
CREATE TABLE seen (ifindex INTEGER PRIMARY KEY, birth INTEGER NOT NULL, owner INTEGER NOT NULL, {_COLUMNS}) STRICT;
CREATE TABLE kept (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
"""
# Names of columns, and of tables below, are put into statements; values never are.
_SUMS = ", ".join(f"sum(t.{name})" for name in Counts._fields)
_SUMS_NAMED = ", ".join(f"sum(t.{name}) AS {name}" for name in Counts._fields)
_MORE = ", ".join(f"{name} = {name} + excluded.{name}" for name in Counts._fields)
_ADD = f"INSERT INTO {{}} VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET {_MORE}"  # noqa: S608
_TOTAL = f"UPDATE owners SET {', '.join(f'{name} = {name} + ?' for name in Counts._fields)} WHERE id = ?"  # noqa: S608
_STOOD = ", ".join(f"t.{name}" for name in Counts._fields)
_SEEN = f"SELECT ifindex, birth, way, kind, network, profile, {_STOOD} FROM seen t JOIN owners o ON o.id = owner"  # noqa: S608


class Seen(NamedTuple):
    """Where a link's counters stood when they were booked last."""

    birth: int
    owner: Owner
    counts: Counts


class Usage(NamedTuple):
    """One line of an answer; what was not asked for is None."""

    start: int | None  # of the minute or hour, in seconds since 1970 UTC; of a day: its number (date.toordinal)
    way: Way
    kind: str | None
    network: str | None
    profile: str | None
    counts: Counts


class UsageStore:
    """Open it once; one task uses it. Never fails to open. Times are seconds since 1970 UTC."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.trouble: str | None = None  # why counts of before, or from now on, are not kept
        self._owners: dict[Owner, int] = {}
        try:
            try:
                self._db = self._opened()
            except sqlite3.Error as err:
                if disk_refuses(err):
                    raise
                self._db = self._begun_anew(err)
        except (OSError, sqlite3.Error) as err:
            self.trouble = f"The counted traffic is lost at the next start: {file}: {err}"
            self._db = _prepared(sqlite3.connect(":memory:", isolation_level=None))

    def _opened(self) -> sqlite3.Connection:
        """Raises sqlite3.Error, OSError."""
        if self._file.is_symlink() or (os.path.lexists(self._file) and not self._file.is_file()):
            raise sqlite3.DatabaseError("it is not a file")
        db = sqlite3.connect(self._file, isolation_level=None)
        try:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")  # no shared memory, whose file cannot be made on a full disk
            return _prepared(db)
        except BaseException:
            db.close()
            raise

    def _begun_anew(self, err: sqlite3.Error) -> sqlite3.Connection:
        """Raises sqlite3.Error, OSError."""
        self._owners.clear()
        aside = self._set_aside()
        self.trouble = f"The counted traffic was damaged ({err}) and begins anew; a copy is {aside}."
        return self._opened()

    def _set_aside(self) -> Path:
        number = 1
        while os.path.lexists(aside := self._file.with_name(f"{self._file.name}.damaged-{number}")):
            number += 1
        for suffix in ("", "-wal", "-journal"):
            with contextlib.suppress(FileNotFoundError):
                self._file.with_name(self._file.name + suffix).rename(aside.with_name(aside.name + suffix))
        return aside

    # --- writing: raises sqlite3.Error --------------------------------------------------------------------------------

    def book(self, at: float, day: date, owner: Owner, counts: Counts) -> None:
        """Add what was counted to the minute and hour of `at`, and to the local `day`."""
        number, second = self._owner(owner), int(at)
        for table, start in (("minutes", second - second % 60), ("hours", second - second % 3600)):
            self._db.execute(_ADD.format(table), (start, number, *counts))
        self._db.execute(_ADD.format("days"), (day.toordinal(), number, *counts))
        self._db.execute(_ADD.format("months"), (day.replace(day=1).toordinal(), number, *counts))
        self._db.execute(_TOTAL, (*counts, number))

    def note(self, ifindex: int, seen: Seen | None) -> None:
        """Where a link stands from now on; None: it has gone."""
        self._begin()
        if seen is None:
            self._db.execute("DELETE FROM seen WHERE ifindex = ?", (ifindex,))
        else:
            row = (ifindex, seen.birth, self._owner(seen.owner), *seen.counts)
            self._db.execute("INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?, ?, ?, ?)", row)

    def keep(self, name: str, value: str) -> None:
        """Something to remember beside the counts."""
        self._begin()
        self._db.execute("INSERT OR REPLACE INTO kept VALUES (?, ?)", (name, value))

    def commit(self) -> None:
        """What was booked outlives the process."""
        if self._db.in_transaction:
            self._db.execute("COMMIT")

    def recover(self, err: sqlite3.Error) -> None:
        """Something has failed: what was booked since the last commit is forgotten. Never fails."""
        self._owners.clear()
        with contextlib.suppress(sqlite3.Error):
            self._db.rollback()
        if _code(err) in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            try:
                with contextlib.suppress(sqlite3.Error):
                    self._db.close()
                self._db = self._begun_anew(err)
            except (OSError, sqlite3.Error) as again:
                self.trouble = f"The counted traffic is lost at the next start: {self._file}: {again}"
                self._db = _prepared(sqlite3.connect(":memory:", isolation_level=None))

    def prune(self) -> None:
        """Keep the newest minutes, hours and days, so many of each."""
        self._begin()
        for table, most in (("minutes", MINUTES), ("hours", HOURS), ("days", DAYS)):
            newest = f"SELECT DISTINCT start FROM {table} ORDER BY start DESC LIMIT 1 OFFSET {most - 1}"  # noqa: S608
            self._db.execute(f"DELETE FROM {table} WHERE start < ({newest})")  # noqa: S608  nothing from outside

    def close(self) -> None:
        """Commit and close. Raises sqlite3.Error."""
        try:
            self.commit()
        finally:
            self._db.close()

    # --- reading: raises sqlite3.Error --------------------------------------------------------------------------------

    def seen(self, boot_id: str) -> dict[int, Seen]:
        """Where each link stood, by ifindex; none of before this boot."""
        if self.kept("boot") != boot_id:
            self._begin()
            self._db.execute("DELETE FROM seen")
            self.keep("boot", boot_id)
        rows = self._db.execute(_SEEN)
        return {row[0]: Seen(row[1], Owner(Way(row[2]), *row[3:6]), Counts(*row[6:])) for row in rows}

    def kept(self, name: str) -> str | None:
        found = self._db.execute("SELECT value FROM kept WHERE name = ?", (name,)).fetchone()
        return None if found is None else str(found[0])

    def between(self, first: date, last: date, way: Way) -> Counts:
        """The sum of these local days, both included."""
        row = self._db.execute(
            f"SELECT {_SUMS} FROM days t JOIN owners o ON o.id = owner WHERE start BETWEEN ? AND ? AND way = ?",  # noqa: S608
            (first.toordinal(), last.toordinal(), way.value),
        ).fetchone()
        return Counts(*(value or 0 for value in row))

    def usage(self, by: str, first: int, last: int) -> Iterator[Usage]:
        """At most LARGEST_ANSWER lines. `by` "minute", "hour": from the one to the other time, both included;
        "day", "network", "profile": from one day to the other. The greatest first, or the latest.
        """
        columns = {"network": ("kind", "network"), "profile": ("profile",)}.get(by, ("start",))
        if columns == ("start",):
            parts, order = [({"minute": "minutes", "hour": "hours"}.get(by, "days"), first, last)], "start DESC"
            source = parts[0][0] + " WHERE start BETWEEN ? AND ?"
        else:
            parts, order = self._parts(first, last), "sum(t.rx_bytes + t.tx_bytes) DESC"
            rows_of = " UNION ALL ".join(f"SELECT * FROM {table} WHERE start BETWEEN ? AND ?" for table, _, _ in parts)  # noqa: S608
            # Summed up before the owners are looked up: there are few of those.
            source = f"(SELECT owner, {_SUMS_NAMED} FROM ({rows_of}) t GROUP BY owner)"  # noqa: S608
        rows = self._db.execute(
            f"SELECT way, {', '.join(columns)}, {_SUMS} FROM (SELECT * FROM {source}) t "  # noqa: S608
            f"JOIN owners o ON o.id = t.owner GROUP BY {', '.join(columns)}, way ORDER BY {order} "
            f"LIMIT {LARGEST_ANSWER}",
            [bound for _, *bounds in parts for bound in bounds],
        )
        for way, *named, rx_bytes, tx_bytes, rx_packets, tx_packets in rows:
            at = dict(zip(columns, named, strict=True))
            counts = Counts(rx_bytes, tx_bytes, rx_packets, tx_packets)
            yield Usage(at.get("start"), Way(way), at.get("kind"), at.get("network"), at.get("profile"), counts)

    def _parts(self, first: int, last: int) -> list[tuple[str, int, int]]:
        """Where to find the days from the one to the other: whole months, and the days before and after them."""
        (begun,) = self._db.execute("SELECT min(start) FROM months").fetchone()
        (ended,) = self._db.execute("SELECT max(start) FROM days").fetchone()
        if begun is None or ended is None:
            return [("days", first, last)]
        first, last = max(first, begun), min(last, ended)
        if first > last:
            return [("days", first, last)]
        month = _month(first) if _month(first) == first else _next_month(first)
        after = last + 1 if _month(last + 1) == last + 1 else _month(last)
        if month >= after:
            return [("days", first, last)]
        return [("days", first, month - 1), ("months", month, after - 1), ("days", after, last)]

    def totals(self) -> Iterator[tuple[Owner, Counts]]:
        """All that was ever counted."""
        for way, kind, network, profile, *counts in self._db.execute(
            "SELECT way, kind, network, profile, rx_bytes, tx_bytes, rx_packets, tx_packets FROM owners"
        ):
            yield Owner(Way(way), kind, network, profile), Counts(*counts)

    def _owner(self, owner: Owner) -> int:
        if (number := self._owners.get(owner)) is None:
            self._begin()
            self._db.execute("INSERT OR IGNORE INTO owners VALUES (NULL, ?, ?, ?, ?, 0, 0, 0, 0)", owner)
            found = self._db.execute(
                "SELECT id FROM owners WHERE way = ? AND kind = ? AND network = ? AND profile = ?", owner
            ).fetchone()
            number = self._owners[owner] = int(found[0])
        self._begin()
        return number

    def _begin(self) -> None:
        if not self._db.in_transaction:
            self._db.execute("BEGIN IMMEDIATE")


def _prepared(db: sqlite3.Connection) -> sqlite3.Connection:
    """With its tables. Damage further inside shows when it is read, see `recover`. Raises sqlite3.Error."""
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=NORMAL")
    db.execute("PRAGMA cache_size=-512")  # KiB
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version == 0:
        db.executescript(f"BEGIN;{_SCHEMA}PRAGMA user_version={VERSION};COMMIT;")
    elif version != VERSION:
        raise sqlite3.DatabaseError(f"its layout is number {version}, not {VERSION}")
    db.execute("SELECT count(*) FROM owners JOIN seen").fetchone()
    return db


def _month(day: int) -> int:
    """The first day of its month."""
    return min(day, date.max.toordinal()) - date.fromordinal(min(day, date.max.toordinal())).day + 1


def _next_month(day: int) -> int:
    return _month(_month(day) + 31)


def _code(err: sqlite3.Error) -> int:
    """The primary result code; an error of our own has none."""
    return getattr(err, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
