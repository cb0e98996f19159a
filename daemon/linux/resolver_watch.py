"""Tells when somebody has written a resolv.conf: inotify(7) on its folder, and on those of its managers.

systemd-resolved says nothing on the bus when a link gets other domains, but it writes its files anew then.
"""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from daemon.linux.watch_files import _libc

FOLDERS = (Path("/etc"), Path("/run/systemd/resolve"), Path("/run/NetworkManager"), Path("/run/resolvconf"))
NAMES = frozenset({b"resolv.conf", b"stub-resolv.conf"})
_CLOSE_WRITE, _MOVED_TO, _CREATE, _DELETE, _OVERFLOW, _ONLYDIR = 0x8, 0x80, 0x100, 0x200, 0x4000, 0x01000000
_MASK = _CLOSE_WRITE | _MOVED_TO | _CREATE | _DELETE | _ONLYDIR
_HEADER = struct.Struct("iIII")  # struct inotify_event

log = structlog.get_logger()


class FileWatch:
    """Calls `changed` at each change, from within the event loop. Where the kernel refuses, nobody tells."""

    def __init__(self, changed: Callable[[], None], folders: Sequence[Path] = FOLDERS) -> None:
        self._changed, self._folders = changed, folders
        self._watched: set[int] = set()  # as the kernel numbers them: a folder that was made anew has another number
        self._watch: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._watch < 0:
            log.warning("changes of resolv.conf are not seen: no inotify")
            return
        asyncio.get_running_loop().add_reader(self._watch, self._read)
        self.look_again()

    def look_again(self) -> None:
        """Also watch folders that were made since: a service that starts makes its own. Twice is harmless.

        What happened in a new one before is unseen, so that it is there is a change.
        """
        found = {_libc.inotify_add_watch(self._watch, os.fsencode(folder), _MASK) for folder in self._folders} - {-1}
        if found - self._watched:
            self._changed()
        self._watched = found

    def close(self) -> None:
        if self._watch >= 0:
            asyncio.get_running_loop().remove_reader(self._watch)
            os.close(self._watch)
            self._watch = -1

    def _read(self) -> None:
        try:
            events = os.read(self._watch, 1 << 16)
        except BlockingIOError:
            return
        at = 0
        while at < len(events):
            _, mask, _, length = _HEADER.unpack_from(events, at)
            name = events[at + _HEADER.size : at + _HEADER.size + length].rstrip(b"\0")
            at += _HEADER.size + length
            if name in NAMES or mask & _OVERFLOW:
                self._changed()
                return
