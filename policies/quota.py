"""(usage, allowance, now, zone) -> what is left of an allowance, until when, and what people should be told.

A period begins at local midnight: of the day, of Monday, of the first of the month. Each day's traffic is booked to the
local day on which it was counted, so a clock that jumps moves no traffic, and a day has 23 to 25 hours like any other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta, tzinfo
from enum import IntEnum
from typing import assert_never

from policies.settings_tables import Allowance, AtLimit, Period

WARN_AT = 0.8
REST = 1500  # bytes: what is left and holds no full packet is nothing, or it would wait for a use that cannot come


class Level(IntEnum):
    """How much of it is used."""

    PLENTY = 0
    SCARCE = 80  # percent, at least
    USED_UP = 100


@dataclass(frozen=True, slots=True)
class Span:
    """One period, in local time."""

    first: date
    last: date
    until: float  # when the next one begins, in seconds since 1970 UTC


@dataclass(frozen=True, slots=True)
class QuotaState:
    """What is left in one period. Bytes in both directions."""

    span: Span
    total: int
    used: int

    @property
    def available(self) -> int:
        left = self.total - self.used
        return left if left >= REST else 0

    @property
    def level(self) -> Level:
        if not self.available:
            return Level.USED_UP
        return Level.SCARCE if self.used >= WARN_AT * self.total else Level.PLENTY


def span(per: Period, now: float, zone: tzinfo) -> Span:
    """The period in which `now` is, in seconds since 1970 UTC."""
    today = datetime.fromtimestamp(now, zone).date()
    match per:
        case Period.DAY:
            first = today
            after = today + timedelta(days=1)
        case Period.WEEK:
            first = today - timedelta(days=today.weekday())
            after = first + timedelta(days=7)
        case Period.MONTH:
            first = today.replace(day=1)
            after = (first + timedelta(days=31)).replace(day=1)
        case _:
            assert_never(per)
    # Where midnight does not exist, this is the moment at which the clock leaps over it; of two, it is the first.
    until = datetime(after.year, after.month, after.day, tzinfo=zone).timestamp()
    return Span(first, after - timedelta(days=1), until)


def quota(used: int, allowance: Allowance, extra: int, now: float, zone: tzinfo) -> QuotaState | None:
    """What is left; None: the allowance is unlimited. `extra`: granted for this period beside the bonus."""
    if allowance.limit is None:
        return None
    return QuotaState(span(allowance.per, now, zone), allowance.limit + allowance.bonus + extra, used)


def at_limit(allowance: Allowance, secure: bool) -> AtLimit:
    """What to do when it is used up. Nothing said: block where the network is not secure, else ask."""
    if allowance.at_limit is not None:
        return allowance.at_limit
    return AtLimit.ASK if secure else AtLimit.BLOCK
