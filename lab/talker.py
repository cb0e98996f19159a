"""A program that knows nothing of the VPN: it sends every kind of packet that must not leak, again and again.

A script of its own (`python -I -S talker.py PLAN`, the plan as JSON), run in the laptop by `traffic.py`. It never gives
up: a send that the kernel refuses counts as tried and as refused. On SIGTERM it prints its counts as one line of JSON.
"""

from __future__ import annotations

import contextlib
import json
import select
import signal
import socket
import struct
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any, TypedDict

ICMP_REPLY, ICMPV6_REPLY = 0, 129
KINDS = ("udp4", "udp6", "tcp4", "tcp6", "dns", "icmp4", "icmp6", "bound4", "bound6")
KEPT = 32  # sockets of a kind that wait for an answer at the same time


class Plan(TypedDict):
    """`rate` is tries a second of each kind, `device` the link that the "bound" kinds bind to."""

    rate: float
    device: str
    target4: str
    target6: str
    resolvers: list[str]
    echo_port: int
    web_port: int


@dataclass
class Counts:
    tried: int = 0
    refused: int = 0  # the kernel said no at once
    answered: int = 0


def question(number: int) -> bytes:
    """A DNS question for a name that no cache knows."""
    label = f"leak{number:08d}".encode()
    name = bytes([len(label)]) + label + b"\x04test\x00"
    return struct.pack(">HHHHHH", number & 0xFFFF, 0x0100, 1, 0, 0, 0) + name + struct.pack(">HH", 1, 1)


def echo_request(kind: int, number: int) -> bytes:
    """An ICMP echo request with its checksum (which the kernel replaces for ICMPv6)."""
    data = struct.pack(">BBHHH", kind, 0, 0, 0x7477, number & 0xFFFF) + b"tunwarden!"
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    total += total >> 16
    return data[:2] + struct.pack(">H", ~total & 0xFFFF) + data[4:]


@dataclass
class Sender:
    """One kind of traffic. A fresh socket for every try: an old one would keep its first route and source address."""

    kind: str
    plan: Plan
    counts: Counts = field(default_factory=Counts)
    waiting: list[tuple[socket.socket, int]] = field(default_factory=list)

    def try_once(self) -> None:
        self.collect()
        self.counts.tried += 1
        number = self.counts.tried
        six = self.kind.endswith("6")
        target = self.plan["target6" if six else "target4"]
        if self.kind == "dns":
            target = self.plan["resolvers"][number % len(self.plan["resolvers"])]
            six = ":" in target
        sender = self.make_socket(socket.AF_INET6 if six else socket.AF_INET)
        try:
            sender.setblocking(False)
            self.send(sender, target, number)
        except OSError:
            self.counts.refused += 1
            sender.close()
        else:
            self.waiting.append((sender, number))

    def make_socket(self, family: int) -> socket.socket:
        match self.kind:
            case "tcp4" | "tcp6":
                return socket.socket(family, socket.SOCK_STREAM)
            case "icmp4":
                return socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMP)
            case "icmp6":
                return socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_ICMPV6)
            case _:
                return socket.socket(family, socket.SOCK_DGRAM)

    def send(self, sender: socket.socket, target: str, number: int) -> None:
        match self.kind:
            case "tcp4" | "tcp6":
                with contextlib.suppress(BlockingIOError):
                    sender.connect((target, self.plan["web_port"]))
            case "icmp4":
                sender.sendto(echo_request(8, number), (target, 0))
            case "icmp6":
                sender.sendto(echo_request(128, number), (target, 0))
            case "dns":
                sender.sendto(question(number), (target, 53))
            case _:
                if self.kind.startswith("bound"):
                    device = self.plan["device"].encode() + b"\0"
                    sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device)
                sender.sendto(b"tunwarden leak probe", (target, self.plan["echo_port"]))

    def collect(self) -> None:
        """Count the answers that came, and close the oldest of the sockets that still wait."""
        sockets = [one for one, _ in self.waiting]
        readable, writable, _ = select.select(sockets, sockets if self.kind.startswith("tcp") else [], [], 0)
        still = []
        for one, number in self.waiting:
            if one in writable:
                done, answered = True, one.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
            elif one in readable:
                done, answered = self.read(one, number)
            else:
                done, answered = False, False
            self.counts.answered += answered
            if done:
                one.close()
            else:
                still.append((one, number))
        for one, _ in still[:-KEPT]:
            one.close()
        self.waiting = still[-KEPT:]

    def read(self, one: socket.socket, number: int) -> tuple[bool, bool]:
        """Whether the socket is done, and whether it was answered. Raw sockets see everybody's ICMP messages."""
        try:
            data = one.recv(4096)
        except OSError:
            return True, False
        if not self.kind.startswith("icmp"):
            return True, True
        if self.kind == "icmp4":
            data = data[(data[0] & 15) * 4 :]
        reply = ICMP_REPLY if self.kind == "icmp4" else ICMPV6_REPLY
        mine = len(data) >= 8 and data[0] == reply and data[6:8] == struct.pack(">H", number & 0xFFFF)
        return mine, mine


def main() -> None:
    plan: Plan = json.loads(sys.argv[1])
    senders = [Sender(kind, plan) for kind in KINDS]
    stopping: list[Any] = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    interval, due = 1 / plan["rate"], time.monotonic()
    print("running", flush=True)
    while not stopping:
        for sender in senders:
            sender.try_once()
        due = max(due + interval, time.monotonic() - 1)
        time.sleep(max(0.0, due - time.monotonic()))
    for sender in senders:
        sender.collect()
    print(json.dumps({sender.kind: asdict(sender.counts) for sender in senders}), flush=True)


if __name__ == "__main__":
    main()
