"""Memory of the real daemon after a day's worth of events, accelerated: 1,000,000 link events.

A container host's: a bridge that is switched on and off and renamed. After each 10,000 a wired link of the machine's
comes or goes, which changes what the daemon decides and tells; its status must say so, else the answer counts as wrong.
Events are counted by a socket that reads nothing else. Memory is what the kernel counts as resident (VmRSS): before,
after 20,000 (what is allocated once) and at the end. Peers in the same run, for the first 100,000: `ip monitor link`,
and a reader made of pyroute2 alone, which is what the daemon's watch of its tunnel was once.
Usage: python -m bench.bench_growth [EVENTS]
"""

from __future__ import annotations

import socket
import sys
import threading
import time

from bench.common import resident_mib, title
from ipc.structs import Status
from lab.hosts import Host
from lab.processes import LabError, Process
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory

EVENTS, WARM, STEP, PEER = 1_000_000, 20_000, 10_000, 100_000
GOAL_MIB = 2.0
# wireguard-go ends when its own queue of link events overruns (208 KiB), as it does where other work delays it.
REMADE = "phase=connected cause= after=TunnelUp"
ANSWER_S = 15.0
SO_RCVBUFFORCE, QUEUE = 33, 64 << 20
RTMGRP_LINK = 1
WIRED = 'version = 1\n\n[[links]]\nname = "desk*"\nkind = "wired"\n'
READER = """
import asyncio
from pyroute2.iproute.linux import AsyncIPRoute

async def read():
    ip = AsyncIPRoute(groups=1)
    try:
        ip.socket.setsockopt(1, 33, 8 << 20)
        await ip.bind()
        print("ready", flush=True)
        while True:
            async for message in ip.get():
                pass
    except OSError:  # an overrun ends the object
        ip.close()

async def main():
    while True:
        await read()

asyncio.run(main())
"""


class Counter:
    """Counts the link events of a host."""

    def __init__(self, host: Host) -> None:
        self.events = self.overruns = 0
        self._socket = host.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE)
        self._socket.bind((0, RTMGRP_LINK))
        self._socket.settimeout(0.2)
        self._stop = False
        self._thread = threading.Thread(target=self._count)
        self._thread.start()

    def _count(self) -> None:
        while not self._stop:
            try:
                self._socket.recv(1)
                self.events += 1
            except TimeoutError:
                continue
            except OSError:
                self.overruns += 1

    def close(self) -> None:
        self._stop = True
        self._thread.join()
        self._socket.close()


class Storm:
    """Events in steps; each ends with a link that comes or goes, of which the status must tell."""

    def __init__(self, lab: Laboratory, subject: Subject) -> None:
        self._lab, self._subject = lab, subject
        self._there = False
        self.done = self.asked = self.wrong = 0
        lab.laptop.ip("link add box0 type bridge", "link set box0 up", "link add desk0 type veth peer name far0",
                      "link set far0 up")  # fmt: skip
        self._lines = [line for number in range(STEP // 4) for line in _four(number)]

    def until(self, events: int) -> None:
        while self.done < events:
            self._there = not self._there
            self._lab.laptop.ip(*self._lines, f"link set desk0 {'up' if self._there else 'down'}")
            self.done += STEP + 1
            self.asked += 1
            try:
                self._subject.wait(self._right, ANSWER_S)
            except LabError as err:
                self.wrong += 1
                print(f"    wrong: {err}", flush=True)

    def _right(self, status: Status) -> bool:
        told = any(network.ifname == "desk0" for network in status.networks)
        return told is self._there and status.protected and status.state == "connected" and status.alarm is None


def _four(number: int) -> tuple[str, ...]:
    return "link set box0 down", "link set box0 up", f"link set box0 alias {number}", "link set box0 alias x"


def settled(process: Process) -> float:
    """Resident MiB, when the process has nothing left to read."""
    if not process.running:
        raise LabError(f"it has ended:\n{process.output()[-2000:]}")
    assert process.pid is not None
    before = -1.0
    while (now := resident_mib(process.pid)) != before:
        before = now
        time.sleep(1)
    return now


def main() -> None:
    events = max(PEER, int(sys.argv[1]) if len(sys.argv) > 1 else EVENTS)
    title("growth")
    with Laboratory(52) as lab:
        subject = Subject(lab, SETTINGS.replace("version = 1\n", WIRED))
        subject.start()
        subject.set_up()
        lab.join("cafe")
        subject.wait("connected")
        assert subject.process is not None
        counter = Counter(lab.laptop)
        storm = Storm(lab, subject)
        python = lab.laptop.start(sys.executable, "-I", "-c", READER)
        monitor = lab.laptop.start("sh", "-c", "exec ip monitor link > /dev/null")
        try:
            while "ready" not in python.output():
                time.sleep(0.05)
            watched = {"daemon": subject.process, "pyroute2": python, "ip monitor": monitor}
            sizes = [{name: settled(process) for name, process in watched.items()}]
            begun = time.monotonic()
            for so_many in (WARM, PEER):
                storm.until(so_many)
                sizes.append({name: settled(process) for name, process in watched.items()})
            python.kill()
            monitor.kill()
            storm.until(events)
            last, output = settled(subject.process), subject.process.output()
        finally:
            counter.close()
    grown = last - sizes[0]["daemon"]
    seconds = time.monotonic() - begun
    print(f"{counter.events} link events in {seconds:.0f} s ({counter.overruns} overruns of the counter)")
    print(f"{storm.asked} questions, {storm.wrong} answered wrong; tunnels made anew: {output.count(REMADE) - 1}")
    for name in watched:
        fresh, warm, early = (size[name] for size in sizes)
        print(f"{name}: {fresh:.1f} MiB before, {warm - fresh:+.2f} after {WARM}, {early - fresh:+.2f} after {PEER}")
    since = last - sizes[1]["daemon"]
    print(f"daemon: {grown:+.2f} MiB after {storm.done} (goal {GOAL_MIB}), {since:+.2f} since {WARM}")
    theirs = sizes[2]["pyroute2"] - sizes[0]["pyroute2"]
    print(f"ratio to pyroute2, after {PEER}: {(sizes[2]['daemon'] - sizes[0]['daemon']) / theirs:.2f}")
    if storm.wrong or grown > GOAL_MIB:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
