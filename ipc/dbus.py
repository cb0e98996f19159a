"""The D-Bus face: connected while there is a bus, quietly trying again while there is none.

Nothing depends on it: the kernel keeps blocking without a bus, and the Unix socket answers.
"""

from __future__ import annotations

import asyncio
import logging

from ipc import interface
from ipc.dbus_session import TIMEOUT, NameTakenError, Session
from ipc.dispatch import Dispatcher

log = logging.getLogger("tunwarden.ipc")

RETRY_FIRST, RETRY_LONGEST = 0.5, 5.0  # seconds


class Dbus:
    """`start`, then serve until `stop`, across restarts of the bus."""

    def __init__(self, dispatcher: Dispatcher, *, address: str | None = None) -> None:
        """`address` is that of the bus; None: the system bus."""
        self._dispatcher, self._address = dispatcher, address
        self._task: asyncio.Task[None] | None = None
        self._tried = asyncio.Event()
        self.problem: str | None = "not connected yet"  # None while the name is ours

    async def start(self) -> None:
        """Try once, then go on in the background. NameTakenError: another daemon runs. That no bus does is no error."""
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._run())
        tried = loop.create_task(self._tried.wait())
        await asyncio.wait((self._task, tried), timeout=TIMEOUT + 1, return_when=asyncio.FIRST_COMPLETED)
        tried.cancel()
        if self._task.done():
            await self._task

    async def stop(self) -> None:
        """Leave the bus."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        delay = RETRY_FIRST
        while True:
            try:
                await self._session()
                problem = "the bus went away"
            except NameTakenError as error:
                if not self._tried.is_set():
                    raise
                problem = str(error)
            except Exception as error:  # whatever the library makes of a bus that is absent, sick or ending
                problem = f"{type(error).__name__}: {error}"
            if self.problem is None:
                delay = RETRY_FIRST
            if problem != self.problem:
                log.warning("no D-Bus: %s; trying again", problem)
            self.problem = problem
            self._tried.set()
            await asyncio.sleep(delay)
            delay = min(delay * 2, RETRY_LONGEST)

    async def _session(self) -> None:
        """From connecting to losing the bus."""
        session = Session(self._dispatcher, self._address)
        try:
            await session.open()
            self.problem = None
            self._tried.set()
            log.info("%s is on the bus", interface.NAME)
            await session.serve()
        finally:
            await session.close()
