"""A program that is put beside the tunnel, or bound to it. A script of its own (`python -I -S split_member.py`).

For each line of standard input, a JSON object with `do`, it prints one line of JSON: what came of it. `web`: whom the
internet saw. `echo`: "" where an answer came. `dns`: code and addresses. `hold`, `more`: a byte source, and how much
came since. `child`: the same by a new process.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from typing import Any

PATIENCE_S = 4.0


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def made(task: dict[str, Any], kind: socket.SocketKind) -> socket.socket:
    one = socket.socket(family_of(task["to"]), kind)
    one.settimeout(task.get("patience", PATIENCE_S))
    if "link" in task:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, task["link"].encode() + b"\0")
    if "mark" in task:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, task["mark"])
    if "from" in task:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("", task["from"]))
    return one


def web(task: dict[str, Any]) -> str:
    with made(task, socket.SOCK_STREAM) as one:
        one.connect((task["to"], task.get("port", 80)))
        one.sendall(b"GET / HTTP/1.1\r\nHost: internet.test\r\n\r\n")
        raw = b""
        while part := one.recv(65536):
            raw += part
    return raw.decode().partition("\r\n\r\n")[2].strip()


def echo(one: socket.socket, task: dict[str, Any]) -> str:
    one.sendto(b"split", (task["to"], task.get("port", 7)))
    return "" if one.recv(100) == b"split" else "something else"


def dns(task: dict[str, Any]) -> list[object]:
    kind = task.get("type", 1)
    labels = b"".join(bytes((len(label),)) + label.encode() for label in task["name"].split("."))
    question = (
        struct.pack(">6H", os.getpid() & 0xFFFF, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack(">2H", kind, 1)
    )
    stream = task.get("tcp", False)
    with made(task, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as one:
        one.connect((task["to"], task.get("port", 53)))
        one.send(struct.pack(">H", len(question)) + question if stream else question)
        answer = one.recv(4096)[2 if stream else 0 :]
    size = {1: 4, 28: 16}.get(kind, 0)
    found, at = [], len(question)
    for _ in range(struct.unpack_from(">H", answer, 6)[0]):
        length = struct.unpack_from(">H", answer, at + 10)[0]
        if length == size:
            found.append(socket.inet_ntop(family_of(":" if size == 16 else "."), answer[at + 12 : at + 12 + size]))
        at += 12 + length
    return [answer[3] & 15, *found]


def more(one: socket.socket, patience: float) -> int:
    """How many bytes come in so long."""
    total, until = 0, time.monotonic() + patience
    one.settimeout(0.05)
    while time.monotonic() < until:
        try:
            part = one.recv(1 << 20)
        except TimeoutError:
            continue
        except OSError:
            break
        if not part:
            break
        total += len(part)
    return total


def do(task: dict[str, Any], held: dict[str, socket.socket]) -> object:
    name = task.get("as", "")
    match task["do"]:
        case "web":
            return web(task)
        case "echo" if name in held:
            return echo(held[name], task)
        case "echo":
            with made(task, socket.SOCK_DGRAM) as one:
                return echo(one, task)
        case "dns":
            return dns(task)
        case "open":
            held[name] = made(task, socket.SOCK_DGRAM)
            return ""
        case "hold":
            held[name] = made(task, socket.SOCK_STREAM)
            held[name].connect((task["to"], task.get("port", 19)))
            return ""
        case "more":
            return more(held[name], task.get("patience", 1.0))
        case "mark":
            with socket.socket() as one:
                return one.getsockopt(socket.SOL_SOCKET, socket.SO_MARK)
        case "child":
            line = json.dumps(task["task"]) + "\n"
            child = subprocess.run(
                [sys.executable, "-I", "-S", __file__], input=line, capture_output=True, text=True, check=True
            )
            return json.loads(child.stdout.splitlines()[-1])
    raise ValueError(task)


def main() -> None:
    held: dict[str, socket.socket] = {}
    print(json.dumps(os.getpid()), flush=True)
    for line in sys.stdin:
        try:
            said = do(json.loads(line), held)
        except TimeoutError:
            said = "timeout"
        except OSError as err:
            said = err.strerror or str(err)
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
