"""What loads the portal: plain sockets in one thread, in a process of its own: little of the processor is ours."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.common import TOP, cpu_ms, resident_mib

PATIENCE = 60.0  # seconds without any answer
IDLE = 4.0  # seconds that open streams are watched while nothing happens
Address = tuple[str, int]


@dataclass
class Done:
    """What came back, in the order of the requests: (status, body); None: no answer."""

    seconds: float
    cpu_ms: float  # the generator's own
    answers: list[tuple[int, bytes] | None]
    milliseconds: list[float]


@dataclass
class _Open:
    sock: socket.socket
    index: int = 0
    begun: float = 0.0
    got: bytes = b""


def request(method: str, path: str, headers: dict[str, str] | None = None, body: object = None) -> bytes:
    content = b"" if body is None else json.dumps(body).encode()
    lines = {"Host": "portal.example"} | (headers or {})
    if body is not None:
        lines |= {"Content-Type": "application/json", "Content-Length": str(len(content))}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + content


def _whole(got: bytes) -> tuple[int, bytes, bool] | None:
    """(status, body, whether the connection goes on) when the answer is complete."""
    head, found, rest = got.partition(b"\r\n\r\n")
    if not found:
        return None
    low = head.lower()
    size = int(low.split(b"\r\ncontent-length:", 1)[1].split(b"\r\n", 1)[0])
    return (int(head[9:12]), rest, b"\r\nconnection: close" not in low) if len(rest) >= size else None


def closed(address: Address, requests: Sequence[bytes], connections: int) -> Done:
    """Each connection sends the next request when its last one was answered."""
    answers: list[tuple[int, bytes] | None] = [None] * len(requests)
    milliseconds: list[float] = []
    cpu, begun, following, open_now = time.process_time(), time.monotonic(), 0, 0
    with selectors.DefaultSelector() as selector:

        def send(one: _Open) -> bool:
            nonlocal following
            if following >= len(requests):
                return False
            one.index, one.begun, one.got, following = following, time.monotonic(), b"", following + 1
            one.sock.sendall(requests[one.index])
            return True

        def begin() -> None:
            nonlocal open_now
            one = _Open(socket.create_connection(address, timeout=PATIENCE))
            one.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if send(one):
                selector.register(one.sock, selectors.EVENT_READ, one)
                open_now += 1
            else:
                one.sock.close()

        for _ in range(connections):
            begin()
        while open_now and (ready := selector.select(PATIENCE)):
            for key, _events in ready:
                one: _Open = key.data
                data = b""
                with contextlib.suppress(ConnectionError):
                    data = one.sock.recv(1 << 16)
                one.got += data
                done = _whole(one.got)
                if done is None and data:
                    continue
                if done is not None:
                    answers[one.index] = done[:2]
                    milliseconds.append((time.monotonic() - one.begun) * 1000)
                if done is not None and done[2] and send(one):
                    continue
                selector.unregister(one.sock)
                one.sock.close()
                open_now -= 1
                begin()
    seconds = time.monotonic() - begun
    return Done(seconds, (time.process_time() - cpu) * 1000, answers, milliseconds)


@dataclass
class Streams:
    """What the open streams cost, and the commands that came: (stream, token, seconds since 1970)."""

    mib_before: float = 0.0
    mib_open: float = 0.0
    open_seconds: float = 0.0
    open_cpu_ms: float = 0.0
    idle_percent: float = 0.0  # of one core
    told_cpu_ms: float = 0.0
    got: list[tuple[int, str, float]] = field(default_factory=list)
    sent: list[tuple[str, float]] = field(default_factory=list)  # (jti, when it was committed)
    ended: int = 0
    cpu_ms: float = 0.0


def streams(
    address: Address, pid: int, credentials: Sequence[str], sender: Sequence[str], env: dict[str, str]
) -> Streams:
    """Opens one for each, watches them idle, has `sender` send its commands, and reads until all have come."""
    told = Streams(mib_before=resident_mib(pid))
    with contextlib.ExitStack() as stack:
        selector = stack.enter_context(selectors.DefaultSelector())
        sending = stack.enter_context(
            subprocess.Popen(
                [sys.executable, *sender], cwd=TOP, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        )
        assert sending.stdin is not None and sending.stdout is not None
        sending.stdout.readline()  # it is ready
        begun, before = time.monotonic(), cpu_ms(pid)
        rest = [b""] * len(credentials)
        waiting = 0

        def read(seconds: float) -> None:
            nonlocal waiting
            for key, _events in selector.select(seconds):
                number: int = key.data
                data = key.fileobj.recv(1 << 14)  # type: ignore[union-attr]
                if not data:
                    told.ended += 1
                    selector.unregister(key.fileobj)
                    continue
                now = time.time()
                *lines, rest[number] = (rest[number] + data).split(b"\n")
                for line in lines:
                    if line.startswith(b"retry:"):
                        waiting -= 1
                    elif line.startswith(b"data: "):
                        told.got.append((number, line[6:].strip().decode(), now))

        for number, credential in enumerate(credentials):
            sock = stack.enter_context(socket.create_connection(address, timeout=PATIENCE))
            sock.sendall(request("GET", "/api/v1/events", {"Authorization": f"Bearer {credential}"}))
            selector.register(sock, selectors.EVENT_READ, number)
            waiting += 1
            while waiting >= 32:  # so many at once
                read(PATIENCE)
        while waiting and time.monotonic() < begun + PATIENCE:
            read(1.0)
        told.open_seconds, told.open_cpu_ms = time.monotonic() - begun, cpu_ms(pid) - before
        told.mib_open = resident_mib(pid)
        read_until(IDLE / 2, read)
        before, begun = cpu_ms(pid), time.monotonic()
        read_until(IDLE, read)
        told.idle_percent = (cpu_ms(pid) - before) / (time.monotonic() - begun) / 10
        before, own = cpu_ms(pid), time.process_time()
        sending.stdin.write("go\n")
        sending.stdin.flush()
        count = int(sender[-2])
        until = time.monotonic() + count / float(sender[-1]) + 15
        while len(told.got) < count and time.monotonic() < until:
            read(0.5)
        read_until(0.5, read)  # what comes twice would come now
        told.told_cpu_ms, told.cpu_ms = cpu_ms(pid) - before, (time.process_time() - own) * 1000
        for line in sending.stdout:
            jti, when = line.split()
            told.sent.append((jti, float(when)))
    return told


def read_until(seconds: float, read: object) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        read(left)  # type: ignore[operator]
