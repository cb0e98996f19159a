"""Roams between two access points of one network, while a TCP connection speaks all the time: what interrupts it.

In the virtual machine of the radio tier, where everything is some 20 times slower than outside: the difference counts.
An interruption is a connection that ends; the silence of a roam is the longest time without an answer. Peer in the same
run: the same roams without the daemon, so what the radio, the access points and the supplicant cost by themselves.

    python -m bench.bench_roams [ROAMS]     100 with and 100 without take about ten minutes
"""

from __future__ import annotations

import os
import statistics
import sys
import time

from bench.common import report, title

INSIDE = "TUNWARDEN_RADIO"
ROAMS = 100
TIME_LIMIT = 3600.0  # seconds
SETTINGS = """\
version = 1

[portal]
detect = false

[[known]]
ssid = "Home"
security = "wpa2"
action = "disconnect"
"""


def inside(count: int) -> None:
    from lab.radio.laboratory import RadioLaboratory, RadioSubject
    from lab.radio.managers import Supplicant
    from lab.radio.networks import ACCESS_POINTS
    from lab.radio.speaker import Speaker

    points = [point for point, (_, names) in ACCESS_POINTS.items() if "wpa2" in names]

    def roams(lab: RadioLaboratory) -> tuple[list[float], int]:
        """The silence of each, ms, and how many connections ended."""
        silences: list[float] = []
        supplicant = Supplicant(lab)
        supplicant.join("wpa2")
        lab.address()
        with lab.echo() as server, Speaker(server) as speaker:
            for number in range(count):
                begun = time.monotonic()
                supplicant.roam(points[number % len(points)], "wpa2")
                speaker.wait(20)
                silences.append(speaker.silence(begun) * 1e3)
        lab.forget()
        supplicant.stop()
        return silences, speaker.interrupted

    with RadioLaboratory() as lab:
        lab.load()
        alone, alone_ended = roams(lab)
        subject = RadioSubject(lab, SETTINGS)
        subject.start()
        ours, ended = roams(lab)
    peer = report(f"  peer: silence of a roam without the daemon, {count} roams", alone, "ms")
    report("silence of a roam with the daemon", ours, "ms")
    print(f"  ratio {statistics.median(ours) / peer:.2f}")
    print(f"connections that ended: {ended} with the daemon, {alone_ended} without")


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ROAMS
    if INSIDE in os.environ:
        inside(count)
        return
    from lab.radio.machine import RadioMachine, why_no_machine

    title("roams on the air (in the virtual machine)")
    if why := why_no_machine():
        print(f"left out: {why}")
        return
    with RadioMachine(f"export {INSIDE}=1; python3 -m bench.bench_roams {count}") as machine:
        status = machine.wait(TIME_LIMIT)
        print(machine.read("output"), end="")
    sys.exit(status)


if __name__ == "__main__":
    main()
