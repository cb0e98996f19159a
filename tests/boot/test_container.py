"""A container leaves nothing behind, however its owner dies: no process, no control group, no mount, no file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lab.container import Container

pytestmark = pytest.mark.boot

CHECKOUT = str(Path(__file__).parents[2])
OWNER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from lab.container import Container
with Container("doomed") as box:
    print(box.pid, flush=True)
    time.sleep(60)
"""


def groups() -> list[str]:
    return sorted(
        str(path) for top in ("", "systemd", "unified") for path in Path("/sys/fs/cgroup", top).glob("*-boot-*")
    )


def traces() -> tuple[str, list[str], list[str]]:
    """What a container could leave on this machine."""
    run = sorted(name for name in os.listdir("/run") if not name.startswith("tunwarden-test-"))  # another worker's
    return Path("/proc/self/mountinfo").read_text(), sorted(os.listdir("/sys/class/net")), run


def alive(pid: int) -> bool:
    """Whether process 1 of a container still runs. Its number may belong to another process by now."""
    try:
        return Path(os.readlink(f"/proc/{pid}/exe")).name == "systemd" and pid != 1
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_no_trace_after_the_owner_dies(number: signal.Signals) -> None:
    before = traces()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, CHECKOUT], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert owner.stdout is not None
    with owner.stdout:
        pid = int(owner.stdout.readline())
    assert alive(pid)
    mine = [group for group in groups() if f"{pid}\n" in everybody(group)]
    owner.send_signal(number)
    owner.wait(30)
    deadline = time.monotonic() + 25
    while alive(pid) or any(map(os.path.exists, mine)):
        assert time.monotonic() < deadline, f"still there: {pid} {mine}"
        time.sleep(0.02)
    assert traces() == before


def everybody(group: str) -> str:
    """The processes of a group and of all groups below it, one a line."""
    return "".join(path.read_text() for path in Path(group).rglob("cgroup.procs"))


def test_the_keeper_is_killed_too() -> None:
    """Then the container ends with it, and only empty control groups stay, until the next container."""
    with Container("doomed") as box:
        pid = box.pid
        assert box._keeper is not None
        box._keeper.kill()
        deadline = time.monotonic() + 25
        left = [group for group in groups() if group.endswith(f"-{box._keeper.pid}")]
        while alive(pid) or any(map(everybody, left)):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    with Container("next"):
        assert not set(left) & set(groups())


def test_it_is_not_this_machine() -> None:
    """What is written in it stays in it, survives a reboot, and is gone with it."""
    place = Path("/etc/tunwarden-was-here")
    with Container("box", {Path(CHECKOUT): "/mnt/project"}) as box:
        box.write(str(place), "yes")
        box.run("mkdir", "/mnt/project/here", check=False)
        first = box.read("/proc/sys/kernel/random/boot_id")
        box.reboot()
        assert box.read(str(place)) == "yes"
        assert box.read("/proc/sys/kernel/random/boot_id") != first
        assert box.run("ls", "/sys/class/net").stdout.split() == ["lo"]
        assert box.run("whoami", user="nobody").stdout.strip() == "nobody"
    assert not place.exists()
    assert not Path(CHECKOUT, "here").exists()
