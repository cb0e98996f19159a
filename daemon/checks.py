"""Looks behind the rules, in the background: whether probes get out (K7), and what of others breaks the tunnel (K8).

Nothing waits for them. What they find comes back to the loop as `Checked`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from daemon.host import HostError, LeakCheck, Obstacles
from daemon.inbox import Checked
from policies.facts import Endpoint

log = structlog.get_logger()

AFTER_CONNECT_S = 5.0  # when a new tunnel has settled, and its user has begun to rely on it


class Checks:
    """At most one check of each kind runs; a newer one replaces it."""

    def __init__(self, leak_check: LeakCheck, obstacles: Obstacles, post: Callable[[Checked], None]) -> None:
        self._leak_check, self._obstacles, self._post = leak_check, obstacles, post
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def leaks(self, ifnames: Sequence[str], delay_s: float = AFTER_CONNECT_S) -> None:
        """Some seconds after a tunnel came up: does anything leave beside it? What is found is an alarm."""
        self._begin("leak", delay_s, lambda: self._leak_check.check(tuple(ifnames)))

    def obstacles(self, servers: Sequence[Endpoint]) -> None:
        """After a failed attempt: does something on this machine stop the VPN's own packets?"""
        self._begin("obstacle", 0.0, lambda: self._obstacles.find(tuple(servers)))

    def cancel(self, topic: str) -> None:
        """Forget the check that waits or runs."""
        if task := self._tasks.pop(topic, None):
            task.cancel()

    async def abandon(self) -> None:
        """End all."""
        tasks = tuple(self._tasks.values())
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, topic: str, delay_s: float, look: Callable[[], Awaitable[tuple[str, ...]]]) -> None:
        self.cancel(topic)
        self._tasks[topic] = asyncio.get_running_loop().create_task(self._run(topic, delay_s, look))

    async def _run(self, topic: str, delay_s: float, look: Callable[[], Awaitable[tuple[str, ...]]]) -> None:
        await asyncio.sleep(delay_s)
        try:
            found = await look()
        except HostError as err:  # not being able to look is no finding, but nobody should believe that all is well
            log.warning("cannot check", topic=topic, why=str(err))
            self._post(Checked(topic, (), str(err)))
        except Exception as err:  # a defect in a check must not hide behind silence either
            log.exception("check failed", topic=topic)
            self._post(Checked(topic, (), type(err).__name__))
        else:
            self._post(Checked(topic, found))
