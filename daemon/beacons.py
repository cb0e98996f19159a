"""Asks beacons for their proof: the TLS servers pinned in [[known]], over the link whose verdict waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import structlog

from daemon.host import Beacons, HostError
from daemon.inbox import Found, Inboxed
from policies.decision import Decision
from policies.facts import Endpoint, Facts
from policies.settings import Settings
from policies.settings_values import endpoint_text
from policies.states import Phase

log = structlog.get_logger()

# After a silence it is asked again: it may be slow, or not be there yet. The pauses double.
AGAIN_S, LONGEST_S = 0.5, 60.0

_Asked = tuple[str, tuple[int, int], Endpoint]  # the link, its association, the beacon


class BeaconExplorer:
    """Implements `daemon.explore.Explorer`. Whatever it finds holds as long as the association."""

    def __init__(self, beacons: Beacons, post: Callable[[Inboxed], None]) -> None:
        self._beacons, self._post = beacons, post
        self._asking: dict[_Asked, asyncio.Task[None]] = {}

    def follow(self, facts: Facts, decision: Decision, phase: Phase, settings: Settings) -> None:
        links = {link.ifname: link.association for link in facts.uplinks}
        wanted = {(ifname, links[ifname], beacon) for ifname, beacon in decision.beacons if ifname in links}
        for asked in self._asking.keys() - wanted:
            self._asking.pop(asked).cancel()
        for asked in wanted - self._asking.keys():
            self._asking[asked] = asyncio.create_task(self._ask(*asked))

    async def abandon(self) -> None:
        asking = tuple(self._asking.values())
        self._asking.clear()
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    async def _ask(self, ifname: str, association: tuple[int, int], beacon: Endpoint) -> None:
        pause = AGAIN_S
        while True:
            shown = b""
            try:
                shown = await self._beacons.fingerprint(ifname, beacon)
                log.info("beacon", ifname=ifname, beacon=endpoint_text(beacon), sha256=shown.hex())
            except HostError as err:
                log.info("beacon silent", ifname=ifname, beacon=endpoint_text(beacon), why=str(err), again_in_s=pause)
            except Exception:
                log.exception("beacon", ifname=ifname)  # a defect of ours: it proves nothing, and is silent
            self._post(Found(ifname, association, partial(told, ifname=ifname, beacon=beacon, shown=shown)))
            if shown:
                return
            await asyncio.sleep(pause)
            pause = min(LONGEST_S, pause * 2)


def told(facts: Facts, ifname: str, beacon: Endpoint, shown: bytes) -> Facts:
    """With what a beacon has shown; empty: it is silent."""
    others = tuple(each for each in facts.beacons.get(ifname, ()) if each[0] != beacon)
    return replace(facts, beacons={**facts.beacons, ifname: (*others, (beacon, shown))})
