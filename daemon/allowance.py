"""The allowance (A2): how much is left, who is told, and what happens when it is used up.

The kernel stops the traffic, by a quota in our table that is set to what is left whenever rules are set and after each
reading: so nothing passes between two readings that should not. This only tells it how much, and people why.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Protocol

import structlog

from daemon.accounting import READ_S, SOONEST_S, Accounting
from daemon.choices import Choices
from ipc import structs
from ipc.errors import Error, ServiceError
from policies.classify import Verdict
from policies.counting import Way
from policies.decision import Decision, Intent, Manual
from policies.facts import LinkKind
from policies.quota import Level, QuotaState, at_limit, quota, span
from policies.settings import Settings
from policies.settings_tables import Allowance, AtLimit
from policies.states import Changed, Event, Phase, State, Target

log = structlog.get_logger()

RESET_TOLD_S = 600.0
GRANTED = "granted"


class Loop(Protocol):
    """What of the loop is needed here."""

    settings: Settings
    state: State
    decision: Decision
    intent: Intent
    warnings: dict[str, str]
    choices: Choices

    def warn(self, topic: str, text: str) -> None: ...
    def post(self, event: Event) -> None: ...
    def post_command(self, run: Callable[[], Awaitable[Event]]) -> None: ...


class Allowances:
    """Of one loop. Everything is computed from what is in the store, so a restart changes nothing."""

    def __init__(self, loop: Loop, accounting: Accounting, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._loop, self._accounting, self._monotonic = loop, accounting, monotonic
        self._told: tuple[float, Level] | None = None  # of which period people were told what
        self._reset_until = 0.0
        self._known = True  # how much is used, at the last look
        self._before = (0.0, 0)  # when, and what was used then

    @property
    def used_up(self) -> bool:
        """Whether nothing more passes, as people were told."""
        return self._told is not None and self._told[1] is Level.USED_UP

    def left(self) -> int:
        """Bytes that may still pass through the tunnel, from now on: the counters are read for it."""
        self._accounting.read()
        state = self.state()
        return state.available if state is not None else 0

    def state(self) -> QuotaState | None:
        """As of the last reading; None: unlimited. What cannot be read counts as used up, and is blocked: a limit is a
        limit, and a failure never disconnects.
        """
        allowance = self._allowance
        if allowance.limit is None:
            return None
        now, zone = self._accounting.wall(), self._accounting.zone()
        here, used = span(allowance.per, now, zone), 0
        try:
            used = self._accounting.store.between(here.first, here.last, Way.TUNNEL).bytes
            self._known = True
        except sqlite3.Error as err:
            self._accounting.failed(err)
            self._known = False
        state = quota(used, allowance, self._granted(), now, zone)
        return state if self._known or state is None else replace(state, used=state.total)

    def look(self) -> float:
        """After each reading: tell what is new, and do what the settings say at the limit. Seconds until the next."""
        state = self.state()
        if state is None:
            if self._told is not None:
                self._told = None
                self._loop.warnings.pop("allowance", None)
                self._loop.post(Changed())
            return READ_S
        self._tell(state)
        connected = self._loop.state.phase is Phase.CONNECTED
        if connected and state.level is Level.USED_UP and self._at_limit is AtLimit.DISCONNECT:
            self._loop.post_command(self._disconnect)
        elif connected:
            self._loop.post(Changed())  # so that the kernel's quota follows what was counted
        now, used = self._monotonic(), state.used
        (before, used_before), self._before = self._before, (now, used)
        rate = max(0, used - used_before) / max(now - before, 0.001)
        until_empty = state.available / 2 / rate if rate and state.available else READ_S
        until_reset = state.span.until - self._accounting.wall()
        return max(SOONEST_S, min(READ_S, until_empty, until_reset if until_reset > 0 else READ_S))

    def told(self) -> structs.Allowance:
        """For callers."""
        allowance, state = self._allowance, self.state()
        where = (allowance.per.value, self._at_limit.value)
        if state is None:
            now, zone = self._accounting.wall(), self._accounting.zone()
            return structs.Allowance(
                False, where[0], 0, 0, 0, int(span(allowance.per, now, zone).until), where[1], False
            )
        return structs.Allowance(
            limited=True,
            per=where[0],
            total=state.total,
            used=state.used,
            available=state.available,
            resets=int(state.span.until),
            at_limit=where[1],
            used_up=state.level is Level.USED_UP,
        )

    def grant(self) -> Event:
        """The limit once more, for this period. Raises ServiceError."""
        state, what = self.state(), "GrantAllowance"
        if state is None or state.level is not Level.USED_UP:
            raise ServiceError(Error.NOT_NOW, what, "the allowance is not used up.")
        if self._at_limit is not AtLimit.ASK:
            why = f"at its limit the settings say {self._at_limit.value!r} on this network."
            raise ServiceError(Error.LOCKED, what, why, "`tunwarden settings get allowance` shows them.")
        granted = self._granted() + (self._allowance.limit or 0)
        try:
            self._accounting.store.keep(GRANTED, json.dumps([self._period(), granted]))
            self._accounting.store.commit()
        except sqlite3.Error as err:
            self._accounting.failed(err)
            raise ServiceError(Error.NOT_NOW, what, f"it cannot be kept: {err}.") from err
        log.info("allowance granted", bytes=granted)
        self.look()
        return Changed()

    # --- inside -------------------------------------------------------------------------------------------------------

    @property
    def _allowance(self) -> Allowance:
        return self._loop.settings.allowance

    @property
    def _at_limit(self) -> AtLimit:
        if not self._known:
            return AtLimit.BLOCK
        judged = self._loop.decision.judgements
        proven = (Verdict.KNOWN, Verdict.SECURED)
        secure = all(
            each.kind is not LinkKind.WIFI or (each.classification and each.classification.verdict in proven)
            for each in judged
        )
        return at_limit(self._allowance, bool(judged) and secure)

    def _period(self) -> str:
        here = span(self._allowance.per, self._accounting.wall(), self._accounting.zone())
        return f"{self._allowance.per.value} {here.first.isoformat()}"

    def _granted(self) -> int:
        """For this period."""
        try:
            period, granted = json.loads(self._accounting.store.kept(GRANTED) or "[null, 0]")
        except (ValueError, TypeError, sqlite3.Error):
            return 0
        return granted if period == self._period() and isinstance(granted, int) else 0

    async def _disconnect(self) -> Event:
        loop = self._loop
        manual = Manual(Target.UNPROTECTED, loop.decision.here)
        loop.choices.keep(replace(loop.intent, target=Target.UNPROTECTED, manual=manual))
        log.warning("disconnected: the allowance is used up")
        return Changed()

    def _tell(self, state: QuotaState) -> None:
        """At 80 %, at 100 % and at the reset, once each."""
        mark = (state.span.until, state.level)
        if mark != self._told:
            before, self._told = self._told, mark
            if before and before[0] != mark[0] and before[1] is not Level.PLENTY and state.level is Level.PLENTY:
                self._reset_until = self._monotonic() + RESET_TOLD_S
            log.info("allowance", level=state.level.name, used=state.used, total=state.total)
        text = self._words(state)
        if text != self._loop.warnings.get("allowance", ""):
            self._loop.warnings.pop("allowance", None)
            if text:
                self._loop.warn("allowance", text)
            self._loop.post(Changed())

    def _words(self, state: QuotaState) -> str:
        if not self._known:
            return "It cannot be read how much of the allowance is used, so nothing passes."
        whole = f"allowance of {size(state.total)} for this {self._allowance.per.value}"
        match state.level:
            case Level.PLENTY:
                begun = f"A new {self._allowance.per.value} has begun: {size(state.total)} are there again."
                return begun if self._monotonic() < self._reset_until else ""
            case Level.SCARCE:
                return f"80 % of the {whole} are used."
        match self._at_limit:
            case AtLimit.ASK:
                return f"The {whole} is used up: `tunwarden traffic --grant` gives as much again."
            case AtLimit.DISCONNECT:
                return f"The {whole} is used up: the VPN is disconnected."
            case _:
                return f"The {whole} is used up: nothing passes until it begins anew."


def size(count: int) -> str:
    """Bytes in decimal units, as the settings have them."""
    value, unit = float(count), "B"
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.95 or unit == "TB":
            break
        value /= 1000
    return f"{value:.1f} {unit}".replace(".0 ", " ")
