"""Files that root writes: whole or not at all, never through a symbolic link, never readable by others by accident.

Every path here is a constant of ours or comes from root's own settings. A file is created with its narrow mode (never
chmod after the fact, E12), under a temporary name that must not exist yet, in a folder only root may write, opened once
and used by descriptor (E5, E6). The process umask does not matter: it can only narrow the modes given here.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

LONGEST = 1 << 20  # bytes; nothing we keep in one file is longer, so a swapped-in giant cannot fill our memory


def write(path: Path, data: bytes, mode: int = 0o600, owner: tuple[int, int] | None = None) -> None:
    """Replace `path` by a new file that holds `data`. After a crash or a power cut it is the old one or the new one.

    A symbolic link at `path` is replaced, not followed. `owner` is (uid, gid), ours when None or where we may not give
    files away. Raises OSError: EBUSY where something is mounted on `path`, PermissionError where others may write the
    folder.
    """
    with _folder(path) as folder, _unfinished(folder, path) as unfinished:
        file = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
                       dir_fd=folder)  # fmt: skip
        try:
            _write_all(file, data)
            about = os.fstat(file)
            if owner not in (None, (about.st_uid, about.st_gid)):
                with contextlib.suppress(PermissionError):  # the service may not give files away (CAP_CHOWN)
                    os.fchown(file, *owner)
            os.fchmod(file, mode)  # after the content: a reader never sees half a file, whatever the mode
            os.fsync(file)
        finally:
            os.close(file)
        os.rename(unfinished, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)


def link(path: Path, target: str) -> None:
    """Replace `path` by a symbolic link to `target`, as whole as `write`. Raises OSError."""
    with _folder(path) as folder, _unfinished(folder, path) as unfinished:
        os.symlink(target, unfinished, dir_fd=folder)
        os.rename(unfinished, path.name, src_dir_fd=folder, dst_dir_fd=folder)
        os.fsync(folder)


def read(path: Path, longest: int = LONGEST, follow: bool = False) -> bytes:
    """The content of a regular file that root owns and only root writes. Raises OSError.

    PermissionError when others could have written it, EFBIG when it is longer than `longest` bytes,
    ELOOP when it is a symbolic link, unless `follow` says that root may have put one there.
    """
    # O_NONBLOCK: opening a FIFO somebody put there must not hang.
    file = os.open(path, os.O_RDONLY | (0 if follow else os.O_NOFOLLOW) | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if not _ours_alone(about):
            raise PermissionError(errno.EPERM, "somebody else than root may write this file", str(path))
        return read_all(file, path, longest)
    finally:
        os.close(file)


def read_all(file: int, path: Path, longest: int = LONGEST) -> bytes:
    """The rest of an open file. Raises OSError, EFBIG when there are more than `longest` bytes."""
    content = bytearray()
    while piece := os.read(file, 1 << 16):
        content += piece
        if len(content) > longest:
            raise OSError(errno.EFBIG, f"longer than {longest} bytes", str(path))
    return bytes(content)


def remove(path: Path) -> None:
    """Remove a file or a symbolic link, lastingly, and what a crash in `write` left. Idempotent. Raises OSError."""
    tidy(path)
    try:
        with _folder(path) as folder:
            os.unlink(path.name, dir_fd=folder)
            os.fsync(folder)
    except FileNotFoundError:
        return


def tidy(path: Path) -> None:
    """Remove what a crash in `write` or `link` left beside `path`; the next one would do so too. Raises OSError."""
    try:
        with _folder(path) as folder:
            os.unlink(_unfinished_name(path), dir_fd=folder)
    except FileNotFoundError:
        return


def make_folder(path: Path, mode: int = 0o700) -> None:
    """Create the folder, and those above it, where they are missing. Raises PermissionError where others may write it.

    A folder that was there keeps its mode.
    """
    if not path.parent.exists():
        make_folder(path.parent, 0o755)
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode)
    with _folder(path / "-"):
        return


def trusted_program(path: Path) -> Path:
    """The real path of a program that only root can have put there (E4).

    Raises OSError: PermissionError when anybody else may write it or a folder above it.
    """
    if not path.is_absolute():
        raise OSError(errno.EINVAL, "not an absolute path", str(path))
    real = path.resolve(strict=True)
    about = real.stat()
    if not stat.S_ISREG(about.st_mode) or not about.st_mode & stat.S_IXUSR:
        raise OSError(errno.ENOEXEC, "not a program", str(real))
    for step in (real, *real.parents):
        if not _ours_alone(step.stat(), root_only=True):
            raise PermissionError(errno.EPERM, "somebody else than root may write this", str(step))
    return real


def _ours_alone(about: os.stat_result, root_only: bool = False) -> bool:
    """Whether only root, or the user we run as in tests, can have written it."""
    owners = {0} if root_only else {0, os.geteuid()}
    return about.st_uid in owners and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


@contextlib.contextmanager
def _folder(path: Path) -> Iterator[int]:
    """The folder of `path` as a descriptor. From here on, nobody can move it under us."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if not _ours_alone(os.fstat(folder)):
            raise PermissionError(errno.EPERM, "somebody else than root may write this folder", str(path.parent))
        yield folder
    finally:
        os.close(folder)


@contextlib.contextmanager
def _unfinished(folder: int, path: Path) -> Iterator[str]:
    """The temporary name, free to be created. Constant: a crash leaves one file at most, and the next run ends it."""
    name = _unfinished_name(path)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=folder)
    try:
        yield name
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        raise


def _unfinished_name(path: Path) -> str:
    return f".{path.name}.tunwarden"


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]
