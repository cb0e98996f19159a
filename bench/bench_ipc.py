"""Both faces of the real daemon: calls a second, latency of many callers, 1,000 watchers.

Peers in the same run: systemd-resolved (C, sd-bus) answering Properties.Get over the same private bus to the same
client; on the socket a bare asyncio server that sends the same bytes. Every answer is compared; wrong and dropped ones
are counted and must be 0. The clients are processes of their own on the same two cores.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import multiprocessing
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from bench.common import report, title
from ipc.interface import NAME, PATH
from lab.bus import SOCKET, BusClient
from lab.processes import LabError, Process
from lab.subject import Subject
from lab.topology import Laboratory

SECONDS = 5.0
WINDOW = 32  # calls under way on the one connection
CALLERS, EACH_S = 100, 0.2  # callers, and how often each asks
WATCHERS = 1_000
RESOLVED = ("/usr/lib/systemd/systemd-resolved", "/usr/local/lib/tunwarden-lab/systemd-resolved")
ASK = json.dumps({"method": f"{NAME}.Manager.GetStatus", "parameters": {}}).encode() + b"\0"
WATCH = json.dumps({"method": f"{NAME}.Manager.Watch", "parameters": {}, "more": True}).encode() + b"\0"


def apart(run: Callable[..., object], *arguments: object) -> object:
    """`run` in a process of its own, so that the client does not share our interpreter with anybody."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(run, arguments)


# --- Varlink ---------------------------------------------------------------------------------------------------------


def pipelined(path: str, question: bytes, end: bytes, right: bytes) -> tuple[float, int]:
    """(answers a second, wrong ones) on one connection."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        sock.settimeout(10)
        sock.sendall(question * WINDOW)
        answers = wrong = 0
        rest, begun = b"", time.monotonic()
        while time.monotonic() - begun < SECONDS:
            *whole, rest = (rest + sock.recv(1 << 16)).split(end)
            answers += len(whole)
            wrong += sum(right not in each for each in whole)
            sock.sendall(question * len(whole))
        return answers / (time.monotonic() - begun), wrong


async def _ask(path: str, delay: float, latencies: list[float], until: float) -> int:
    reader, writer = await asyncio.open_unix_connection(path)
    wrong = 0
    await asyncio.sleep(delay)
    while time.monotonic() < until:
        begun = time.monotonic()
        writer.write(ASK)
        answer = await reader.readuntil(b"\0")
        latencies.append((time.monotonic() - begun) * 1000)
        wrong += b'"state"' not in answer
        await asyncio.sleep(EACH_S)
    writer.close()
    return wrong


def many_callers(path: str) -> tuple[list[float], int]:
    """(latencies in ms, wrong answers) of many connections, each asking five times a second."""

    async def main() -> tuple[list[float], int]:
        latencies: list[float] = []
        until = time.monotonic() + SECONDS
        wrong = await asyncio.gather(
            *(_ask(path, EACH_S * number / CALLERS, latencies, until) for number in range(CALLERS))
        )
        return latencies, sum(wrong)

    return asyncio.run(main())


def watchers(path: str, ready: str) -> tuple[list[float], int]:
    """(when each of the watchers had the next status: the kernel's clock, how many were dropped)."""

    async def one(told: asyncio.Semaphore) -> float | None:
        try:
            reader, writer = await asyncio.open_unix_connection(path, limit=1 << 20)
            writer.write(WATCH)
            await reader.readuntil(b"\0")
            told.release()
            await reader.readuntil(b"\0")
            when = time.monotonic()
            writer.close()
            return when
        except (OSError, asyncio.IncompleteReadError):
            told.release()
            return None

    async def main() -> list[float | None]:
        told = asyncio.Semaphore(0)
        tasks = [asyncio.create_task(one(told)) for _ in range(WATCHERS)]
        for _ in range(WATCHERS):
            await told.acquire()
        Path(ready).touch()  # noqa: ASYNC240  nothing else is to be done meanwhile
        return await asyncio.gather(*tasks)

    found = asyncio.run(main())
    return [when for when in found if when is not None], found.count(None)


# --- D-Bus -----------------------------------------------------------------------------------------------------------


def properties(bus: str, name: str, path: str, face: str, member: str) -> tuple[float, int]:
    """(reads a second, wrong or missing answers) on one connection, so many under way."""

    async def main() -> tuple[float, int]:
        connection = await MessageBus(bus_address=bus).connect()
        count = wrong = 0
        begun = time.monotonic()

        async def ask() -> None:
            nonlocal count, wrong
            while time.monotonic() - begun < SECONDS:
                question = Message(
                    name, path, "org.freedesktop.DBus.Properties", "Get", signature="ss", body=[face, member]
                )
                reply = await connection.call(question)
                count += 1
                wrong += reply is None or reply.message_type is not MessageType.METHOD_RETURN

        await asyncio.gather(*(ask() for _ in range(WINDOW)))
        seconds = time.monotonic() - begun
        connection.disconnect()
        return count / seconds, wrong

    return asyncio.run(main())


# --- peers -----------------------------------------------------------------------------------------------------------


def echo(path: str, answer: bytes) -> None:
    """A bare asyncio server: each question is answered by the same bytes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):  # it has hung up
            while True:
                await reader.readuntil(b"\0")
                writer.write(answer)
                await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_unix_server(serve, path)
        await server.serve_forever()

    asyncio.run(main())


def start_resolved(lab: Laboratory) -> Process:
    program = next((place for place in RESOLVED if Path(place).exists()), None)
    if program is None:
        raise LabError("systemd-resolved is not here: run lab/install-missing")
    laptop = lab.laptop
    for path, line in (("/etc/passwd", "systemd-resolve:x:64996:64996::/:/usr/sbin/nologin"),
                       ("/etc/group", "systemd-resolve:x:64996:")):  # fmt: skip
        if "systemd-resolve:" not in laptop.read(path):
            laptop.write(path, f"{laptop.read(path)}{line}\n")
    laptop.run("install", "-d", "-o", "systemd-resolve", "-g", "systemd-resolve", "/run/systemd/resolve")
    return laptop.start(program)


def main() -> None:
    title("ipc")
    with Laboratory(49) as lab:
        subject = Subject(lab)
        subject.start()
        subject.set_up()
        lab.join("cafe")
        subject.wait("connected")
        sock = str(lab.laptop.path("/run/tunwarden/tunwarden.sock"))
        _varlink(sock)
        _watchers(subject, sock)
        _dbus(lab)


def _varlink(sock: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.connect(sock)
        one.sendall(ASK)
        answer = b""
        while not answer.endswith(b"\0"):
            answer += one.recv(1 << 16)
    with tempfile.TemporaryDirectory() as folder:
        peer = multiprocessing.get_context("spawn").Process(target=echo, args=(f"{folder}/sock", answer), daemon=True)
        peer.start()
        while not Path(folder, "sock").exists():
            time.sleep(0.01)
        ours, wrong = apart(pipelined, sock, ASK, b"\0", b'"state"')  # type: ignore[misc]
        bare, _ = apart(pipelined, f"{folder}/sock", ASK, b"\0", b'"state"')  # type: ignore[misc]
        peer.terminate()
        peer.join()
    print(
        f"Varlink, GetStatus on one connection: {ours:.0f} a second (goal 3000), {wrong} wrong; "
        f"a bare server that knows its {len(answer)} bytes: {bare:.0f}; ratio {ours / bare:.2f}",
        flush=True,
    )
    latencies, wrong = apart(many_callers, sock)  # type: ignore[misc]
    report(f"Varlink, {CALLERS} connections, {CALLERS / EACH_S:.0f} calls a second in all: latency", latencies, "ms")
    ninety_nine = statistics.quantiles(latencies, n=100)[98]
    print(f"    99 of 100 within {ninety_nine:.1f} ms (goal 5), {wrong} wrong", flush=True)


def _watchers(subject: Subject, sock: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        ready = f"{folder}/ready"
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            result = pool.apply_async(watchers, (sock, ready))
            while not Path(ready).exists():
                time.sleep(0.01)
            begun = time.monotonic()
            subject.cli("killswitch", "on" if not subject.status().kill_switch else "off")
            heard, dropped = result.get(60)
        subject.cli("killswitch", "on")
    # The first of them is when the change was there: what the command itself takes is not the feed's.
    spread = [(when - min(heard)) * 1000 for when in heard]
    print(
        f"{len(heard)} watchers: the last hears {max(spread):.0f} ms after the first (goal 100), "
        f"{(max(heard) - begun) * 1000:.0f} ms after the command began; {dropped} dropped",
        flush=True,
    )


def _dbus(lab: Laboratory) -> None:
    resolved = start_resolved(lab)
    client = BusClient(lab.laptop)
    try:
        client.wait_owned("org.freedesktop.resolve1")
    finally:
        client.close()
    bus = f"unix:path={lab.laptop.path(SOCKET)}"
    ours, wrong = apart(properties, bus, NAME, PATH, f"{NAME}.Manager", "State")  # type: ignore[misc]
    manager = ("org.freedesktop.resolve1", "/org/freedesktop/resolve1", "org.freedesktop.resolve1.Manager")
    theirs, missed = apart(properties, bus, *manager, "LLMNR")  # type: ignore[misc]
    resolved.kill()
    print(
        f"D-Bus, Properties.Get: {ours:.0f} a second (goal 3000), {wrong} wrong; "
        f"systemd-resolved: {theirs:.0f}, {missed} wrong; ratio {ours / theirs:.2f}",
        flush=True,
    )


if __name__ == "__main__":
    main()
