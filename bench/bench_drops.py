"""Packets leaked in drops of eight kinds, ours beside four others: one table in Markdown.

The others: `wg-quick`; wg-quick with the iptables kill switch of its manual page (and the same line for ip6tables, as
it advises); OpenVPN's plain client (`redirect-gateway def1 ipv6`); and a kill switch made of routes on a dummy link,
as Proton's, with a tun that nobody reads in place of the dummy. None of them watches its tunnel link, so whatever a
drop destroyed is brought up again at once, faster than any person or script would. OpenVPN restarts by itself after
three seconds of silence.

Each drop has its own traffic of nine kinds, two of them bound to the link. A frame counts when it left in the clear
between the drop and the first answer through the tunnel, which is a DNS answer of a resolver that exists only there.
Cells: frames leaked / packets tried, then the median time to that answer: after the drop, and where the server was
away, after its return. Every meter has to see its positive control before and after.
Usage: python -m bench.bench_drops [DROPS [DROPS_OF_OTHERS]], multiples of eight; without, 80 and 16: some ten minutes.
"""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.common import title
from bench.peers import SUBJECTS, Tunwarden, Vpn, wait_until
from lab.frames import LEAKS
from lab.meter import Meter
from lab.probes import dns_query
from lab.processes import LabError
from lab.topology import Laboratory

RATE = 50.0  # tries a second of each of nine kinds
OUTAGE_S = 5.0  # of the server: long enough to be noticed (daemon/linux/wireguard_vigil.py)
AWAY_S = 0.5  # without a network
UP_S = 0.3  # before the next drop
GIVE_UP_S = 60.0
ASK_S = 0.02  # between two questions for the first answer


# --- drops -----------------------------------------------------------------------------------------------------------

# Each makes its drop and returns when it was, and when what had been taken away was there again.
Moments = tuple[float, float]


def _server_away(vpn: Vpn, away: Callable[[], None], back: Callable[[], None]) -> Moments:
    begun = time.time()
    away()
    time.sleep(OUTAGE_S)
    back()
    return begun, time.time()


def server_killed(vpn: Vpn) -> Moments:
    return _server_away(vpn, vpn.kill_server, vpn.start_server)


def server_firewalled(vpn: Vpn) -> Moments:
    return _server_away(vpn, vpn.lab.block_server, vpn.lab.unblock_server)


def link_deleted(vpn: Vpn) -> Moments:
    begun, before = time.time(), _index(vpn)
    vpn.lab.laptop.ip(f"link delete {vpn.ifname}")
    vpn.revive()
    wait_until(lambda: _index(vpn) not in (None, before), "the tunnel link is still the same: it was no drop")
    return begun, begun


def link_down(vpn: Vpn) -> Moments:
    begun = time.time()
    vpn.lab.laptop.ip(f"link set {vpn.ifname} down")
    vpn.revive()
    return begun, begun


def vpn_killed(vpn: Vpn) -> Moments | None:
    pids = vpn.processes()
    if not pids:
        return None  # the kernel's WireGuard
    begun, before = time.time(), _index(vpn)
    vpn.lab.laptop.run("kill", "-KILL", *pids)
    vpn.revive()
    wait_until(lambda: _index(vpn) not in (None, before), "the tunnel link is still the same: it was no drop")
    return begun, begun


def control_killed(vpn: Vpn) -> Moments | None:
    process = vpn.control()
    if process is None:
        return None
    begun = time.time()
    process.kill()
    vpn.revive()
    return begun, begun


def carrier_lost(vpn: Vpn) -> Moments:
    assert vpn.lab.joined is not None
    return _rejoin(vpn, vpn.lab.joined.name)


def network_switched(vpn: Vpn) -> Moments:
    assert vpn.lab.joined is not None
    return _rejoin(vpn, "home" if vpn.lab.joined.name == "cafe" else "cafe")


def _rejoin(vpn: Vpn, name: str) -> Moments:
    begun = time.time()
    vpn.lab.leave()
    time.sleep(AWAY_S)
    vpn.lab.join(name, wait_ipv6=False)  # the line for ip6tables also stops the search for a router
    vpn.rejoined()
    return begun, begun


KINDS: dict[str, Callable[[Vpn], Moments | None]] = {
    "server killed, 5 s": server_killed,
    "server firewalled, 5 s": server_firewalled,
    "tunnel link deleted": link_deleted,
    "tunnel link down": link_down,
    "VPN process killed": vpn_killed,
    "control process killed": control_killed,
    "carrier lost and back": carrier_lost,
    "network switched": network_switched,
}


def _index(vpn: Vpn) -> int | None:
    with contextlib.suppress(OSError):
        return vpn.lab.laptop.inside(lambda: socket.if_nametoindex(vpn.ifname))
    return None


# --- measuring -------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """Of one kind of drop."""

    drops: int = 0
    leaked: int = 0
    tried: int = 0
    closed_ms: list[float] = field(default_factory=list)  # from the drop to the last frame that leaked
    answer_ms: list[float] = field(default_factory=list)  # from the drop, or the server's return, to the first answer

    def add(self, other: Outcome) -> None:
        self.drops += other.drops
        self.leaked += other.leaked
        self.tried += other.tried
        self.closed_ms += other.closed_ms

    def cell(self) -> str:
        if not self.drops:
            return "-"
        answer = f", {statistics.median(self.answer_ms):.0f} ms" if self.answer_ms else ""
        missing = self.drops - len(self.answer_ms)
        return f"{self.leaked} / {self.tried}{answer}" + (f", {missing} never" if missing else "")


def first_answer(lab: Laboratory, timeout: float = GIVE_UP_S) -> float | None:
    """When the resolver inside the tunnel answered a question that was asked from now on."""
    deadline = time.time() + timeout
    asked: list[socket.socket] = []
    try:
        while time.time() < deadline:
            one = lab.laptop.socket(socket.AF_INET, socket.SOCK_DGRAM)  # an old one would keep its source address
            one.setblocking(False)
            asked.append(one)
            with contextlib.suppress(OSError):
                one.sendto(dns_query("whoami.test", 1), (str(lab.plan.tunnel_server[0]), 53))
            readable = select.select(asked, [], [], ASK_S)[0]
            for each in readable:
                with contextlib.suppress(OSError):
                    if each.recv(512):
                        return time.time()
            while len(asked) > 64:
                asked.pop(0).close()
        return None
    finally:
        for one in asked:
            one.close()


def drop(vpn: Vpn, meter: Meter, kind: str) -> Outcome:
    """One drop. A tunnel that does not come back by itself is made anew afterwards."""
    outcome = Outcome()
    time.sleep(UP_S)
    meter.reset()
    traffic = vpn.lab.traffic(rate=RATE)
    with traffic:
        moments = KINDS[kind](vpn)
        if moments is None:
            return outcome
        begun, returned = moments
        answered = first_answer(vpn.lab)
    outcome.drops = 1
    outcome.tried = sum(each.tried for each in traffic.counts.values())
    end = answered or time.time()
    leaks = [frame.time for frame, judged in meter.frames() if judged in LEAKS and begun <= frame.time <= end]
    outcome.leaked = len(leaks)
    outcome.closed_ms.append((max(leaks) - begun) * 1000 if leaks else 0.0)
    if answered is not None:
        outcome.answer_ms.append((answered - returned) * 1000)
    else:
        vpn.revive()
        if first_answer(vpn.lab) is None:
            raise LabError("the tunnel does not come up again")
    return outcome


def measure(make: Callable[[Laboratory], Vpn], seed: int, rounds: int) -> dict[str, Outcome]:
    """That many rounds of all kinds of drops."""
    outcomes = {kind: Outcome() for kind in KINDS}
    with Laboratory(seed, stand_in=make is Tunwarden) as lab:
        vpn = make(lab)
        vpn.up()
        if first_answer(lab) is None:
            raise LabError("there is no tunnel")
        with lab.meter() as meter:
            meter.positive_control()
            for _ in range(rounds):
                for kind, outcome in outcomes.items():
                    one = drop(vpn, meter, kind)
                    outcome.add(one)
                    outcome.answer_ms += one.answer_ms
            meter.positive_control()
    return outcomes


def table(found: dict[str, dict[str, Outcome]]) -> str:
    """In Markdown."""
    rows = [["", *found], ["---"] * (len(found) + 1)]
    rows += [[kind, *(outcomes[kind].cell() for outcomes in found.values())] for kind in KINDS]
    totals = []
    for outcomes in found.values():
        total = Outcome()
        for outcome in outcomes.values():
            total.add(outcome)
        totals.append(total)
    rows.append(["**all: leaked / tried**", *(f"**{total.leaked} / {total.tried}**" for total in totals)])
    rows.append(["drops", *(str(total.drops) for total in totals)])
    rows.append(["leaked a drop", *(f"{total.leaked / max(1, total.drops):.1f}" for total in totals)])
    closed = [f"{statistics.median(total.closed_ms):.0f}, {max(total.closed_ms):.0f}" for total in totals]
    rows.append(["drop to the last leak, ms: median, worst", *closed])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    numbers = [int(word) for word in sys.argv[1:]]
    mine, others = (numbers + [80, 16][len(numbers) :])[:2]
    missing = [program for program in ("openvpn", "openssl", "iptables") if shutil.which(program) is None]
    if missing:
        sys.exit(
            f"bench_drops misses {', '.join(missing)}: apt-get install --no-install-recommends {' '.join(missing)}"
        )
    title(f"{mine} drops of tunwarden, {others} of each other one, {RATE * 9:.0f} packets a second")
    found: dict[str, dict[str, Outcome]] = {}
    for number, (name, make) in enumerate(SUBJECTS.items()):
        rounds = max(1, (mine if make is Tunwarden else others) // len(KINDS))
        begun = time.monotonic()
        found[name] = measure(make, 44 + number, rounds)
        leaked = sum(outcome.leaked for outcome in found[name].values())
        print(f"{name}: {rounds} rounds in {time.monotonic() - begun:.0f} s, {leaked} leaked", flush=True)
    print(table(found), flush=True)


if __name__ == "__main__":
    main()
