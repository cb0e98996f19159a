"""Wakeups of the daemon while nothing happens: unprotected at home, then connected in the café without traffic.

Counted by the kernel: context switches of every thread, in /proc/PID/task/*/status, looked at from outside ten times a
second. One look of the daemon at its tunnel costs a few switches at once, so those of one tenth of a second are one
wakeup. Those at which the kernel announced a change (a router's advertisement renews addresses) are told apart: no
timer of ours made them. Peer: the tunnel's own process, wireguard-go, in the same run.
"""

from __future__ import annotations

import itertools
import re
import select
import socket
import time
from pathlib import Path

from bench.common import title
from daemon.linux.links import GROUPS
from lab.subject import Subject
from lab.topology import Laboratory

SECONDS = 60.0
SETTLE_S = 15.0  # after a change
LOOK_S = 0.1
GOAL_S = 5.0


def switches(tasks: Path) -> int:
    text = "".join(status.read_text(encoding="ascii") for status in tasks.glob("*/status"))
    return sum(int(count) for count in re.findall(r"ctxt_switches:\s+(\d+)", text))


def wakeups(lab: Laboratory, folders: dict[str, Path]) -> dict[str, list[float]]:
    """When each process woke up, in seconds, from the folder of its tasks; "kernel": when that announced a change."""
    with lab.laptop.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE) as events:
        events.bind((0, GROUPS))
        return _wakeups(events, folders)


def _wakeups(events: socket.socket, folders: dict[str, Path]) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in (*folders, "kernel")}
    counts = {name: switches(folder) for name, folder in folders.items()}
    begun = time.monotonic()
    while (now := time.monotonic() - begun) < SECONDS:
        for name, folder in folders.items():
            if (count := switches(folder)) != counts[name]:
                counts[name] = count
                if not times[name] or now - times[name][-1] > LOOK_S * 1.5:
                    times[name].append(now)
        while select.select([events], [], [], 0)[0]:
            events.recv(1 << 16)
            times["kernel"].append(now)
        time.sleep(LOOK_S)
    return times


def tell(what: str, woke: list[float], announced: list[float]) -> None:
    times = [when for when in woke if not any(abs(when - other) <= 2 * LOOK_S for other in announced)]
    shortest = min((after - before for before, after in itertools.pairwise(times)), default=SECONDS)
    each = f"one each {SECONDS / len(times):.1f} s, the nearest two {shortest:.1f} s apart" if times else "none"
    print(
        f"{what}: {len(times)} wakeups of its own in {SECONDS:.0f} s, {each}; "
        f"{len(woke) - len(times)} for the kernel's announcements",
        flush=True,
    )


def main() -> None:
    title("idle")
    with Laboratory(43) as lab:
        subject = Subject(lab)
        subject.start()
        subject.set_up()
        assert subject.process is not None
        daemon = Path(f"/proc/{subject.process.pid}/task")
        lab.join("home")
        subject.wait("idle")
        time.sleep(SETTLE_S)
        times = wakeups(lab, {"daemon": daemon})
        tell("unprotected at home", times["daemon"], times["kernel"])

        lab.join("cafe")
        subject.wait("connected")
        time.sleep(SETTLE_S)
        folders = {"daemon": daemon}
        engine = lab.laptop.run("pidof", "wireguard-go", check=False).stdout.split()
        if engine:  # else the kernel's own
            folders["engine"] = lab.laptop.path(f"/proc/{engine[0]}/task")
        times = wakeups(lab, folders)
        tell(
            f"connected, no traffic  (goal: none more often than each {GOAL_S:.0f} s)", times["daemon"], times["kernel"]
        )
        if engine:
            tell("peer: wireguard-go, connected, no traffic", times["engine"], [])
        assert subject.status().state == "connected"


if __name__ == "__main__":
    main()
