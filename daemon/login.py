"""Logging in to a captive portal: one process tree may reach it, everything else stays blocked.

A login begins when somebody asks for it, while a portal is in the way, and lasts as long as he listens to what becomes
of it; it ends by itself when the portal is open, when its time is over, or when another network is joined. The firewall
opens after the tree stands, and closes before it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace

import structlog

from daemon.host import HostError, LoginTree
from ipc.errors import Error, ServiceError
from ipc.structs import LoginState
from policies.decision import Decision
from policies.facts import Facts, Link, Reach
from policies.settings import Settings
from policies.states import Changed, Event, Phase

log = structlog.get_logger()

WHAT = "PortalLogin"
CLOSE_S = 5.0  # for the firewall: it never took a hundredth of that
PATIENCE_S = 5.0  # for the tree to end by itself, when it can reach nothing any more

Change = Callable[[Facts], Facts]


class Logins:
    """Implements `daemon.explore.Explorer`, for it follows what becomes of the network. One login at a time."""

    def __init__(
        self,
        tree: LoginTree,
        command: Callable[[Callable[[], Awaitable[Event]]], Awaitable[None]],
        change: Callable[[Change], None],
    ) -> None:
        """`command`: have something done by the owner of the state; `change`: its facts, from within that."""
        self._tree, self._command, self._change = tree, command, change
        self._facts, self._phase, self._settings = Facts(), Phase.IDLE, Settings()
        self._became: asyncio.Future[str] | None = None  # of the login that there is
        self._opened: frozenset[str] = frozenset()  # the links of it, once they are open
        self._ending: asyncio.Task[None] | None = None
        self._tidied: asyncio.Task[None] | None = None

    # --- what becomes of the network ---------------------------------------------------------------------------------

    def follow(self, facts: Facts, decision: Decision, phase: Phase, settings: Settings) -> None:
        """The portal may be open now, or another network joined."""
        self._facts, self._phase, self._settings = facts, phase, settings
        if self._tidied is None:  # what an earlier daemon left may pass no more, since the first decision is enforced
            self._tidied = asyncio.create_task(self._tree.tidy())
        if self._became is None or self._became.done() or not self._opened:
            return
        found = (facts.internet.get(ifname) for ifname in self._opened)
        if phase is Phase.CONNECTED or any(each and each.reach is Reach.INTERNET for each in found):
            self._became.set_result("done")
        elif phase is Phase.IDLE or not decision.tree:
            self._became.set_result("withdrawn")
        # In any other phase the firewall is closed to the tree, until it is known again that a portal is in the way.

    async def abandon(self) -> None:
        """End what there is; the firewall stands, but no process bears the mark any more."""
        if self._tidied is not None:
            self._tidied.cancel()
        if self._became is not None:
            await self._finish(self._became)
        await self._tree.end()

    # --- a login -----------------------------------------------------------------------------------------------------

    async def log_in(self, process: int | None, uid: int) -> AsyncGenerator[LoginState, None]:
        """`begun` when the process and what it starts can reach the portal; then, once, what became of it.

        It lasts for as long as this is read. `process`: the caller's pidfd. Raises ServiceError.
        """
        if process is None:
            raise _not_now("your process cannot be told from others here.", "Ask over the socket tunwarden.sock.")
        if self._became is not None:
            raise _not_now("somebody logs in already.", "Wait until that has ended.")
        links = self._portals()
        became = self._became = asyncio.get_running_loop().create_future()
        until = self._settings.portal.login_timeout
        try:
            if self._tidied is not None:
                await asyncio.shield(self._tidied)
            try:
                port = await self._tree.begin(process, links)
            except HostError as err:
                raise _not_now(f"{err}.", "Nothing was opened. `tunwarden doctor` may know more.") from err
            await self._command(lambda: self._open(links, port))
            log.info("a login begins", uid=uid, links=[link.ifname for link in links])
            shown = LoginState("begun", self._url(links), int(time.time() + until))
            yield shown
            await asyncio.wait({became}, timeout=until)
            if not became.done():
                became.set_result("expired")
            state = became.result()
            await self._close()
            yield replace(shown, state=state)
            await asyncio.shield(self._finish(became, PATIENCE_S))
            await asyncio.Event().wait()  # until whoever listens hangs up
        finally:
            if became is self._became:
                await asyncio.shield(self._finish(became))

    def _portals(self) -> list[Link]:
        """The links that a portal keeps from the Internet. Raises ServiceError."""
        if self._phase is not Phase.PORTAL:
            raise _not_now(
                "no captive portal is in the way now.",
                "`tunwarden status` says what is; a network that wants a login is noticed by itself.",
            )
        found = self._facts.internet
        return [
            link for link in self._facts.uplinks if link.ifname in found and found[link.ifname].reach is Reach.PORTAL
        ]

    def _url(self, links: list[Link]) -> str:
        """Where nobody said, what is asked to find portals: over http, so that one answers in its place."""
        told = (self._facts.internet[link.ifname].url for link in links if link.ifname in self._facts.internet)
        return next((url for url in told if url), self._settings.portal.probes[0].partition("#")[0])

    async def _open(self, links: list[Link], port: int) -> Event:
        """Done by the owner of the state, so what was seen before may be over."""
        self._portals()
        names = self._opened = frozenset(link.ifname for link in links)
        self._change(lambda facts: replace(facts, login=names, login_dns=port))
        return Changed()

    async def _shut(self) -> Event:
        self._change(lambda facts: replace(facts, login=frozenset(), login_dns=0))
        return Changed()

    async def _close(self) -> None:
        """The firewall, first of all."""
        if self._opened:
            self._opened = frozenset()
            with contextlib.suppress(TimeoutError):  # or the tree ends all the same, and with it whoever bears the mark
                await asyncio.wait_for(self._command(self._shut), CLOSE_S)

    def _finish(self, became: asyncio.Future[str], patience: float = 0.0) -> asyncio.Task[None]:
        """End all of this login, once: in a task of its own, for whoever reads may be cancelled at any moment."""
        if self._ending is None:
            self._ending = asyncio.get_running_loop().create_task(self._end(became, patience))
        return self._ending

    async def _end(self, became: asyncio.Future[str], patience: float) -> None:
        try:
            await self._close()
            await self._tree.end(patience)
        finally:
            self._became = self._ending = None
            log.info("a login has ended", became=became.result() if became.done() else "given up")


def _not_now(why: str, remedy: str) -> ServiceError:
    return ServiceError(Error.NOT_NOW, WHAT, why, remedy)
