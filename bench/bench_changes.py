"""From a change to the first answer through the tunnel, and what leaks meanwhile, beside wg-quick.

The clock runs from the moment at which a change is complete for everybody: the command is given, or the new address is
there. wg-quick watches nothing, so it is measured twice: restarted at that moment, as the best script a user could hang
on NetworkManager's dispatcher would, and left to itself. WireGuard of that machine is what it is for all three.
The same nine kinds of traffic go on all the time; a leak is a clear frame between the beginning of a change and that
answer. wg-quick's include those of sockets bound to the link, which it never claims to stop.
Usage: python -m bench.bench_changes [TIMES]
"""

from __future__ import annotations

import signal
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.common import title
from lab.addresses import Site
from lab.air import Air
from lab.first_byte import first_byte
from lab.subject import Subject
from lab.topology import Laboratory

RATE = 50.0  # tries a second of each of nine kinds
SETTLE_S = 0.3  # between two changes
ALONE = 5  # times, at most, for what is left to itself: each may take 15 s
NAMES = ("peer0", "peer1")
AIRPORT: dict[str, Any] = {"ssid": b"Airport", "air": Air.OPEN}


@dataclass
class Result:
    waited_ms: list[float] = field(default_factory=list)
    leaked: int = 0

    def __str__(self) -> str:
        if not self.waited_ms:
            return "-"
        least, most = min(self.waited_ms), max(self.waited_ms)
        middle = statistics.median(self.waited_ms)
        return f"{middle:.0f} ms ({least:.0f} to {most:.0f}), {self.leaked / len(self.waited_ms):.1f} leaked"


class Side(Protocol):
    """Who keeps the tunnel. `use` changes the server, `moved` comes when the laptop has another way out."""

    lab: Laboratory

    def use(self, number: int) -> None: ...

    def moved(self) -> None: ...


class Tunwarden:
    def __init__(self, lab: Laboratory) -> None:
        self.lab, self.subject = lab, Subject(lab)
        self.subject.start()
        with self.subject.client() as client:
            for name, server in zip(NAMES, lab.servers, strict=True):
                client.import_profile(name, server.client_config())
            client.connect(NAMES[0])
        lab.join("cafe")
        self.subject.wait("connected")

    def use(self, number: int) -> None:
        with self.subject.client() as client:
            client.connect(NAMES[number])

    def moved(self) -> None:
        return None


class WgQuick:
    """`restarted`: whether somebody restarts it after each move."""

    def __init__(self, lab: Laboratory, restarted: bool) -> None:
        self.lab, self.restarted, self.name = lab, restarted, NAMES[0]
        for name, server in zip(NAMES, lab.servers, strict=True):
            # Its resolver would need resolvconf; without, it leaves the names to the resolvers of the network.
            lines = [line for line in server.client_config().splitlines() if not line.startswith("DNS")]
            lab.laptop.write(f"/etc/wireguard/{name}.conf", "\n".join(lines) + "\n", mode=0o600)
        lab.join("cafe")
        lab.laptop.run("wg-quick", "up", self.name)

    def use(self, number: int) -> None:
        self.lab.laptop.run("wg-quick", "down", self.name)
        self.name = NAMES[number]
        self.lab.laptop.run("wg-quick", "up", self.name)

    def moved(self) -> None:
        if self.restarted:
            self.use(NAMES.index(self.name))


# --- the changes: each returns when it was complete, and the server that is to answer ---------------------------------

Change = Callable[[Side, int], tuple[float, Site]]


def another_server(side: Side, number: int) -> tuple[float, Site]:
    begun = time.monotonic()
    side.use((number + 1) % 2)
    return begun, side.lab.servers[(number + 1) % 2].site


def _moved(side: Side) -> tuple[float, Site]:
    begun = time.monotonic()
    side.moved()
    return begun, side.lab.vpn.site


def another_wifi(side: Side, number: int) -> tuple[float, Site]:
    side.lab.leave()
    if number % 2:
        side.lab.join("cafe")
    else:
        side.lab.join("home", **AIRPORT)
    return _moved(side)


def wifi_and_wired(side: Side, number: int) -> tuple[float, Site]:
    """The new link is there before the old one goes."""
    if number % 2:
        side.lab.join("cafe")
        side.lab.unplug()
    else:
        side.lab.plug()
        side.lab.leave()
    return _moved(side)


def another_address(side: Side, number: int) -> tuple[float, Site]:
    side.lab.card.lease("wlan0", metric=600, identity=b"\0%d" % (number % 3))
    return _moved(side)


def awake_elsewhere(side: Side, number: int) -> tuple[float, Site]:
    """logind's stand-in tells; the daemon is frozen meanwhile. wg-quick hears of sleep as little as of anything."""
    lab = side.lab
    if not isinstance(side, Tunwarden):
        return another_wifi(side, number)
    logind = lab.logind or lab.add_logind()
    assert side.subject.process is not None
    if not logind.wait_lock() or not logind.suspend(20):
        raise SystemExit("the daemon did not answer logind")
    side.subject.process.send(signal.SIGSTOP)
    another_wifi(side, number)
    side.subject.process.send(signal.SIGCONT)
    side.subject.process.resume()
    begun = time.monotonic()
    logind.resume()
    return begun, lab.vpn.site


CHANGES: dict[str, Change] = {
    "another server": another_server,
    "another Wi-Fi network": another_wifi,
    "Wi-Fi to wired and back": wifi_and_wired,
    "another address": another_address,
    "awake in another network": awake_elsewhere,
}


def measure(side: Side, change: Change, times: int) -> Result:
    lab, result = side.lab, Result()
    with lab.meter() as meter, lab.traffic(rate=RATE):
        meter.positive_control()
        for number in range(times):
            time.sleep(SETTLE_S)
            meter.reset()
            begun, site = change(side, number)
            result.waited_ms.append(first_byte(lab.laptop, lab.plan.internet4, site.public4, begun) * 1000)
            result.leaked += len(meter.leaks())
    if times % 2:
        change(side, times)  # each kind of change begins where the one before did
    first_byte(lab.laptop, lab.plan.internet4, lab.vpn.site.public4, time.monotonic())
    return result


def run(
    seed: int, make: Callable[[Laboratory], Side], times: int, leave_out: tuple[str, ...] = ()
) -> dict[str, Result]:
    with Laboratory(seed) as lab:
        lab.add_server()
        side = make(lab)
        return {
            name: Result() if name in leave_out else measure(side, change, times) for name, change in CHANGES.items()
        }


def main() -> None:
    times = int(sys.argv[1]) if len(sys.argv) > 1 else 15
    title(f"{times} changes of each kind, {RATE * 9:.0f} packets a second: until the first answer, and leaked in each")
    sides = {
        "tunwarden": run(71, Tunwarden, times),
        "wg-quick, restarted at once": run(72, lambda lab: WgQuick(lab, True), times),
        "wg-quick, left alone": run(73, lambda lab: WgQuick(lab, False), min(times, ALONE), ("another server",)),
    }
    for change in CHANGES:
        print(change)
        for name, results in sides.items():
            print(f"    {name:28} {results[change]}", flush=True)


if __name__ == "__main__":
    main()
