"""N12: the process tree of a login can be kept apart from within the unit's sandbox, out of a user's own session."""

from __future__ import annotations

import pytest

from tests.boot.machine import UNIT, Machine

pytestmark = pytest.mark.boot

USUAL = "/sys/fs/cgroup"
# Somebody's program: it tells which mark its new sockets bear.
PROGRAM = """
import socket, time
while True:
    with socket.socket() as one:
        print(hex(one.getsockopt(socket.SOL_SOCKET, 36)), flush=True)
    time.sleep(0.05)
"""
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
    # A host with the hybrid layout hands it on to its containers: there, the unified hierarchy is one floor below.
    unified = fresh.run("stat", "-f", "-c", "%T", USUAL).stdout.strip() == "cgroup2fs"
    top = USUAL if unified else f"{USUAL}/unified"
    if unified:
        assert fresh.run("stat", "-c", "%U %a", f"{top}/tunwarden").stdout.split() == ["root", "755"], (
            "made by the unit"
        )
    inside = ("nsenter", "--target", str(fresh.main_pid), "--mount", "--")
    assert "Read-only" in fresh.run(*inside, "mkdir", f"{top}/x", check=False).stderr

    fresh.box.write("/usr/local/lib/login.py", LOGIN)
    fresh.box.write("/usr/local/lib/program.py", PROGRAM)
    unit = fresh.box.read(f"/etc/systemd/system/{UNIT}")
    for before, after in (
        ("Type=notify", "Type=exec"),
        ("Restart=always", "Restart=no"),
        (f"{USUAL}/", f"{top}/"),
        ("-I -m daemon", "-I /usr/local/lib/login.py"),
        ("UMask=0077", "UMask=0077\nStandardOutput=file:/run/login.log\nStandardError=file:/run/login.log"),
    ):
        assert before in unit
        unit = unit.replace(before, after)
    fresh.box.write("/run/systemd/system/login.service", unit)
    fresh.run("systemctl", "daemon-reload")
    fresh.run("rm", "-f", "/run/tunwarden/end", "/run/login.log", "/run/program.log")
    try:
        fresh.run(
            "systemd-run", "--quiet", "--unit=visitor", "--uid=alice",
            "--property=StandardOutput=file:/run/program.log", "/usr/bin/python3", "/usr/local/lib/program.py",
        )  # fmt: skip
        pid = fresh.box.show("visitor.service", "MainPID")["MainPID"]
        fresh.box.write("/run/tunwarden/visitor", pid)
        fresh.wait("it runs", lambda: "0x0" in fresh.box.read("/run/program.log"))
        fresh.run("systemctl", "start", "login.service")
        fresh.wait("the tree stands", lambda: "begun" in fresh.box.read("/run/login.log"))
        fresh.wait("its sockets are marked", lambda: "0x74756e76" in fresh.box.read("/run/program.log"))
        assert "\n0::/tunwarden/login-" in "\n" + fresh.box.read(f"/proc/{pid}/cgroup")
        fresh.box.write("/run/tunwarden/end", "")
        fresh.wait("it has ended", lambda: fresh.box.read("/run/login.log").endswith("begun\nended\n"))
        assert fresh.run("sh", "-c", f"ls -d {top}/tunwarden/login-*", check=False).stdout == ""
        assert fresh.run("test", "-e", f"/proc/{pid}", check=False).returncode == 1, "and whoever was in it"
    finally:
        fresh.run("systemctl", "stop", "login.service", "visitor.service", check=False)
        fresh.run("rm", "-f", "/run/systemd/system/login.service", "/run/tunwarden/visitor", "/run/tunwarden/end")
        fresh.run("systemctl", "daemon-reload")
