"""Which executable a process runs, told by the kernel as device and inode: no name that a process could give itself.

`/proc/PID/exe` would need CAP_SYS_PTRACE, with which a daemon that was taken over could be every process. Taskstats
(Linux 5.18, CONFIG_TASKSTATS) tells the same to CAP_NET_ADMIN. A file is compared by what the kernel calls it, too: its
mount's device (/proc/self/mountinfo) and its inode (fdinfo), for what stat(2) says is another device on btrfs.

Sources: <linux/taskstats.h>, Documentation/accounting/taskstats-struct.rst.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from daemon.host import HostError
from daemon.linux import rtnetlink

Identity = tuple[int, int]  # device as in mountinfo (major << 20 | minor), inode

GENERIC, GENL_ID_CTRL, CTRL_CMD_GETFAMILY = 16, 16, 3
CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 1, 2
TASKSTATS_CMD_GET, TASKSTATS_CMD_ATTR_PID, TASKSTATS_TYPE_STATS, TASKSTATS_TYPE_AGGR_PID = 1, 1, 3, 4
EXE_VERSION, EXE = 12, 384  # of struct taskstats: since when, and where, ac_exe_dev and ac_exe_inode are
ANSWER_S = 1.0
NONE = memoryview(b"")

_GENERIC = struct.Struct("=BBH")


def identity(path: str, what: str) -> Identity:
    """The executable that is there now. Nobody but root may be able to put another one there: else HostError.

    Nothing on the way is opened for reading, and no symbolic link is followed. Raises HostError.
    """
    at = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in ("", *PurePosixPath(path).parts[1:]):
            if part:
                inner = os.open(part, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
                os.close(at)
                at = inner
            about = os.fstat(at)
            if stat.S_ISLNK(about.st_mode):
                raise HostError(what, f"{path}: it leads through a symbolic link; give the file itself")
            if about.st_uid != 0 or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                raise HostError(what, f"{path}: others than root could change it, or a folder above it")
        if not stat.S_ISREG(about.st_mode) or not about.st_mode & stat.S_IXUSR:
            raise HostError(what, f"{path}: it is no program")
        return _of(at)
    except OSError as err:
        raise HostError(what, f"{path}: {err.strerror}") from err
    finally:
        os.close(at)


def _of(file: int) -> Identity:
    """Raises OSError."""
    told = dict(
        line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{file}").read_text(encoding="ascii").splitlines()
    )
    inode = int(told.get("ino", 0)) or os.fstat(file).st_ino  # Linux 5.14
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        mount, _, device, *_ = line.split(" ")
        if mount == told["mnt_id"].strip():
            major, minor = device.split(":")
            return int(major) << 20 | int(minor), inode
    about = os.fstat(file)
    return os.major(about.st_dev) << 20 | os.minor(about.st_dev), inode


class Executables:
    """Asks the kernel; a socket of its own, until `close`."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._family = 0

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def of(self, pid: int, what: str) -> Identity | None:
        """None: there is no such process, or it runs no file. Raises HostError where this kernel does not tell."""
        try:
            with self._open() as asked:
                found = _ask(asked, self._family, TASKSTATS_CMD_GET, TASKSTATS_CMD_ATTR_PID, struct.pack("=I", pid))
        except ProcessLookupError:
            return None
        except OSError as err:
            raise HostError(what, f"the kernel does not tell which programs run: {err.strerror}") from err
        told = rtnetlink.attributes(found.get(TASKSTATS_TYPE_AGGR_PID, NONE)).get(TASKSTATS_TYPE_STATS, NONE)
        if len(told) < EXE + 16 or struct.unpack_from("=H", told)[0] < EXE_VERSION:
            raise HostError(what, "the kernel does not tell which programs run: that needs Linux 5.18")
        device, inode = struct.unpack_from("=QQ", told, EXE)
        return (_device(device), inode) if inode else None

    @contextmanager
    def _open(self) -> Iterator[socket.socket]:
        """The socket; one that failed is not used again. Raises OSError."""
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, GENERIC)
                self._socket.settimeout(ANSWER_S)
                self._socket.bind((0, 0))
                found = _ask(
                    self._socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME, b"TASKSTATS\0"
                )  # fmt: skip
                self._family = struct.unpack("=H", found[CTRL_ATTR_FAMILY_ID])[0]
            yield self._socket
        except ProcessLookupError:
            raise
        except (OSError, KeyError):
            self.close()
            raise


def _ask(sock: socket.socket, family: int, command: int, attribute: int, value: bytes) -> dict[int, memoryview]:
    """Raises OSError."""
    body = _GENERIC.pack(command, 1, 0) + rtnetlink.attribute(attribute, value)
    _, payload = rtnetlink.ask(sock, family, body)
    return rtnetlink.attributes(payload[_GENERIC.size :])


def _device(encoded: int) -> int:
    """From huge_encode_dev(), <linux/kdev_t.h>."""
    return ((encoded & 0xFFF00) >> 8) << 20 | (encoded & 0xFF) | ((encoded >> 12) & 0xFFF00)


def users(pid: int) -> frozenset[int]:
    """The real, effective, saved and file system user of a process. Raises OSError."""
    for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("Uid:"):
            return frozenset(int(each) for each in line.split()[1:])
    raise ProcessLookupError


def running(users: frozenset[int]) -> Iterator[int]:
    """The numbers of processes of these users, as far as the owner of their folder in /proc tells."""
    for name in os.listdir("/proc"):  # noqa: PTH208  a Path for each of a thousand processes, every second
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid in users:  # noqa: PTH116
                    yield int(name)
