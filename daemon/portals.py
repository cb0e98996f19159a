"""Looks for captive portals and for networks without Internet (N11), where it matters and nowhere else.

Where a tunnel comes up quickly, nothing is sent. A look is worth it when an attempt has failed or takes long, when the
network itself announces a portal, and before people are asked about a network. What is found holds for as long as the
association, is looked at again at growing distances, and is withdrawn when a tunnel is up.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from daemon.host import Announced, HostError, Portals
from daemon.inbox import Found, Inboxed
from policies.decision import Decision
from policies.facts import Facts, Internet, Link, Reach
from policies.portals import probe
from policies.settings import Settings
from policies.settings_tables import WifiAction
from policies.states import Phase, Target

log = structlog.get_logger()

PATIENCE_S = 2.0  # for an attempt to connect, before anything is sent
LISTEN_S = 0.25  # how often it is heard meanwhile whether the network announces a portal
LOOK_S = 30.0  # the longest look
LOGIN_S = 2.0  # between looks while people log in: whoever has logged in wants to be connected
QUIET_S = 3600.0  # without Internet; then it is a network like any other
# Between looks, in seconds: at first, times so much each time, at most.
PAUSES: Mapping[Reach | None, tuple[float, float, float]] = {
    Reach.PORTAL: (2.0, 1.5, 30.0),
    Reach.NOTHING: (5.0, 1.5, 300.0),
    Reach.INTERNET: (60.0, 2.0, 1800.0),
    None: (10.0, 2.0, 300.0),
}
# Where the firewall has room for probes.
CLOSED = frozenset({Phase.HELD, Phase.CONNECTING, Phase.RECONNECTING, Phase.BLOCKED, Phase.PORTAL})


@dataclass(eq=False)
class _Search:
    """What is going on behind one link, for one association."""

    link: Link
    settings: Settings
    urgent: asyncio.Event = field(default_factory=asyncio.Event)  # an attempt has failed, or people are asked
    again: asyncio.Event = field(default_factory=asyncio.Event)  # look now instead of after the pause
    open: asyncio.Event = field(default_factory=asyncio.Event)  # the firewall lets probes pass
    disturbed: bool = False  # it did not during a look, for a moment at least
    logging_in: bool = False
    wants: bool = False  # that probes may pass
    task: asyncio.Task[None] | None = None


class PortalExplorer:
    """Implements `daemon.explore.Explorer`."""

    def __init__(self, portals: Portals, post: Callable[[Inboxed], None]) -> None:
        self._portals, self._post = portals, post
        self._searches: dict[str, _Search] = {}
        self._met: dict[str, tuple[int, int]] = {}  # associations by ifname

    def follow(self, facts: Facts, decision: Decision, phase: Phase, settings: Settings) -> None:
        links = {link.ifname: link for link in facts.uplinks}
        for ifname, link in links.items():
            if self._met.get(ifname) != link.association:
                self._portals.forget(link.ifindex)  # what it announced was another network's word
        self._met = {ifname: link.association for ifname, link in links.items()}
        wanted = _wanted(facts, decision, phase) if settings.portal.detect else frozenset()
        for ifname, search in tuple(self._searches.items()):
            now = links.get(ifname)
            same = now is not None and now.association == search.link.association
            if not same or ifname not in wanted or settings.portal != search.settings.portal:
                self._end(ifname)
        for ifname, link in links.items():
            if ifname in wanted and ifname not in self._searches:
                begun = self._searches[ifname] = _Search(link, settings)
                begun.task = asyncio.create_task(self._run(begun))
            going = self._searches.get(ifname)
            if going:
                _tell(going, link, facts, decision, phase)
            elif ifname in facts.internet:
                self._change(link, partial(_known, ifname=ifname, found=None))
            if ifname in facts.probing and not (going and going.wants):
                self._change(link, partial(_probing, ifname=ifname, on=False))

    async def abandon(self) -> None:
        tasks = [search.task for search in self._searches.values() if search.task]
        for ifname in tuple(self._searches):
            self._end(ifname)
        await asyncio.gather(*tasks, return_exceptions=True)
        self._portals.close()

    def _end(self, ifname: str) -> None:
        search = self._searches.pop(ifname)
        if search.task is not None:
            search.task.cancel()

    def _change(self, link: Link, change: Callable[[Facts], Facts]) -> None:
        self._post(Found(link.ifname, link.association, change))

    # --- a search ----------------------------------------------------------------------------------------------------

    async def _run(self, search: _Search) -> None:
        try:
            await self._wait_until_due(search)
            await self._look_again_and_again(search)
        except Exception:  # a defect of ours: nothing is found, and everything goes on as without us
            log.exception("portals", ifname=search.link.ifname)
            search.wants = False
            self._change(search.link, partial(_probing, ifname=search.link.ifname, on=False))

    async def _wait_until_due(self, search: _Search) -> None:
        until = _now() + PATIENCE_S
        while not search.urgent.is_set() and _now() < until and self._announced(search) is None:
            await _for(search.urgent, LISTEN_S)

    def _announced(self, search: _Search) -> Announced | None:
        return self._portals.announced(search.link.ifindex)

    async def _look_again_and_again(self, search: _Search) -> None:
        ifname, pause, nothing_since = search.link.ifname, 0.0, None
        before: Internet | Exception | None = LookupError()  # nothing yet, which is less than nothing known
        while True:
            search.again.clear()  # what comes during the look, such as the end of a login, wants another one
            found = await self._look(search)
            reach = found.reach if found else None
            first, factor, longest = PAUSES[reach]
            pause = min(longest, pause * factor) if found == before else first
            if found != before:
                log.info(
                    "behind the link",
                    ifname=ifname,
                    reach=reach,
                    source=found and found.source,
                    url=found and found.url,
                )
            before = found
            nothing_since = (nothing_since or _now()) if reach is Reach.NOTHING else None
            over = nothing_since is not None and _now() - nothing_since >= QUIET_S
            self._change(search.link, partial(_known, ifname=ifname, found=None if over else found))
            if over:
                log.info("still no Internet: no longer waiting for it", ifname=ifname)
                return
            await _for(search.again, min(pause, LOGIN_S) if search.logging_in else pause)

    async def _look(self, search: _Search) -> Internet | None:
        """One look, with the firewall open for it. None: nothing is known."""
        ifname = search.link.ifname
        search.wants = True
        search.open.clear()
        try:
            while True:
                self._change(search.link, partial(_probing, ifname=ifname, on=True))
                await search.open.wait()
                search.disturbed = False
                try:
                    async with asyncio.timeout(LOOK_S):
                        probes = [probe(text) for text in search.settings.portal.probes]
                        found = await self._portals.look(search.link, probes, self._announced(search))
                except TimeoutError:
                    found = None
                except HostError as err:
                    log.info("cannot look behind the link", ifname=ifname, why=str(err))
                    found = None
                if not search.disturbed:  # or it was our own firewall that nobody got past
                    return found
        finally:
            search.wants = False
            self._change(search.link, partial(_probing, ifname=ifname, on=False))


def _wanted(facts: Facts, decision: Decision, phase: Phase) -> frozenset[str]:
    """The links behind which a look may be worth it: those that can be used, and are not."""
    if decision.closed is not None:
        return frozenset()
    routed = {link.ifname for link in facts.uplinks if link.gateways}
    judged = {each.ifname: each.action for each in decision.judgements if each.action is not None}
    asked = {ifname for ifname, action in judged.items() if action is WifiAction.PROMPT}
    connects = decision.target is Target.PROTECTED and decision.routable and phase is not Phase.CONNECTED
    return frozenset(routed & (judged.keys() if connects else asked))


def _tell(search: _Search, link: Link, facts: Facts, decision: Decision, phase: Phase) -> None:
    ifname = link.ifname
    search.link = link
    asked = any(each.ifname == ifname and each.action is WifiAction.PROMPT for each in decision.judgements)
    network = facts.wifi.get(ifname)
    met = network is not None and network.connectivity is Reach.PORTAL  # whoever manages the card was there before us
    if asked or met or (phase in (Phase.BLOCKED, Phase.PORTAL) and not decision.choosing):
        search.urgent.set()
    logging_in = ifname in facts.login
    if logging_in != search.logging_in:  # whoever has logged in may have been quicker than we look
        search.again.set()
    search.logging_in = logging_in
    if (phase in CLOSED and ifname in decision.login) or (phase is Phase.IDLE and ifname in decision.usable):
        if ifname in facts.probing:
            search.open.set()
    else:
        search.open.clear()
        search.disturbed = True


def _known(facts: Facts, ifname: str, found: Internet | None) -> Facts:
    others = {name: each for name, each in facts.internet.items() if name != ifname}
    return replace(facts, internet={**others, ifname: found} if found else others)


def _probing(facts: Facts, ifname: str, on: bool) -> Facts:
    return replace(facts, probing=facts.probing | {ifname} if on else facts.probing - {ifname})


async def _for(event: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()
