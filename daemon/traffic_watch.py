"""What follows from each reading of the counters: the allowance, the exporter's file, and a word on silence (A4)."""

from __future__ import annotations

import asyncio
from typing import Protocol

import structlog

from daemon.accounting import Accounting
from daemon.allowance import Allowances
from daemon.enforce import Enforcer
from daemon.mtu import PathMtus
from daemon.prometheus import Exporter
from policies.counting import Way
from policies.settings import Settings
from policies.silence import Silence
from policies.states import Changed, Event, Phase, State

log = structlog.get_logger()


class Loop(Protocol):
    """What of the loop is needed here."""

    settings: Settings
    state: State
    warnings: dict[str, str]
    enforcer: Enforcer

    def warn(self, topic: str, text: str) -> None: ...
    def post(self, event: Event) -> None: ...


class TrafficWatch:
    """Of one loop. `look` is called by the accounting."""

    def __init__(
        self, loop: Loop, accounting: Accounting, allowances: Allowances, mtus: PathMtus, exporter: Exporter
    ) -> None:
        self._loop, self._accounting, self._allowances, self._mtus = loop, accounting, allowances, mtus
        self._exporter = exporter
        self._silence = Silence()

    def look(self) -> float:
        """After each reading of the counters; seconds until the next one. Says where nothing comes back (A4)."""
        loop = self._loop
        wait = self._allowances.look()
        protected = loop.state.phase is Phase.CONNECTED and loop.enforcer.enforced is not None
        self._exporter.look(
            loop.settings.traffic.prometheus, loop.state.phase, protected, loop.enforcer.blocking,
            self._allowances.state(),
        )  # fmt: skip
        if loop.state.phase is not Phase.CONNECTED or self._allowances.used_up:
            self._silence.forget()
        else:
            self._silence.look(asyncio.get_running_loop().time(), self._accounting.moved[Way.TUNNEL])
            wait = min(wait, self._silence.wait)
            if self._mtus.look(asyncio.get_running_loop().time()):
                loop.post(Changed())
        if self._silence.lasts is not ("silence" in loop.warnings):
            loop.warnings.pop("silence", None)
            if self._silence.lasts:
                loop.warn("silence", "Connected, but nothing comes back: what goes into the tunnel is not answered.")
                log.warning("nothing comes back")
                self._mtus.again()  # perhaps it is only what is large
            loop.post(Changed())
        return wait

    @property
    def detail(self) -> str | None:
        """What else is to be said of the state, in a word."""
        if self._loop.state.phase is not Phase.CONNECTED:
            return None
        if self._allowances.used_up:
            return "allowance-used-up"
        return "nothing-comes-back" if self._silence.lasts else None

    async def end(self) -> None:
        """The exporter's file is written no more."""
        await self._exporter.end()
