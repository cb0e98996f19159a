"""The straight line: event, facts, decision, step, actions, publish. The only task that changes the state."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from functools import partial

import structlog

from daemon import logs
from daemon.accounting import Accounting
from daemon.actions import Actions
from daemon.allowance import Allowances
from daemon.beacons import BeaconExplorer
from daemon.checks import Checks
from daemon.choices import Choices
from daemon.configuration import Configuration
from daemon.enforce import EnforceError, Enforcer
from daemon.explore import Explorer
from daemon.host import Host, HostError
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
from daemon.store import Store
from daemon.tampering import Tampering
from daemon.traffic_watch import TrafficWatch
from daemon.usage_store import UsageStore
from daemon.watchers import Watchers
from policies.decide import decide, intent_after
from policies.decision import ANYWHERE, Answer, Decision, Intent, Rule
from policies.facts import Facts, LinkKind
from policies.firewall import at_boot, excluded, firewall
from policies.known_network import KnownNetwork
from policies.profiles import Profile
from policies.settings import Settings
from policies.states import Action, Cause, Changed, Event, Failed, Phase, Reconnect, State, TunnelDown

log = structlog.get_logger()


class Loop:
    """Everything that changes lives here and is changed by `run` alone, or by the parts that it calls in its turn.

    `on_change` hears after the kernel agreed.
    """

    def __init__(self, host: Host, store: Store, settings: Settings, on_change: Callable[[], None]) -> None:
        self.host, self.store = host, store
        self.settings = settings
        self.state: State = START
        self.intent: Intent = store.intent()
        self.facts = Facts(store_broken=store.trouble is not None)
        self.known: tuple[KnownNetwork, ...] = ()
        self.profiles: Mapping[str, Profile] = {}
        self.enforcer = Enforcer(host.firewall, host.routes)
        self.choices = Choices(self)
        self.warnings: dict[str, str] = {}  # by topic, so that a warning ends when its topic is well again
        self.alarms: dict[str, str] = {}  # the same, where packets may be leaving
        self._reading = Reading(host, self._later, self.warnings, settings.wifi.identify_timeout)
        self.opened_by_hand: str | None = None  # when panic-reset opened the machine, if it did before this start
        usage = UsageStore(store.folder / "traffic.db")
        self.accounting = Accounting(host.link_counters, usage, partial(self._say_of_traffic, "traffic"))
        self.allowances = Allowances(self, self.accounting)
        self.enforcer.left = self.allowances.left
        if store.trouble:
            self.warn("trouble", store.trouble)
        self.servers = Servers(store, host.server_probe, self.command, self._find, self._warn_or_not)
        self.mtus = PathMtus(host.path_mtu, self.command, self._warn_or_not)
        exporter = Exporter(self.accounting, partial(self._say_of_traffic, "prometheus"))
        self.traffic = TrafficWatch(self, self.accounting, self.allowances, self.mtus, exporter)
        self.accounting.on_reading = self.traffic.look
        self._inbox: asyncio.Queue[Inboxed] = asyncio.Queue()
        self.configuration = Configuration(self, self._reading)
        self.configuration.load_profiles()
        self.configuration.load_known()
        self.decision: Decision = decide(self.facts, self.configuration.in_force(), self.intent)
        self._on_change = on_change
        self._actions = Actions(self, host, self._reading, self._later)
        self.prompts = Prompts(lambda: self.post(AgentsHint()), self._expire)
        self._checks = Checks(host.leak_check, host.obstacles, self.post, self.warnings, self.alarms)
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
        self._watchers = Watchers(host, self.post)
        self._tampering = Tampering(self.enforcer, self.post, self.warn)
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
        self._watchers.begin()
        self.accounting.begin()
        await self._read_links()
        self.facts = await self._reading.first_wifi(self.facts)
        await self.splits.begin()
        if self.opened_by_hand is not None:
            self.choices.stay_open(self.opened_by_hand)
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
                if self._actions.undone:
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
                    self.choices.settle(Answer(network, self.settings.wifi.prompt_fallback, Rule.FALLBACK))
                    await self._handle(Changed())
            case TamperHint(what, foreign):
                if await self._tampering.amiss(what, foreign):
                    await self._handle(Changed())
            case QuotaHint():
                if not self.allowances.used_up:
                    self.accounting.soon()
            case Untold(what, told):
                if self._tampering.untold(what, told):
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
                self._checks.take(event, self.state)
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
        decision = decide(self.facts, self.configuration.in_force(), self.intent)
        facts = self.servers.prepared(self.facts, decision, self.profiles)
        if facts is not self.facts:
            self.facts = facts
            decision = decide(facts, self.configuration.in_force(), self.intent)
        self.choices.keep(intent_after(self.intent, decision))
        before = self.state
        self.state, actions = step(self.state, event, decision)
        self.decision = decision
        if logs.tracing():
            log.debug("handled", what=event, facts=self.facts, intent=self.intent, decision=decision, state=self.state)
        if self.state != before:
            log.info("state", phase=self.state.phase, cause=self.state.cause, after=type(event).__name__)
        await self._act(actions, recovering=isinstance(event, Failed))
        # Then of what was not set this moment.
        await self._act(self._actions.repairs(), recovering=isinstance(event, Failed))
        self._tell_the_truth()
        self._checks.follow(before, event, self.state, self.decision, self.facts)
        self.configuration.learn()
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

    def _tell_the_truth(self) -> None:
        """A block that is wanted and not confirmed is an alarm."""
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

    def _expire(self, ifname: str, delay_s: float, prompt: str) -> None:
        self._later(f"prompt {ifname}", delay_s, Unanswered(prompt))

    # --- out ---------------------------------------------------------------------------------------------------------

    async def _act(self, actions: tuple[Action, ...], recovering: bool) -> None:
        for action in actions:
            try:
                await self._actions.do(action)
            except (EnforceError, HostError) as err:
                cause = err.cause if isinstance(err, EnforceError) else Cause.RESOLVER_FAILED
                self.warn(cause, str(err))
                log.error("action failed", action=type(action).__name__, error=str(err))
                if not recovering:
                    await self._handle(Failed(cause))
                    return
                # The recovery itself failed: go on with the rest of it, which ends in a retry.

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

    # --- the end -----------------------------------------------------------------------------------------------------

    async def leave(self) -> None:
        """Hand over to the next daemon: what is protected or locked stays closed; an open machine is left as it was."""
        await self._watchers.end()
        for timer in self._timers.values():
            timer.cancel()
        await self._checks.abandon()
        for explorer in self._explorers:
            await explorer.abandon()
        await self._actions.abandon()
        await self.mtus.abandon()
        await self.accounting.end()
        await self.traffic.end()
        policy = self.enforcer.enforced
        free = policy is not None and not policy.capture and not policy.only
        if free and not self.decision.lockdown and self.decision.closed is None:
            try:
                await self.enforcer.reset()
            except HostError as err:
                log.error("the machine could not be left open", error=str(err))
        self.store.close()


def _logged(ended: asyncio.Future[None]) -> None:
    """Nobody waits for this command, so the log tells what went wrong."""
    if not ended.cancelled() and (err := ended.exception()):
        log.error("command failed", error=repr(err), exc_info=err)
