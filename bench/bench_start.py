"""Start to READY=1, resident memory, and the command line's start, in the environment that `make install` makes.

A laptop in the laboratory, on a known network, with settings and a profile, as at any start. Both faces are open at
READY=1. Memory is read half a second later, and again in the café, connected, after a hundred questions on the socket.
Peer: the same libraries, imported by a program that does nothing, in the same place and environment.
"""

from __future__ import annotations

import re
import socket
import time
from pathlib import Path

from bench.common import TOP, cpu_ms, installed, report, resident_mib, title
from lab.processes import Process
from lab.subject import Subject
from lab.topology import Laboratory

RUNS = 15
QUESTIONS = 100
NOTIFY = "/run/lab/notify"


def libraries() -> str:
    """An import statement of all that requirements.lock lists by way of pyproject.toml: the libraries, nothing else."""
    wanted = re.findall(r"^    \"([\w-]+)[>=]", (TOP / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    locked = re.findall(r"^([\w-]+)==", (TOP / "requirements.lock").read_text(encoding="utf-8"), re.MULTILINE)
    return ", ".join(name.replace("-", "_") for name in wanted if name in locked)


class Manager:
    """The service manager's end of sd_notify(3)."""

    def __init__(self, lab: Laboratory) -> None:
        self._lab = lab
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(lab.laptop.path(NOTIFY)))

    def start(self, *argv: str) -> tuple[Process, float, float]:
        """Start until READY=1: the process, milliseconds, and those of the processor."""
        self._forget()
        self._socket.settimeout(20)
        begun = time.monotonic()
        process = self._lab.laptop.start(*argv, env={"NOTIFY_SOCKET": NOTIFY})
        while not self._socket.recv(4096).startswith(b"READY=1"):
            pass
        took = (time.monotonic() - begun) * 1000
        assert process.pid is not None
        return process, took, cpu_ms(process.pid)

    def _forget(self) -> None:
        """What was said since, such as STOPPING=1."""
        self._socket.setblocking(False)
        try:
            while True:
                self._socket.recv(4096)
        except BlockingIOError:
            return


def measure(manager: Manager, *argv: str) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds, those of the processor, and MiB."""
    took, used, sizes = [], [], []
    for _ in range(RUNS):
        process, wall, cpu = manager.start(*argv)
        time.sleep(0.5)
        assert process.pid is not None
        took.append(wall)
        used.append(cpu)
        sizes.append(resident_mib(process.pid))
        process.stop()
    return took, used, sizes


def whole(lab: Laboratory, *argv: str) -> float:
    """Milliseconds from starting a command on the laptop to its end."""
    begun = time.monotonic()
    lab.laptop.run(*argv)
    return (time.monotonic() - begun) * 1000


def main() -> None:
    title("start and memory")
    with installed() as python, Laboratory(41, python=python) as lab:
        subject = Subject(lab)
        subject.start()
        subject.set_up()
        lab.join("home")
        subject.wait("idle")
        subject.stop()
        manager = Manager(lab)
        took, used, sizes = measure(manager, python, "-I", "-m", "daemon")
        ready = report("start to READY=1", took, "ms", "400 ms")
        report("the same, processor time", used, "ms")
        report("resident memory half a second later", sizes, "MiB", "48 MiB")

        subject.start()
        lab.join("cafe")
        subject.wait("connected")
        for _ in range(QUESTIONS):
            subject.status()
        time.sleep(2)
        assert subject.process is not None
        assert subject.process.pid is not None
        connected = resident_mib(subject.process.pid)
        most = resident_mib(subject.process.pid, "VmHWM")
        print(f"resident memory, connected, after {QUESTIONS} questions: {connected:.2f} MiB  (goal 48 MiB)")
        print(f"the most since its start: {most:.2f} MiB  (goal 48 MiB)")
        tunwarden = str(Path(python).with_name("tunwarden"))
        report("`tunwarden status`, whole", [whole(lab, tunwarden, "status") for _ in range(RUNS)], "ms", "150 ms")
        report("peer: python -I -c pass", [whole(lab, python, "-I", "-c", "pass") for _ in range(RUNS)], "ms")
        subject.stop()

        tell = "s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM); s.sendto(b'READY=1', os.environ['NOTIFY_SOCKET'])"
        bare = f"import {libraries()}, os, socket, time; {tell}; time.sleep(60)"
        took, _, sizes = measure(manager, python, "-I", "-c", bare)
        peer = report(f"peer: import {libraries()}", took, "ms")
        report("peer: resident memory", sizes, "MiB")
    print(f"ratio to the peer: {ready / peer:.2f}")


if __name__ == "__main__":
    main()
