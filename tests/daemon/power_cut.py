"""What a power cut may leave: every state of a folder, from the system calls that a program made in it.

`recorded` runs a program under strace, so whoever writes is seen: Python, its buffers, SQLite. `cuts` plays that back
on a disk that forgets, and yields each folder that may be found after the power went. The disk is as bad as POSIX
allows and file systems with a journal are: content counts from fsync of the file on, and names from fsync of the folder
on; names reach the disk in their order. What was not synced may be there, be missing, be torn, or be there without what
was written before it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
CALLS = (
    "open,openat,write,pwrite64,ftruncate,truncate,fsync,fdatasync,rename,renameat,renameat2,unlink,unlinkat,symlink,"
    "symlinkat,mkdir,mkdirat,rmdir,link,linkat,close,mmap"
)
LINE = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
TOKEN = re.compile(r'"((?:\\x[0-9a-f]{2})*)"|([^,\s"]+)')
DATA = ("nothing", "everything", "torn", "only the last")  # what reached the disk of what was not synced

Tree = dict[str, bytes | str | None]  # path in the folder -> content of a file, target of a link, None for a folder


@dataclass
class Inode:
    synced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (offset, data), or (size, None): truncated

    def content(self, reached: str) -> bytes:
        """What is read after the cut."""
        pending = self.pending
        match reached:
            case "nothing":
                pending = []
            case "torn" if pending:
                offset, data = pending[-1]
                last = [] if data is None else [(offset, data[: len(data) // 2])]
                pending = [*pending[:-1], *last]
            case "only the last":
                pending = pending[-1:]
        content = bytearray(self.synced)
        for offset, data in pending:
            size = offset if data is None else max(len(content), offset + len(data))
            content = (content + bytes(max(0, size - len(content))))[:size]
            if data is not None:
                content[offset : offset + len(data)] = data
        return bytes(content)


Entry = Inode | str | None


@dataclass
class Disk:
    """The folder as the kernel shows it, and which changes of names are sure to be on the disk."""

    first: dict[str, Entry]
    names: dict[str, Entry] = field(default_factory=dict)
    changes: list[tuple[str, dict[str, Entry]]] = field(default_factory=list)  # (folder, names after the change)
    sure: int = 0  # of `changes`, from the beginning

    def change(self, folder: str, names: dict[str, Entry]) -> None:
        self.names = names
        self.changes.append((folder, names))

    def sync_folder(self, folder: str) -> None:
        self.sure = max([self.sure, *(at for at, (where, _) in enumerate(self.changes, 1) if where == folder)])

    def after_cut(self) -> Iterator[Tree]:
        for kept in range(self.sure, len(self.changes) + 1):
            names = self.changes[kept - 1][1] if kept else self.first
            for reached in DATA:
                yield {
                    path: entry.content(reached) if isinstance(entry, Inode) else entry for path, entry in names.items()
                }


def recorded(folder: Path, code: str, *arguments: str) -> list[tuple[str, list[str], int]]:
    """Run Python code that changes the folder; the system calls it made, as (name, arguments, result), in order."""
    log = folder.parent / "strace"
    result = subprocess.run(
        ["strace", "-xx", "-s", "10000000", "-e", f"trace={CALLS}", "-o", log, sys.executable, "-c", code, *arguments],
        env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    calls = []
    for line in log.read_text(encoding="ascii").splitlines():
        if (match := LINE.match(line)) and int(match[3]) >= 0:
            found = [text if plain == "" else plain for text, plain in TOKEN.findall(match[2])]
            calls.append((match[1], found, int(match[3])))
    return calls


def cuts(before: Tree, folder: Path, calls: list[tuple[str, list[str], int]]) -> Iterator[tuple[int, bool, Tree]]:
    """(after how many changes, whether all were made, what is left): each different folder of each moment once."""
    first: dict[str, Entry] = {
        path: Inode(content) if isinstance(content, bytes) else content for path, content in before.items()
    }
    disk, player = Disk(first, dict(first)), _Player(folder)
    moments = [list(disk.after_cut())]
    for call in calls:
        if player.play(disk, *call):
            moments.append(list(disk.after_cut()))
    for number, trees in enumerate(moments):
        seen: list[Tree] = []
        for tree in trees:
            if tree not in seen:
                seen.append(tree)
                yield number, number == len(moments) - 1, tree


class _Player:
    """Plays system calls on a Disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = os.fspath(folder)
        self.files: dict[int, tuple[Inode, int]] = {}  # descriptor -> file, position
        self.folders: dict[int, str] = {}  # descriptor -> path

    def play(self, disk: Disk, name: str, args: list[str], result: int) -> bool:
        """Whether it was a change in the folder, or a sync."""
        match name:
            case "open" | "openat":
                return self._open(disk, *(args if name == "openat" else ["AT_FDCWD", *args])[:3], result)
            case "close":
                self.files.pop(int(args[0]), None)
                self.folders.pop(int(args[0]), None)
            case "write" | "pwrite64":
                return self._write(int(args[0]), _bytes(args[1])[:result], int(args[3]) if name == "pwrite64" else None)
            case "ftruncate" if int(args[0]) in self.files:
                self.files[int(args[0])][0].pending.append((int(args[1]), None))
                return True
            case "fsync" | "fdatasync":
                return self._sync(disk, int(args[0]))
            case "rename" | "renameat" | "renameat2":
                old, new = (
                    (args[0:2], args[2:4]) if name != "rename" else (["AT_FDCWD", args[0]], ["AT_FDCWD", args[1]])
                )
                return self._rename(disk, self._path(*old), self._path(*new))
            case "unlink" | "unlinkat" | "rmdir":
                path = self._path(*(args[0:2] if name == "unlinkat" else ["AT_FDCWD", args[0]]))
                return self._name(disk, path, removed=True)
            case "symlink" | "symlinkat":
                path = self._path(*(args[1:3] if name == "symlinkat" else ["AT_FDCWD", args[1]]))
                return self._name(disk, path, _bytes(args[0]).decode())
            case "mkdir" | "mkdirat":
                return self._name(disk, self._path(*(args[0:2] if name == "mkdirat" else ["AT_FDCWD", args[0]])), None)
            case "link" | "linkat" | "truncate":
                raise AssertionError(f"{name} is not played back yet")
            case "mmap":  # what is written through memory is seen by nobody
                shared = "MAP_SHARED" in args[3] and "PROT_WRITE" in args[2]
                assert not (shared and args[4].isdigit() and int(args[4]) in self.files)
        return False

    def _path(self, at: str, text: str) -> str | None:
        """The path within the folder; None: it is elsewhere."""
        path = os.path.join(self.folders.get(int(at), "/") if at.isdigit() else "/", _bytes(text).decode())
        inside = os.path.relpath(path, self.folder)
        return None if inside.startswith("..") else inside

    def _open(self, disk: Disk, at: str, text: str, flags: str, descriptor: int) -> bool:
        path = self._path(at, text)
        self.files.pop(descriptor, None)
        self.folders[descriptor] = os.path.join(self.folder, path) if path is not None else "/elsewhere"
        if path is None or "O_DIRECTORY" in flags or path == "." or ("O_CREAT" not in flags and path not in disk.names):
            return False
        new = path not in disk.names
        if new:
            self._name(disk, path, Inode())
        file = disk.names[path]
        if not isinstance(file, Inode):
            return False
        if "O_TRUNC" in flags and not new:
            file.pending.append((0, None))
        self.files[descriptor] = file, len(file.content("everything")) if "O_APPEND" in flags else 0
        return new or "O_TRUNC" in flags

    def _write(self, descriptor: int, data: bytes, offset: int | None) -> bool:
        if descriptor not in self.files:
            return False
        file, position = self.files[descriptor]
        file.pending.append((position if offset is None else offset, data))
        if offset is None:
            self.files[descriptor] = file, position + len(data)
        return True

    def _sync(self, disk: Disk, descriptor: int) -> bool:
        if descriptor in self.files:
            file, _ = self.files[descriptor]
            file.synced, file.pending = file.content("everything"), []
            return True
        if (path := self.folders.get(descriptor, "/elsewhere")) != "/elsewhere":
            disk.sync_folder(os.path.relpath(path, self.folder))
            return True
        return False

    def _name(self, disk: Disk, path: str | None, entry: Entry = None, removed: bool = False) -> bool:
        if path is None or path == ".":
            return False
        names = {one: other for one, other in disk.names.items() if one != path}
        disk.change(os.path.dirname(path) or ".", names if removed else {**names, path: entry})
        return True

    def _rename(self, disk: Disk, old: str | None, new: str | None) -> bool:
        if old is None or new is None:
            assert old is new, "a name that crosses the folder's border"
            return False
        names = dict(disk.names)
        names[new] = names.pop(old)
        assert os.path.dirname(old) == os.path.dirname(new), "two folders: which is on the disk first?"
        disk.change(os.path.dirname(new) or ".", names)
        return True


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def tree(folder: Path) -> Tree:
    """What is in a folder."""
    found: Tree = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        found[name] = os.readlink(path) if path.is_symlink() else None if path.is_dir() else path.read_bytes()
    return found


def laid_out(content: Tree, folder: Path) -> Path:
    """Make the folder this, with root's narrow modes."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    for name, entry in sorted(content.items()):
        path = folder / name
        if entry is None:
            path.mkdir(mode=0o700)
        elif isinstance(entry, str):
            path.symlink_to(entry)
        else:
            path.write_bytes(entry)
            path.chmod(0o600)
    return folder
