"""Looks behind the rules, in the background: whether probes get out (K7), and what of others breaks the tunnel (K8).

Nothing waits for them. What they find comes back to the loop as `Checked`, and is said.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog

from daemon.host import HostError, LeakCheck, Obstacles
from daemon.inbox import Checked
from policies.decision import Decision
from policies.facts import Endpoint, Facts
from policies.firewall import TUNNEL_IFNAME
from policies.states import Cause, Event, Phase, State, Target, TunnelDown

log = structlog.get_logger()

LOOK_AGAIN_S = 60.0  # after a leak was found: whoever mends it should see the alarm end
AFTER_CONNECT_S = 5.0  # when a new tunnel has settled, and its user has begun to rely on it


class Checks:
    """At most one check of each kind runs; a newer one replaces it."""

    def __init__(
        self,
        leak_check: LeakCheck,
        obstacles: Obstacles,
        post: Callable[[Checked], None],
        warnings: dict[str, str],
        alarms: dict[str, str],
    ) -> None:
        """`warnings`, `alarms`: the loop's, by topic."""
        self._leak_check, self._obstacles, self._post = leak_check, obstacles, post
        self._warnings, self._alarms = warnings, alarms
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._looked_at: frozenset[str] = frozenset()  # the uplinks that the check for leaks was told of

    def follow(self, before: State, event: Event, state: State, decision: Decision, facts: Facts) -> None:
        """Begin what is worth looking at after this event, and end what is not."""
        if decision.target is Target.UNPROTECTED:
            self._warnings.pop("obstacle", None)
            self.cancel("obstacle")  # it waits for an attempt that will not come
        uplinks = frozenset(link.ifname for link in facts.uplinks)
        if state.phase is not Phase.CONNECTED:
            self.cancel("leak")
            self._looked_at = frozenset()
            if state.phase is Phase.IDLE:  # nothing is promised any more
                self._alarms.pop("leak", None)
                self._warnings.pop("leak check", None)
        else:
            self._leak_check.tunnel = state.tunnel.ifname if state.tunnel else TUNNEL_IFNAME
            if uplinks - self._looked_at:  # a new tunnel, or a new link beside it
                self.leaks(sorted(uplinks))
            self._looked_at = uplinks
        if state.phase is Phase.CONNECTED and before.phase is not Phase.CONNECTED:
            self._warnings.pop("obstacle", None)
            self.cancel("obstacle")
        if isinstance(event, TunnelDown) and event.cause is Cause.SERVER_UNREACHABLE and before.profile:
            self.obstacles(before.servers)

    def take(self, check: Checked, state: State) -> None:
        """What was found stays said until a later check finds nothing. One that could not look is no such check."""
        topic = self._alarms if check.topic == "leak" else self._warnings
        self._warnings.pop(f"{check.topic} check", None)
        if check.unable:
            self._warnings[f"{check.topic} check"] = f"It could not be checked whether all is well: {check.unable}"
        else:
            topic.pop(check.topic, None)
        if check.found:
            topic[check.topic] = " ".join(check.found)
            log.error("found", topic=check.topic, what=check.found)
        if "leak" in self._alarms and state.phase is Phase.CONNECTED:
            self.leaks(sorted(self._looked_at), LOOK_AGAIN_S)

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
