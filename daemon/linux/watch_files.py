"""Tells when the settings files were changed: inotify(7), in the few calls that it takes.

A file counts when it was closed after writing, or renamed into its place, and then nothing more happened for a moment:
a file that is half written must not become the settings. Files behind symbolic links elsewhere are not seen; SIGHUP is
for those.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from collections.abc import Callable
from pathlib import Path

import structlog

QUIET_S = 0.5  # after the last of several changes
AGAIN_S = 60.0  # where the kernel refuses: its limit of watches may be another program's doing
_CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _OVERFLOW = 0x8, 0x40, 0x80, 0x100, 0x200, 0x4000
_ISDIR, _ONLYDIR = 0x40000000, 0x01000000
_SETTLED = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _DELETE
_HEADER = struct.Struct("iIII")  # struct inotify_event

log = structlog.get_logger()
_libc = ctypes.CDLL(None, use_errno=True)


async def watch(file: Path, drop_ins: Path, changed: Callable[[], None]) -> None:
    """Calls `changed` after each change of the file or of a drop-in. Never returns."""
    while True:
        try:
            await Watch(file, drop_ins, changed).run()
        except OSError as err:
            log.warning("settings files are not watched", why=str(err))
        await asyncio.sleep(AGAIN_S)


class Watch:
    """One inotify instance on the file's folder, the folder above it and the folder of drop-ins."""

    def __init__(self, file: Path, drop_ins: Path, changed: Callable[[], None]) -> None:
        self._file, self._drop_ins, self._changed = file, drop_ins, changed
        self._folders: dict[int, Path] = {}
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Until cancelled. Raises OSError."""
        loop = asyncio.get_running_loop()
        self._fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
        try:
            self._add_all()
            loop.add_reader(self._fd, self._read)
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(self._fd)
            os.close(self._fd)
            if self._timer is not None:
                self._timer.cancel()

    def _add_all(self) -> None:
        """Folders that are not there yet are seen being made, in the one above."""
        for folder in (self._file.parent.parent, self._file.parent, self._drop_ins):
            mask = _SETTLED | _CREATE | _ONLYDIR
            try:
                self._folders[_checked(_libc.inotify_add_watch(self._fd, os.fsencode(folder), mask))] = folder
            except (FileNotFoundError, NotADirectoryError):
                continue

    def _read(self) -> None:
        try:
            events = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return
        at, ours = 0, False
        while at < len(events):
            number, mask, _, length = _HEADER.unpack_from(events, at)
            name = os.fsdecode(events[at + _HEADER.size : at + _HEADER.size + length].rstrip(b"\0"))
            at += _HEADER.size + length
            folder = self._folders.get(number)
            ours |= bool(mask & _OVERFLOW) or (folder is not None and self._concerns(folder / name, mask))
        if ours:
            self._add_all()
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(QUIET_S, self._changed)

    def _concerns(self, path: Path, mask: int) -> bool:
        if path in (self._file.parent, self._drop_ins):
            return bool(mask & (_SETTLED | _ISDIR))
        written = path == self._file or (path.parent == self._drop_ins and path.suffix == ".toml")
        return written and bool(mask & _SETTLED)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
