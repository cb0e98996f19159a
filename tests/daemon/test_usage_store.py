"""The store of counted traffic: sums at every resolution, what outlives what, and damage."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.usage_store import DAYS, HOURS, MINUTES, Seen, UsageStore
from policies.counting import Counts, Owner, Way

OFFICE = Owner(Way.TUNNEL, "wifi", b"Cafe".hex(), "office")
SPARE = Owner(Way.TUNNEL, "wired", "eth0", "spare")
CLEAR = Owner(Way.CLEAR, "wired", "eth0", "")
DAY = date(2026, 11, 22)
NOON = 1_795_348_800
ALL = (0, 1 << 40)
DAYS_ALL = (1, date.max.toordinal())
COUNTS = st.builds(Counts, *[st.integers(0, 1 << 45)] * 4)


def total(store: UsageStore, by: str) -> Counts:
    found = Counts()
    for usage in store.usage(by, *(ALL if by in ("minute", "hour") else DAYS_ALL)):
        found = found.plus(usage.counts)
    return found


@given(
    st.lists(
        st.tuples(st.integers(0, 1 << 33), st.dates(), st.sampled_from([OFFICE, SPARE, CLEAR]), COUNTS), max_size=30
    )
)
def test_every_resolution_has_the_same_sum(bookings: list[tuple[int, date, Owner, Counts]]) -> None:
    """Whatever the clock says: forwards, backwards, in 1970."""
    store, wanted = UsageStore(Path(":memory:/none")), Counts()
    for at, day, owner, counts in bookings:
        store.book(at, day, owner, counts)
        wanted = wanted.plus(counts)
    for by in ("minute", "hour", "day", "network", "profile"):
        assert total(store, by) == wanted, by
    everything = Counts()
    for _, counts in store.totals():
        everything = everything.plus(counts)
    assert everything == wanted


def test_any_span_of_days_has_what_was_booked_in_it() -> None:
    """Whole months are taken from the sums of months, the days around them from those of days: neither twice."""
    store, begun = UsageStore(Path(":memory:/none")), date(2024, 1, 30).toordinal()
    days = range(begun, begun + 100)  # over a leap day and three ends of months
    for day in days:
        store.book(NOON, date.fromordinal(day), OFFICE if day % 2 else CLEAR, Counts(1, 0, 1, 0))
    edges = {day for day in days if date.fromordinal(day).day in (1, 2, 15) or date.fromordinal(day + 1).day == 1}
    for first in sorted({1, begun - 3, begun, *edges}):
        for last in sorted({*edges, days[-1], days[-1] + 40, date.max.toordinal()}):
            wanted = len([day for day in days if first <= day <= last])
            for by in ("network", "profile", "day"):
                assert sum(each.counts.rx_bytes for each in store.usage(by, first, last)) == wanted, (first, last)


def test_answers_are_in_order_and_named(tmp_path: Path) -> None:
    store = UsageStore(tmp_path / "traffic.db")
    assert store.trouble is None
    for number, owner in enumerate((OFFICE, SPARE, CLEAR), 1):
        store.book(NOON + 60 * number, DAY, owner, Counts(number, number, 1, 1))
    minutes = list(store.usage("minute", *ALL))
    assert [each.start for each in minutes] == [NOON + 180, NOON + 120, NOON + 60]
    networks = [(each.way, each.kind, each.network) for each in store.usage("network", *DAYS_ALL)]
    assert networks == [(each.way, each.kind, each.network) for each in (CLEAR, SPARE, OFFICE)]
    assert {each.profile for each in store.usage("profile", *DAYS_ALL)} == {"office", "spare", ""}
    assert store.between(DAY, DAY, Way.TUNNEL) == Counts(3, 3, 2, 2)
    assert store.between(DAY, DAY, Way.CARRIER) == Counts()
    assert store.between(date(2026, 11, 1), date(2026, 11, 21), Way.TUNNEL) == Counts()
    assert not list(store.usage("day", DAY.toordinal() + 1, DAY.toordinal() + 9))


def test_what_was_committed_is_there_again(tmp_path: Path) -> None:
    file = tmp_path / "traffic.db"
    store = UsageStore(file)
    store.seen("boot")
    store.book(NOON, DAY, OFFICE, Counts(5, 6, 7, 8))
    store.note(3, Seen(99, OFFICE, Counts(5, 6, 7, 8)))
    store.keep("granted", "17")
    store.close()
    again = UsageStore(file)
    assert again.seen("boot") == {3: Seen(99, OFFICE, Counts(5, 6, 7, 8))}
    assert again.kept("granted") == "17"
    again.note(3, None)
    assert again.seen("boot") == {}
    again.note(4, Seen(1, SPARE, Counts()))
    assert again.seen("another boot") == {}, "no counter of before is there any more"
    assert total(again, "day") == Counts(5, 6, 7, 8)


KILLED = """
import os, signal, sys
from datetime import date
from pathlib import Path
from daemon.usage_store import Seen, UsageStore
from policies.counting import Counts, Owner, Way
owner = Owner(Way.TUNNEL, "wifi", "", "office")
store = UsageStore(Path(sys.argv[1]))
store.seen("boot")
for number in range(1, 4):
    store.book(number, date(2026, 11, 22), owner, Counts(10, 10, 1, 1))
    store.note(7, Seen(1, owner, Counts(10 * number, 10 * number, number, number)))
    if number == 2:
        store.commit()
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_bookings_and_counters_that_belong_together(tmp_path: Path) -> None:
    """What was booked after the last commit is gone with the reading it came from: it is read once more."""
    file = tmp_path / "traffic.db"
    subprocess.run([sys.executable, "-c", KILLED, str(file)], check=False, cwd=Path(__file__).parents[2])
    store = UsageStore(file)
    (seen,) = store.seen("boot").values()
    assert seen.counts == Counts(20, 20, 2, 2) == total(store, "day")


def test_old_ones_go_and_days_stay(tmp_path: Path) -> None:
    """So many of each, whatever the clock says: a wrong year must not take the right ones away."""
    store = UsageStore(tmp_path / "traffic.db")
    for number in range(MINUTES + 50):
        store.book(NOON + 60 * number, DAY, OFFICE, Counts(1, 0, 1, 0))
    for number in range(HOURS + 20):
        store.book(NOON + 3600 * number, date.fromordinal(DAY.toordinal() + number), SPARE, Counts(1, 0, 1, 0))
    store.book(NOON + 50 * 365 * 86400, date(2076, 11, 22), OFFICE, Counts(1, 0, 1, 0))
    before = total(store, "day")
    store.prune()
    assert len(list(store._db.execute("SELECT DISTINCT start FROM minutes"))) == MINUTES
    assert len(list(store._db.execute("SELECT DISTINCT start FROM hours"))) == HOURS
    assert total(store, "day") == before
    for number in range(DAYS):
        store.book(NOON, date.fromordinal(DAY.toordinal() + number), OFFICE, Counts(1, 0, 1, 0))
    store.prune()
    assert len(list(store._db.execute("SELECT DISTINCT start FROM days"))) == DAYS
    kept = sum(counts.rx_bytes for _, counts in store.totals())
    assert kept == before.rx_bytes + DAYS, "totals stay"


def damage(kind: str, file: Path) -> None:
    content = file.read_bytes()
    match kind:
        case "text":
            file.write_text("This is no database.\n" * 100)
        case "garbage":
            file.write_bytes(content[:100] + os.urandom(len(content) - 100))
        case "folder":
            file.unlink()
            file.mkdir()
        case "link":
            file.rename(file.with_name("elsewhere"))
            file.symlink_to(file.with_name("elsewhere"))
        case "newer":
            db = sqlite3.connect(file)
            db.execute("PRAGMA user_version=99")
            db.close()


@pytest.mark.parametrize("kind", ["text", "garbage", "folder", "link", "newer"])
def test_a_damaged_one_is_set_aside_and_said(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "traffic.db"
    store = UsageStore(file)
    store.book(NOON, DAY, OFFICE, Counts(5, 6, 7, 8))
    store.close()
    damage(kind, file)
    anew = UsageStore(file)
    assert anew.trouble is not None and "damaged" in anew.trouble
    assert os.path.lexists(tmp_path / "traffic.db.damaged-1")
    assert str(tmp_path / "traffic.db.damaged-1") in anew.trouble
    anew.book(NOON, DAY, OFFICE, Counts(1, 1, 1, 1))
    anew.close()
    again = UsageStore(file)
    assert again.trouble is None
    assert total(again, "day") == Counts(1, 1, 1, 1)


def test_damage_that_shows_later_is_set_aside_too(tmp_path: Path) -> None:
    """A page in the middle: it opens, and fails when it is read."""
    file = tmp_path / "traffic.db"
    store = UsageStore(file)
    for number in range(3000):
        store.book(NOON + 60 * number, DAY, OFFICE, Counts(1, 1, 1, 1))
    store.close()
    with file.open("r+b") as raw:
        raw.seek(4096 * 9)
        raw.write(os.urandom(file.stat().st_size - 4096 * 9))
    broken = UsageStore(file)
    with pytest.raises(sqlite3.Error) as caught:
        total(broken, "minute")
    broken.recover(caught.value)
    assert broken.trouble is not None and "damaged" in broken.trouble
    broken.book(NOON, DAY, OFFICE, Counts(1, 1, 1, 1))
    assert total(broken, "minute") == Counts(1, 1, 1, 1)


def test_a_disk_that_refuses_leaves_one_in_memory(tmp_path: Path) -> None:
    store = UsageStore(tmp_path / "no such folder" / "traffic.db")
    assert store.trouble is not None and "lost at the next start" in store.trouble
    store.book(NOON, DAY, OFFICE, Counts(1, 1, 1, 1))
    store.commit()
    assert total(store, "day") == Counts(1, 1, 1, 1)
