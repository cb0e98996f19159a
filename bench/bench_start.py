"""Start to READY=1, and resident memory, with everything loaded; beside a bare interpreter in the same run.

In the laptop of the laboratory, joined to an open network and with a profile, as at any start of a laptop. Environment:
what `make install` makes.
"""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path

from bench.common import installed, report
from lab.subject import Subject
from lab.topology import Laboratory

RUNS = 15


def resident_mib(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in text.splitlines() if line.startswith("VmRSS"))


def main() -> None:
    with installed() as python, Laboratory(41, python=python) as lab:
        subject = Subject(lab)
        subject.start()
        subject.set_up()
        lab.join("home")
        subject.wait("idle")
        subject.stop()
        starts, sizes, bare = [], [], []
        address = str(lab.laptop.path("/run/lab/notify"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(address)
            manager.settimeout(20)
            for _ in range(RUNS):
                begun = time.monotonic()
                daemon = lab.laptop.start(python, "-I", "-m", "daemon", env={"NOTIFY_SOCKET": "/run/lab/notify"})
                while not manager.recv(4096).startswith(b"READY=1"):
                    pass
                starts.append((time.monotonic() - begun) * 1000)
                time.sleep(0.5)
                assert daemon.pid is not None
                sizes.append(resident_mib(daemon.pid))
                daemon.stop()
                while select_all(manager):
                    pass
                begun = time.monotonic()
                lab.laptop.run(python, "-I", "-c", "pass")
                bare.append((time.monotonic() - begun) * 1000)
        os.unlink(address)
    middle = report("start to READY=1", starts, "ms", "400 ms")
    report("resident memory half a second later", sizes, "MiB", "48 MiB")
    peer = report("python -I -c pass, in the same place", bare, "ms")
    print(f"ratio to the bare interpreter: {middle / peer:.1f}")


def select_all(manager: socket.socket) -> bool:
    """Read away what else was said, such as STOPPING=1."""
    manager.setblocking(False)
    try:
        manager.recv(4096)
        return True
    except BlockingIOError:
        return False
    finally:
        manager.settimeout(20)


if __name__ == "__main__":
    main()
