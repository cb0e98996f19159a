"""What callers are told of the traffic: rows of the store in words, rates of this moment, the allowance."""

from __future__ import annotations

import asyncio
import sqlite3
import time as clock
from collections.abc import AsyncGenerator
from datetime import date, datetime, time, timedelta

from daemon.accounting import Accounting
from daemon.allowance import Allowances
from daemon.usage_store import Usage
from ipc import structs
from ipc.errors import Error, ServiceError
from policies.classify import ssid_text
from policies.counting import Counts, Way
from policies.facts import LinkKind

TOLD_S = 1.0  # between two replies to whoever follows
SAMPLED_S = 0.5  # rates are never told of a shorter time
FIRST, LAST = date(1970, 1, 1), date(9999, 12, 31)


class TrafficTeller:
    """Reads the counters for each answer, so that it is exact; however many ask at once."""

    def __init__(self, accounting: Accounting, allowances: Allowances) -> None:
        self._accounting, self._allowances = accounting, allowances
        self._sample: tuple[float, dict[Way, Counts]] = (clock.monotonic(), dict(accounting.moved))
        self._rates: dict[Way, tuple[int, int]] = dict.fromkeys(Way, (0, 0))

    def now(self) -> structs.Traffic:
        """Raises ServiceError."""
        self._accounting.read()
        self._measure()
        day = self._accounting.today()
        found = self._usage("day", day.toordinal(), day.toordinal())
        by_way = {usage.way: usage.counts for usage in found}
        (rx, tx), (clear_rx, clear_tx) = self._rates[Way.TUNNEL], self._rates[Way.CLEAR]
        return structs.Traffic(
            day=day.isoformat(),
            today=tuple(
                structs.Usage(way.value, 0, day.isoformat(), None, None, *by_way.get(way, Counts())) for way in Way
            ),
            rx_rate=rx,
            tx_rate=tx,
            clear_rx_rate=clear_rx,
            clear_tx_rate=clear_tx,
            allowance=self._allowances.told(),
        )

    async def follow(self) -> AsyncGenerator[structs.Traffic, None]:
        """What is new, at most once a second. Raises ServiceError."""
        told = None
        while True:
            if (now := self.now()) != told:
                yield (told := now)
            await asyncio.sleep(TOLD_S)

    def usage(self, by: str, first: str | None, last: str | None) -> tuple[structs.Usage, ...]:
        """Raises ServiceError."""
        begin, end = _day("first", first) or FIRST, _day("last", last) or LAST
        self._accounting.read()
        if by in ("minute", "hour"):
            return tuple(_told(by, each) for each in self._usage(by, self._midnight(begin), self._midnight(end, 1) - 1))
        return tuple(_told(by, each) for each in self._usage(by, begin.toordinal(), end.toordinal()))

    def _usage(self, by: str, first: int, last: int) -> list[Usage]:
        try:
            return [*self._accounting.store.usage(by, first, last)]
        except sqlite3.Error as err:
            self._accounting.failed(err)
            raise ServiceError(Error.NOT_NOW, "Traffic", f"what was counted cannot be read: {err}.") from err

    def _midnight(self, day: date, days_later: int = 0) -> int:
        try:
            after = datetime.combine(day + timedelta(days=days_later), time(), self._accounting.zone())
            return int(after.timestamp())
        except (OverflowError, ValueError):  # nearly as early or as late as can be
            return 0 if day == FIRST else 1 << 40

    def _measure(self) -> None:
        at, moved = clock.monotonic(), dict(self._accounting.moved)
        since, before = self._sample
        if at - since >= SAMPLED_S:
            self._rates = {
                way: (
                    int((moved[way].rx_bytes - before[way].rx_bytes) / (at - since)),
                    int((moved[way].tx_bytes - before[way].tx_bytes) / (at - since)),
                )
                for way in Way
            }
            self._sample = (at, moved)


def _told(by: str, usage: Usage) -> structs.Usage:
    start, name, ssid_hex = 0, "", None
    match by:
        case "minute" | "hour":
            start = usage.start or 0
        case "day":
            name = date.fromordinal(usage.start or 1).isoformat()
        case "network":
            name = usage.network or ""
            if usage.kind == LinkKind.WIFI and name:
                ssid_hex, name = name, ssid_text(bytes.fromhex(name))
        case _:
            name = usage.profile or ""
    return structs.Usage(usage.way.value, start, name, usage.kind or None, ssid_hex, *usage.counts)


def _day(argument: str, text: str | None) -> date | None:
    if not text:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        why = "it must be a day such as 2026-11-22."
        raise ServiceError(Error.INVALID_ARGUMENT, f"Argument {argument} of Traffic.GetUsage", why) from None
