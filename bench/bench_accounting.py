"""Accounting (A1, A3): questions over a million usage rows, the cost of a reading, and of the daemon's timer.

The rows are what the store itself would have after years of much travelling: its own retention, filled to the brim with
owners. CPU: the readings, bookings and commits of ten minutes at ten-second steps, over the real counters of this
machine, in processor time of this process, with traffic on every link each time; that is the most it ever does.
Peer: vnstat's daemon, if it is installed, is not comparable (no profiles, no networks, five-minute steps): named only.
"""

from __future__ import annotations

import asyncio
import random
import resource
import socket
import sqlite3
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

from bench.common import report, title
from daemon.accounting import READ_S, Accounting
from daemon.linux.link_counters import LinkCounters
from daemon.linux.links import LinuxLinks
from daemon.usage_store import HOURS, MINUTES, UsageStore
from policies.counting import Owner, Way
from policies.facts import Facts, Link, LinkKind
from policies.firewall import FirewallPolicy
from policies.states import Phase, State

ROWS = 1_000_000
YEARS = 5
RUNS = 15
NOW = 1_795_348_800
STEPS = 60
GOAL_DAY_MS, GOAL_NETWORK_MS, GOAL_CPU = 50, 100, 0.2


def fill(file: Path) -> int:
    """A store with ROWS rows of usage: 1,440 minutes, 744 hours, and five years of days with many owners each."""
    UsageStore(file).close()
    owners = [
        Owner(way, "wifi", f"Network {number}".encode().hex(), f"profile{number % 7}" if way is not Way.CLEAR else "")
        for number in range(60)
        for way in Way
    ]
    db = sqlite3.connect(file, isolation_level=None)
    db.execute("PRAGMA synchronous=OFF")
    db.execute("BEGIN")
    db.executemany("INSERT INTO owners VALUES (?, ?, ?, ?, ?, 0, 0, 0, 0)",
                   [(number, *owner) for number, owner in enumerate(owners, 1)])  # fmt: skip
    chance = random.Random(1)

    def counts() -> list[int]:
        return [chance.randrange(1 << 30) for _ in range(4)]

    days = 365 * YEARS
    each = min(len(owners), (ROWS - 6 * MINUTES - 20 * HOURS) // days)
    today = date.fromtimestamp(NOW).toordinal()
    places = (("minutes", NOW, 60, MINUTES, 6), ("hours", NOW, 3600, HOURS, 20), ("days", today, 1, days, each))
    rows = 0
    for table, last, step, many, at_once in places:
        made = [
            (last - step * number, owner, *counts())
            for number in range(many)
            for owner in sorted(chance.sample(range(1, len(owners) + 1), at_once))
        ]
        db.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?)", sorted(made))
        rows += len(made)
    rest = ROWS - rows  # more networks on the busiest days
    extra = [(today - number % days, len(owners) + 1 + number // days, *counts()) for number in range(max(0, rest))]
    names = sorted({row[1] for row in extra})
    db.executemany("INSERT INTO owners VALUES (?, ?, ?, ?, ?, 0, 0, 0, 0)",
                   [(number, "tunnel", "wifi", f"Far {number}".encode().hex(), "far") for number in names])  # fmt: skip
    db.executemany("INSERT INTO days VALUES (?, ?, ?, ?, ?, ?)", extra)
    sums = "sum(rx_bytes), sum(tx_bytes), sum(rx_packets), sum(tx_packets)"
    db.create_function("month", 1, lambda day: day - date.fromordinal(day).day + 1)
    db.execute(f"INSERT INTO months SELECT month(start), owner, {sums} FROM days GROUP BY 1, 2")
    db.execute("COMMIT")
    db.close()
    return rows + len(extra)


def timed(ask: Callable[[], object]) -> list[float]:
    """Milliseconds of each run, the first one too: nothing is warmed up but what the system keeps of the file."""
    found = []
    for _ in range(RUNS):
        begun = time.perf_counter()
        ask()
        found.append(1000 * (time.perf_counter() - begun))
    return found


def queries(folder: Path) -> None:
    file = folder / "traffic.db"
    rows = fill(file)
    size = file.stat().st_size / 1e6
    print(f"{rows:,} rows, {size:.0f} MB")
    store = UsageStore(file)
    today = date.fromtimestamp(NOW).toordinal()
    ever = (1, date.max.toordinal())
    month, year = (today - 30, today), (today - 365, today)
    report("one day", timed(lambda: list(store.usage("day", today, today))), "ms", f"<= {GOAL_DAY_MS}")
    report("a month by day", timed(lambda: list(store.usage("day", *month))), "ms", f"<= {GOAL_DAY_MS}")
    report("a month by network", timed(lambda: list(store.usage("network", *month))), "ms", f"<= {GOAL_NETWORK_MS}")
    report("a year by network", timed(lambda: list(store.usage("network", *year))), "ms", f"<= {GOAL_NETWORK_MS}")
    report("all by network", timed(lambda: list(store.usage("network", *ever))), "ms", f"<= {GOAL_NETWORK_MS}")
    report("all by profile", timed(lambda: list(store.usage("profile", *ever))), "ms", f"<= {GOAL_NETWORK_MS}")
    report("the last day by minute", timed(lambda: list(store.usage("minute", NOW - 86400, NOW))), "ms")
    report(
        "an allowance's month",
        timed(lambda: store.between(date.fromordinal(month[0]), date.fromordinal(today), Way.TUNNEL)),
        "ms",
    )
    store.close()


async def readings(folder: Path) -> None:
    """What ten minutes cost."""
    counters = LinkCounters()
    found = await LinuxLinks().read()
    links = tuple(
        Link(link.ifindex, link.ifname, LinkKind.WIRED, up=True, carrier=True, carrier_changes=link.carrier_changes)
        for link in found
    )
    now = [float(NOW)]
    store = UsageStore(folder / "cost.db")
    accounting = Accounting(counters, store, lambda _: None, lambda: now[0], lambda: UTC)
    accounting.begin()
    await asyncio.sleep(0)
    accounting.follow(Facts(links=links), State(Phase.IDLE), FirewallPolicy(Phase.IDLE))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        before = resource.getrusage(resource.RUSAGE_SELF)
        spent = []
        for step in range(STEPS):
            now[0] += READ_S
            for _ in range(len(links)):
                sender.sendto(b"x", ("127.0.0.1", 9))  # something to count, at least on the loopback
            begun = time.process_time()
            accounting.read()
            if step % 3 == 2:
                store.commit()
            spent.append(1000 * (time.process_time() - begun))
        after = resource.getrusage(resource.RUSAGE_SELF)
    await accounting.end()
    total = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    report(f"one reading of {len(links)} links, with a third of a commit", spent, "ms of processor time")
    share = 100 * total / (STEPS * READ_S)
    print(f"of a processor, at one reading each {READ_S:.0f} s: {share:.4f} %  (goal <= {GOAL_CPU} %)")


def main() -> None:
    title(f"accounting, {datetime.now(UTC):%Y}: {ROWS:,} rows of usage, and what counting costs")
    with tempfile.TemporaryDirectory(prefix="tunwarden-bench-") as folder:
        queries(Path(folder))
        asyncio.run(readings(Path(folder)))


if __name__ == "__main__":
    main()
