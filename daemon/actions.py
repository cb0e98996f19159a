"""The actions of the machine, done: rules that the kernel follows, a tunnel that is tried, resolvers, a retry."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Protocol

from daemon.attempts import Attempts
from daemon.enforce import Enforcer
from daemon.host import Host, HostError
from daemon.inbox import Inboxed
from daemon.reading import Later, Reading
from daemon.servers import Servers
from policies.decision import Decision
from policies.facts import Tunnel
from policies.firewall import firewall, with_resolvers
from policies.profiles import Profile
from policies.settings import Settings
from policies.states import (
    Action,
    Cause,
    CloseTunnel,
    Enforce,
    OpenTunnel,
    RestoreResolvers,
    RetryDue,
    ScheduleRetry,
    SetResolvers,
    State,
)


class Loop(Protocol):
    """What of the loop is needed here."""

    settings: Settings
    profiles: Mapping[str, Profile]
    state: State
    decision: Decision
    warnings: dict[str, str]
    enforcer: Enforcer
    servers: Servers

    def warn(self, topic: str, text: str) -> None: ...
    def post(self, event: Inboxed) -> None: ...


class Actions:
    """Of one loop, which calls everything here in its turn. `later`: the loop's timers."""

    def __init__(self, loop: Loop, host: Host, reading: Reading, later: Later) -> None:
        self._loop, self._resolver, self._reading, self._later = loop, host.resolver, reading, later
        self._attempts = Attempts(host.tunnel, loop.post, lambda text: loop.warn("tunnel", text))
        self._resolvers_set = True  # by an earlier daemon, for all we know
        self._resolvers_for: Tunnel | None = None  # what we set last, if that worked

    @property
    def undone(self) -> bool:
        """Whether somebody else has changed the resolvers that we set."""
        return self._resolvers_set and not self._resolver.intact()

    async def abandon(self) -> None:
        """End the attempt that runs. What the actions have done stays."""
        await self._attempts.abandon()

    async def do(self, action: Action) -> None:
        """Raises EnforceError, HostError."""
        loop = self._loop
        match action:
            case Enforce():
                if await loop.enforcer.set(firewall(loop.state, loop.decision)):
                    loop.warnings.pop(Cause.FIREWALL_FAILED, None)
                    loop.warnings.pop(Cause.ROUTES_FAILED, None)
            case OpenTunnel(attempt, name, servers):
                self._reading.moved = False
                profile = loop.servers.profile(loop.profiles[name], servers)
                self._attempts.open(attempt, profile, loop.settings.tunnel.connect_timeout)
            case CloseTunnel(attempt):
                self._attempts.close(attempt)
            case SetResolvers(tunnel):
                wanted = with_resolvers(tunnel, loop.decision)
                if wanted.open_names:  # whoever brought the tunnel up has said who is asked
                    await self._restore_resolvers()
                    self._resolvers_for = wanted
                    return
                self._resolvers_set, self._resolvers_for = True, None
                await self._resolver.set(wanted)
                self._resolvers_for = wanted
                loop.warnings.pop("tunnel", None)
                loop.warnings.pop(Cause.RESOLVER_FAILED, None)
            case RestoreResolvers():
                loop.warnings.pop("tunnel", None)
                loop.warnings.pop(Cause.RESOLVER_FAILED, None)
                await self._restore_resolvers()
            case ScheduleRetry(attempt, failures):
                self._later("retry", self._delay(failures), RetryDue(attempt))

    def repairs(self) -> tuple[Action, ...]:
        """What other programs have undone since. Seen whenever anything happens, such as the lease they wrote for."""
        tunnel = self._loop.state.tunnel
        if tunnel is None:
            return ()
        wanted = with_resolvers(tunnel, self._loop.decision)
        set_so = self._resolvers_for == wanted and (wanted.open_names or self._resolver.intact())
        return () if set_so else (SetResolvers(tunnel),)

    async def _restore_resolvers(self) -> None:
        """Broken name resolution is a nuisance, no leak: said, and no reason to block."""
        if not self._resolvers_set:
            return
        try:
            await self._resolver.restore()
            self._resolvers_set = False
            self._loop.warnings.pop("resolver", None)
        except HostError as err:
            self._loop.warn("resolver", f"Name resolution could not be given back: {err}")

    def _delay(self, failures: int) -> float:
        """Doubles with each failure up to the longest; up to a quarter less, so that many machines do not march."""
        tunnel = self._loop.settings.tunnel
        delay = min(tunnel.retry_longest, tunnel.retry_first * 2.0 ** min(failures - 1, 16))
        return delay * random.uniform(0.75, 1.0)  # noqa: S311  no secret
