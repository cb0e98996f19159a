"""300 tunnel drops under continuous IPv4, IPv6 and link-bound traffic: packets leaked, beside wg-quick in the same run.

A drop is the sudden loss of the tunnel link. The daemon brings the tunnel back by itself; wg-quick, which does not
watch, is brought down and up again as soon as the same time has passed. The leak meter judges both alike.
Usage: bench_drops.py [DROPS]
"""

from __future__ import annotations

import statistics
import sys
import time

from bench.common import report
from lab.meter import Meter
from lab.subject import Subject
from lab.topology import Laboratory
from policies.firewall import TUNNEL_IFNAME

RATE = 100.0


def ours(drops: int) -> tuple[int, int, list[float]]:
    """Packets tried and leaked, and the seconds from each drop to protection."""
    with Laboratory(44) as lab:
        subject = Subject(lab)
        subject.start()
        subject.set_up()
        lab.join("cafe")
        subject.wait("connected")
        back: list[float] = []
        leaked = 0
        with lab.meter() as meter, lab.traffic(rate=RATE) as traffic:
            for number in range(drops):
                begun = time.monotonic()
                lab.laptop.run("ip", "link", "del", TUNNEL_IFNAME)
                since = subject.status().sequence
                subject.wait(
                    lambda status, since=since: status.state == "connected" and status.sequence > since - 1, 30
                )  # type: ignore[misc]
                while lab.laptop.run("ip", "link", "show", TUNNEL_IFNAME, check=False).returncode:
                    time.sleep(0.01)
                subject.wait("connected", 30)
                back.append(time.monotonic() - begun)
                if number % 50 == 49:
                    leaked += count(meter)
            leaked += count(meter)
            meter.positive_control()
        tried = sum(each.tried for each in traffic.counts.values())
        return tried, leaked, back


def wg_quick(drops: int, pause: float) -> tuple[int, int]:
    """Packets tried and leaked by the peer."""
    with Laboratory(45, stand_in=False) as lab:
        lines = [line for line in lab.client_config().splitlines() if not line.startswith("DNS")]
        lab.laptop.write("/etc/wireguard/peer0.conf", "\n".join(lines) + "\n", mode=0o600)
        lab.join("cafe")
        up, down = ("wg-quick", "up", "peer0"), ("wg-quick", "down", "peer0")
        lab.laptop.run(*up)
        leaked = 0
        with lab.meter() as meter, lab.traffic(rate=RATE) as traffic:
            for number in range(drops):
                lab.laptop.run("ip", "link", "del", "peer0")
                time.sleep(pause)
                lab.laptop.run(*down, check=False)
                lab.laptop.run(*up)
                if number % 50 == 49:
                    leaked += count(meter)
            leaked += count(meter)
            meter.positive_control()
        return sum(each.tried for each in traffic.counts.values()), leaked


def count(meter: Meter) -> int:
    """Leaks so far; then the meter forgets them, so that memory stays small."""
    leaks = len(meter.leaks())
    meter.reset()
    return leaks


def main() -> None:
    drops = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    tried, leaked, back = ours(drops)
    report("tunwarden: drop to protection", [each * 1000 for each in back], "ms")
    print(f"tunwarden: {leaked} of {tried} packets leaked in {drops} drops  (goal 0)", flush=True)
    peer_tried, peer_leaked = wg_quick(drops, statistics.median(back))
    print(f"wg-quick:  {peer_leaked} of {peer_tried} packets leaked in {drops} drops")


if __name__ == "__main__":
    main()
