"""From an event to enforced rules, three ways: a link comes up and is held; its network becomes known and the link is
cleared, in turn because the settings name it, and because it is secured; the link goes down.

The clock starts when the kernel announces the link (rtnetlink), or when NetworkManager's stand-in is told to send the
signal that makes the network count. It stops at the last ruleset that the kernel announces (NFNLGRP_NFTABLES), and
again when the daemon publishes its status, which it does once both layers have been read back. The second time holds
seven answers of the stand-in, which is slower than NetworkManager itself.
Peer: what one would write without tunwarden, `ip monitor link | while read; do nft -f RULES; done`, with the same table
and the same link going down.
Usage: python -m bench.bench_event_to_rules [ROUNDS], 100 of them without: some two minutes.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

from dbus_fast import Variant

from bench.common import report, title
from ipc.client import NotRunningError
from lab.networkmanager_stand_in import IP_CONFIG, WIFI, NetworkManagerStandIn
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory

ROUNDS, ROUNDS_OF_PEER = 100, 40
QUIET_S = 0.12  # after the first ruleset, for one that corrects it
GOAL, GOAL_P99, GOAL_CLEARED = "5 ms", "15 ms", "15 ms"
NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
RTMGRP_LINK, NFNLGRP_NFTABLES = 1, 7
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1
RTM_NEWLINK, IFF_LOWER_UP = 16, 0x10000
NFT_MSG_NEWGEN = 10 << 8 | 15  # <linux/netfilter/nf_tables.h>: one ends each transaction


def at_once() -> None:
    """This thread is woken before any other of the machine, so that a busy machine does not spoil the clock."""
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))


class Kernel:
    """Listens to both sockets in one thread: what it notes is in the order in which it woke up."""

    def __init__(self, lab: Laboratory) -> None:
        self._ifindex = lab.laptop.inside(lambda: socket.if_nametoindex("wlan0"))
        self._rules = lab.laptop.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._rules.bind((0, 0))
        self._rules.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        self._links = lab.laptop.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._links.bind((0, RTMGRP_LINK))
        self._stop, self._end = os.pipe()
        self._carrier: bool | None = None
        self.seen: list[tuple[str, float]] = []  # "up", "down" or "rules", and when
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def close(self) -> None:
        os.close(self._end)
        self._thread.join()
        self._rules.close()
        self._links.close()
        os.close(self._stop)

    def first(self, what: str) -> float:
        """When it was seen first; waits for it."""
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for name, when in list(self.seen):
                if name == what:
                    return when
            time.sleep(0.02)  # seldom: this thread must not disturb the other one
        raise TimeoutError(f"the kernel announced no {what}: {self.seen}")

    def last_rules(self) -> float:
        """When the rules changed last."""
        self.first("rules")
        time.sleep(QUIET_S)
        return max(when for name, when in self.seen if name == "rules")

    def _listen(self) -> None:
        at_once()
        while True:
            ready = select.select([self._rules.fileno(), self._links.fileno(), self._stop], [], [])[0]
            now = time.monotonic()
            if self._stop in ready:
                return
            for one in (self._links, self._rules):
                if one.fileno() in ready:
                    self.seen += [(what, now) for what in self._read(one.recv(1 << 16))]

    def _read(self, data: bytes) -> Iterator[str]:
        while len(data) >= 16:
            length, kind = struct.unpack_from("=IH", data)
            if kind == NFT_MSG_NEWGEN:
                yield "rules"
            elif kind == RTM_NEWLINK:
                _, _, _, index, flags, _ = struct.unpack_from("=BBHiII", data, 16)
                carrier = bool(flags & IFF_LOWER_UP)
                if index == self._ifindex and carrier is not self._carrier:
                    self._carrier = carrier
                    yield "up" if carrier else "down"
            data = data[(length + 3) & ~3 :]


class Published:
    """When the daemon published a state; listens in a thread of its own."""

    def __init__(self, subject: Subject) -> None:
        self.seen: list[tuple[str, float]] = []
        self._client = subject.client()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def close(self) -> None:
        self._client.hang_up()
        self._thread.join()
        self._client.close()

    def first(self, wanted: Callable[[str], bool]) -> float:
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            for state, when in list(self.seen):
                if wanted(state):
                    return when
            time.sleep(0.02)
        raise TimeoutError(f"nothing of that kind was published: {self.seen}")

    def _listen(self) -> None:
        at_once()
        try:
            for status in self._client.watch():
                self.seen.append((status.state if status.networks else f"{status.state}, no network", time.monotonic()))
        except NotRunningError:
            return


class Timed(NetworkManagerStandIn):
    """Notes when the signal is sent that makes the network count."""

    published = 0.0

    def _signal(self, path: str, interface: str, member: str, signature: str, *values: Variant) -> None:
        if (path, member) == (WIFI, "StateChanged") and values[0].value == IP_CONFIG:
            self.published = time.monotonic()
        super()._signal(path, interface, member, signature, *values)


@contextmanager
def laboratory() -> Iterator[tuple[Laboratory, Timed]]:
    with Laboratory(42, stand_in=False) as lab:
        timed = lab.networkmanager = Timed(lab.laptop)
        timed.start()
        timed.ready(lab.plan.mac("wlan0"), lab.plan.mac("eth0"))
        yield lab, timed


class Took:
    """Milliseconds of one kind of event, until the rules and until the status."""

    def __init__(self, what: str, goal: str = "") -> None:
        """`goal`: until the status."""
        self.what, self.goal = what, goal
        self.rules: list[float] = []
        self.status: list[float] = []

    def add(self, begun: float, rules: float, status: float) -> None:
        self.rules.append((rules - begun) * 1000)
        self.status.append((status - begun) * 1000)

    def tell(self) -> None:
        report(f"{self.what} -> rules in the kernel", self.rules, "ms", GOAL)
        print(f"    99 of 100 within {percentile(self.rules, 99):.2f} ms  (goal {GOAL_P99})")
        report(f"{self.what} -> both layers read back, status published", self.status, "ms", self.goal)


def percentile(values: list[float], which: int) -> float:
    return statistics.quantiles(values, n=100, method="inclusive")[which - 1]


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    title("from an event to enforced rules")
    sys.setswitchinterval(0.0005)  # seconds one of our threads may keep the interpreter from the others
    with laboratory() as (lab, timed):
        subject = Subject(lab, SETTINGS)
        subject.start(30)
        subject.set_up()
        up, known, down = Took("link up, held"), Took("network known, cleared", GOAL_CLEARED), Took("link down")
        kernel, published = Kernel(lab), Published(subject)
        home = lab.networks["home"]
        points = home.point, replace(home.point, ssid=b"Secured")

        def forget() -> None:
            kernel.seen.clear()
            published.seen.clear()

        try:
            for number in range(rounds):
                timed.associating()
                forget()
                lab.associate(home)
                begun = kernel.first("up")
                up.add(begun, kernel.last_rules(), published.first("held".__eq__))

                time.sleep(QUIET_S)  # a card needs longer to join; until then the daemon reads back its own change
                forget()
                timed.associated(points[number % 2])
                begun = timed.published
                known.add(begun, kernel.last_rules(), published.first("idle".__eq__))

                forget()
                lab.air.ip("link set air-wlan0 down")
                begun = kernel.first("down")
                gone = published.first(lambda state: state.endswith("no network"))
                down.add(begun, kernel.last_rules(), gone)
                lab.leave()
                time.sleep(QUIET_S)
            table = lab.laptop.run("nft", "list", "table", "inet", "tunwarden").stdout
            subject.stop()
            for each in (up, known, down):
                each.tell()
            peer = by_script(lab, kernel, table)
        finally:
            published.close()
            kernel.close()
    middle = report("peer: the script, link down -> rules in the kernel", peer, "ms")
    print(f"ratio to the peer: {statistics.median(down.rules) / middle:.2f}")


def by_script(lab: Laboratory, kernel: Kernel, table: str) -> list[float]:
    """The same event and the same table, without the daemon."""
    rules = f"table inet tunwarden\ndelete table inet tunwarden\n{table}"
    lab.laptop.write("/run/lab/rules.nft", rules)
    script = lab.laptop.start("sh", "-c", "ip monitor link | while read -r line; do nft -f /run/lab/rules.nft; done")
    time.sleep(0.5)
    took = []
    for _ in range(ROUNDS_OF_PEER):
        lab.associate(lab.networks["home"])
        time.sleep(0.3)
        kernel.seen.clear()
        lab.air.ip("link set air-wlan0 down")
        begun = kernel.first("down")
        kernel.first("rules")
        took.append((next(when for name, when in kernel.seen if name == "rules" and when >= begun) - begun) * 1000)
        time.sleep(0.3)
    script.kill()
    return took


if __name__ == "__main__":
    main()
