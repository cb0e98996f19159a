"""300 tunnel drops under continuous traffic (IPv4, IPv6, bound to the link): packets leaked, beside wg-quick.

A drop is the sudden loss of the tunnel link, after it has been up for a moment. It counts only if the daemon has said
that the tunnel was down and then protected again through another link. Both subjects have the same traffic, the same
meter and the same moment of being up; each meter has to see its positive control before and after.

wg-quick watches nothing, so it is brought down and up again at once, faster than any person or script would. It does
not claim to stop everything while it is up, so only what leaves between a drop and its return is held against it.
Usage: python -m bench.bench_drops [DROPS]
"""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.common import report, title
from ipc.client import NotRunningError
from ipc.interface import Status
from lab.frames import LEAKS
from lab.meter import Meter
from lab.probes import exit_address
from lab.processes import LabError
from lab.subject import Subject
from lab.topology import Laboratory
from policies.firewall import TUNNEL_IFNAME

RATE = 50.0  # tries a second of each of nine kinds
UP_S = 0.15  # before each drop
BATCH = 10  # drops between two counts of the meter, so that its memory stays small
PEER = "peer0"


@dataclass
class Outcome:
    down_ms: list[float] = field(default_factory=list)
    leaked_down: int = 0
    leaked_up: int = 0
    tried: int = 0
    refused: int = 0
    seconds: float = 0.0

    def tell(self, who: str) -> None:
        drops, down = len(self.down_ms), sum(self.down_ms) / 1000
        report(f"{who}: from the drop to the tunnel's return", self.down_ms, "ms")
        print(
            f"{who}: {drops} drops, {self.tried} packets tried ({self.tried / self.seconds:.0f} a second), "
            f"{self.refused} refused by the kernel\n"
            f"{who}: {self.leaked_down} packets leaked while the tunnel was down "
            f"({self.leaked_down / drops:.1f} a drop, {self.leaked_down / down:.0f} a second), "
            f"{self.leaked_up} while it was up",
            flush=True,
        )


def measure(lab: Laboratory, drops: int, drop_and_return: Callable[[], None]) -> Outcome:
    """The tunnel is up when this begins, and whenever `drop_and_return` returns."""
    outcome, windows = Outcome(), []
    with lab.meter() as meter, lab.traffic(rate=RATE) as traffic:
        meter.positive_control()
        by_tunnel(lab)
        begun = time.monotonic()
        for number in range(1, drops + 1):
            time.sleep(UP_S)
            start = time.time()
            drop_and_return()
            windows.append((start, time.time()))
            outcome.down_ms.append((windows[-1][1] - start) * 1000)
            if number % BATCH == 0 or number == drops:
                count(meter, windows, outcome)
                windows.clear()
        outcome.seconds = time.monotonic() - begun
        by_tunnel(lab)
        counts = traffic.stop().values()
        count(meter, [], outcome)
        meter.positive_control()
    outcome.tried, outcome.refused = sum(each.tried for each in counts), sum(each.refused for each in counts)
    return outcome


def by_tunnel(lab: Laboratory) -> None:
    """Raises LabError unless the internet sees the VPN server instead of the laptop."""
    seen = exit_address(lab.laptop, lab.plan.internet4), exit_address(lab.laptop, lab.plan.internet6)
    if seen != (lab.plan.server4, lab.plan.server6):
        raise LabError(f"the internet sees {seen}: there is no tunnel")


def count(meter: Meter, windows: list[tuple[float, float]], outcome: Outcome) -> None:
    for frame, kind in meter.frames():
        if kind in LEAKS:
            if any(start <= frame.time <= end for start, end in windows):
                outcome.leaked_down += 1
            else:
                outcome.leaked_up += 1
    meter.reset()


class Watch:
    """Everything the daemon says, in order."""

    def __init__(self, subject: Subject) -> None:
        self.said: list[Status] = []
        self._client = subject.client()
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def close(self) -> None:
        self._client.hang_up()
        self._thread.join()
        self._client.close()

    def down_and_up(self, timeout: float = 20.0) -> None:
        """Wait until it has said that the tunnel was down, and then that it protects again. Raises LabError."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            states = [status.protected for status in list(self.said)]
            if False in states and states[-1]:
                return
            time.sleep(0.005)
        raise LabError(f"the drop was not noticed or not recovered from: {[status.state for status in self.said]}")

    def _listen(self) -> None:
        try:
            for status in self._client.watch():
                self.said.append(status)
        except NotRunningError:
            return


def ours(drops: int) -> Outcome:
    with Laboratory(44) as lab:
        subject = Subject(lab)
        subject.start()
        subject.set_up()
        lab.join("cafe")
        subject.wait("connected")
        watch = Watch(subject)

        def index() -> int:
            return lab.laptop.inside(lambda: socket.if_nametoindex(TUNNEL_IFNAME))

        def drop_and_return() -> None:
            before = index()
            watch.said.clear()
            lab.laptop.ip(f"link delete {TUNNEL_IFNAME}")
            watch.down_and_up()
            if index() == before:
                raise LabError("the tunnel link is still the same: it was no drop")

        try:
            return measure(lab, drops, drop_and_return)
        finally:
            watch.close()


def wg_quick(drops: int) -> Outcome:
    with Laboratory(45, stand_in=False) as lab:
        # Its resolver would need resolvconf; without, it leaves the names to the resolvers of the network as they were.
        lines = [line for line in lab.client_config().splitlines() if not line.startswith("DNS")]
        lab.laptop.write(f"/etc/wireguard/{PEER}.conf", "\n".join(lines) + "\n", mode=0o600)
        lab.join("cafe")
        lab.laptop.run("wg-quick", "up", PEER)

        def drop_and_return() -> None:
            lab.laptop.ip(f"link delete {PEER}")
            lab.laptop.run("wg-quick", "down", PEER, check=False)  # it refuses without its link, and leaves its rules
            for family in ("-4", "-6"):
                for rule in (("not", "fwmark", "51820"), ("table", "main", "suppress_prefixlength", "0")):
                    lab.laptop.run("ip", family, "rule", "delete", *rule, check=False)
            lab.laptop.run("wg-quick", "up", PEER)

        return measure(lab, drops, drop_and_return)


def main() -> None:
    drops = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    title(f"{drops} tunnel drops, {RATE * 9:.0f} packets a second")
    mine = ours(drops)
    mine.tell("tunwarden")
    print(f"tunwarden: {mine.leaked_down + mine.leaked_up} packets leaked in all  (goal 0)", flush=True)
    peer = wg_quick(drops)
    peer.tell("wg-quick")


if __name__ == "__main__":
    main()
