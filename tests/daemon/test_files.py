"""Root's files: whole or not at all, never through a link, never open to others."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import files

ROOT = Path(__file__).parents[2]


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_e12_a_new_file_is_for_its_owner_alone_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    path, earlier = tmp_path / "key", os.umask(umask)
    try:
        files.write(path, b"secret")
    finally:
        os.umask(earlier)
    assert (path.read_bytes(), mode(path)) == (b"secret", 0o600)
    assert os.listdir(tmp_path) == ["key"]


def test_write_replaces_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    files.write(path, b"one", 0o644)
    before = path.stat().st_ino
    files.write(path, b"", 0o640)
    assert (path.read_bytes(), mode(path)) == (b"", 0o640)
    assert path.stat().st_ino != before, "a new file, not the old one changed"


def test_who_may_not_give_files_away_keeps_content_and_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service: without CAP_CHOWN, and with the call itself refused."""

    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "fchown", refuse)
    path = tmp_path / "resolv.conf"
    for owner in ((os.geteuid(), os.getegid()), (12345, 54321)):
        files.write(path, b"theirs", 0o644, owner)
        assert (path.read_bytes(), mode(path)) == (b"theirs", 0o644)
        assert path.stat().st_uid == os.geteuid()


def test_e5_write_replaces_a_symbolic_link_and_spares_its_target(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "file"
    victim.write_bytes(b"untouched")
    path.symlink_to(victim)
    files.write(path, b"ours")
    assert not path.is_symlink()
    assert victim.read_bytes() == b"untouched"


@pytest.mark.parametrize("kind", ["link", "hard link", "file"])
def test_e5_a_planted_temporary_name_is_not_written_through(tmp_path: Path, kind: str) -> None:
    victim, planted = tmp_path / "victim", tmp_path / ".file.tunwarden"
    victim.write_bytes(b"untouched")
    match kind:
        case "link":
            planted.symlink_to(victim)
        case "hard link":
            planted.hardlink_to(victim)
        case "file":
            planted.write_bytes(b"left by a crash")
    files.write(tmp_path / "file", b"ours")
    assert victim.read_bytes() == b"untouched"
    assert sorted(os.listdir(tmp_path)) == ["file", "victim"]


@pytest.mark.parametrize("others", [0o777, 0o1777, 0o770])
def test_e5_a_folder_that_others_may_write_is_refused(tmp_path: Path, others: int) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    folder.chmod(others)
    for act in (lambda: files.write(folder / "file", b""), lambda: files.link(folder / "file", "x")):
        with pytest.raises(PermissionError, match="somebody else than root"):
            act()
    assert os.listdir(folder) == []


def test_e5_a_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(OSError):
        files.write(tmp_path / "link" / "file", b"")
    assert os.listdir(tmp_path / "real") == []


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    files.write(path, b"old")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_return(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = []
    for name in ("write", "fchmod", "fsync", "rename"):
        real = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *a, _n=name, _r=real, **k: (order.append(_n), _r(*a, **k))[1])
    files.write(tmp_path / "file", b"content")
    assert order == ["write", "fchmod", "fsync", "rename", "fsync"]


def test_read_refuses_what_others_could_have_written(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write(path, b"content")
    assert files.read(path) == b"content"
    path.chmod(0o660)
    with pytest.raises(PermissionError):
        files.read(path)
    path.chmod(0o644)
    assert files.read(path) == b"content"
    if os.geteuid() == 0:
        os.chown(path, 65534, 65534)
        with pytest.raises(PermissionError):
            files.read(path)


def test_read_refuses_links_pipes_folders_and_giants(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(OSError):
        files.read(tmp_path / "link")
    with pytest.raises(OSError, match="not a regular file"):
        files.read(tmp_path / "pipe")  # and does not wait for a writer
    with pytest.raises(OSError, match="not a regular file"):
        files.read(tmp_path)
    files.write(tmp_path / "long", b"x" * 11)
    with pytest.raises(OSError, match="longer than 10 bytes"):
        files.read(tmp_path / "long", longest=10)
    with pytest.raises(FileNotFoundError):
        files.read(tmp_path / "absent")


def test_remove_is_idempotent_and_takes_the_link_not_its_target(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"")
    files.link(link, str(target))
    files.remove(link)
    files.remove(link)
    files.remove(tmp_path / "no folder" / "file")
    assert os.listdir(tmp_path) == ["target"]


def test_make_folder(tmp_path: Path) -> None:
    files.make_folder(tmp_path / "a" / "b")
    files.make_folder(tmp_path / "a" / "b")
    assert mode(tmp_path / "a" / "b") == 0o700
    (tmp_path / "a" / "b").chmod(0o777)
    with pytest.raises(PermissionError):
        files.make_folder(tmp_path / "a" / "b")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    with pytest.raises(OSError):
        files.make_folder(tmp_path / "link")


def test_e4_a_program_is_trusted_only_if_root_alone_can_have_put_it_there(tmp_path: Path) -> None:
    assert files.trusted_program(Path("/bin/sh")) == Path("/bin/sh").resolve()
    with pytest.raises(OSError, match="not an absolute path"):
        files.trusted_program(Path("sh"))
    with pytest.raises(FileNotFoundError):
        files.trusted_program(Path("/usr/bin/no-such-program"))
    with pytest.raises(OSError, match="not a program"):
        files.trusted_program(Path("/etc/passwd"))
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    with pytest.raises(PermissionError):  # /tmp is everybody's, so whatever is below it was never root's alone
        files.trusted_program(program)


SCRIPT = """
import json, sys
from pathlib import Path
from crash_points import crashes
from daemon import files

path = Path(sys.argv[1]) / "file"
left = []
files.write(path, b"the old content")
for number in crashes(lambda: files.write(path, b"the new content, which is longer", 0o644)):
    left.append([number, path.read_text(), path.stat().st_mode & 0o777, len(list(path.parent.iterdir()))])
    files.write(path, b"the old content")
    assert len(list(path.parent.iterdir())) == 1, "what a crash leaves is gone after the next write"
print(json.dumps(left))
"""


def test_a_crash_at_any_operation_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'daemon'}"}
    result = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    left = json.loads(result.stdout)
    assert len(left) >= 9, "open folder, unlink, create, write, chmod, sync, close, rename, sync"
    contents = [(content, mode) for _, content, mode, _ in left]
    old, new = ("the old content", 0o600), ("the new content, which is longer", 0o644)
    assert set(contents) == {old, new}
    assert contents == sorted(contents, key=lambda one: one == new), "once new, always new"
    assert left[-1] == [0, *new, 1]
