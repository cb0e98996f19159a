"""Every way a program of any user has to send around the routes: `python -I -S -c "$(cat bound_sockets.py)" TASK`.

Run in the laptop. Each attempt has a number: the destination port of a TCP connection, `<number>` in anything else.
Prints what became of each attempt as one line of JSON: "sent", or the kernel's reason.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import sys
import time
from typing import TypedDict

# <linux/in.h>, <linux/in6.h>; none of them is in the module `socket` of every Python
IP_PKTINFO, IP_UNICAST_IF, IPV6_PKTINFO, IPV6_UNICAST_IF = 8, 50, 50, 76
WAYS = ("plain", "source", "device", "unicast_if", "pktinfo", "pktinfo_source", "scope", "dontroute")
PROTOCOLS = ("udp", "tcp", "icmp")
ECHO_REQUEST, ECHO_REQUEST6 = 8, 128


class Task(TypedDict):
    """`targets` by name; `sources`: the link's own address by version; `first`: the number before the first attempt."""

    device: str
    targets: dict[str, str]
    sources: dict[str, str]
    first: int


class Impossible(Exception):
    """This way does not exist for this protocol."""


def attempt(task: Task, target: str, protocol: str, way: str, number: int) -> socket.socket:
    """Raises OSError, Impossible."""
    six = ":" in target
    family, level = (socket.AF_INET6, socket.IPPROTO_IPV6) if six else (socket.AF_INET, socket.IPPROTO_IP)
    source, index = task["sources"]["6" if six else "4"], socket.if_nametoindex(task["device"])
    if (protocol == "tcp" and way.startswith("pktinfo")) or (way == "scope" and not six):
        raise Impossible
    if protocol == "tcp":
        sender = socket.socket(family, socket.SOCK_STREAM)
    else:
        icmp = socket.IPPROTO_ICMPV6 if six else socket.IPPROTO_ICMP  # no raw socket: any user may ping
        sender = socket.socket(family, socket.SOCK_DGRAM, icmp if protocol == "icmp" else 0)
    sender.setblocking(False)
    data = f"<{number}>".encode()
    if protocol == "icmp":
        data = struct.pack(">BBHHH", ECHO_REQUEST6 if six else ECHO_REQUEST, 0, 0, 0, 1) + data
    to: tuple[str, int] | tuple[str, int, int, int] = (target, 0 if protocol == "icmp" else number)
    match way:
        case "source":
            sender.bind((source, 0))
        case "device":
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, task["device"].encode() + b"\0")
        case "unicast_if":
            sender.setsockopt(level, IPV6_UNICAST_IF if six else IP_UNICAST_IF, struct.pack(">I", index))
        case "scope":
            to = (target, to[1], 0, index)
        case "dontroute":
            sender.setsockopt(socket.SOL_SOCKET, socket.SO_DONTROUTE, 1)
    if protocol == "tcp":
        with contextlib.suppress(BlockingIOError):
            sender.connect(to)
    elif way.startswith("pktinfo"):
        own = socket.inet_pton(family, source) if way == "pktinfo_source" else bytes(16 if six else 4)
        info = own + struct.pack("=I", index) if six else struct.pack("=i", index) + own + bytes(4)
        sender.sendmsg([data], [(level, IPV6_PKTINFO if six else IP_PKTINFO, info)], 0, to)
    else:
        sender.sendto(data, to)
    return sender


def main() -> None:
    task: Task = json.loads(sys.argv[1])
    number, told, open_sockets = task["first"], {}, []
    for name, target in task["targets"].items():
        for protocol in PROTOCOLS:
            for way in WAYS:
                number += 1
                try:
                    open_sockets.append(attempt(task, target, protocol, way, number))
                except Impossible:
                    continue
                except OSError as err:
                    told[f"{name} {protocol} {way}"] = (number, err.strerror)
                else:
                    told[f"{name} {protocol} {way}"] = (number, "sent")
    print(json.dumps(told), flush=True)
    time.sleep(0.3)  # a handshake whose socket is closed is forgotten while its neighbour is being looked for


if __name__ == "__main__":
    main()
