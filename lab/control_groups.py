"""Control groups of the laptop's own: a folder of this machine's unified hierarchy, as its /sys/fs/cgroup.

Groups have names on this machine, unlike all else of a laboratory: `with control_groups(lab): ...` removes its own, and
those of test processes that were killed.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from lab.topology import Laboratory

PLACE, TOP = "/sys/fs/cgroup", "/run/lab/cgroup2"
NAME = "tunwarden-lab-"


@contextlib.contextmanager
def control_groups(lab: Laboratory) -> Iterator[Path]:
    """How this machine reaches the laptop's groups. Before the daemon starts."""
    own = f"{TOP}/{NAME}{os.getpid()}-{lab.seed}"
    lab.laptop.run("sh", "-ec", f"mkdir -p {TOP}; mount -t cgroup2 none {TOP}; mkdir {own}; mount --bind {own} {PLACE}")
    top = lab.laptop.path(TOP)
    for left in top.glob(f"{NAME}*"):
        if not Path("/proc", left.name.removeprefix(NAME).partition("-")[0]).exists():
            _remove(left)
    try:
        yield lab.laptop.path(PLACE)
    finally:
        _remove(top / Path(own).name)


def _remove(group: Path) -> None:
    with contextlib.suppress(OSError):
        (group / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + 10
    for folder, _, _ in [*os.walk(group, topdown=False)]:
        while True:
            try:
                Path(folder).rmdir()
                break
            except FileNotFoundError:
                break
            except OSError:  # its processes are still ending
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.01)
