"""Which server of a profile's list is used: lists are read when a choice is made, and the fastest is found by asking.

`prepared` runs before each decision and is quick unless the choice has changed. Asking runs in the background, while
the decision says that it may (`choosing`): one batch after another, each through a hole in the firewall of its own
size. What was measured holds for a while; the order that came of it, until somebody chooses anew.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import structlog

from daemon.host import HostError, ServerProbe
from daemon.store import Store, StoreError
from policies.decision import Decision
from policies.facts import Endpoint, Facts, Picked
from policies.profiles import Profile, only
from policies.servers import (
    How,
    Measured,
    Server,
    ServerList,
    batches,
    by_speed,
    endpoints_of,
    meant,
    parse_choice,
    peer_of,
    why_no_list,
    with_server,
)
from policies.settings import Settings
from policies.states import Changed, Event, Phase
from policies.wireguard import WireGuardProfile

log = structlog.get_logger()

BATCH = 20  # servers that are asked at once
FINALISTS, ROUNDS = 5, 3  # the fastest of the first round are asked more often: one answer alone says little
LONGEST_S = 20.0  # for all of it: everything is blocked meanwhile
FRESH_S = 600.0  # what was measured less long ago is not asked again
PROFILES_MEASURED = 8  # whose measurements are kept

Change = Callable[[Facts], Facts]
Key = tuple[str, str]  # a profile and a choice


class Servers:
    """Implements `daemon.explore.Explorer`, for asking ends when the network does. No lock: the loop owns it."""

    def __init__(
        self,
        store: Store,
        probe: ServerProbe,
        command: Callable[[Callable[[], Awaitable[Event]]], Awaitable[None]],
        change: Callable[[Change], None],
        warn: Callable[[str, str | None], None],
    ) -> None:
        """`command`, `change`: as for Logins. `warn`: tell people of a topic; None ends it."""
        self._store, self._probe, self._command, self._change, self._warn = store, probe, command, change, warn
        self._measured: dict[str, dict[str, Measured]] = {}  # by profile, then by server; the latest profile last
        self._chosen: tuple[Server, ...] = ()  # those that `Facts.picked` names, with their keys
        self._profiles: Mapping[str, Profile] = {}
        self._asking: tuple[Key, tuple[Server, ...], asyncio.Task[None]] | None = None
        self._tidied: asyncio.Task[None] | None = None

    # --- before a decision -------------------------------------------------------------------------------------------

    def prepared(self, facts: Facts, decision: Decision, profiles: Mapping[str, Profile]) -> Facts:
        """The same facts, or with the servers that the decision asks for."""
        self._profiles = profiles
        profile, picked = decision.profile, facts.picked
        if profile is None or decision.choice is None:
            return facts
        if picked is not None and (picked.profile, picked.choice) == (profile.name, decision.choice):
            return facts
        return replace(facts, picked=self._pick(profile.name, decision.choice))

    def _pick(self, profile: str, text: str) -> Picked:
        choice = parse_choice(text)
        try:
            servers = meant(self._store.servers(profile), choice)
            self._warn("servers", None)
        except StoreError as err:
            servers = ()
            self._warn("servers", f"The servers of the profile {profile} cannot be read: {err}")
        if why_no_list(self._profiles.get(profile)):
            servers = ()
        if choice.how is How.RANDOM:
            servers = tuple(random.SystemRandom().sample(servers, len(servers)))
        unmeasured = choice.how is How.FASTEST and not self._is_fresh(profile, servers)
        self._chosen = servers
        if unmeasured:
            return _picked(profile, text, servers, tuple((each.endpoints[0], each.name) for each in servers), True)
        if choice.how is How.FASTEST:
            servers = by_speed(servers, self._measured.get(profile, {}))
        return _picked(profile, text, servers, endpoints_of(servers), False)

    def _is_fresh(self, profile: str, servers: Iterable[Server]) -> bool:
        known, now = self._measured.get(profile, {}), time.time()
        return all(each.name in known and 0 <= now - known[each.name].at < FRESH_S for each in servers)

    # --- for an attempt, and for people ------------------------------------------------------------------------------

    def profile(self, base: Profile, servers: tuple[Endpoint, ...]) -> Profile:
        """The profile for an attempt at these endpoints. Raises HostError where the list does not have them."""
        if base.name not in self._store.listed():
            return only(base, servers)
        server = next((each for each in self._chosen if servers and servers[0] in each.endpoints), None)
        if server is None or not isinstance(base, WireGuardProfile):
            raise HostError("choose a server", f"the list of {base.name} has none there")
        return with_server(base, server, servers[0])

    def measured(self, profile: str) -> Mapping[str, Measured]:
        """By the server's name, what is known of them."""
        return self._measured.get(profile, {})

    def changed(self, profile: str, servers: ServerList, in_use: Sequence[Endpoint]) -> bool:
        """The list is another one. Returns whether the server in use is, beside its name and place."""
        self._measured.pop(profile, None)
        used = [each for each in self._chosen if any(endpoint in each.endpoints for endpoint in in_use)]
        return any(servers.find(each.name) != each for each in used)

    # --- asking ------------------------------------------------------------------------------------------------------

    def follow(self, facts: Facts, decision: Decision, phase: Phase, settings: Settings) -> None:
        if self._tidied is None:
            self._tidied = asyncio.create_task(self._tidy())
        picked = facts.picked
        wanted = decision.choosing and phase is Phase.BLOCKED and picked is not None
        key = (picked.profile, picked.choice) if wanted and picked else None
        if self._asking is not None:
            asked, servers, task = self._asking
            if task.done() or asked != key or servers != self._chosen:  # the list may be another one by now
                task.cancel()
                self._asking = None
        if key is not None and self._asking is None:
            self._asking = (key, self._chosen, asyncio.create_task(self._ask(*key, self._chosen)))

    async def abandon(self) -> None:
        tasks = [task for task in (self._tidied, self._asking and self._asking[2]) if task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _tidy(self) -> None:
        try:
            await self._probe.tidy()
        except HostError as err:
            log.warning("what a former measurement left cannot be removed", why=str(err))

    async def _ask(self, profile: str, choice: str, servers: tuple[Server, ...]) -> None:
        """Measure them all, then put them in order. Whatever goes wrong, there is an order in the end."""
        if self._tidied is not None:
            await asyncio.shield(self._tidied)
        found: dict[str, Measured] = {}
        try:
            base = self._profiles[profile]
            assert isinstance(base, WireGuardProfile)
            known, now = self._measured.get(profile, {}), time.time()
            found = {name: each for name, each in known.items() if 0 <= now - each.at < FRESH_S}
            stale = [each for each in servers if each.name not in found]
            async with asyncio.timeout(LONGEST_S):
                for batch in batches(stale, BATCH):
                    await self._measure(base, (profile, choice), batch, 1, found)
                silent = [each for each in stale if not found[each.name].answered]
                for batch in batches(silent, BATCH):  # a packet may get lost
                    await self._measure(base, (profile, choice), batch, 1, found)
                best = [each for each in by_speed(stale, found)[:FINALISTS] if found[each.name].answered]
                for batch in batches(best, BATCH):
                    await self._measure(base, (profile, choice), batch, ROUNDS, found)
        except TimeoutError:
            log.warning("not all servers could be measured in time", profile=profile, seconds=LONGEST_S)
        except HostError as err:
            log.warning("servers cannot be measured", profile=profile, why=str(err))
        except Exception:  # a defect of ours must not leave the machine blocked for ever
            log.exception("servers", profile=profile)
        answered = sum(each.answered > 0 for each in found.values())
        log.info("measured", profile=profile, servers=len(servers), answered=answered)
        if answered:  # else it says more of the network than of them
            self._remember(profile, servers, found)
        order = by_speed(servers, found)
        await self._put((profile, choice), lambda _: _picked(profile, choice, order, endpoints_of(order), False))

    async def _measure(
        self, base: WireGuardProfile, key: Key, servers: Sequence[Server], rounds: int, found: dict[str, Measured]
    ) -> None:
        """One batch, with the firewall open for it alone. Raises HostError."""
        peers = [peer_of(base, each, each.endpoints[0]) for each in servers]
        batch = tuple(each.endpoints[0] for each in servers)
        # Returns when the kernel has agreed. Where asking is over by then, `follow` has cancelled us.
        await self._put(key, lambda picked: replace(picked, probing=batch))
        answers = await self._probe.measure(base, peers, rounds)
        for server in servers:
            times, before = answers.get(server.public_key, ()), found.get(server.name)
            quickest = [*times, *([before.latency] if before and before.latency is not None else ())]
            found[server.name] = Measured(
                latency=min(quickest, default=None),
                sent=rounds + (before.sent if before else 0),
                answered=len(times) + (before.answered if before else 0),
                at=time.time(),
            )

    def _remember(self, profile: str, servers: Iterable[Server], found: Mapping[str, Measured]) -> None:
        """Those that were not asked count as silent, or the same question would come up again at once."""
        silent = dict.fromkeys((each.name for each in servers), Measured(None, 0, 0, time.time()))
        self._measured[profile] = {**self._measured.pop(profile, {}), **silent, **found}
        while len(self._measured) > PROFILES_MEASURED:
            del self._measured[next(iter(self._measured))]

    async def _put(self, key: Key, change: Callable[[Picked], Picked]) -> None:
        """Have the loop change what was picked, unless something else has been by now."""

        def changed(facts: Facts) -> Facts:
            picked = facts.picked
            same = picked is not None and (picked.profile, picked.choice) == key
            return replace(facts, picked=change(picked)) if picked and same else facts

        async def run() -> Event:
            self._change(changed)
            return Changed()

        await self._command(run)


def _picked(
    profile: str, choice: str, servers: Iterable[Server], endpoints: Sequence[tuple[Endpoint, str]], unmeasured: bool
) -> Picked:
    tried = {name for _, name in endpoints}
    return Picked(
        profile,
        choice,
        endpoints=tuple(endpoint for endpoint, _ in endpoints),
        names=tuple(name for _, name in endpoints),
        addresses=tuple(dict.fromkeys(one for each in servers if each.name in tried for one in each.addresses)),
        unmeasured=unmeasured,
    )
