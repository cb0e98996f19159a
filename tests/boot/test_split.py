"""T8: programs can be put beside the tunnel from within the unit's sandbox, out of a user's own session."""

from __future__ import annotations

import pytest

from tests.boot.machine import UNIT, Machine
from tests.boot.test_login import PROGRAM, USUAL

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
    unified = fresh.run("stat", "-f", "-c", "%T", USUAL).stdout.strip() == "cgroup2fs"
    top = USUAL if unified else f"{USUAL}/unified"
    fresh.box.write("/usr/local/lib/split.py", SPLIT)
    fresh.box.write("/usr/local/lib/program.py", PROGRAM)
    unit = fresh.box.read(f"/etc/systemd/system/{UNIT}")
    for before, after in (
        ("Type=notify", "Type=exec"),
        ("Restart=always", "Restart=no"),
        (f"{USUAL}/", f"{top}/"),
        ("-I -m daemon", "-I /usr/local/lib/split.py"),
        ("UMask=0077", "UMask=0077\nStandardOutput=file:/run/split.log\nStandardError=file:/run/split.log"),
    ):
        assert before in unit
        unit = unit.replace(before, after)
    fresh.box.write("/run/systemd/system/split.service", unit)
    fresh.run("systemctl", "daemon-reload")
    steps = [f"/run/tunwarden/{name}" for name in ("visitor", "remove", "gather", "end")]
    fresh.run("rm", "-f", *steps, "/run/split.log", "/run/program.log")

    def said(what: str) -> bool:
        log = fresh.box.read("/run/split.log")
        assert "Traceback" not in log, log
        return what in log

    def mark() -> str:
        return fresh.box.read("/run/program.log").split()[-1]

    try:
        fresh.run(
            "systemd-run", "--quiet", "--unit=visitor", "--uid=alice",
            "--property=StandardOutput=file:/run/program.log", "/usr/bin/python3", "/usr/local/lib/program.py",
        )  # fmt: skip
        pid = fresh.box.show("visitor.service", "MainPID")["MainPID"]
        fresh.box.write("/run/tunwarden/visitor", pid)
        fresh.wait("it runs", lambda: "0x0" in fresh.box.read("/run/program.log"))
        fresh.run("systemctl", "start", "split.service")
        fresh.wait("it is added", lambda: said("added True [1]"))
        fresh.wait("its sockets are marked", lambda: mark() == "0x74756e75")
        fresh.box.write("/run/tunwarden/remove", "")
        fresh.wait("it is removed", lambda: said("removed ()"))
        fresh.wait("its sockets are not marked", lambda: mark() == "0x0")
        fresh.box.write("/run/tunwarden/gather", "")
        fresh.wait("it is found by its program", lambda: said(f"gathered [{pid}]\n1"))
        fresh.wait("its sockets are marked", lambda: mark() == "0x74756e74")
        fresh.box.write("/run/tunwarden/end", "")
        fresh.wait("it has ended", lambda: said("ended"))
        assert fresh.run("sh", "-c", f"ls -d {top}/tunwarden/*/*/", check=False).stdout == ""
    finally:
        fresh.run("systemctl", "stop", "split.service", "visitor.service", check=False)
        fresh.run("rm", "-f", "/run/systemd/system/split.service", *steps)
        fresh.run("systemctl", "daemon-reload")
