"""A1 without a kernel: whose the counted bytes are, and that none of them is lost or counted twice."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import replace
from datetime import date, datetime, tzinfo
from ipaddress import ip_address
from pathlib import Path
from zoneinfo import ZoneInfo

from hypothesis import given
from hypothesis import strategies as st

from daemon.accounting import Accounting, LocalZone
from daemon.usage_store import UsageStore
from policies.counting import Counts, Owner, Way
from policies.facts import Endpoint, Facts, Link, LinkKind, ProfileFacts
from policies.firewall import TUNNEL_IFNAME, FirewallPolicy
from policies.states import Phase, State
from tests.daemon.fake_host import CABLE, CAFE, HOME, WLAN, FakeCounters

OFFICE = ProfileFacts("office", (Endpoint(ip_address("198.51.100.1"), 51820),), (), ())
SPARE = replace(OFFICE, name="spare")
IDLE = State(Phase.IDLE)
CONNECTED = State(Phase.CONNECTED, profile=OFFICE)
OPEN = FirewallPolicy(Phase.IDLE, cleared=frozenset({"wlan0", "eth0"}))
CLOSED = FirewallPolicy(Phase.CONNECTED)
TUNNEL = Link(7, TUNNEL_IFNAME, LinkKind.TUNNEL, up=True, carrier=True)
AT_CAFE = Facts(links=(WLAN,), wifi={"wlan0": CAFE})
PROTECTED = replace(AT_CAFE, links=(WLAN, TUNNEL))
CAFE_HEX, HOME_HEX = CAFE.ssid.hex(), HOME.ssid.hex()
NOON = 1_795_348_800.0


class Bench:
    """An accounting over fake counters, and a clock that the test sets."""

    def __init__(self, file: Path, zone: tzinfo | None = None, **counts: Counts) -> None:
        self.file, self.zone, self.now = file, zone or ZoneInfo("UTC"), NOON
        self.kernel = FakeCounters({WLAN.ifindex: Counts(), CABLE.ifindex: Counts(), **counts})  # type: ignore[arg-type]
        self.trouble: list[str | None] = []
        self.start()

    def start(self) -> None:
        self.accounting = Accounting(
            self.kernel, UsageStore(self.file), self.trouble.append, lambda: self.now, lambda: self.zone
        )
        self.accounting.begin()

    async def kill(self) -> None:
        """As SIGKILL does: nothing of it is written any more."""
        task = self.accounting._task
        assert task is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        asyncio.get_running_loop().remove_reader(self.kernel.fileno())
        self.accounting.store._db.rollback()
        self.accounting.store._db.close()

    def move(self, ifindex: int, amount: int = 1) -> None:
        """So many packets in, as many out, of 100 bytes."""
        more = Counts(100 * amount, 100 * amount, amount, amount)
        self.kernel.counts[ifindex] = self.kernel.counts.get(ifindex, Counts()).plus(more)

    def booked(self) -> dict[Owner, int]:
        """Packets received, by owner."""
        self.accounting.read()
        return {owner: counts.rx_packets for owner, counts in self.accounting.store.totals() if counts.rx_packets}

    def days(self) -> dict[date, int]:
        self.accounting.read()
        found = self.accounting.store.usage("day", 1, date.max.toordinal())
        return {date.fromordinal(each.start or 0): each.counts.rx_packets for each in found}


def played(tmp_path: Path, play: Callable[[Bench], object], zone: tzinfo | None = None) -> None:
    async def run() -> None:
        bench = Bench(tmp_path / "traffic.db", zone)
        found = play(bench)
        if asyncio.iscoroutine(found):
            await found
        await bench.accounting.end()

    asyncio.run(run())


def test_each_byte_belongs_to_what_was_in_force_since_the_last_reading(tmp_path: Path) -> None:
    def play(bench: Bench) -> None:
        follow = bench.accounting.follow
        bench.kernel.counts[WLAN.ifindex] = Counts(5000, 5000, 50, 50)  # before anybody counted
        follow(AT_CAFE, IDLE, OPEN)
        bench.move(WLAN.ifindex, 3)
        follow(AT_CAFE, State(Phase.CONNECTING, profile=OFFICE), CLOSED)
        bench.move(WLAN.ifindex, 5)
        bench.kernel.counts[TUNNEL.ifindex] = Counts(100, 100, 1, 1)  # since it was made: ours from the beginning
        follow(PROTECTED, CONNECTED, CLOSED)
        bench.move(TUNNEL.ifindex, 7)
        bench.move(WLAN.ifindex, 8)
        follow(replace(PROTECTED, wifi={"wlan0": HOME}), CONNECTED, CLOSED)
        bench.move(TUNNEL.ifindex, 11)
        assert bench.booked() == {
            Owner(Way.CLEAR, "wifi", CAFE_HEX, ""): 3,
            Owner(Way.CARRIER, "wifi", CAFE_HEX, "office"): 13,
            Owner(Way.TUNNEL, "wifi", CAFE_HEX, "office"): 8,
            Owner(Way.TUNNEL, "wifi", HOME_HEX, "office"): 11,
        }

    played(tmp_path, play)


def test_a_tunnel_link_belongs_to_one_profile_as_long_as_it_lives(tmp_path: Path) -> None:
    """Another profile is chosen before the link of the former has gone, and its last packets come after that."""

    def play(bench: Bench) -> None:
        follow = bench.accounting.follow
        bench.move(TUNNEL.ifindex, 0)
        follow(PROTECTED, CONNECTED, CLOSED)
        bench.move(TUNNEL.ifindex, 2)
        follow(PROTECTED, State(Phase.RECONNECTING, profile=SPARE), CLOSED)
        bench.move(TUNNEL.ifindex, 3)
        bench.kernel.remove(TUNNEL.ifindex)
        other = replace(TUNNEL, ifindex=8)
        bench.move(8, 5)
        follow(replace(PROTECTED, links=(WLAN, other)), State(Phase.RECONNECTING, profile=SPARE), CLOSED)
        assert bench.booked() == {
            Owner(Way.TUNNEL, "wifi", CAFE_HEX, "office"): 5, Owner(Way.TUNNEL, "wifi", CAFE_HEX, "spare"): 5,
        }  # fmt: skip

    played(tmp_path, play)


def test_a_link_made_anew_with_the_same_number_counts_from_its_beginning(tmp_path: Path) -> None:
    """Also where the new one has counted more than the old one, and where nothing else looks changed."""

    def play(bench: Bench) -> None:
        bench.accounting.follow(AT_CAFE, IDLE, OPEN)
        bench.move(WLAN.ifindex, 4)
        bench.kernel.remove(WLAN.ifindex)
        bench.move(WLAN.ifindex, 9)
        assert bench.booked() == {Owner(Way.CLEAR, "wifi", CAFE_HEX, ""): 13}

    played(tmp_path, play)


def test_a_reset_counts_from_nothing(tmp_path: Path) -> None:
    def play(bench: Bench) -> None:
        bench.accounting.follow(AT_CAFE, IDLE, OPEN)
        bench.move(WLAN.ifindex, 40)
        bench.accounting.read()
        bench.kernel.counts[WLAN.ifindex] = Counts(200, 200, 2, 2)
        assert bench.booked() == {Owner(Way.CLEAR, "wifi", CAFE_HEX, ""): 42}

    played(tmp_path, play)


def test_32_bits_wrap(tmp_path: Path) -> None:
    def play(bench: Bench) -> None:
        bench.kernel.bits = 32
        bench.kernel.counts[WLAN.ifindex] = Counts((1 << 32) - 500, 10, 1000, 1)
        bench.accounting.follow(AT_CAFE, IDLE, OPEN)
        bench.kernel.counts[WLAN.ifindex] = Counts(1000, 10, 1001, 1)
        bench.accounting.read()
        ((_, counts),) = [each for each in bench.accounting.store.totals() if each[1].rx_bytes]
        assert counts == Counts(1500, 0, 1, 0)

    played(tmp_path, play)


def test_what_is_identified_later_was_it_all_the_time(tmp_path: Path) -> None:
    def play(bench: Bench) -> None:
        held = FirewallPolicy(Phase.HELD)
        bench.accounting.follow(Facts(links=(WLAN,)), State(Phase.HELD), held)
        bench.move(WLAN.ifindex, 2)
        bench.accounting.follow(AT_CAFE, IDLE, OPEN)
        bench.move(WLAN.ifindex, 3)
        assert bench.booked() == {
            Owner(Way.CARRIER, "wifi", CAFE_HEX, ""): 2, Owner(Way.CLEAR, "wifi", CAFE_HEX, ""): 3,
        }  # fmt: skip

    played(tmp_path, play)


def test_of_two_uplinks_the_tunnels_is_the_one_that_the_kernel_chooses(tmp_path: Path) -> None:
    def play(bench: Bench) -> None:
        both = replace(PROTECTED, links=(WLAN, CABLE, TUNNEL))
        bench.kernel.way = CABLE.ifindex
        bench.move(TUNNEL.ifindex, 2)
        bench.accounting.follow(both, CONNECTED, CLOSED)
        bench.accounting.read()
        bench.kernel.way = WLAN.ifindex
        bench.accounting.follow(both, CONNECTED, CLOSED)
        bench.move(TUNNEL.ifindex, 3)
        assert bench.booked() == {
            Owner(Way.TUNNEL, "wired", "eth0", "office"): 2, Owner(Way.TUNNEL, "wifi", CAFE_HEX, "office"): 3,
        }  # fmt: skip

    played(tmp_path, play)


def test_a_kill_loses_nothing_while_the_link_lives(tmp_path: Path) -> None:
    """Whatever was booked and not committed is counted once more; whose it is, is known from before."""

    async def play(bench: Bench) -> None:
        bench.move(TUNNEL.ifindex, 2)
        bench.accounting.follow(PROTECTED, CONNECTED, CLOSED)
        bench.move(TUNNEL.ifindex, 3)
        bench.accounting.read()
        await bench.kill()
        bench.move(TUNNEL.ifindex, 5)
        bench.start()
        bench.accounting.follow(PROTECTED, State(Phase.BLOCKED), CLOSED)
        bench.move(TUNNEL.ifindex, 7)
        assert bench.booked() == {Owner(Way.TUNNEL, "wifi", CAFE_HEX, "office"): 17}
        await bench.kill()
        bench.start()
        bench.kernel.remove(TUNNEL.ifindex)  # before the links were read
        assert bench.booked() == {Owner(Way.TUNNEL, "wifi", CAFE_HEX, "office"): 17}

    played(tmp_path, play)


def test_what_was_committed_is_not_counted_again(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        bench.move(TUNNEL.ifindex, 2)
        bench.accounting.follow(PROTECTED, CONNECTED, CLOSED)
        bench.move(TUNNEL.ifindex, 3)
        bench.accounting.read()
        bench.accounting._commit()
        await bench.kill()
        bench.start()
        bench.accounting.follow(PROTECTED, CONNECTED, CLOSED)
        assert bench.booked() == {Owner(Way.TUNNEL, "wifi", CAFE_HEX, "office"): 5}

    played(tmp_path, play)


def test_after_a_boot_every_link_is_new(tmp_path: Path) -> None:
    async def play(bench: Bench) -> None:
        bench.accounting.follow(AT_CAFE, IDLE, OPEN)
        bench.move(WLAN.ifindex, 4)
        await bench.accounting.end()
        bench.kernel = FakeCounters({WLAN.ifindex: Counts(700, 700, 7, 7)}, boot="the next")
        bench.start()
        bench.accounting.follow(AT_CAFE, IDLE, OPEN)
        bench.move(WLAN.ifindex, 2)
        assert bench.booked() == {Owner(Way.CLEAR, "wifi", CAFE_HEX, ""): 6}

    played(tmp_path, play)


def test_a_link_made_anew_while_nobody_looked_is_another(tmp_path: Path) -> None:
    """The same number and name, and counters that have come further than the old ones: only its making tells."""

    async def play(bench: Bench) -> None:
        bench.move(TUNNEL.ifindex, 2)
        bench.accounting.follow(PROTECTED, CONNECTED, CLOSED)
        await bench.accounting.end()
        bench.kernel = FakeCounters({WLAN.ifindex: Counts(), TUNNEL.ifindex: Counts(900, 900, 9, 9)})
        bench.kernel.births[TUNNEL_IFNAME] = 2
        bench.start()
        bench.accounting.follow(PROTECTED, State(Phase.CONNECTED, profile=SPARE), CLOSED)
        assert bench.booked() == {
            Owner(Way.TUNNEL, "wifi", CAFE_HEX, "office"): 2, Owner(Way.TUNNEL, "wifi", CAFE_HEX, "spare"): 9,
        }  # fmt: skip

    played(tmp_path, play)


def test_counters_that_cannot_be_read_are_said_and_lose_nothing(tmp_path: Path) -> None:
    def play(bench: Bench) -> None:
        bench.accounting.follow(AT_CAFE, IDLE, OPEN)
        bench.move(WLAN.ifindex, 2)
        bench.kernel.refuses = True
        bench.accounting.read()
        assert bench.trouble[-1] is not None and "cannot be counted" in bench.trouble[-1]
        bench.kernel.refuses = False
        bench.move(WLAN.ifindex, 3)
        assert bench.booked() == {Owner(Way.CLEAR, "wifi", CAFE_HEX, ""): 5}
        bench.accounting._commit()
        assert bench.trouble[-1] is None

    played(tmp_path, play)


def test_a_store_that_fails_is_said_and_loses_nothing_of_a_link_that_lives(tmp_path: Path) -> None:
    def play(bench: Bench) -> None:
        bench.accounting.follow(AT_CAFE, IDLE, OPEN)
        bench.move(WLAN.ifindex, 2)
        bench.accounting.read()
        store, book = bench.accounting.store, bench.accounting.store.book

        def full(*_: object) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        store.book = full  # type: ignore[assignment]
        bench.move(WLAN.ifindex, 3)
        bench.accounting.read()
        assert bench.trouble[-1] is not None and "full" in bench.trouble[-1]
        store.book = book  # type: ignore[method-assign]
        bench.move(WLAN.ifindex, 5)
        assert bench.booked() == {Owner(Way.CLEAR, "wifi", CAFE_HEX, ""): 10}

    played(tmp_path, play)


def test_days_are_those_of_the_local_clock(tmp_path: Path) -> None:
    """23 and 25 hours long; and a clock that is set back, or to 1970, loses nothing and invents nothing."""
    berlin = ZoneInfo("Europe/Berlin")

    def play(bench: Bench) -> None:
        bench.accounting.follow(AT_CAFE, IDLE, OPEN)
        wanted: dict[date, int] = {}
        for hour in range(50):  # over the 25 hours of 2026-10-25
            bench.now = datetime(2026, 10, 24, 12, tzinfo=berlin).timestamp() + 3600 * hour
            bench.move(WLAN.ifindex)
            day = datetime.fromtimestamp(bench.now, berlin).date()
            wanted[day] = wanted.get(day, 0) + 1
            assert bench.days() == wanted
        assert wanted[date(2026, 10, 25)] == 25
        for now in (bench.now - 86400, 0.0, bench.now):
            bench.now = now
            bench.move(WLAN.ifindex)
            bench.accounting.read()
        assert sum(bench.days().values()) == 53
        assert bench.days()[date(1970, 1, 1)] == 1

    played(tmp_path, play, berlin)


@given(st.lists(st.tuples(st.integers(-(10**6), 10**6), st.integers(0, 9)), max_size=20))
def test_a_clock_that_jumps_loses_nothing(jumps: list[tuple[int, int]]) -> None:
    def play(bench: Bench) -> None:
        bench.accounting.follow(AT_CAFE, IDLE, OPEN)
        for jump, amount in jumps:
            bench.now = max(0.0, bench.now + jump)
            bench.move(WLAN.ifindex, amount)
            bench.accounting.read()
        assert sum(bench.days().values()) == sum(amount for _, amount in jumps)
        assert all(count >= 0 for count in bench.days().values())

    played(Path("/nowhere"), play)


def test_the_time_zone_is_the_machines_also_after_a_journey(tmp_path: Path) -> None:
    file = tmp_path / "localtime"
    zone = LocalZone(file)
    assert zone().utcoffset(datetime(2026, 7, 1)).total_seconds() == 0  # type: ignore[union-attr]
    for name, hours in (("Europe/Berlin", 2), ("Asia/Tokyo", 9)):
        link = tmp_path / "new"
        link.symlink_to(f"/usr/share/zoneinfo/{name}")
        link.replace(file)
        assert zone().utcoffset(datetime(2026, 7, 1)).total_seconds() == 3600 * hours  # type: ignore[union-attr]
    file.unlink()
    file.write_text("no zone")
    assert zone().utcoffset(datetime(2026, 7, 1)).total_seconds() == 0  # type: ignore[union-attr]
