"""A trace: every event in detail, for a while, in files of root's that are bounded in size and age.

It is off by default. It ends by itself after the time that was asked for, also when the daemon was restarted meanwhile:
a restart goes on where it was, so that faults of a start can be traced too. Keys and passwords never get into it.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from daemon import files
from policies.redact import Redactor

LONGEST_MIN = 24 * 60  # minutes
FILES, FILE_BYTES = 4, 2 << 20  # so a trace has 8 MiB at most
RECORD_BYTES = 16 << 10  # of one record; the rest of it is cut off
KEPT_S = 7 * 86400.0  # after the last record
_STATE = "until.json"


class Trace:
    """One folder. Nothing here raises into whoever logs: a disk that refuses ends the trace, and says so."""

    def __init__(self, folder: Path, now: Callable[[], float]) -> None:
        self.folder = folder
        self.until = 0.0  # seconds since 1970 UTC; 0: off
        self.hide_names = False
        self.trouble: str | None = None  # why it ended before its time
        self._now = now
        self._redact = Redactor()
        self._file = -1
        self._size = 0

    @property
    def on(self) -> bool:
        """Whether it is running; asking ends one whose time is over."""
        # A clock that was set back must not make it endless.
        if self.until and not 0 <= self.until - self._now() <= LONGEST_MIN * 60:
            self.stop()
        return bool(self.until)

    def start(self, minutes: int, hide_names: bool = False, names: Iterable[str] = ()) -> None:
        """From now on, for so many minutes; a running one gets the new time. Raises OSError."""
        files.make_folder(self.folder)
        until = self._now() + minutes * 60.0
        state = {"until": until, "hide_names": hide_names}
        files.write(self.folder / _STATE, json.dumps(state).encode())
        self._begin(until, hide_names, names)

    def resume(self, names: Iterable[str] = ()) -> None:
        """Go on where an earlier daemon was, if the time is not over; remove what is too old."""
        self.tidy()
        try:
            state = json.loads(files.read(self.folder / _STATE))
            until, hide_names = float(state["until"]), bool(state["hide_names"])
        except (OSError, ValueError, TypeError, KeyError):
            return
        if 0 < until - self._now() <= LONGEST_MIN * 60:
            self._begin(until, hide_names, names)
        else:
            self._forget()

    def _begin(self, until: float, hide_names: bool, names: Iterable[str]) -> None:
        if hide_names != self.hide_names or not self.until:
            self._redact = Redactor(hide_names, names)
        self.until, self.hide_names, self.trouble = until, hide_names, None

    def stop(self) -> None:
        """End it; what was written stays for a week. Twice is harmless."""
        self.until = 0.0
        if self._file >= 0:
            os.close(self._file)
            self._file = -1
        self._forget()

    def _forget(self) -> None:
        with contextlib.suppress(OSError):
            files.remove(self.folder / _STATE)

    def meet(self, names: Iterable[str]) -> None:
        """Names of networks, which are hidden if that was asked for."""
        self._redact.meet(names)

    def write(self, level: str, fields: Mapping[str, Any]) -> None:
        """One record, if it is on."""
        if not self.until or not self.on:
            return
        moment = datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="microseconds")
        told = self._redact.value(dict(fields))
        line = json.dumps({"at": moment, "level": level, **told}, ensure_ascii=False).encode(errors="backslashreplace")
        if len(line) > RECORD_BYTES:
            line = line[:RECORD_BYTES] + b"... (cut)"
        try:
            self._append(line + b"\n")
        except OSError as err:
            self.stop()
            self.trouble = f"{self.folder}: {err.strerror}"

    def _append(self, line: bytes) -> None:
        if self._file < 0:
            self._open()
        if self._size + len(line) > FILE_BYTES:
            os.close(self._file)
            self._file = -1
            for number in range(FILES - 1, 0, -1):
                with contextlib.suppress(FileNotFoundError):
                    self._path(number - 1).rename(self._path(number))
            self._open()
        self._size += os.write(self._file, line)

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._file = os.open(self._path(0), flags, 0o600)
        self._size = os.fstat(self._file).st_size

    def _path(self, number: int) -> Path:
        return self.folder / (f"trace.{number}.jsonl" if number else "trace.jsonl")

    def tidy(self) -> None:
        """Remove files whose last record is a week old."""
        for number in range(FILES):
            with contextlib.suppress(OSError):
                if self._now() - self._path(number).stat().st_mtime > KEPT_S:
                    self._path(number).unlink()

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        total = 0
        for number in range(FILES):
            with contextlib.suppress(OSError):
                total += self._path(number).stat().st_size
        return total

    def tail(self, longest: int) -> str:
        """The newest records, in whole lines, up to so many bytes."""
        parts: list[bytes] = []
        left = longest
        for number in range(FILES):
            try:
                content = files.read(self._path(number), FILE_BYTES + RECORD_BYTES + 64)
            except OSError:
                break
            part = content[-left:] if left < len(content) else content
            if len(part) < len(content):
                part = part.partition(b"\n")[2]
            parts.insert(0, part)
            left -= len(part)
            if left <= 0 or len(part) < len(content):
                break
        return b"".join(parts).decode(errors="backslashreplace")
