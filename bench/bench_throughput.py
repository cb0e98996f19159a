"""Throughput through the tunnel with our firewall table and without it, by turns, in the same tunnel.

The daemon is frozen meanwhile (SIGSTOP), or it would put the table back. One TCP connection a measurement, so that no
state of one kind of rules serves the other. Peer: the same tunnel without the table.
"""

from __future__ import annotations

import os
import signal
import socket
import statistics
import time

from bench.common import title
from lab.addresses import SOURCE_PORT
from lab.subject import Subject
from lab.topology import Laboratory

ROUNDS = 12
SECONDS, WARM_S = 2.0, 0.4
GOAL = 0.98
TABLE = ("inet", "tunwarden")


def download(lab: Laboratory) -> float:
    """Megabits a second."""
    with lab.laptop.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
        sock.settimeout(10)
        sock.connect((str(lab.plan.internet4), SOURCE_PORT))
        buffer = bytearray(1 << 20)
        begun = time.monotonic()
        while time.monotonic() - begun < WARM_S:
            sock.recv_into(buffer)
        received, begun = 0, time.monotonic()
        while (spent := time.monotonic() - begun) < SECONDS:
            received += sock.recv_into(buffer)
        return received * 8 / spent / 1e6


def main() -> None:
    title("throughput")
    with Laboratory(47) as lab:
        subject = Subject(lab)
        subject.start()
        subject.set_up()
        lab.join("cafe")
        subject.wait("connected")
        assert subject.process is not None
        table = lab.laptop.run("nft", "list", "table", *TABLE).stdout
        os.kill(subject.process.pid, signal.SIGSTOP)
        rates: dict[str, list[float]] = {"with": [], "without": []}
        try:
            for turn in range(ROUNDS):
                for kind in ("with", "without") if turn % 2 else ("without", "with"):
                    lab.laptop.run("nft", "delete", "table", *TABLE, check=False)
                    if kind == "with":
                        lab.laptop.run("nft", "-f", "-", input=table)
                    rates[kind].append(download(lab))
        finally:
            os.kill(subject.process.pid, signal.SIGCONT)
    medians = {kind: statistics.median(values) for kind, values in rates.items()}
    for kind, values in rates.items():
        print(
            f"{kind} the table: median {medians[kind]:.0f} Mbit/s, {min(values):.0f} to {max(values):.0f}", flush=True
        )
    pairs = [one / other for one, other in zip(rates["with"], rates["without"], strict=True)]
    print(f"ratio: {statistics.median(pairs):.3f} (goal {GOAL}; median of {ROUNDS} pairs)")


if __name__ == "__main__":
    main()
