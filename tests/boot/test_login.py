"""N12: the process tree of a login can be kept apart from within the unit's sandbox, out of a user's own session."""

from __future__ import annotations

import pytest

from tests.boot.machine import Machine
from tests.boot.sandboxed import USUAL, control_groups, sandboxed

pytestmark = pytest.mark.boot

# What the daemon does, with the unit's own sandbox around it.
LOGIN = """
import asyncio, os, pathlib, time
from daemon.linux.login_tree import LoginTree
from policies.facts import Link, LinkKind

async def main():
    tree = LoginTree()
    await tree.tidy()
    pid = int(pathlib.Path("/run/tunwarden/visitor").read_text())
    await tree.begin(os.pidfd_open(pid), [Link(1, "lo", LinkKind.WIRED)])
    print("begun", flush=True)
    told = pathlib.Path("/run/tunwarden/end")
    while not told.exists():
        await asyncio.sleep(0.05)
    await tree.end()
    print("ended", flush=True)

asyncio.run(main())
"""


def test_n12_within_the_sandbox(fresh: Machine) -> None:
    top = control_groups(fresh)
    if top == USUAL:
        assert fresh.run("stat", "-c", "%U %a", f"{top}/tunwarden").stdout.split() == ["root", "755"], (
            "made by the unit"
        )
    inside = ("nsenter", "--target", str(fresh.main_pid), "--mount", "--")
    assert "Read-only" in fresh.run(*inside, "mkdir", f"{top}/x", check=False).stderr

    with sandboxed(fresh, LOGIN, ("end",)) as login:
        fresh.wait("the tree stands", lambda: "begun" in login.said())
        fresh.wait("its sockets are marked", lambda: login.mark() == "0x74756e76")
        assert "\n0::/tunwarden/login-" in "\n" + fresh.box.read(f"/proc/{login.visitor}/cgroup")
        login.tell("end")
        fresh.wait("it has ended", lambda: login.said().endswith("begun\nended\n"))
        assert fresh.run("sh", "-c", f"ls -d {top}/tunwarden/login-*", check=False).stdout == ""
        assert fresh.run("test", "-e", f"/proc/{login.visitor}", check=False).returncode == 1, "and whoever was in it"
