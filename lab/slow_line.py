"""A slow, lossy line in front of a UDP server: a relay of ours, in user space, for a kernel without netem.

`in_front_of` starts it: a script of its own, `python -I -S slow_line.py PORT SERVER_PORT DELAY LOSS SEED`. It takes
datagrams at PORT and hands them to 127.0.0.1:SERVER_PORT, and the answers back, each DELAY seconds later, but for a
share of LOSS each way. Whoever asks has a port of its own towards the server. Perfect until it gets SIGUSR1; prints
"ready" once it listens, and "slow" when that has begun.
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
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lab.processes import Process
    from lab.vpn_server import VpnServer

RELAY = 30801  # its port
CLIENTS = 8  # the last ones: a datagram to one before them is lost
REDIRECT = """
table ip line {
    chain prerouting {
        type nat hook prerouting priority dstnat
        iifname "wan" udp dport PORT redirect to :RELAY
    }
}
"""


def in_front_of(server: VpnServer, python: str, delay: float, loss: float, seed: int) -> Process:
    """`delay` in seconds and `loss` as a share, each way; over IPv4. Raises LabError."""
    port = str(server.site.port)
    line = server.host.start(python, "-I", "-S", __file__, str(RELAY), port, str(delay), str(loss), str(seed))
    line.wait_output("ready")
    server.host.run("nft", "-f", "-", input=REDIRECT.replace("PORT", port).replace("RELAY", str(RELAY)))
    return line


def main() -> None:
    port, server_port, delay, loss, seed = sys.argv[1:]
    dice = random.Random(int(seed))
    outside = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    outside.bind(("", int(port)))
    clients: dict[tuple[str, int], socket.socket] = {}
    slow = False
    under_way: list[tuple[float, int, socket.socket, tuple[str, int] | None, bytes]] = []  # to a client, or the server
    number = 0

    def begin(_: int, __: FrameType | None) -> None:
        nonlocal slow
        slow = True
        print("slow", flush=True)

    def server_side(client: tuple[str, int]) -> socket.socket:
        if client not in clients:
            while len(clients) >= CLIENTS:
                clients.pop(next(iter(clients))).close()
            clients[client] = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            clients[client].connect(("127.0.0.1", int(server_port)))
        return clients[client]

    signal.signal(signal.SIGUSR1, begin)
    print("ready", flush=True)
    while True:
        pause = max(0.0, under_way[0][0] - time.monotonic()) if under_way else None
        readable, _, _ = select.select((outside, *clients.values()), (), (), pause)
        asking = {inside: client for client, inside in clients.items()}
        for each in readable:
            try:
                data, sender = each.recvfrom(65536)
            except OSError:  # nobody listens at the server's port now
                continue
            if slow and dice.random() < float(loss):
                continue
            number += 1
            due = time.monotonic() + (float(delay) if slow else 0.0)
            if each is outside:
                heapq.heappush(under_way, (due, number, server_side(sender), None, data))
            else:
                heapq.heappush(under_way, (due, number, outside, asking[each], data))
        while under_way and under_way[0][0] <= time.monotonic():
            _, _, through, client, data = heapq.heappop(under_way)
            try:
                through.send(data) if client is None else through.sendto(data, client)
            except OSError:
                continue


if __name__ == "__main__":
    main()
