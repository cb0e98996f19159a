"""A2: periods in local time over clock changes of every kind, what is left, and what happens at the limit."""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.quota import Level, at_limit, quota, span
from policies.settings_tables import Allowance, AtLimit, Period

UTC = ZoneInfo("UTC")
# Ordinary; clocks change at midnight itself; half an hour; a whole day left out (2011-12-30); both at once.
ZONES = ["UTC", "Europe/Berlin", "America/Havana", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Cairo",
         "America/Sao_Paulo", "Asia/Kathmandu"]  # fmt: skip
TIMES = st.integers(1_262_304_000, 1_893_456_000)  # 2010 to 2030


def at(zone: ZoneInfo, *when: int, fold: int = 0) -> float:
    return datetime(*when, tzinfo=zone, fold=fold).timestamp()  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "per, when, first, last",
    [
        (Period.DAY, (2026, 11, 22, 0, 0), date(2026, 11, 22), date(2026, 11, 22)),
        (Period.DAY, (2026, 11, 22, 23, 59), date(2026, 11, 22), date(2026, 11, 22)),
        (Period.WEEK, (2026, 11, 22, 12, 0), date(2026, 11, 16), date(2026, 11, 22)),  # a Sunday
        (Period.WEEK, (2026, 11, 23, 0, 0), date(2026, 11, 23), date(2026, 11, 29)),
        (Period.WEEK, (2027, 1, 1, 12, 0), date(2026, 12, 28), date(2027, 1, 3)),
        (Period.MONTH, (2024, 2, 29, 12, 0), date(2024, 2, 1), date(2024, 2, 29)),
        (Period.MONTH, (2026, 12, 31, 23, 59), date(2026, 12, 1), date(2026, 12, 31)),
    ],
)
def test_periods(per: Period, when: tuple[int, ...], first: date, last: date) -> None:
    zone = ZoneInfo("Europe/Berlin")
    found = span(per, at(zone, *when), zone)
    assert (found.first, found.last) == (first, last)
    after = last + timedelta(days=1)
    assert found.until == at(zone, after.year, after.month, after.day)


@pytest.mark.parametrize(
    "zone, day, hours",
    [
        ("Europe/Berlin", (2026, 3, 29), 23), ("Europe/Berlin", (2026, 10, 25), 25),
        ("Europe/Berlin", (2026, 11, 22), 24), ("Australia/Lord_Howe", (2026, 4, 5), 24.5),
        ("America/Havana", (2026, 3, 8), 23), ("Africa/Cairo", (2024, 4, 26), 23),
    ],
)  # fmt: skip
def test_a_day_is_as_long_as_it_is(zone: str, day: tuple[int, int, int], hours: float) -> None:
    """Also where midnight does not exist: the day begins when the clock leaps over it."""
    here = ZoneInfo(zone)
    noon = at(here, *day, 12)
    begun = span(Period.DAY, at(here, *day, 12) - 24 * 3600, here).until
    assert span(Period.DAY, noon, here).until - begun == hours * 3600
    assert span(Period.DAY, begun, here).first == date(*day), "the first second of it"
    assert span(Period.DAY, begun - 1, here).first == date(*day) - timedelta(days=1)


@given(st.sampled_from(ZONES), TIMES, st.sampled_from(Period))
def test_every_moment_has_one_period(zone: str, now: int, per: Period) -> None:
    here = ZoneInfo(zone)
    found = span(per, now, here)
    today = datetime.fromtimestamp(now, here).date()
    assert found.first <= today <= found.last
    assert found.until > now
    after = span(per, found.until, here)
    assert after.first > found.last, "no day belongs to two"
    assert after.first - found.last <= timedelta(days=2), "but for a day that a zone has left out, none to nobody"


def test_what_is_left() -> None:
    now = at(UTC, 2026, 11, 22, 12)
    allowance = Allowance(limit=10_000, bonus=5_000)
    for used, level, available in (
        (0, Level.PLENTY, 15_000),
        (11_999, Level.PLENTY, 3_001),
        (12_000, Level.SCARCE, 3_000),
        (13_500, Level.SCARCE, 1_500),
        (13_501, Level.USED_UP, 0),  # a full packet would not fit
        (15_000, Level.USED_UP, 0),
        (99_999, Level.USED_UP, 0),
    ):
        state = quota(used, allowance, 0, now, UTC)
        assert state is not None
        assert (state.level, state.available, state.total) == (level, available, 15_000)
    granted = quota(15_000, allowance, 10_000, now, UTC)
    assert granted is not None and (granted.available, granted.level) == (10_000, Level.PLENTY)
    assert quota(1 << 60, Allowance(bonus=5), 0, now, UTC) is None, "no limit"


@pytest.mark.parametrize("secure, wanted", [(True, AtLimit.ASK), (False, AtLimit.BLOCK)])
def test_at_the_limit(secure: bool, wanted: AtLimit) -> None:
    """Nothing said: on a network that is not secure nothing but blocking; what is said counts everywhere."""
    assert at_limit(Allowance(limit=1), secure) is wanted
    for said in AtLimit:
        assert at_limit(Allowance(limit=1, at_limit=said), secure) is said
