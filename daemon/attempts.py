"""Connection attempts: what takes long runs here, in the background, and answers with events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from daemon.host import HostError, TunnelDriver, TunnelError
from policies.profiles import Profile
from policies.states import Cause, Event, TunnelClosed, TunnelDown, TunnelUp

log = structlog.get_logger()

CANCEL_AGAIN_S = 10.0  # twice what closing a tunnel may take


class Attempts:
    """At most one attempt lives. Each answers with TunnelUp, then TunnelDown, or with TunnelDown alone."""

    def __init__(self, driver: TunnelDriver, post: Callable[[Event], None], report: Callable[[str], None]) -> None:
        self._driver, self._post, self._report = driver, post, report
        self._tasks: list[asyncio.Task[None]] = []  # those that have not ended; all but the last are cancelled

    def open(self, attempt: int, profile: Profile, timeout_s: float) -> None:
        """Replaces the attempt under way, if any: its tunnel is taken down first."""
        self._replace(lambda: self._open(attempt, profile, timeout_s))

    def close(self, attempt: int) -> None:
        """Ends the attempt under way, and answers with TunnelClosed whatever happens."""
        self._replace(lambda: self._close(attempt))

    async def abandon(self) -> None:
        """Stops watching; the tunnel stays as it is."""
        self._cancel()
        await _ended(self._tasks)

    def _replace(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        former = self._cancel()

        async def in_turn() -> None:
            # Of all, for the last may never have begun: two would take each other's link away.
            await _ended(former)
            await work()

        self._tasks = [*former, asyncio.get_running_loop().create_task(in_turn())]

    def _cancel(self) -> list[asyncio.Task[None]]:
        """Those that have not ended yet. Each is cancelled once: a second time would cut short its tidying up."""
        if self._tasks:
            self._tasks[-1].cancel()
        return [task for task in self._tasks if not task.done()]

    async def _open(self, attempt: int, profile: Profile, timeout_s: float) -> None:
        try:
            tunnel = await self._driver.open(profile)
            async with asyncio.timeout(timeout_s):
                tunnel = await self._driver.established() or tunnel
            self._post(TunnelUp(attempt, tunnel))
            error = await self._driver.dead()
        except TimeoutError:
            error = TunnelError(Cause.SERVER_UNREACHABLE, "shake hands", f"no answer within {timeout_s:g} s")
        except TunnelError as err:
            error = err
        except Exception as err:  # a defect in a driver must not leave the machine waiting for ever
            log.exception("tunnel driver failed", attempt=attempt)
            error = TunnelError(Cause.TUNNEL_FAILED, "run the tunnel", type(err).__name__)
        self._report(str(error))
        self._post(TunnelDown(attempt, error.cause))

    async def _close(self, attempt: int) -> None:
        try:
            await self._driver.close()
        except HostError as err:
            self._report(str(err))
        except Exception:  # a defect in a driver must not hide behind the answer
            log.exception("tunnel driver failed", attempt=attempt)
        finally:
            self._post(TunnelClosed(attempt))


async def _ended(tasks: list[asyncio.Task[None]]) -> None:
    """Returns when all have. asyncio.wait_for may swallow a cancellation (python/cpython#86296), so it is repeated.

    Takes them out of the list: a cancelled task keeps its frames, and with them whoever it waited for, and so on.
    """
    pending = set(tasks)
    tasks.clear()
    while pending:
        _, pending = await asyncio.wait(pending, timeout=CANCEL_AGAIN_S)
        for task in pending:
            task.cancel()
