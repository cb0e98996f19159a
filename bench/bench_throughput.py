"""Throughput through the tunnel with our firewall table and without it, by turns, in the same tunnel.

The daemon is frozen meanwhile (SIGSTOP), or it would put the table back. One TCP connection a slice, so that no state
of one kind of rules serves the other; slices are short and come in rounds of one of each kind, so that a load beside
this one meets all. Peers: the same tunnel without the table, and with one that does nothing but have connections
tracked, as any stateful firewall does. Told for both directions: the median of the ratios of all rounds, with the
interval that holds the true one in 95 of 100 cases, of megabits a second and of megabits a second of the processor.

The processor's time is that of all programs of the laboratory, of whatever host, with the kernel's work in their name:
a control group counts it. It says what the table costs also while other work slows everything down.
"""

from __future__ import annotations

import os
import random
import signal
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench.common import title
from lab.addresses import SINK_PORT, SOURCE_PORT
from lab.subject import Subject
from lab.topology import Laboratory

ROUNDS = 60
SECONDS, WARM_S = 0.6, 0.3
GOAL = 0.98
TABLE = ("inet", "tunwarden")
KINDS = ("with", "tracking", "without")
TRACKING = """table inet tunwarden {
    chain input { type filter hook input priority 0; policy accept; ct state established accept; }
}
"""
CHUNK = bytes(1 << 18)

TOPS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))

Processor = Callable[[], float]
Some = Callable[[socket.socket], int]  # moves some bytes, and says how many
Rates = list[tuple[float, float]]  # megabits a second, and a second of the processor


def transfer(lab: Laboratory, processor: Processor, port: int, some: Some) -> tuple[float, float]:
    """Megabits a second, and a second of the processor."""
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect((str(lab.plan.internet4), port))
        begun = time.monotonic()
        while time.monotonic() - begun < WARM_S:
            some(sock)
        moved, begun, busy = 0, time.monotonic(), processor()
        while (spent := time.monotonic() - begun) < SECONDS:
            moved += some(sock)
        return moved * 8 / spent / 1e6, moved * 8 / (processor() - busy) / 1e6


@contextmanager
def counted() -> Iterator[Processor]:
    """A control group for this process and all that it starts; seconds of processor time that they used."""
    top = next((top for top in TOPS if (top / "cgroup.controllers").exists()), None)
    if top is None:
        raise SystemExit("the unified hierarchy of control groups is not mounted; it counts the processor's time")
    before = Path("/proc/self/cgroup").read_text(encoding="ascii").rpartition("0::/")[2].strip()
    group = Path(tempfile.mkdtemp(prefix="tunwarden-bench-", dir=top))
    (group / "cgroup.procs").write_text("0")

    def seconds() -> float:
        return int((group / "cpu.stat").read_text(encoding="ascii").split()[1]) / 1e6  # usage_usec comes first

    try:
        yield seconds
    finally:
        (top / before / "cgroup.procs").write_text("0")
        until = time.monotonic() + 10
        while time.monotonic() < until:  # killed programs take a moment to end
            with suppress(OSError):
                group.rmdir()
                break
            time.sleep(0.05)


DIRECTIONS: dict[str, tuple[int, Some]] = {
    "download": (SOURCE_PORT, lambda sock: len(sock.recv(len(CHUNK)))),
    "upload": (SINK_PORT, lambda sock: sock.send(CHUNK)),
}


def interval(ratios: Sequence[float]) -> tuple[float, float]:
    """Of the median, by resampling."""
    chance = random.Random(1)
    medians = sorted(statistics.median(chance.choices(ratios, k=len(ratios))) for _ in range(2000))
    return medians[50], medians[-51]


def tell(direction: str, rates: dict[str, Rates]) -> None:
    for kind, values in rates.items():
        speeds = [speed for speed, _ in values]
        print(f"{direction}, {kind}: median {statistics.median(speeds):.0f} Mbit/s, "
              f"{min(speeds):.0f} to {max(speeds):.0f}")  # fmt: skip
    for at, what in enumerate(("throughput", "for the processor's time")):
        for kind in ("without", "tracking"):
            ratios = [one[at] / other[at] for one, other in zip(rates["with"], rates[kind], strict=True)]
            low, high = interval(ratios)
            peer, goal = ("tracking alone", "") if kind == "tracking" else ("nothing", f"goal {GOAL}; ")
            print(f"{direction}, {what}, with the table / {peer}: {statistics.median(ratios):.3f}, "
                  f"{low:.3f} to {high:.3f} ({goal}median of {len(ratios)} rounds)", flush=True)  # fmt: skip


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    title(f"throughput, {rounds} rounds of slices of {SECONDS} s")
    with counted() as processor, Laboratory(47) as lab:
        subject = Subject(lab)
        subject.start()
        subject.set_up()
        lab.join("cafe")
        subject.wait("connected")
        assert subject.process is not None
        table = lab.laptop.run("nft", "list", "table", *TABLE).stdout
        pid = subject.process.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        rates: dict[str, dict[str, Rates]] = {name: {kind: [] for kind in KINDS} for name in DIRECTIONS}
        try:
            for turn in range(rounds):
                for name, (port, some) in DIRECTIONS.items():
                    for kind in KINDS if turn % 2 else reversed(KINDS):
                        lab.laptop.run("nft", "delete", "table", *TABLE, check=False)
                        if kind != "without":
                            lab.laptop.run("nft", "-f", "-", input=table if kind == "with" else TRACKING)
                        rates[name][kind].append(transfer(lab, processor, port, some))
        finally:
            os.kill(pid, signal.SIGCONT)
    for name, both in rates.items():
        tell(name, both)


if __name__ == "__main__":
    main()
