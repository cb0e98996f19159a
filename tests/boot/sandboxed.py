"""A program of the daemon's within its unit's sandbox, and somebody's program that it does something to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tests.boot.machine import UNIT, Machine

USUAL = "/sys/fs/cgroup"
RUN = "/run/tunwarden"  # what the two tell each other
# Somebody's program: it tells which mark its new sockets bear.
VISITOR = """
import socket, time
while True:
    with socket.socket() as one:
        print(hex(one.getsockopt(socket.SOL_SOCKET, 36)), flush=True)
    time.sleep(0.05)
"""


@dataclass(frozen=True)
class Sandboxed:
    machine: Machine
    groups: str  # where control groups are
    visitor: str  # its process

    def said(self) -> str:
        """By the program in the sandbox."""
        log = self.machine.box.read("/run/sandboxed.log")
        assert "Traceback" not in log, log
        return log

    def mark(self) -> str:
        """Of the visitor's newest socket."""
        return self.machine.box.read("/run/visitor.log").split()[-1]

    def tell(self, what: str) -> None:
        self.machine.box.write(f"{RUN}/{what}", "")


def control_groups(machine: Machine) -> str:
    """A host with the hybrid layout hands it on to its containers: there, the unified hierarchy is one floor below."""
    unified = machine.run("stat", "-f", "-c", "%T", USUAL).stdout.strip() == "cgroup2fs"
    return USUAL if unified else f"{USUAL}/unified"


@contextmanager
def sandboxed(machine: Machine, program: str, steps: tuple[str, ...]) -> Iterator[Sandboxed]:
    """Both run; `steps` are what the program will be told. It finds the visitor's process in {RUN}/visitor."""
    groups = control_groups(machine)
    machine.box.write("/usr/local/lib/sandboxed.py", program)
    machine.box.write("/usr/local/lib/visitor.py", VISITOR)
    unit = machine.box.read(f"/etc/systemd/system/{UNIT}")
    log = "/run/sandboxed.log"
    for before, after in (
        ("Type=notify", "Type=exec"),
        ("Restart=always", "Restart=no"),
        (f"{USUAL}/", f"{groups}/"),
        ("-I -m daemon", "-I /usr/local/lib/sandboxed.py"),
        ("UMask=0077", f"UMask=0077\nStandardOutput=file:{log}\nStandardError=file:{log}"),
    ):
        assert before in unit
        unit = unit.replace(before, after)
    machine.box.write("/run/systemd/system/sandboxed.service", unit)
    machine.run("systemctl", "daemon-reload")
    files = [f"{RUN}/{name}" for name in ("visitor", *steps)]
    machine.run("rm", "-f", *files, log, "/run/visitor.log")
    try:
        machine.run(
            "systemd-run", "--quiet", "--unit=visitor", "--uid=alice",
            "--property=StandardOutput=file:/run/visitor.log", "/usr/bin/python3", "/usr/local/lib/visitor.py",
        )  # fmt: skip
        visitor = machine.box.show("visitor.service", "MainPID")["MainPID"]
        machine.box.write(f"{RUN}/visitor", visitor)
        machine.wait("it runs", lambda: "0x0" in machine.box.read("/run/visitor.log"))
        machine.run("systemctl", "start", "sandboxed.service")
        yield Sandboxed(machine, groups, visitor)
    finally:
        machine.run("systemctl", "stop", "sandboxed.service", "visitor.service", check=False)
        machine.run("rm", "-f", "/run/systemd/system/sandboxed.service", *files)
        machine.run("systemctl", "daemon-reload")
