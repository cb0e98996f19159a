"""K2, the file: checked before it replaces the old one, whole or not at all, for root alone, cheap when unchanged."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from daemon import files
from daemon.host import HostError
from daemon.linux.libnftables import LibNft, Nft, NftError, NftProgram
from daemon.linux.lockdown import CLOSED, NAME, LockdownFile
from daemon.linux.nft_render import render
from lab.hosts import Host
from policies.firewall import FirewallPolicy
from policies.states import Phase

OTHER = FirewallPolicy(Phase.IDLE)  # any other policy


class Kernel:
    """Counts what it is asked; refuses when told to. A fake, for what the real one never says on demand."""

    def __init__(self) -> None:
        self.checked: list[str] = []
        self.refuses = False

    async def run(self, commands: str, *, check: bool = False) -> str:
        assert check, "nothing is ever loaded"
        self.checked.append(commands)
        if self.refuses:
            raise NftError("Operation not supported")
        return ""


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def lockdown(tmp_path: Path, kernel: Kernel) -> LockdownFile:
    tmp_path.chmod(0o700)
    return LockdownFile(tmp_path, lambda: kernel)


def keep(lockdown: LockdownFile, policy: FirewallPolicy | None) -> None:
    asyncio.run(lockdown.keep(policy))


def test_it_is_the_rendered_policy_for_root_alone(lockdown: LockdownFile, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keep(lockdown, CLOSED)
    finally:
        os.umask(before)
    file = tmp_path / NAME
    assert file.read_text() == render(CLOSED)
    assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o600, os.geteuid())
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_it_is_cheap_while_nothing_changes(lockdown: LockdownFile, tmp_path: Path, kernel: Kernel) -> None:
    keep(lockdown, CLOSED)
    written = (tmp_path / NAME).stat()
    for _ in range(100):
        keep(lockdown, FirewallPolicy(Phase.BLOCKED))  # an equal one
    assert len(kernel.checked) == 1
    now = (tmp_path / NAME).stat()
    assert (now.st_ino, now.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)


def test_a_start_looks_and_writes_only_what_differs(lockdown: LockdownFile, tmp_path: Path, kernel: Kernel) -> None:
    keep(lockdown, CLOSED)
    written = (tmp_path / NAME).stat()
    keep(LockdownFile(tmp_path, lambda: kernel), CLOSED)
    assert len(kernel.checked) == 2
    assert (tmp_path / NAME).stat().st_ino == written.st_ino


@pytest.mark.parametrize(
    "damage", ["cut", "empty", "readable by all", "writable by all", "a link", "gone", "a FIFO", "huge"]
)
def test_a_start_repairs_what_it_finds(lockdown: LockdownFile, tmp_path: Path, kernel: Kernel, damage: str) -> None:
    keep(lockdown, CLOSED)
    file, elsewhere = tmp_path / NAME, tmp_path / "elsewhere"
    elsewhere.write_text(render(CLOSED))
    match damage:
        case "cut":
            file.write_text(render(CLOSED)[:200])
        case "empty":
            file.write_bytes(b"")
        case "readable by all":
            file.chmod(0o644)
        case "writable by all":
            file.chmod(0o666)
        case "huge":
            with file.open("r+b") as opened:
                opened.truncate(1 << 40)
        case _:
            file.unlink()
            if damage == "a link":
                file.symlink_to(elsewhere)
            elif damage == "a FIFO":
                os.mkfifo(file)
    keep(LockdownFile(tmp_path, lambda: kernel), CLOSED)
    assert not file.is_symlink()
    assert file.read_text() == render(CLOSED)
    assert file.stat().st_mode & 0o777 == 0o600
    assert elsewhere.read_text() == render(CLOSED)


def test_never_through_a_link(lockdown: LockdownFile, tmp_path: Path) -> None:
    """E5: neither written nor removed through it."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / NAME).symlink_to(victim)
    keep(lockdown, CLOSED)
    assert victim.read_text() == "mine"
    assert not (tmp_path / NAME).is_symlink()
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).symlink_to(victim)
    keep(lockdown, None)
    assert victim.read_text() == "mine"
    assert not os.path.lexists(tmp_path / NAME)


def test_a_folder_that_was_moved_to_another_disk(tmp_path: Path, kernel: Kernel) -> None:
    real, link = tmp_path / "disk", tmp_path / "tunwarden"
    real.mkdir(0o700)
    link.symlink_to(real)
    keep(LockdownFile(link, lambda: kernel), CLOSED)
    assert (real / NAME).read_text() == render(CLOSED)


def test_none_removes_it_and_comes_back(lockdown: LockdownFile, tmp_path: Path) -> None:
    keep(lockdown, None)  # a fresh machine: nothing was there
    keep(lockdown, CLOSED)
    keep(lockdown, None)
    assert list(tmp_path.iterdir()) == []
    keep(lockdown, CLOSED)
    assert (tmp_path / NAME).read_text() == render(CLOSED)


def test_what_the_kernel_refuses_leaves_the_old_one(lockdown: LockdownFile, tmp_path: Path, kernel: Kernel) -> None:
    keep(lockdown, CLOSED)
    kernel.refuses = True
    for _ in range(2):  # and it is tried again
        with pytest.raises(HostError, match="the kernel refuses them: Operation not supported"):
            keep(lockdown, OTHER)
    assert (tmp_path / NAME).read_text() == render(CLOSED)
    kernel.refuses = False
    keep(lockdown, OTHER)
    assert (tmp_path / NAME).read_text() == render(OTHER)


def test_after_a_failure_nothing_is_taken_for_known(lockdown: LockdownFile, tmp_path: Path, kernel: Kernel) -> None:
    """The failed one may have been written half the way: the former policy is looked at again, too."""
    keep(lockdown, CLOSED)
    kernel.refuses = True
    with pytest.raises(HostError):
        keep(lockdown, OTHER)
    kernel.refuses = False
    (tmp_path / NAME).write_text("damaged meanwhile")
    keep(lockdown, CLOSED)
    assert (tmp_path / NAME).read_text() == render(CLOSED)


@pytest.mark.parametrize("step", ["write", "fsync", "rename"])
def test_a_disk_that_refuses_leaves_the_old_one(
    lockdown: LockdownFile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    keep(lockdown, CLOSED)

    def refused(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, step, refused)
        with pytest.raises(HostError, match=r"keep the rules for the next boot: .*No space left"):
            keep(lockdown, OTHER)
    assert (tmp_path / NAME).read_text() == render(CLOSED)
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_policy_that_cannot_be_written_safely(lockdown: LockdownFile, tmp_path: Path) -> None:
    from ipaddress import ip_address

    from policies.facts import Tunnel

    keep(lockdown, CLOSED)
    with pytest.raises(HostError, match="misread"):
        keep(lockdown, FirewallPolicy(Phase.CONNECTED, tunnel=Tunnel('x"; flush', (), (ip_address("192.0.2.1"),))))
    assert (tmp_path / NAME).read_text() == render(CLOSED)


def test_the_fixed_ruleset_is_the_rendered_one() -> None:
    """What `systemd/install` keeps beside the program."""
    printed = subprocess.run(
        [sys.executable, "-I", "-m", "daemon.linux.lockdown"], capture_output=True, text=True, check=True
    )
    assert printed.stdout == render(CLOSED)
    assert printed.stderr == ""


@pytest.mark.netns
@pytest.mark.parametrize("connect", [LibNft, NftProgram])
def test_the_real_kernel_is_asked_and_left_alone(tmp_path: Path, connect: type[Nft]) -> None:
    tmp_path.chmod(0o700)
    with Host("box") as box:
        box.inside(lambda: keep(LockdownFile(tmp_path, connect), CLOSED))
        assert box.run("nft", "list", "ruleset").stdout == ""
        for _ in range(2):  # loading it is idempotent
            box.run("nft", "-f", str(tmp_path / NAME))
        assert box.run("nft", "list", "ruleset").stdout.count("policy drop") == 3
        keep_again = LockdownFile(tmp_path, connect)
        box.inside(lambda: keep(keep_again, CLOSED))  # also while the table is there


def test_the_names_are_the_ones_of_the_unit_and_of_panic_reset() -> None:
    from cli import panic_next
    from daemon import panic
    from daemon.__main__ import STATE

    unit = (Path(__file__).parents[3] / "systemd" / "tunwarden-lockdown.service").read_text()
    assert f"ExecStart=/usr/sbin/nft -f {STATE / NAME}\n" in unit
    assert f"ConditionPathExists=|{STATE / NAME}\n" in unit
    assert f"ConditionPathIsDirectory=|!{STATE}\n" in unit
    assert (panic_next.STATE, panic_next.LOCKDOWN, panic_next.MARKER) == (STATE, NAME, panic.NAME)
