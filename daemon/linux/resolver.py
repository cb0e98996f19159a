"""Name resolution: told to whoever manages it on this machine, as policies/resolvers.py chooses.

Chosen anew at each `set`, for services come and go: one that has gone is passed over, and told again when it is back.
What each adapter changed it has on record, so `restore` gives back everything, whoever was told by which daemon.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import structlog

from daemon.host import HostError
from daemon.linux import resolver_facts, resolver_networkmanager, resolver_resolved
from daemon.linux.resolver_file import ResolvConf
from daemon.linux.resolver_networkmanager import NetworkManagerDns
from daemon.linux.resolver_resolvconf import ResolvconfProgram
from daemon.linux.resolver_resolved import Resolved
from daemon.linux.resolver_watch import FileWatch
from daemon.linux.system_bus import SystemBus
from policies.facts import Tunnel
from policies.resolvers import Choice, Manager, choose

QUIET_S = 0.5  # between two hints: whoever fights us over a file is answered, not outpaced
RUN, STATE = Path("/run/tunwarden"), Path("/var/lib/tunwarden")

log = structlog.get_logger()


class _Teller(Protocol):
    async def set(self, tunnel: Tunnel) -> None: ...

    def intact(self) -> bool: ...

    def used(self) -> bool: ...

    async def restore(self) -> None: ...


class LinuxResolver:
    """The `Resolver` of daemon/host.py. `manager`: the administrator's word on who is told."""

    def __init__(self, manager: Manager = Manager.AUTO, run: Path = RUN, state: Path = STATE) -> None:
        self.manager = manager
        self._bus = SystemBus(
            (*resolver_resolved.MATCHES, *resolver_networkmanager.MATCHES),
            resolver_resolved.TELLING | resolver_networkmanager.TELLING,
        )
        self._file = ResolvConf(saved=state / "resolv.conf.saved")
        self._tellers: dict[Manager, _Teller] = {
            Manager.RESOLVED: Resolved(self._bus, run / "resolved.json"),
            Manager.RESOLVCONF: ResolvconfProgram(run / "resolvconf"),
            Manager.NETWORKMANAGER: NetworkManagerDns(self._bus, state / "networkmanager-dns.json"),
            Manager.FILE: self._file,
        }
        self._confirmed: int | None = None  # the hints there were before the last `set` that worked
        self._choice: Choice | None = None  # whom `set` told last
        self._asked = manager  # the administrator's word then

    async def set(self, tunnel: Tunnel) -> None:
        """Use the tunnel's resolvers. Twice is harmless. Raises HostError."""
        self._confirmed, hints = None, self._bus.hints
        choice = choose(await resolver_facts.read(self._bus, self._file), self.manager)
        try:
            for manager in choice.managers:
                await self._tellers[manager].set(tunnel)
        except HostError as err:
            if self.manager is not Manager.AUTO or manager is not Manager.NETWORKMANAGER:
                raise
            # It refuses where its own configuration has global resolvers. Then its file is put right behind its back.
            choice = Choice((*choice.managers[:-1], Manager.FILE), (*choice.trail, f"it refused ({err.why})"))
            await self._file.set(tunnel)
        if choice != self._choice:
            log.info("names are resolved through", managers=list(choice.managers), because=choice.trail)
        self._choice, self._asked = choice, self.manager
        for manager, teller in self._tellers.items():
            if manager not in choice.managers and teller.used():
                try:
                    await teller.restore()
                except HostError as err:  # who is no longer asked can wait; `restore` comes back to it
                    log.warning("somebody still has our resolvers", manager=manager, error=str(err))
        self._confirmed = hints

    def intact(self) -> bool:
        """Whether all who were told still say so, and nothing was heard since that could change who is to be told."""
        choice = self._choice
        if choice is None or self._asked is not self.manager or self._confirmed != self._bus.hints:
            return False
        return all(self._tellers[manager].intact() for manager in choice.managers)

    async def restore(self) -> None:
        """Give everything back, also what an earlier daemon left. Idempotent. Raises HostError when all were tried."""
        self._choice, failures = None, []
        for teller in self._tellers.values():
            if teller.used():
                try:
                    await teller.restore()
                except HostError as err:
                    failures.append(err)
        if failures:
            raise failures[0]

    async def watch(self) -> AsyncIterator[None]:
        """Yields whenever somebody may have changed how names are resolved, twice a second at most. Never ends."""
        files = FileWatch(self._bus.hint)
        try:
            async with contextlib.aclosing(self._bus.watch()) as hints:
                async for _ in hints:
                    files.look_again()
                    yield
                    await asyncio.sleep(QUIET_S)
        finally:
            files.close()
