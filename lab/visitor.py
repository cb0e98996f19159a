"""Somebody in front of a captive portal. A script of its own (`python -I -S visitor.py TASK`, the task as JSON).

`{"do": "log in", "page": URL}`: names, the page, wherever it leads, and the form's button. Prints what came of it.
`{"do": "try", "ways": {NAME: WAY}}`: each way once; prints by name whether it went. `"on": true`: after each line of
standard input. `{"do": "insist", ...}`: all ways again and again until SIGTERM. Ways: see `go`.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import time
from collections import Counter
from typing import Any
from urllib.parse import urljoin, urlsplit

PATIENCE_S = 4.0


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def ask(resolver: str, name: str, kind: int, patience: float) -> str:
    """A question over UDP: "answer CODE COUNT", or what the kernel says."""
    labels = b"".join(bytes((len(label),)) + label.encode() for label in name.split("."))
    head = struct.pack(">6H", os.getpid() & 0xFFFF, 0x0100, 1, 0, 0, 0)
    with socket.socket(family_of(resolver), socket.SOCK_DGRAM) as one:
        one.settimeout(patience)
        one.connect((resolver, 53))
        one.send(head + labels + b"\0" + struct.pack(">2H", kind, 1))
        answer = one.recv(4096)
    flags, _, count = struct.unpack_from(">3H", answer, 2)
    return f"answer {flags & 15} {count}"


def go(way: dict[str, Any]) -> str:
    """`kind` "tcp", "udp", "dns", "name" or "mark", and what that needs. "" for a way that went."""
    patience = way.get("patience", PATIENCE_S)
    try:
        match way["kind"]:
            case "dns":
                return ask(way["to"], way["name"], way.get("type", 1), patience)
            case "name":
                found = socket.getaddrinfo(way["name"], 80, type=socket.SOCK_STREAM)
                return " ".join(sorted({str(each[4][0]) for each in found}))
            case "mark":
                with socket.socket() as one:
                    return f"{one.getsockopt(socket.SOL_SOCKET, 36):#x}"
        stream = way["kind"] == "tcp"
        with socket.socket(family_of(way["to"]), socket.SOCK_STREAM if stream else socket.SOCK_DGRAM) as one:
            one.settimeout(patience)
            if "link" in way:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, way["link"].encode() + b"\0")
            if "from" in way:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(("", way["from"]))
            one.connect((way["to"], way["port"]))
            if not stream:
                one.send(b"is anybody there?")
                if way.get("hears", True):
                    one.recv(100)
    except TimeoutError:
        return "timeout"
    except OSError as err:
        return err.strerror or str(err)
    return ""


def http(method: str, url: str, address: str) -> tuple[int, str, str]:
    """Status, where it leads, and the body."""
    parts = urlsplit(url)
    with socket.create_connection((address, parts.port or 80), timeout=10) as one:
        path = parts.path or "/"
        one.sendall(f"{method} {path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Length: 0\r\n\r\n".encode())
        raw = b""
        while part := one.recv(65536):
            raw += part
    head, _, body = raw.decode("latin-1").partition("\r\n\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:])
    return int(head.split()[1]), headers.get("location", ""), body


def log_in(start: str) -> None:
    """Over both families, for this portal tells people apart by their addresses: all pages first, then the buttons.

    IPv4 last: what looks for the Internet over it may then find it and end the login before we hear of it.
    """
    forms = []
    for family in (socket.AF_INET6, socket.AF_INET):
        page = start
        for _ in range(5):
            address = str(socket.getaddrinfo(urlsplit(page).hostname, 80, family, socket.SOCK_STREAM)[0][4][0])
            status, location, body = http("GET", page, address)
            print(json.dumps([page, status]), flush=True)
            if not location:
                break
            page = urljoin(page, location)
        if "<form" in body:
            forms.append((page, address))
    for page, address in forms:
        print(json.dumps(["POST", http("POST", page, address)[0]]), flush=True)


def main() -> None:
    task = json.loads(sys.argv[1])
    if task["do"] == "log in":
        log_in(task["page"])
        return
    if task["do"] == "try":
        print("ready", flush=True)
        for _ in sys.stdin if task.get("on") else [""]:
            print(json.dumps({name: go(way) for name, way in task["ways"].items()}), flush=True)
        return
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
    tried: Counter[str] = Counter()
    print("ready", flush=True)
    while not ended:
        for name, way in task["ways"].items():
            went = go({"patience": 0.05, **way})
            tried[f"{name}: {went or 'WENT'}"] += 1
        time.sleep(0.01)
    print(json.dumps(tried), flush=True)


if __name__ == "__main__":
    main()
