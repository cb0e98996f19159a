"""Looks for evidence of an attacker on networks that cannot prove whose they are (N13).

Watched is a Wi-Fi network that is judged and not known. On a known one both sides have shown a secret and every saved
proof holds. While none other is joined, nothing is looked at and nothing wakes up. What is found counts for as long as
the association lasts: an attacker who rests is still there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from dataclasses import replace

import structlog

from daemon.host import HostError, LinkWatch, Lookout
from daemon.inbox import Found, Inboxed
from policies.classify import Verdict
from policies.decision import Decision
from policies.facts import Evidence, Facts, Link, LinkKind, WifiNetwork
from policies.hostile import Finding
from policies.settings import Settings
from policies.states import Phase

log = structlog.get_logger()

AGAIN_FIRST_S, AGAIN_LONGEST_S = 1.0, 60.0  # after a lookout has failed


class HostileExplorer:
    """An Explorer, see explore.py."""

    def __init__(self, lookouts: tuple[Lookout, ...], post: Callable[[Inboxed], None]) -> None:
        self._lookouts, self._post = lookouts, post
        self._watched: dict[str, list[_Watched]] = {}  # by ifname

    def follow(self, facts: Facts, decision: Decision, phase: Phase, settings: Settings) -> None:
        cards = {link.ifname: link for link in facts.links if link.kind is LinkKind.WIFI and link.up}
        judged = {each.ifname: each for each in decision.judgements}
        for ifname in self._watched.keys() - cards.keys():
            self._end(ifname)
        for ifname, link in cards.items():
            network, judgement = facts.wifi.get(ifname), judged.get(ifname)
            found = judgement.classification if judgement else None
            if facts.asleep or (found and found.verdict is Verdict.KNOWN):
                self._end(ifname)
                continue
            if not all(each.is_about(link, network) for each in self._watched.get(ifname, ())):
                self._end(ifname)
            if ifname not in self._watched:
                # Before a network is joined, and long before anybody knows its name: addresses are assigned at once.
                self._watched[ifname] = [_Watched(lookout, link, self._post) for lookout in self._lookouts]
            for each in self._watched[ifname]:
                each.follow(link, network)
                if judgement and found and judgement.action is not None:
                    each.begin()

    async def abandon(self) -> None:
        tasks = [each.task for watched in self._watched.values() for each in watched if each.task]
        for ifname in list(self._watched):
            self._end(ifname)
        await asyncio.gather(*tasks, return_exceptions=True)

    def _end(self, ifname: str) -> None:
        for each in self._watched.pop(ifname, ()):
            each.end()


class _Watched:
    """One lookout on one association of a link, the present or the next one. What comes waits until `begin`; a lookout
    that fails begins again.
    """

    def __init__(self, lookout: Lookout, link: Link, post: Callable[[Inboxed], None]) -> None:
        self._lookout, self._link, self._post = lookout, link, post
        self._network: WifiNetwork | None = None
        self._watch: LinkWatch | None = None
        self.task: asyncio.Task[None] | None = None
        with suppress(HostError):  # `_look` tries again, and says so
            self._watch = lookout.watch(link)

    def is_about(self, link: Link, network: WifiNetwork | None) -> bool:
        """At another access point routers and servers may be others and are met anew. Its source may be silent."""
        before = self._link
        joined = not before.carrier and link.carrier and link.carrier_changes == before.carrier_changes + 1
        if before.ifindex != link.ifindex or not (joined or before.association == link.association):
            return False
        former = self._network
        return former is None or network is None or (former.ssid, former.bssid) == (network.ssid, network.bssid)

    def follow(self, link: Link, network: WifiNetwork | None) -> None:
        self._link, self._network = link, network or self._network
        if self._watch is not None:
            self._watch.follow(self._link, self._network)

    def begin(self) -> None:
        if self.task is None:
            self.task = asyncio.create_task(self._look())

    def end(self) -> None:
        if self.task is not None:
            self.task.cancel()
        if self._watch is not None:  # also when the task has not begun yet
            self._watch.close()

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        delay = AGAIN_FIRST_S
        while True:
            since, why = loop.time(), "it has ended"
            try:
                if self._watch is None:
                    self._watch = self._lookout.watch(self._link)
                    self._watch.follow(self._link, self._network)
                async with aclosing(self._watch.found()) as found:
                    async for finding in found:
                        self._tell(finding)
            except HostError as err:
                why = str(err)
            finally:
                if self._watch is not None:
                    self._watch.close()
                    self._watch = None
            if loop.time() - since > AGAIN_LONGEST_S:
                delay = AGAIN_FIRST_S
            log.warning("evidence is not looked for", link=self._link.ifname, error=why, again_in_s=delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, AGAIN_LONGEST_S)

    def _tell(self, finding: Finding) -> None:
        ifname, evidence = self._link.ifname, finding.evidence
        log.warning("evidence of an attacker", link=ifname, evidence=evidence.value, what=finding.what)
        self._post(Found(ifname, self._link.association, lambda facts: _with(facts, ifname, evidence)))


def _with(facts: Facts, ifname: str, evidence: Evidence) -> Facts:
    return replace(facts, evidence={**facts.evidence, ifname: facts.evidence.get(ifname, frozenset()) | {evidence}})
