"""Control groups of ours: where they are, who is in them, and how a process gets there. The unified hierarchy alone.

    <cgroup2>/tunwarden/            our own folder, root's
    <cgroup2>/tunwarden/<group>/    whose processes' sockets bear a mark (`socket_mark.py`)

Sources: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import select
from pathlib import Path

import structlog

from daemon.host import HostError

log = structlog.get_logger()

MOUNTS = Path("/proc/self/mountinfo")
USUAL = "/sys/fs/cgroup"
GONE_S, LOOK_S = 5.0, 0.02  # for killed processes to be gone


def top(mounts: Path, what: str) -> Path:
    """Our own folder of the unified hierarchy, also where it stands beside an old one. Raises HostError."""
    found: list[Path] = []
    for line in mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        place, _, kind = line.partition(" - ")
        if kind.startswith("cgroup2 "):
            escaped = place.split(" ")[4]
            path = Path(re.sub(r"\\(\d{3})", lambda octal: chr(int(octal[1], 8)), escaped))
            if (path / "cgroup.procs").exists():  # else something is mounted over it
                found.append(path)
    if found:  # a sandbox shows parts of it once more
        return min(found, key=lambda path: (not path.is_relative_to(USUAL), len(path.parts))) / "tunwarden"
    raise HostError(what, "this system has no unified control groups: boot it with systemd.unified_cgroup_hierarchy=1")


def move(process: int, folder: Path, elsewhere: Path, what: str) -> None:
    """Put the process of a pidfd into the control group, a new one; `elsewhere`: a group that means nothing.

    Raises HostError, OSError.
    """
    gone = HostError(what, "the process that is meant has ended")
    number = pid(process)
    if number <= 0:
        raise gone
    try:
        (folder / "cgroup.procs").write_text(str(number), encoding="ascii")
    except ProcessLookupError:
        raise gone from None
    if ended(process):
        # It ended meanwhile, so the number may be somebody else's already, who is not meant.
        for other in processes(folder):
            with contextlib.suppress(OSError):
                (elsewhere / "cgroup.procs").write_text(str(other), encoding="ascii")
        raise gone


def pid(process: int) -> int:
    """The number of a pidfd's process; -1 or 0 when it has ended, or is not to be seen from here."""
    lines = Path(f"/proc/self/fdinfo/{process}").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


def ended(process: int) -> bool:
    """Whether the process of a pidfd has ended."""
    return bool(select.select([process], [], [], 0)[0])


def processes(folder: Path) -> list[int]:
    """Who is in that group itself, not in those below. Raises OSError."""
    return [int(line) for line in (folder / "cgroup.procs").read_text(encoding="ascii").split()]


def populated(folder: Path) -> bool:
    """Whether anybody is in that group or below. A group that has gone is empty."""
    try:
        return "populated 0" not in (folder / "cgroup.events").read_text(encoding="ascii")
    except OSError:
        return False


def kill(folder: Path) -> None:
    """Everybody in it, and below."""
    with contextlib.suppress(OSError):
        (folder / "cgroup.kill").write_text("1", encoding="ascii")


async def empty(folder: Path, seconds: float) -> bool:
    """Whether no process is left, after so long at most."""
    until = asyncio.get_running_loop().time() + seconds
    while populated(folder):
        if asyncio.get_running_loop().time() >= until:
            return False
        await asyncio.sleep(LOOK_S)
    return True


def remove(folder: Path) -> None:
    """The group and those below, for root may have made some in there. What is not empty stays, and is logged."""
    for inner in sorted(folder.glob("**/"), reverse=True):
        try:
            inner.rmdir()
        except FileNotFoundError:
            continue
        except OSError as err:
            log.error("a control group cannot be removed", folder=str(inner), error=err.strerror)
