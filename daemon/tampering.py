"""Whoever touches our rules (K4): what is amiss is put back by the loop, and people are told what was done."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from daemon.enforce import Enforcer
from daemon.inbox import Untold

log = structlog.get_logger()

NOTICE_S = 0.1  # within which the kernel's notice of a change is read, when its effect was seen first


class Tampering:
    """Counts how often others have changed our rules, and tells of it by `warn`."""

    def __init__(self, enforcer: Enforcer, post: Callable[[Untold], None], warn: Callable[[str, str], None]) -> None:
        self._enforcer, self._post, self._warn = enforcer, post, warn
        self._times = 0

    async def amiss(self, what: str, foreign: bool) -> bool:
        """Whether something may have to be put back now. Most hints are about our own changes.

        What somebody else certainly did is told also where our next policy has repaired it before we heard of it. A
        hint about ourselves that finds something amiss is ahead of the notice that says what was done: told once.
        """
        if self._enforcer.enforced is None or (not foreign and await self._enforcer.intact()):
            return False
        if foreign:
            self._tell(what)
        else:
            asyncio.get_running_loop().call_later(NOTICE_S, self._post, Untold(what, self._times))
        return True

    def untold(self, what: str, told: int) -> bool:
        """Whether nobody has told of it meanwhile; then it is told now."""
        if told != self._times:
            return False
        self._tell(what)
        return True

    def _tell(self, what: str) -> None:
        self._times += 1
        log.warning("tampered with", what=what, times=self._times)
        often = f" (so far {self._times} times)" if self._times > 1 else ""
        self._warn("tamper", f"Somebody else changed our rules: {what}. They were put back{often}.")
