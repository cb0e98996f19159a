"""Unix sockets that are never too open, never steal another daemon's place, and know who is on the other end."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import socket
import stat
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ipc.access import NOBODY, Caller, Transport

log = logging.getLogger("tunwarden.ipc")

SO_PEERGROUPS, SO_PEERPIDFD = 59, 77  # asm-generic/socket.h; not in Python's socket module
UCRED = struct.Struct("iII")  # struct ucred: pid, uid, gid


class SocketError(Exception):
    """The socket cannot be offered; the text says why and what to do."""


def listen(path: Path, mode: int, gid: int | None) -> socket.socket:
    """A listening socket at `path`, owned by root and `gid` (None: root), reachable with `mode` and never before.

    A stale socket is replaced; one that answers belongs to a running daemon, and SocketError says so. Who may not give
    it to `gid` (in the service, systemd's socket unit does that) leaves it to root alone.
    """
    with _locked(path.parent):
        _clear(path)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            before = os.umask(0o177)  # nobody else between bind and chmod (E12)
            try:
                sock.bind(str(path))
            finally:
                os.umask(before)
            if gid is not None:
                try:
                    os.chown(path, -1, gid, follow_symlinks=False)
                except PermissionError:
                    log.warning("%s stays root's alone: only tunwarden.socket may give it to a group", path)
            path.chmod(mode)
            sock.listen(64)
        except BaseException:
            sock.close()
            raise
    return sock


def adopt(given: socket.socket, path: Path, mode: int) -> socket.socket:
    """The socket at `path` at which the service manager has listened for us: a copy, for `given` is for the next try.

    Raises SocketError when it is not what `listen` could have made: a Unix stream socket that root listens at, its file
    root's and open to nobody beyond `mode`, in a folder that only root may write.
    """
    with _locked(path.parent):
        if why := _unfit(given, path, mode):
            raise SocketError(
                f"The service manager gave a socket for {path} {why}. Look for a changed socket unit (systemctl cat "
                "tunwarden.socket tunwarden-read.socket), then: systemctl restart tunwarden"
            )
        return given.dup()


def _unfit(given: socket.socket, path: Path, mode: int) -> str:
    """Why a socket cannot be ours; "" when it can."""
    if given.family != socket.AF_UNIX or given.type != socket.SOCK_STREAM:
        return "that is no Unix stream socket"
    if not given.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) or given.getsockname() != str(path):
        return "that does not listen there"
    if sys.platform == "linux":  # of a listening socket these are the credentials of whoever made it listen
        _, uid, _ = UCRED.unpack(given.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
        if uid not in (0, os.geteuid()):
            return f"that user {uid} has made"
    try:
        about = path.lstat()
    except FileNotFoundError:
        return "whose file is gone"
    if not stat.S_ISSOCK(about.st_mode) or about.st_uid not in (0, os.geteuid()):
        return "whose file is another one by now"
    if wider := stat.S_IMODE(about.st_mode) & ~mode:
        return f"that is too open by mode {wider:04o}"
    return ""


def remove(path: Path, inode: int) -> None:
    """Unlink the socket file if it is still the one with this inode number."""
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        pass


def peer(sock: socket.socket, transport: Transport) -> Caller:
    """Who connected, as the kernel noted it then. Unreadable credentials become an account that may change nothing."""
    if sys.platform == "linux":
        try:
            pid, uid, gid = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
        except OSError:
            return Caller(NOBODY, frozenset(), 0, transport)
        return Caller(uid, frozenset({gid, *_groups(sock)}), pid, transport)
    else:  # noqa: RET505  LOCAL_PEERCRED comes with the macOS backend; until then nobody may change anything
        return Caller(NOBODY, frozenset(), 0, transport)


@contextmanager
def process(sock: socket.socket, caller: Caller) -> Iterator[Caller]:
    """The caller with the pidfd of the process that connected, for as long as the context lasts."""
    pidfd: int | None = None
    if sys.platform == "linux" and caller.transport is Transport.SOCKET and caller.pid:
        with contextlib.suppress(OSError):
            try:
                pidfd = sock.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)  # Linux 6.5
            except OSError:
                # It connected a moment ago: for its number to be another's now, all numbers must have been used since.
                pidfd = os.pidfd_open(caller.pid)
    try:
        yield replace(caller, process=pidfd)
    finally:
        if pidfd is not None:
            os.close(pidfd)


def _groups(sock: socket.socket) -> tuple[int, ...]:
    """Supplementary groups. Python reads at most 1024 bytes of an option: whoever is in more than 256 has none here."""
    try:
        raw = sock.getsockopt(socket.SOL_SOCKET, SO_PEERGROUPS, 1024)
    except OSError:
        return ()
    return tuple(gid for (gid,) in struct.iter_unpack("I", raw))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder, so that two daemons starting at once do not take each other's socket for stale."""
    folder.mkdir(mode=0o755, exist_ok=True)
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        about = os.fstat(fd)
        if about.st_uid != os.geteuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise SocketError(f"{folder} must belong to root and be writable by nobody else.")
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _clear(path: Path) -> None:
    """Remove a stale socket. Raises SocketError when something alive, or something else, is there."""
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise SocketError(f"{path} exists and is not a socket: remove it.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        code = probe.connect_ex(str(path))
    if code != errno.ECONNREFUSED:  # 0: it answered; EAGAIN: alive with a full queue; others: do not touch it
        raise SocketError(f"Another daemon is listening at {path}: stop it first (systemctl stop tunwarden).")
    path.unlink()
