"""A slow, lossy line in front of a UDP server: a relay of ours, in user space, for a kernel without netem.

A script of its own: `python -I -S slow_line.py PORT SERVER_PORT DELAY LOSS SEED`. It takes datagrams at PORT and hands
them to 127.0.0.1:SERVER_PORT, and the answers back, each DELAY seconds later, but for a share of LOSS each way. Perfect
until it gets SIGUSR1; prints "ready" once it listens, and "slow" when that has begun.
"""

from __future__ import annotations

import heapq
import random
import select
import signal
import socket
import sys
import time
from types import FrameType


def main() -> None:
    port, server_port, delay, loss, seed = sys.argv[1:]
    dice = random.Random(int(seed))
    outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    outside.bind(("", int(port)))
    inside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    inside.connect(("127.0.0.1", int(server_port)))
    client = ("", 0)
    slow = False
    under_way: list[tuple[float, int, socket.socket, bytes]] = []
    number = 0

    def begin(_: int, __: FrameType | None) -> None:
        nonlocal slow
        slow = True
        print("slow", flush=True)

    signal.signal(signal.SIGUSR1, begin)
    print("ready", flush=True)
    while True:
        pause = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        readable, _, _ = select.select((outside, inside), (), (), pause)
        for each in readable:
            try:
                data, sender = each.recvfrom(65536)
            except ConnectionError:  # nobody listens at the server's port now
                continue
            if each is outside:
                client = sender
            if not slow or dice.random() >= float(loss):
                number += 1
                due = time.monotonic() + (float(delay) if slow else 0.0)
                heapq.heappush(under_way, (due, number, inside if each is outside else outside, data))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, to, data = heapq.heappop(under_way)
            try:
                to.sendto(data, client) if to is outside else to.send(data)
            except ConnectionError:
                continue


if __name__ == "__main__":
    main()
