"""Suspend and resume, from logind (T5). Being built: tells nothing yet."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from daemon.host import Sleeping


class LogindSleep:
    """Implements `daemon.host.Sleep`."""

    async def watch(self) -> AsyncIterator[Sleeping]:
        await asyncio.Event().wait()
        yield Sleeping(False, lambda: None)
