"""The straight line: event, facts, decision, step, actions, publish. The only task that changes the state."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from daemon import logs
from daemon.accounting import Accounting
from daemon.allowance import Allowances
from daemon.attempts import Attempts
from daemon.beacons import BeaconExplorer
from daemon.checks import Checks
from daemon.enforce import EnforceError, Enforcer
from daemon.explore import Explorer
from daemon.host import Host, HostError, QuotaSpent, Sleeping, Touch
from daemon.hostile import HostileExplorer
from daemon.inbox import (
    AgentsHint,
    Alive,
    Checked,
    Command,
    Found,
    Inboxed,
    LinksHint,
    Overdue,
    QuotaHint,
    ResolverHint,
    SleepHint,
    TamperHint,
    Unanswered,
    Untold,
    WifiHint,
    coalesced,
)
from daemon.login import Logins
from daemon.machine import START, step
from daemon.mtu import PathMtus
from daemon.portals import PortalExplorer
from daemon.prometheus import Exporter
from daemon.prompts import Prompts
from daemon.reading import Reading
from daemon.servers import Servers
from daemon.split import Splits
from daemon.store import Store, StoreError
from daemon.usage_store import UsageStore
from policies.classify import learned
from policies.counting import Way
from policies.decide import decide, intent_after
from policies.decision import ANYWHERE, Answer, Decision, Intent, Manual, Rule
from policies.facts import Facts, LinkKind, Tunnel, WifiSource
from policies.firewall import TUNNEL_IFNAME, at_boot, excluded, firewall, with_resolvers
from policies.known_network import KnownNetwork
from policies.profiles import Profile
from policies.profiles import facts as profile_facts
from policies.settings import Settings
from policies.silence import Silence
from policies.states import (
    Action,
    Cause,
    Changed,
    CloseTunnel,
    Enforce,
    Event,
    Failed,
    OpenTunnel,
    Phase,
    Reconnect,
    RestoreResolvers,
    RetryDue,
    ScheduleRetry,
    SetResolvers,
    State,
    Target,
    TunnelDown,
)

log = structlog.get_logger()

T = TypeVar("T")

NOTICE_S = 0.1  # within which the kernel's notice of a change is read, when its effect was seen first
LOOK_AGAIN_S = 60.0  # after a leak was found: whoever mends it should see the alarm end
AGAIN_S = 1.0  # when a watch has ended that never should


class Loop:
    """Everything that changes lives here and is changed by `run` alone. `on_change` hears after the kernel agreed."""

    def __init__(self, host: Host, store: Store, settings: Settings, on_change: Callable[[], None]) -> None:
        self.host, self.store = host, store
        self.settings = settings
        self.state: State = START
        self.intent: Intent = store.intent()
        self.facts = Facts(store_broken=store.trouble is not None)
        self.known: tuple[KnownNetwork, ...] = ()
        # made of the first two, which are then the same objects
        self._in_force: tuple[Settings, tuple[KnownNetwork, ...], Settings] = (settings, self.known, settings)
        self.profiles: Mapping[str, Profile] = {}
        self.enforcer = Enforcer(host.firewall, host.routes)
        self.warnings: dict[str, str] = {}  # by topic, so that a warning ends when its topic is well again
        self.alarms: dict[str, str] = {}  # the same, where packets may be leaving
        self._reading = Reading(host, self._later, self.warnings, settings.wifi.identify_timeout)
        self.opened_by_hand: str | None = None  # when panic-reset opened the machine, if it did before this start
        self._resolvers_set = True  # by an earlier daemon, for all we know
        self._resolvers_for: Tunnel | None = None  # what we set last, if that worked
        usage = UsageStore(store.folder / "traffic.db")
        self.accounting = Accounting(host.link_counters, usage, partial(self._say_of_traffic, "traffic"))
        self.allowances = Allowances(self, self.accounting)
        self.accounting.on_reading = self._counted
        self._silence = Silence()
        self._exporter = Exporter(self.accounting, partial(self._say_of_traffic, "prometheus"))
        self.enforcer.left = self.allowances.left
        if store.trouble:
            self.warn("trouble", store.trouble)
        self.servers = Servers(store, host.server_probe, self.command, self._find, self._warn_or_not)
        self.mtus = PathMtus(host.path_mtu, self.command, self._warn_or_not)
        self._inbox: asyncio.Queue[Inboxed] = asyncio.Queue()
        self.load_profiles()
        self.load_known()
        self.decision: Decision = decide(self.facts, self._settings_in_force(), self.intent)
        self._on_change = on_change
        self._attempts = Attempts(host.tunnel, self.post, lambda text: self.warn("tunnel", text))
        self.prompts = Prompts(lambda: self.post(AgentsHint()), self._expire)
        self._checks = Checks(host.leak_check, host.obstacles, self.post)
        self.logins = Logins(host.login_tree, self.command, self._find)
        self.splits = Splits(
            host.split_groups, store, self.command, self._find, self._warn_or_not, lambda: self.enforcer.enforced
        )
        self._explorers: tuple[Explorer, ...] = (
            BeaconExplorer(host.beacons, self.post),
            HostileExplorer(host.lookouts, self.post),
            PortalExplorer(host.portals, self.post),
            self.logins,
            self.splits,
            self.servers,
        )
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._watchers: list[asyncio.Task[None]] = []
        self._looked_at: frozenset[str] = frozenset()  # the uplinks that the check for leaks was told of
        self._tampered = 0  # how often others have changed our rules
        self.settled = asyncio.Event()  # the first decision has been acted on

    # --- in ----------------------------------------------------------------------------------------------------------

    def post(self, event: Inboxed) -> None:
        """Put something into the inbox; from this thread only."""
        self._inbox.put_nowait(event)

    async def command(self, run: Callable[[], Awaitable[Event]]) -> None:
        """Have `run` done by the owner of the state; returns when its effects are in the kernel and published."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.post(Command(run, done))
        await done

    def post_command(self, run: Callable[[], Awaitable[Event]]) -> None:
        """The same where nobody waits for the result."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_logged)
        self.post(Command(run, done))

    # --- the line ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Never returns by itself. Cancel it, then call `leave`."""
        self._watchers = [
            asyncio.create_task(self._hint(self.host.links.watch, lambda _: LinksHint())),
            asyncio.create_task(self._hint(self.host.wifi.watch, lambda _: WifiHint())),
            asyncio.create_task(self._hint(self.host.resolver.watch, lambda _: ResolverHint())),
            asyncio.create_task(self._hint(self.host.tamper.watch, _tamper_hint)),
            asyncio.create_task(self._hint(self.host.sleep.watch, _sleep_hint)),
        ]
        self.accounting.begin()
        await self._read_links()
        self.facts = await self._reading.first_wifi(self.facts)
        await self.splits.begin()
        if self.opened_by_hand is not None:
            self._stay_open(self.opened_by_hand)
        await self._handle(Changed())
        self.settled.set()
        while True:
            for event in coalesced(await self._batch()):
                await self._take(event)

    async def _batch(self) -> list[Inboxed]:
        batch = [await self._inbox.get()]
        while not self._inbox.empty():
            batch.append(self._inbox.get_nowait())
        return batch

    async def _take(self, event: Inboxed) -> None:
        match event:
            case LinksHint() | WifiHint():
                before, told = self.facts, dict(self.warnings)
                await (self._read_links() if isinstance(event, LinksHint) else self._read_wifi())
                if self.facts != before or self.warnings != told:
                    await self._handle(self._seen(before))
            case ResolverHint():
                if self._resolvers_set and not self.host.resolver.intact():
                    await self._handle(Changed())
            case Overdue(ifname, generation):
                waits = ifname not in self.facts.wifi or ifname in self._awaiting
                if self._reading.is_present(ifname, generation) and waits:
                    self.facts = replace(self.facts, overdue=self.facts.overdue | {ifname})
                    await self._handle(Changed())
            case AgentsHint():
                if self.facts.agents != self.prompts.agents:
                    self.facts = replace(self.facts, agents=self.prompts.agents)
                    await self._handle(Changed())
            case Unanswered(prompt):
                if network := self.prompts.expired(prompt):
                    self.settle(Answer(network, self.settings.wifi.prompt_fallback, Rule.FALLBACK))
                    await self._handle(Changed())
            case TamperHint(what, foreign):
                await self._put_back(what, foreign)
            case QuotaHint():
                if not self.allowances.used_up:
                    self.accounting.soon()
            case Untold(what, told):
                if told == self._tampered:
                    self._tell(what)
                    self._on_change()
            case SleepHint(asleep, ready):
                await self._slept(asleep)
                ready()
            case Found(ifname, association, change):
                link = self.facts.link(ifname)
                if link and link.is_uplink and link.association == association:
                    before, self.facts = self.facts, change(self.facts)
                    if self.facts != before:
                        await self._handle(Changed())
            case Checked():
                self._checked(event)
                await self._handle(Changed())  # which looks whether what is about to be published is true
            case Alive(tell):
                tell()
            case Command(run, done):
                await self._obey(run, done)
            case _:
                await self._handle(event)

    def _seen(self, before: Facts) -> Event:
        """Usually just a change. A tunnel link that has vanished, or an address of it, is a lost tunnel."""
        tunnel = self.state.tunnel
        if tunnel and (was := before.link(tunnel.ifname)):
            now = self.facts.link(tunnel.ifname)
            had = set(was.addresses) & set(tunnel.addresses)  # IPv6 may have been off from the beginning
            if now is None or had - set(now.addresses):
                return TunnelDown(self.state.attempt, Cause.TUNNEL_LOST)
        return Changed()

    async def _put_back(self, what: str, foreign: bool) -> None:
        """K4: most hints are about our own changes. Whatever is not as we left it is put back, and people are told.

        What somebody else certainly did is told also where our next policy has repaired it before we heard of it. A
        hint about ourselves that finds something amiss is ahead of the notice that says what was done: told once.
        """
        if self.enforcer.enforced is None or (not foreign and await self.enforcer.intact()):
            return
        if foreign:
            self._tell(what)
        else:
            asyncio.get_running_loop().call_later(NOTICE_S, self.post, Untold(what, self._tampered))
        await self._handle(Changed())

    def _tell(self, what: str) -> None:
        self._tampered += 1
        log.warning("tampered with", what=what, times=self._tampered)
        often = f" (so far {self._tampered} times)" if self._tampered > 1 else ""
        self.warn("tamper", f"Somebody else changed our rules: {what}. They were put back{often}.")

    async def _slept(self, asleep: bool) -> None:
        """Before sleep everything closes, for nobody knows where the machine wakes up. A tunnel is made anew then."""
        log.info("about to sleep" if asleep else "woken up")
        self.facts = replace(self.facts, asleep=asleep)
        if asleep:
            await self._handle(Changed())
            return
        self.facts = replace(self.facts, wifi={}, overdue=frozenset(), beacons={}, internet={}, evidence={})
        for link in self.facts.uplinks:
            if link.kind is LinkKind.WIFI:
                self._reading.expect(link.ifname)
        await self._read_links()
        await self._read_wifi()
        await self._handle(Reconnect() if self.state.phase is Phase.CONNECTED else Changed())

    def _checked(self, check: Checked) -> None:
        """What was found stays said until a later check finds nothing. One that could not look is no such check."""
        topic = self.alarms if check.topic == "leak" else self.warnings
        self.warnings.pop(f"{check.topic} check", None)
        if check.unable:
            self.warn(f"{check.topic} check", f"It could not be checked whether all is well: {check.unable}")
        else:
            topic.pop(check.topic, None)
        if check.found:
            topic[check.topic] = " ".join(check.found)
            log.error("found", topic=check.topic, what=check.found)
        if "leak" in self.alarms and self.state.phase is Phase.CONNECTED:
            self._checks.leaks(sorted(self._looked_at), LOOK_AGAIN_S)

    def _stay_open(self, when: str) -> None:
        """An administrator opened the machine with panic-reset while nobody was there to be told (K6)."""
        self.decide_anew()
        # Not only on this network: at a boot, none is there yet, and the next one would close the machine again.
        manual = Manual(Target.UNPROTECTED, ANYWHERE)
        self.keep(replace(self.intent, target=Target.UNPROTECTED, manual=manual, lockdown=False))
        self.warn("panic", f"This machine was opened by hand with panic-reset at {when}. Connect when you are ready.")
        log.warning("opened by hand", when=when)

    async def _obey(self, run: Callable[[], Awaitable[Event]], done: asyncio.Future[None]) -> None:
        """What `run` raises is the caller's. What comes after is ours: it ends us, and the rules stay in the kernel."""
        try:
            event = await run()
        except Exception as err:
            if not done.done():
                done.set_exception(err)
            return
        await self._handle(event)
        if not done.done():
            done.set_result(None)

    async def _handle(self, event: Event) -> None:
        """One event, whole: decide, step, act, publish."""
        decision = decide(self.facts, self._settings_in_force(), self.intent)
        facts = self.servers.prepared(self.facts, decision, self.profiles)
        if facts is not self.facts:
            self.facts = facts
            decision = decide(facts, self._settings_in_force(), self.intent)
        self.keep(intent_after(self.intent, decision))
        before = self.state
        self.state, actions = step(self.state, event, decision)
        self.decision = decision
        if logs.tracing():
            log.debug("handled", what=event, facts=self.facts, intent=self.intent, decision=decision, state=self.state)
        if self.state != before:
            log.info("state", phase=self.state.phase, cause=self.state.cause, after=type(event).__name__)
        await self._act(actions, recovering=isinstance(event, Failed))
        await self._act(self._repairs(), recovering=isinstance(event, Failed))  # of what was not set this moment
        self._look_behind(before, event)
        self._learn()
        if self._reading.moved and self.state.phase is Phase.CONNECTED and decision.routable:
            self._reading.moved = False
            self.host.tunnel.moved()
        self.mtus.follow(self.facts, self.decision, self.state, self.profiles)
        self._on_change()
        self.prompts.follow(self.decision, self.facts, self.enforcer.enforced, self.settings, self.known)
        for explorer in self._explorers:
            explorer.follow(self.facts, self.decision, self.state.phase, self.settings)
        self.accounting.follow(self.facts, self.state, self.enforcer.enforced)
        await self._keep_lockdown()

    def _look_behind(self, before: State, event: Event) -> None:
        """Truth first: a block that is wanted and not confirmed is an alarm. Then what only a probe can tell."""
        self.alarms.pop("blocking", None)
        if self.intent.manual is None or self.intent.manual.network != ANYWHERE:
            self.warnings.pop("panic", None)
        elif "panic" not in self.warnings:  # it was an earlier daemon that was told when
            self.warn("panic", "This machine was opened by hand with panic-reset. Connect when you are ready.")
        wanted = self.state.phase is not Phase.IDLE and firewall(self.state, self.decision).closed
        if wanted and not self.enforcer.blocking:
            why = self.warnings.get(Cause.FIREWALL_FAILED, "the kernel has not confirmed the rules")
            self.alarms["blocking"] = f"Traffic is NOT blocked, though it should be: {why}."
        self.splits.left_out(excluded(self.state, self.decision)[1])
        if self.decision.target is Target.UNPROTECTED:
            self.warnings.pop("obstacle", None)
            self._checks.cancel("obstacle")  # it waits for an attempt that will not come
        uplinks = frozenset(link.ifname for link in self.facts.uplinks)
        if self.state.phase is not Phase.CONNECTED:
            self._checks.cancel("leak")
            self._looked_at = frozenset()
            if self.state.phase is Phase.IDLE:  # nothing is promised any more
                self.alarms.pop("leak", None)
                self.warnings.pop("leak check", None)
        else:
            self.host.leak_check.tunnel = self.state.tunnel.ifname if self.state.tunnel else TUNNEL_IFNAME
            if uplinks - self._looked_at:  # a new tunnel, or a new link beside it
                self._checks.leaks(sorted(uplinks))
            self._looked_at = uplinks
        if self.state.phase is Phase.CONNECTED and before.phase is not Phase.CONNECTED:
            self.warnings.pop("obstacle", None)
            self._checks.cancel("obstacle")
        if isinstance(event, TunnelDown) and event.cause is Cause.SERVER_UNREACHABLE and before.profile:
            self._checks.obstacles(before.servers)

    async def _keep_lockdown(self) -> None:
        """What blocks from the next boot on. Its failure changes nothing now, and is said."""
        told = self.warnings.get("lockdown")
        try:
            await self.host.lockdown.keep(at_boot(self.decision))
            self.warnings.pop("lockdown", None)
        except HostError as err:
            self.warn("lockdown", f"The next boot may not be blocked from its beginning: {err}")
        if self.warnings.get("lockdown") != told:
            self._on_change()

    def keep(self, intent: Intent) -> None:
        """A choice is on the disk before it is acted on. A disk that refuses is told to people; memory still counts."""
        if intent == self.intent:
            return
        self.intent = intent
        try:
            self.store.save_intent(intent)
            self.warnings.pop("store", None)
        except StoreError as err:
            self.warn("store", f"The choice could not be saved and is lost at the next start: {err}")

    def settle(self, answer: Answer) -> None:
        """What a prompt came to. Post Changed afterwards."""
        others = tuple(each for each in self.intent.answers if each.network != answer.network)
        self.keep(replace(self.intent, answers=(*others, answer)))

    def _expire(self, ifname: str, delay_s: float, prompt: str) -> None:
        self._later(f"prompt {ifname}", delay_s, Unanswered(prompt))

    def decide_anew(self) -> None:
        """A user says what is wanted: that settles what a damaged store left open."""
        self.facts = replace(self.facts, store_broken=False)
        if not self.store.unkept:  # or it is still true that nothing is kept
            self.warnings.pop("trouble", None)
        try:
            self.store.decided()
        except StoreError as err:
            self.warn("store", f"The choice could not be saved and is lost at the next start: {err}")

    # --- out ---------------------------------------------------------------------------------------------------------

    async def _act(self, actions: tuple[Action, ...], recovering: bool) -> None:
        for action in actions:
            try:
                await self._do(action)
            except (EnforceError, HostError) as err:
                cause = err.cause if isinstance(err, EnforceError) else Cause.RESOLVER_FAILED
                self.warn(cause, str(err))
                log.error("action failed", action=type(action).__name__, error=str(err))
                if not recovering:
                    await self._handle(Failed(cause))
                    return
                # The recovery itself failed: go on with the rest of it, which ends in a retry.

    async def _do(self, action: Action) -> None:
        match action:
            case Enforce():
                if await self.enforcer.set(firewall(self.state, self.decision)):
                    self.warnings.pop(Cause.FIREWALL_FAILED, None)
                    self.warnings.pop(Cause.ROUTES_FAILED, None)
            case OpenTunnel(attempt, name, servers):
                self._reading.moved = False
                profile = self.servers.profile(self.profiles[name], servers)
                self._attempts.open(attempt, profile, self.settings.tunnel.connect_timeout)
            case CloseTunnel(attempt):
                self._attempts.close(attempt)
            case SetResolvers(tunnel):
                wanted = with_resolvers(tunnel, self.decision)
                if wanted.open_names:  # whoever brought the tunnel up has said who is asked
                    await self._restore_resolvers()
                    self._resolvers_for = wanted
                    return
                self._resolvers_set, self._resolvers_for = True, None
                await self.host.resolver.set(wanted)
                self._resolvers_for = wanted
                self.warnings.pop("tunnel", None)
                self.warnings.pop(Cause.RESOLVER_FAILED, None)
            case RestoreResolvers():
                self.warnings.pop("tunnel", None)
                self.warnings.pop(Cause.RESOLVER_FAILED, None)
                await self._restore_resolvers()
            case ScheduleRetry(attempt, failures):
                self._later("retry", self._delay(failures), RetryDue(attempt))

    def _repairs(self) -> tuple[Action, ...]:
        """What other programs have undone since. Seen whenever anything happens, such as the lease they wrote for."""
        tunnel = self.state.tunnel
        if tunnel is None:
            return ()
        wanted = with_resolvers(tunnel, self.decision)
        set_so = self._resolvers_for == wanted and (wanted.open_names or self.host.resolver.intact())
        return () if set_so else (SetResolvers(tunnel),)

    async def _restore_resolvers(self) -> None:
        """Broken name resolution is a nuisance, no leak: said, and no reason to block."""
        if not self._resolvers_set:
            return
        try:
            await self.host.resolver.restore()
            self._resolvers_set = False
            self.warnings.pop("resolver", None)
        except HostError as err:
            self.warn("resolver", f"Name resolution could not be given back: {err}")

    def _delay(self, failures: int) -> float:
        """Doubles with each failure up to the longest; up to a quarter less, so that many machines do not march."""
        tunnel = self.settings.tunnel
        delay = min(tunnel.retry_longest, tunnel.retry_first * 2.0 ** min(failures - 1, 16))
        return delay * random.uniform(0.75, 1.0)  # noqa: S311  no secret

    def _later(self, name: str, delay_s: float, event: Inboxed) -> None:
        former = self._timers.pop(name, None)
        if former is not None:
            former.cancel()
        self._timers[name] = asyncio.get_running_loop().call_later(delay_s, self.post, event)

    def warn(self, topic: str, text: str) -> None:
        """Tell people; the same topic again replaces the text."""
        self.warnings[topic] = text

    def _warn_or_not(self, topic: str, text: str | None) -> None:
        if text is None:
            self.warnings.pop(topic, None)
        else:
            self.warn(topic, text)

    def _counted(self) -> float:
        """After each reading of the counters; seconds until the next one. Says where nothing comes back (A4)."""
        wait = self.allowances.look()
        protected = self.state.phase is Phase.CONNECTED and self.enforcer.enforced is not None
        self._exporter.look(
            self.settings.traffic.prometheus, self.state.phase, protected, self.enforcer.blocking,
            self.allowances.state(),
        )  # fmt: skip
        if self.state.phase is not Phase.CONNECTED or self.allowances.used_up:
            self._silence.forget()
        else:
            self._silence.look(asyncio.get_running_loop().time(), self.accounting.moved[Way.TUNNEL])
            wait = min(wait, self._silence.wait)
            if self.mtus.look(asyncio.get_running_loop().time()):
                self.post(Changed())
        if self._silence.lasts is not ("silence" in self.warnings):
            self.warnings.pop("silence", None)
            if self._silence.lasts:
                self.warn("silence", "Connected, but nothing comes back: what goes into the tunnel is not answered.")
                log.warning("nothing comes back")
                self.mtus.again()  # perhaps it is only what is large
            self.post(Changed())
        return wait

    @property
    def detail(self) -> str | None:
        """What else is to be said of the state, in a word."""
        if self.state.phase is not Phase.CONNECTED:
            return None
        if self.allowances.used_up:
            return "allowance-used-up"
        return "nothing-comes-back" if self._silence.lasts else None

    def _say_of_traffic(self, topic: str, why: str | None) -> None:
        """Counting fails, or works again: people should know, and nothing else changes."""
        if self.warnings.get(topic) == why:
            return
        self.warnings.pop(topic, None)
        if why:
            log.warning(topic, problem=why)
            self.warn(topic, why)
        self.post(Changed())

    # --- facts -------------------------------------------------------------------------------------------------------

    async def _hint(self, watch: Callable[[], AsyncIterator[T]], hint: Callable[[T | None], Inboxed]) -> None:
        """A watch never ends; one that does all the same must not leave us blind. `hint` gets None then."""
        while True:
            try:
                async for what in watch():
                    self.post(hint(what))
                log.error("a watch has ended", watch=watch.__qualname__)
            except Exception:
                log.exception("a watch has failed", watch=watch.__qualname__)
            self.post(hint(None))
            await asyncio.sleep(AGAIN_S)

    def _find(self, change: Callable[[Facts], Facts]) -> None:
        self.facts = change(self.facts)

    async def _read_links(self) -> None:
        self.facts = await self._reading.links(self.facts)

    async def _read_wifi(self) -> None:
        self.facts = await self._reading.wifi(self.facts, self._awaiting)

    @property
    def _awaiting(self) -> frozenset[str]:
        """Links of which only a proof is missing."""
        judged = self.decision.judgements
        return frozenset(each.ifname for each in judged if each.classification and each.classification.awaits_proof)

    def _learn(self) -> None:
        """Access points of networks that learn; association alone proves nothing."""
        for each in self.decision.judgements:
            network, link = self.facts.wifi.get(each.ifname), self.facts.link(each.ifname)
            if network is None or link is None or each.classification is None:
                continue
            met = network.source is WifiSource.NL80211 or link.gateways
            if met and (more := learned(network, each.classification)):
                try:
                    self.store.save_known(more)
                except StoreError as err:
                    self.warn("known", f"An access point could not be learned: {err}")
                    continue
                self.known = tuple(more if known.key == more.key else known for known in self.known)

    # --- settings, profiles ------------------------------------------------------------------------------------------

    def _settings_in_force(self) -> Settings:
        """The administrator's settings with the networks that users saved; the administrator's come first.

        Made anew only when one of them has changed: the index of ten thousand names is kept with the list.
        """
        settings, known, in_force = self._in_force
        if settings is not self.settings or known is not self.known:
            fixed = {network.key for network in self.settings.known}
            added = tuple(network for network in self.known if network.key not in fixed)
            in_force = self.settings
            if added:
                in_force = self.settings.model_copy(update={"known": (*self.settings.known, *added)})
            self._in_force = (self.settings, self.known, in_force)
        return in_force

    def take_settings(self, settings: Settings) -> None:
        """Put other settings in force. Post Changed afterwards."""
        self.settings = settings
        self.host.links.rules = settings.links
        self.host.resolver.manager = settings.dns.manager
        self.host.leak_check.excluded = settings.split.subnets
        self._reading.identify_timeout = settings.wifi.identify_timeout

    def load_known(self) -> None:
        """Read the networks that users saved anew. Post Changed afterwards."""
        try:
            self.known = self.store.known()
            self.warnings.pop("known", None)
        except StoreError as err:
            self.warn("known", f"The saved networks cannot be read; those read before count: {err}")

    def load_profiles(self) -> None:
        """Read the profiles anew. Post Changed afterwards."""
        before, self.profiles = self.profiles, self.store.profiles()
        listed = self.store.listed()
        self.facts = replace(
            self.facts,
            profiles={name: replace(profile_facts(p), listed=name in listed) for name, p in self.profiles.items()},
            profiles_damaged=bool(self.store.damaged_profiles),
        )
        self.warnings.pop("profiles", None)
        if self.store.warnings:
            self.warn("profiles", " ".join(self.store.warnings))
        if any(profile.kind == "external" for profile in (*before.values(), *self.profiles.values())):
            self.post(LinksHint())  # which links are tunnels is read anew

    # --- the end -----------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Hand over to the next daemon: what is protected or locked stays closed; an open machine is left as it was."""
        for task in self._watchers:
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        for timer in self._timers.values():
            timer.cancel()
        await self._checks.abandon()
        for explorer in self._explorers:
            await explorer.abandon()
        await self._attempts.abandon()
        await self.mtus.abandon()
        await self.accounting.end()
        await self._exporter.end()
        policy = self.enforcer.enforced
        free = policy is not None and not policy.capture and not policy.only
        if free and not self.decision.lockdown and self.decision.closed is None:
            try:
                await self.enforcer.reset()
            except HostError as err:
                log.error("the machine could not be left open", error=str(err))
        self.store.close()


def _tamper_hint(touch: Touch | QuotaSpent | None) -> Inboxed:
    """A watch that has ended saw nothing: then it is a hint to look."""
    if isinstance(touch, QuotaSpent):
        return QuotaHint()
    return TamperHint(touch.what, touch.foreign) if touch else TamperHint("unseen")


def _sleep_hint(said: Sleeping | None) -> Inboxed:
    """A watch that has ended tells nothing: then it is a hint to look."""
    return SleepHint(said.asleep, said.ready) if said else LinksHint()


def _logged(ended: asyncio.Future[None]) -> None:
    """Nobody waits for this command, so the log tells what went wrong."""
    if not ended.cancelled() and (err := ended.exception()):
        log.error("command failed", error=repr(err), exc_info=err)
