"""T8: programs can be put beside the tunnel from within the unit's sandbox, out of a user's own session."""

from __future__ import annotations

import pytest

from tests.boot.machine import Machine
from tests.boot.sandboxed import sandboxed

pytestmark = pytest.mark.boot

# What the daemon does, with the unit's own sandbox and capabilities around it.
SPLIT = """
import os, pathlib, time
from daemon.linux.split_groups import SplitGroups
from policies.split import Group, Program

def told(name):
    while not pathlib.Path("/run/tunwarden", name).exists():
        time.sleep(0.05)

groups = SplitGroups()
pid = int(pathlib.Path("/run/tunwarden/visitor").read_text())
program = str(pathlib.Path("/usr/bin/python3").resolve())
process, users = groups.open(pid)
(uid,) = users
tree = groups.add(Group.NEVER, process, uid)
print("added", tree.pid == pid, [each.processes for each in SplitGroups().trees()], flush=True)
told("remove")
groups.remove(tree)
print("removed", groups.trees(), flush=True)
told("gather")
groups.check(program)
print("gathered", [each.pid for each in groups.gather([Program(program, uid, Group.ONLY)])], flush=True)
print(len(groups.trees_of(Program(program, uid, Group.ONLY))), flush=True)
told("end")
for each in groups.trees():
    groups.remove(each)
print("ended", flush=True)
"""


def test_t8_within_the_sandbox(fresh: Machine) -> None:
    with sandboxed(fresh, SPLIT, ("remove", "gather", "end")) as inside:
        fresh.wait("it is added", lambda: "added True [1]" in inside.said())
        fresh.wait("its sockets are marked", lambda: inside.mark() == "0x74756e75")
        inside.tell("remove")
        fresh.wait("it is removed", lambda: "removed ()" in inside.said())
        fresh.wait("its sockets are not marked", lambda: inside.mark() == "0x0")
        inside.tell("gather")
        fresh.wait("it is found by its program", lambda: f"gathered [{inside.visitor}]\n1" in inside.said())
        fresh.wait("its sockets are marked", lambda: inside.mark() == "0x74756e74")
        inside.tell("end")
        fresh.wait("it has ended", lambda: "ended" in inside.said())
        assert fresh.run("sh", "-c", f"ls -d {inside.groups}/tunwarden/*/*/", check=False).stdout == ""
