"""Connection attempts: what takes long runs here, in the background, and answers with events."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from daemon.host import HostError, TunnelDriver, TunnelError
from policies.profiles import WireGuardProfile
from policies.states import Cause, Event, TunnelClosed, TunnelDown, TunnelUp

log = structlog.get_logger()


class Attempts:
    """At most one attempt lives. Each answers with TunnelUp, then TunnelDown, or with TunnelDown alone."""

    def __init__(self, driver: TunnelDriver, post: Callable[[Event], None], report: Callable[[str], None]) -> None:
        self._driver, self._post, self._report = driver, post, report
        self._task: asyncio.Task[None] | None = None

    def open(self, attempt: int, profile: WireGuardProfile, timeout_s: float) -> None:
        """Replaces the attempt under way, if any: its tunnel is taken down first."""
        self._replace(self._open(attempt, profile, timeout_s))

    def close(self, attempt: int) -> None:
        """Ends the attempt under way, and answers with TunnelClosed whatever happens."""
        self._replace(self._close(attempt))

    async def stop(self) -> None:
        """Ends the attempt and its tunnel, without an answer."""
        await _cancelled(self._task)
        self._task = None
        await self._driver.close()

    async def abandon(self) -> None:
        """Stops watching; the tunnel stays as it is."""
        await _cancelled(self._task)

    def _replace(self, work: Coroutine[Any, Any, None]) -> None:
        former = self._task

        async def in_turn() -> None:
            await _cancelled(former)
            await work

        self._task = asyncio.get_running_loop().create_task(in_turn())

    async def _open(self, attempt: int, profile: WireGuardProfile, timeout_s: float) -> None:
        try:
            tunnel = await self._driver.open(profile)
            async with asyncio.timeout(timeout_s):
                await self._driver.established()
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
        finally:
            self._post(TunnelClosed(attempt))


async def _cancelled(task: asyncio.Task[None] | None) -> None:
    if task is None:
        return
    task.cancel()
    await asyncio.wait([task])
