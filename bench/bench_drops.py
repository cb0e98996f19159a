"""Packets leaked in drops of eight kinds, ours beside four others: one table in Markdown.

The others: `wg-quick`; wg-quick with the iptables kill switch of its manual page (and the same line for ip6tables, as
it advises); OpenVPN's plain client (`redirect-gateway def1 ipv6`); and a kill switch made of routes on a dummy link,
as Proton's, with a tun that nobody reads in place of the dummy. None of them watches its tunnel link, so whatever a
drop destroyed is brought up again at once, faster than any person or script would. OpenVPN restarts by itself after
three seconds of silence.

Each drop has its own traffic of nine kinds, two of them bound to the link. A frame counts when it left in the clear
between the drop and the first answer through the tunnel, which is a DNS answer of a resolver that exists only there.
Traffic goes on for a while after that; what leaks then is counted apart. Cells: frames leaked / packets tried, then the
median time to that answer: after the drop, and where the server was away, after its return, which is after 5 to 7 s and
not before our daemon has noticed. Time to block: from the drop to the last frame that leaked before the answer.

The drops are dealt out to laboratories of at most 80, each a process with addresses, a meter and positive controls of
its own, before and after. A laboratory that fails is named, its drops are left out, and the exit status is 1. Several
`--side-by-side` save time, for most of a drop is waiting. A zero does not care about load, but times do, and with them
what those leak that leak until they are back: take these from one alone.
Usage: python -m bench.bench_drops [DROPS [DROPS_OF_OTHERS]] [--side-by-side LABORATORIES]; without: 80 16, ten minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import random
import select
import shutil
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

from bench.common import title
from bench.peers import SUBJECTS, Tunwarden, Vpn, wait_until
from lab.frames import LEAKS
from lab.meter import Meter
from lab.probes import dns_query
from lab.processes import LabError
from lab.topology import Laboratory

RATE = 50.0  # tries a second of each of nine kinds
OUTAGE_S = 5.0, 7.0  # of the server: long enough to be noticed (wireguard_vigil.py), and in step with nobody's tries
AWAY_S = 0.5  # without a network
UP_S = 0.3  # before the next drop
GIVE_UP_S = 60.0
ASK_S = 0.02  # between two questions for the first answer
ROUNDS = 10  # of all kinds in one laboratory, at most
FIREWALL = """
table inet swallow {
    chain input { type filter hook input priority filter; udp dport PORT drop; }
    chain output { type filter hook output priority filter; udp sport PORT drop; }
}
"""


# --- drops -----------------------------------------------------------------------------------------------------------

# Each makes its drop and returns when it was, and when what had been taken away was there again.
Moments = tuple[float, float]


def _server_away(vpn: Vpn, away: Callable[[], object], back: Callable[[], object]) -> Moments:
    begun = time.time()
    away()
    time.sleep(random.uniform(*OUTAGE_S))
    vpn.noticed()
    back()
    return begun, time.time()


def server_killed(vpn: Vpn) -> Moments:
    return _server_away(vpn, vpn.kill_server, vpn.start_server)


def server_firewalled(vpn: Vpn) -> Moments:
    """Both ways: as long as anything still comes from the server, a daemon rightly hopes for more."""
    server, port = vpn.lab.server, vpn.lab.plan.site.port
    return _server_away(
        vpn,
        lambda: server.run("nft", "-f", "-", input=FIREWALL.replace("PORT", str(port))),
        lambda: server.run("nft", "delete", "table", "inet", "swallow"),
    )


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


AWAY = ("server killed, 5 to 7 s", "server firewalled, 5 to 7 s")
LINK = ("tunnel link deleted", "tunnel link down")
KINDS: dict[str, Callable[[Vpn], Moments | None]] = {
    AWAY[0]: server_killed,
    AWAY[1]: server_firewalled,
    LINK[0]: link_deleted,
    LINK[1]: link_down,
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
    """Of drops of one kind, or of several."""

    drops: int = 0
    leaked: int = 0
    tried: int = 0
    up_leaked: int = 0  # the same while the tunnel was up again
    up_tried: int = 0
    closed_ms: list[float] = field(default_factory=list)  # from the drop to the last frame that leaked
    answer_ms: list[float] = field(default_factory=list)  # from the drop, or the server's return, to the first answer

    def add(self, other: Outcome) -> None:
        self.drops += other.drops
        self.leaked += other.leaked
        self.tried += other.tried
        self.up_leaked += other.up_leaked
        self.up_tried += other.up_tried
        self.closed_ms += other.closed_ms
        self.answer_ms += other.answer_ms

    def cell(self) -> str:
        if not self.drops:
            return ""
        answer = f", {duration(statistics.median(self.answer_ms))}" if self.answer_ms else ""
        missing = self.drops - len(self.answer_ms)
        return f"{self.leaked:,} / {self.tried:,}{answer}" + (f", {missing} never" if missing else "")


def together(outcomes: Iterable[Outcome]) -> Outcome:
    total = Outcome()
    for outcome in outcomes:
        total.add(outcome)
    return total


def duration(milliseconds: float) -> str:
    return f"{milliseconds:.0f} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def spread(milliseconds: list[float]) -> str:
    """Median and worst."""
    return f"{duration(statistics.median(milliseconds))}, {duration(max(milliseconds))}" if milliseconds else ""


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
    meter.reset()
    with vpn.lab.traffic(rate=RATE) as traffic:
        moments = KINDS[kind](vpn)
        if moments is None:
            return outcome
        begun, returned = moments
        answered = first_answer(vpn.lab)
        end = answered or time.time()
    outcome.drops = 1
    outcome.tried = sum(each.tried for each in traffic.counts.values())
    if answered is not None:
        outcome.answer_ms.append((answered - returned) * 1000)
        with vpn.lab.traffic(rate=RATE) as traffic:
            time.sleep(UP_S)
        outcome.up_tried = sum(each.tried for each in traffic.counts.values())
    leaks = [(frame, judged) for frame, judged in meter.frames() if judged in LEAKS]
    before = [frame.time for frame, _ in leaks if begun <= frame.time <= end]
    outcome.leaked, outcome.up_leaked = len(before), len(leaks) - len(before)
    outcome.closed_ms.append((max(before) - begun) * 1000 if before else 0.0)
    if isinstance(vpn, Tunwarden):
        for frame, judged in leaks:
            print(f"LEAKED: {kind} at {begun:.6f}, answer at {end:.6f}: {meter.describe(frame, judged)}")
    if answered is None:
        vpn.revive()
        if first_answer(vpn.lab) is None:
            raise LabError("the tunnel does not come up again")
    return outcome


def measure(make: Callable[[Laboratory], Vpn], seed: int, rounds: int) -> dict[str, Outcome]:
    """That many rounds of all kinds of drops, in one laboratory. What leaked of ours is kept as evidence."""
    outcomes = {kind: Outcome() for kind in KINDS}
    with Laboratory(seed, stand_in=make is Tunwarden) as lab:
        try:
            vpn = make(lab)
            vpn.up()
            if first_answer(lab) is None:
                raise LabError("there is no tunnel")
            with lab.meter() as meter:
                meter.positive_control()
                for _ in range(rounds):
                    for kind, outcome in outcomes.items():
                        outcome.add(drop(vpn, meter, kind))
                meter.positive_control()
                total = together(outcomes.values())
                if make is Tunwarden and total.leaked + total.up_leaked:
                    print(f"kept: {meter.keep()}, {lab.keep_logs()}")
        except BaseException:
            print(f"kept: {lab.keep_logs()}")
            raise
    return outcomes


# --- laboratories side by side ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Task:
    """Of one laboratory."""

    name: str
    seed: int
    rounds: int

    @property
    def timeout(self) -> float:
        """Seconds that even the slowest one does not need."""
        return 120 + self.rounds * len(KINDS) * 2.5 * GIVE_UP_S


def deal(drops: int, others: int) -> list[Task]:
    """At least so many drops: rounds are whole, and the others have one kind less, no process that only controls."""
    tasks: list[Task] = []
    for name, make in SUBJECTS.items():
        left = math.ceil(drops / len(KINDS)) if make is Tunwarden else math.ceil(others / (len(KINDS) - 1))
        while left > 0:
            tasks.append(Task(name, 44 + len(tasks), min(ROUNDS, left)))
            left -= ROUNDS
    return tasks


def run(task: Task) -> dict[str, Outcome] | None:
    """In a process of its own, which dies with us; tells how it went. None: it failed, and nothing of it counts."""
    begun = time.monotonic()
    argv = [sys.executable, "-m", "bench.bench_drops", "--laboratory", json.dumps(asdict(task))]
    what = f"{task.name}, laboratory {task.seed}, {task.rounds} rounds"
    try:
        done = subprocess.run(
            ["setpriv", "--pdeathsig", "TERM", *argv],
            check=True, capture_output=True, text=True, timeout=task.timeout,
        )  # fmt: skip
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as err:
        print(f"FAILED: {what}: {err}\n{err.stdout}\n{err.stderr}", flush=True)
        return None
    *said, last = done.stdout.splitlines()
    said += done.stderr.splitlines()
    outcomes = {kind: Outcome(**one) for kind, one in json.loads(last).items()}
    total, took = together(outcomes.values()), time.monotonic() - begun
    told = f"{what}: {took:.0f} s, {total.leaked:,} leaked, {total.up_leaked:,} while up; load {os.getloadavg()[0]:.1f}"
    print("\n".join([told, *said]), flush=True)
    return outcomes


def table(found: dict[str, dict[str, Outcome]]) -> str:
    """In Markdown."""
    rows = [["", *found], ["---"] * (len(found) + 1)]
    rows += [[kind, *(outcomes[kind].cell() for outcomes in found.values())] for kind in KINDS]

    def row(what: str, value: Callable[[Outcome], str], kinds: Iterable[str] = KINDS) -> None:
        rows.append([what, *(value(together(outcomes[kind] for kind in kinds)) for outcomes in found.values())])

    row("**all: leaked / tried**", lambda total: f"**{total.leaked:,} / {total.tried:,}**")
    row("drops", lambda total: f"{total.drops:,}")
    row("leaked a drop", lambda total: f"{total.leaked / max(1, total.drops):.1f}")
    row("leaked / tried, tunnel up again", lambda total: f"{total.up_leaked:,} / {total.up_tried:,}")
    row("time to block: median, worst", lambda total: spread(total.closed_ms))
    row("the same, after link loss", lambda total: spread(total.closed_ms), LINK)
    row("server's return to the first answer: median, worst", lambda total: spread(total.answer_ms), AWAY)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench_drops")
    parser.add_argument("drops", nargs="?", type=int, default=80)
    parser.add_argument("others", nargs="?", type=int, default=16)
    parser.add_argument("--side-by-side", type=int, default=1)
    parser.add_argument("--laboratory", help=argparse.SUPPRESS)  # what `run` starts
    chosen = parser.parse_args()
    if missing := [program for program in ("openvpn", "openssl", "iptables") if shutil.which(program) is None]:
        sys.exit(f"bench_drops misses these: apt-get install --no-install-recommends {' '.join(missing)}")
    if chosen.laboratory is not None:
        task = Task(**json.loads(chosen.laboratory))
        outcomes = measure(SUBJECTS[task.name], task.seed, task.rounds)
        print(json.dumps({kind: asdict(outcome) for kind, outcome in outcomes.items()}))
        return
    tasks = deal(chosen.drops, chosen.others)
    title(
        f"{chosen.drops} drops of tunwarden, {chosen.others} of each other one, {RATE * 9:.0f} packets a second, "
        f"{chosen.side_by_side} of {len(tasks)} laboratories at a time"
    )
    found = {name: {kind: Outcome() for kind in KINDS} for name in SUBJECTS}
    failed, loads = 0, [os.getloadavg()[0]]
    with ThreadPoolExecutor(chosen.side_by_side) as pool:
        for task, outcomes in zip(tasks, pool.map(run, tasks), strict=True):
            loads.append(os.getloadavg()[0])
            failed += outcomes is None
            for kind, outcome in (outcomes or {}).items():
                found[task.name][kind].add(outcome)
    print(table(found))
    alone = "one laboratory at a time" if chosen.side_by_side == 1 else "inflated: not alone on the machine"
    print(f"times: {alone}, load {min(loads):.1f} to {max(loads):.1f}; a zero does not care")
    if failed:
        sys.exit(f"{failed} of {len(tasks)} laboratories FAILED, see above: their drops are missing from the table")


if __name__ == "__main__":
    main()
