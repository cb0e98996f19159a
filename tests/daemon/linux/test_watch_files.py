"""Settings files that change are noticed once they are whole; nothing else is."""

from __future__ import annotations

import asyncio
import shutil
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

if sys.platform != "linux":
    pytest.skip("inotify", allow_module_level=True)

from daemon.linux import watch_files
from daemon.linux.watch_files import watch


class Seen:
    def __init__(self) -> None:
        self.times = 0

    def __call__(self) -> None:
        self.times += 1

    async def once(self) -> None:
        """Exactly one call, and no more after a while."""
        async with asyncio.timeout(20):
            while not self.times:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await asyncio.sleep(watch_files.QUIET_S * 4)
        assert self.times == 1
        self.times = 0

    async def never(self) -> None:
        await asyncio.sleep(watch_files.QUIET_S * 6)
        assert self.times == 0


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch_files, "QUIET_S", 0.05)


def run(file: Path, check: Callable[[Seen], Coroutine[None, None, None]]) -> None:
    async def inside() -> None:
        seen = Seen()
        task = asyncio.create_task(watch(file, file.parent / "tunwarden.d", seen))
        await asyncio.sleep(0.05)
        try:
            await check(seen)
        finally:
            task.cancel()
            await asyncio.wait([task])

    asyncio.run(inside())


def test_files_and_drop_ins_written_renamed_and_removed(tmp_path: Path) -> None:
    file = tmp_path / "etc/tunwarden/tunwarden.toml"
    file.parent.mkdir(parents=True)

    async def check(seen: Seen) -> None:
        file.write_text("version = 1")
        await seen.once()
        (file.parent / "new").write_text("version = 1 # renamed")
        await seen.never()
        (file.parent / "new").rename(file)
        await seen.once()
        folder = file.parent / "tunwarden.d"
        folder.mkdir()
        await seen.once()
        (folder / "1.toml").write_text("version = 1")
        await seen.once()
        (folder / "1.toml.swp").write_text("x")
        (file.parent / "notes.toml").write_text("x")
        await seen.never()
        (folder / "1.toml").unlink()
        await seen.once()
        file.unlink()
        await seen.once()

    run(file, check)


def test_a_file_that_is_still_being_written_does_not_count(tmp_path: Path) -> None:
    file = tmp_path / "etc/tunwarden/tunwarden.toml"
    file.parent.mkdir(parents=True)

    async def check(seen: Seen) -> None:
        with file.open("w") as opened:
            opened.write("[protection]\n")
            opened.flush()
            await seen.never()
            opened.write("lockdown = true\n")
        await seen.once()

    run(file, check)


def test_a_folder_that_is_made_later(tmp_path: Path) -> None:
    file = tmp_path / "etc/tunwarden/tunwarden.toml"
    (tmp_path / "etc").mkdir()

    async def check(seen: Seen) -> None:
        (tmp_path / "etc/resolv.conf").write_text("nameserver 192.0.2.1")
        await seen.never()
        file.parent.mkdir()
        await seen.once()
        file.write_text("version = 1")
        await seen.once()
        shutil.rmtree(file.parent)
        await seen.once()
        file.parent.mkdir()
        file.write_text("version = 1")
        await seen.once()

    run(file, check)


def test_many_changes_at_once_are_one(tmp_path: Path) -> None:
    file = tmp_path / "etc/tunwarden/tunwarden.toml"
    file.parent.mkdir(parents=True)

    async def check(seen: Seen) -> None:
        for number in range(2000):
            file.write_text(f"# {number}")
        await seen.once()

    run(file, check)


def test_a_kernel_that_refuses_is_told_and_asked_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit of inotify instances is for all programs of a user together."""
    file = tmp_path / "etc/tunwarden/tunwarden.toml"
    file.parent.mkdir(parents=True)
    refused = []
    real = watch_files._checked

    def full(result: int) -> int:
        if len(refused) < 2:
            refused.append(result)
            raise OSError(24, "Too many open files")
        return real(result)

    monkeypatch.setattr(watch_files, "_checked", full)
    monkeypatch.setattr(watch_files, "AGAIN_S", 0.01)

    async def check(seen: Seen) -> None:
        async with asyncio.timeout(20):
            while len(refused) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        await asyncio.sleep(0.1)
        file.write_text("version = 1")
        await seen.once()

    run(file, check)
