"""What the daemon does for its callers. Whatever changes something is done by the loop, in its turn."""

from __future__ import annotations

import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from typing import TypeVar

import structlog

from daemon.diagnostics import Diagnostics
from daemon.known_service import KnownService
from daemon.loop import Loop
from daemon.profile_service import ProfileService
from daemon.prompts import rule_to_save
from daemon.refusals import no_such_profile
from daemon.server_service import ServerService
from daemon.settings_keeper import SettingsKeeper
from daemon.status_teller import StatusTeller
from daemon.trace import Trace
from daemon.traffic import TrafficTeller
from ipc import structs
from ipc.access import Caller
from ipc.errors import Error, ServiceError
from policies.decision import Answer, Manual, Rule
from policies.settings import parse_settings
from policies.settings_errors import SettingsError
from policies.settings_tables import WifiAction
from policies.split import Group
from policies.states import Changed, Event, Reconnect, Target

log = structlog.get_logger()

T = TypeVar("T")


class DaemonService:
    """Implements `ipc.interface.Service`. Who may call what, and with which arguments, has been checked before."""

    def __init__(
        self, loop: Loop, version: str, settings: SettingsKeeper | None = None, trace: Trace | None = None
    ) -> None:
        self._loop, self._version = loop, version
        self._settings = settings or SettingsKeeper(loop)
        self._known = KnownService(loop)
        self._servers = ServerService(loop)
        self._profiles = ProfileService(loop, self._servers)
        self.diagnostics = Diagnostics(loop, self._settings, trace or Trace(loop.store.folder / "trace", time.time))
        self._traffic = TrafficTeller(loop.accounting, loop.allowances)
        self._status = StatusTeller(loop, version)
        self.feed = self._status.feed

    # --- Manager -----------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Tell every watcher what is true now."""
        self._status.publish()

    async def get_status(self, caller: Caller) -> structs.Status:
        return await self._status.now()

    def watch(self, caller: Caller) -> AsyncGenerator[structs.Status, None]:
        return self.feed.watch()

    async def get_version(self, caller: Caller) -> str:
        return self._version

    async def connect(self, caller: Caller, profile: str | None) -> None:
        def run() -> Event:
            loop = self._loop
            if profile and profile not in loop.profiles:
                raise no_such_profile(profile)
            if not profile and loop.decision.profile is None:
                stored = f"stored are {', '.join(loop.profiles)}" if loop.profiles else "none is stored"
                raise ServiceError(
                    Error.NO_SUCH_PROFILE,
                    "Connect",
                    f"no profile is chosen ({stored}).",
                    "Name one: `tunwarden connect NAME`, or import one: `tunwarden profiles import NAME FILE`.",
                )
            self._choose(Target.PROTECTED, profile or loop.intent.profile)
            return Changed()

        await self._change(caller, "connect", run)

    async def disconnect(self, caller: Caller) -> None:
        def run() -> Event:
            if self._loop.facts.settings_broken:
                raise ServiceError(
                    Error.NOT_NOW,
                    "Disconnect",
                    "the settings file has errors, so nobody knows what the administrator allows.",
                    "Correct it and restart the service; `tunwarden settings check FILE` names the errors.",
                )
            self._choose(Target.UNPROTECTED, self._loop.intent.profile)
            return Changed()

        await self._change(caller, "disconnect", run)

    def _choose(self, target: Target, profile: str | None) -> None:
        """A user's own choice holds until the network changes, and settles what a damaged store left open."""
        loop = self._loop
        loop.choices.decide_anew()
        manual = Manual(target, loop.decision.here)
        loop.choices.keep(replace(loop.intent, target=target, manual=manual, profile=profile))

    async def reconnect(self, caller: Caller) -> None:
        def run() -> Event:
            if self._loop.decision.target is not Target.PROTECTED:
                raise ServiceError(
                    Error.NOT_NOW, "Reconnect", "protection is not wanted now.", "Use `tunwarden connect`."
                )
            return Reconnect()

        await self._change(caller, "reconnect", run)

    async def set_kill_switch(self, caller: Caller, on: bool) -> None:
        def run() -> Event:
            self._unlocked("SetKillSwitch", "protection.kill_switch", self._loop.settings.protection.kill_switch, on)
            self._loop.choices.keep(replace(self._loop.intent, kill_switch=on))
            return Changed()

        await self._change(caller, f"kill switch {'on' if on else 'off'}", run)

    async def set_lockdown(self, caller: Caller, on: bool) -> None:
        def run() -> Event:
            self._unlocked("SetLockdown", "protection.lockdown", self._loop.settings.protection.lockdown, on)
            self._loop.choices.keep(replace(self._loop.intent, lockdown=on))
            return Changed()

        await self._change(caller, f"lockdown {'on' if on else 'off'}", run)

    def _unlocked(self, what: str, key: str, fixed: bool | None, wanted: bool) -> None:
        if fixed is not None and fixed is not wanted:
            raise ServiceError(
                Error.LOCKED,
                what,
                f"the administrator's settings fix it to {'on' if fixed else 'off'}.",
                f"Change it there: {self._settings.place(key) or '/etc/tunwarden'}.",
            )

    # --- Networks ----------------------------------------------------------------------------------------------------

    async def current(self, caller: Caller) -> tuple[structs.Network, ...]:
        return self.feed.status.networks

    async def list_known(self, caller: Caller, start: int = 0) -> tuple[structs.KnownNetwork, ...]:
        return self._known.listed(start)

    async def add_known(
        self,
        caller: Caller,
        ssid: str | None,
        ssid_hex: str | None,
        security: str | None,
        action: str | None,
        profile: str | None,
        allow_lan: bool = False,
        pin: bool = False,
        learn: bool = False,
    ) -> structs.KnownNetwork:
        add = partial(self._known.add, ssid, ssid_hex, security, action, profile, allow_lan, pin, learn)
        return await self._answer(caller, "save a known network", add)

    async def edit_known(
        self, caller: Caller, ssid_hex: str, changes: str, pattern: bool = False
    ) -> structs.KnownNetwork:
        changes = await self._known.with_digest(ssid_hex, changes, pattern)
        return await self._answer(caller, "edit a known network", partial(self._known.edit, ssid_hex, changes, pattern))

    async def import_known(self, caller: Caller, text: str) -> int:
        networks = self._known.parsed(text)
        await self._change(caller, f"import {len(networks)} known networks", partial(self._known.bring, networks))
        return len(networks)

    async def forget_known(self, caller: Caller, ssid_hex: str, pattern: bool = False) -> None:
        await self._change(caller, "forget a known network", partial(self._known.forget, ssid_hex, pattern))

    async def portal_login(self, caller: Caller) -> AsyncGenerator[structs.LoginState, None]:
        log.info("asked", what="log in to the portal", uid=caller.uid, pid=caller.pid, face=caller.transport.value)
        async with contextlib.aclosing(self._loop.logins.log_in(caller.process, caller.uid)) as told:
            async for each in told:
                yield each

    # --- Prompts -----------------------------------------------------------------------------------------------------

    async def waiting_prompts(self, caller: Caller) -> tuple[structs.Prompt, ...]:
        return self._loop.prompts.waiting

    def watch_prompts(self, caller: Caller) -> AsyncGenerator[structs.Prompt | None, None]:
        log.info("an agent listens", uid=caller.uid, pid=caller.pid, face=caller.transport.value)
        return self._loop.prompts.listen()

    async def answer_prompt(self, caller: Caller, id: str, answer: str, remember: bool = False) -> None:
        def run() -> Event:
            loop = self._loop
            asked = loop.prompts.find(id)
            if remember:
                rule = rule_to_save(asked.judgement, answer, loop.facts, loop.settings, loop.known)
                self._known.keep((rule,))
            loop.prompts.answered(id, answer)
            loop.choices.settle(Answer(asked.judgement.network, WifiAction(answer), Rule.ANSWER))
            return Changed()

        await self._change(caller, f"answer {answer}{' for ever' if remember else ''}", run)

    # --- Profiles ----------------------------------------------------------------------------------------------------

    async def import_profile(self, caller: Caller, name: str, text: str) -> tuple[structs.Notice, ...]:
        profile, notices = await self._profiles.parsed(name, text)
        await self._change(caller, f"import profile {name}", partial(self._profiles.bring, profile))
        return notices

    async def list_profiles(self, caller: Caller) -> tuple[structs.Profile, ...]:
        return self._profiles.listed()

    async def show_profile(self, caller: Caller, name: str) -> tuple[structs.ProfileField, ...]:
        return self._profiles.shown(name)

    async def set_login(self, caller: Caller, name: str, user: str, password: str) -> None:
        change = partial(self._profiles.set_login, name, user, password)
        await self._change(caller, f"login for profile {name!r}", change)

    async def remove_profile(self, caller: Caller, name: str) -> None:
        await self._change(caller, f"remove profile {name!r}", partial(self._profiles.remove, name))

    # --- Traffic -----------------------------------------------------------------------------------------------------

    async def get_traffic(self, caller: Caller) -> structs.Traffic:
        return self._traffic.now()

    def follow_traffic(self, caller: Caller) -> AsyncGenerator[structs.Traffic, None]:
        return self._traffic.follow()

    async def get_usage(
        self, caller: Caller, by: str, first: str | None = None, last: str | None = None
    ) -> tuple[structs.Usage, ...]:
        return self._traffic.usage(by, first, last)

    async def grant_allowance(self, caller: Caller) -> None:
        await self._change(caller, "grant the allowance once more", self._loop.allowances.grant)

    # --- Servers -----------------------------------------------------------------------------------------------------

    async def import_servers(self, caller: Caller, profile: str, text: str) -> int:
        servers = self._servers.parsed(text)
        what = f"import {len(servers.servers)} servers of {profile!r}"
        await self._change(caller, what, partial(self._servers.bring, profile, servers))
        return len(servers.servers)

    async def remove_servers(self, caller: Caller, profile: str) -> None:
        await self._change(caller, f"remove the servers of {profile!r}", partial(self._servers.take_away, profile))

    async def list_servers(
        self, caller: Caller, profile: str | None, country: str | None = None, start: int = 0
    ) -> tuple[structs.Server, ...]:
        return self._servers.listed(profile, country, start)

    async def connect_server(self, caller: Caller, profile: str | None, server: str) -> None:
        await self._change(caller, f"connect through {server!r}", partial(self._servers.connect, profile, server))

    async def set_favourite(self, caller: Caller, profile: str | None, server: str, on: bool) -> None:
        what = f"favourite {server!r} {'on' if on else 'off'}"
        await self._change(caller, what, partial(self._servers.favour, profile, server, on))

    # --- Split -------------------------------------------------------------------------------------------------------

    async def list_split(self, caller: Caller) -> tuple[structs.SplitEntry, ...]:
        return self._loop.splits.listed(caller)

    async def add_split(self, caller: Caller, group: str, pid: int = 0) -> None:
        await self._loop.splits.add(caller, Group(group), pid)

    async def remove_split(self, caller: Caller, pid: int) -> None:
        await self._loop.splits.remove(caller, pid)

    async def add_split_program(self, caller: Caller, group: str, path: str, uid: int = -1) -> None:
        await self._loop.splits.add_program(caller, Group(group), path, uid)

    async def remove_split_program(self, caller: Caller, path: str, uid: int = -1) -> None:
        await self._loop.splits.remove_program(caller, path, uid)

    # --- Settings ----------------------------------------------------------------------------------------------------

    async def list_settings(self, caller: Caller) -> tuple[structs.Setting, ...]:
        return self._settings.listed()

    async def change_setting(self, caller: Caller, key: str, value: str) -> None:
        await self._change(caller, f"set {key!r}", partial(self._settings.change, key, value))

    async def reset_settings(self, caller: Caller, key: str | None) -> None:
        await self._change(caller, f"reset {key or 'all settings'!r}", partial(self._settings.reset, key))

    async def import_settings(self, caller: Caller, text: str) -> int:
        return await self._answer(caller, "import settings", partial(self._settings.bring, text))

    # --- Diagnostics -------------------------------------------------------------------------------------------------

    async def check_settings(self, caller: Caller, text: str) -> tuple[structs.Problem, ...]:
        try:
            parse_settings(text)
        except SettingsError as err:
            return tuple(structs.Problem(each.line, each.key, each.problem, each.allowed) for each in err.problems)
        return ()

    async def get_trace(self, caller: Caller) -> structs.Trace:
        return self.diagnostics.told()

    async def start_trace(self, caller: Caller, minutes: int, hide_names: bool = False) -> structs.Trace:
        log.info("asked", what=f"trace for {minutes} minutes", uid=caller.uid, pid=caller.pid)
        return self.diagnostics.start(minutes, hide_names)

    async def stop_trace(self, caller: Caller) -> structs.Trace:
        return self.diagnostics.stop()

    async def get_report(self, caller: Caller, hide_names: bool = False) -> tuple[structs.ReportPart, ...]:
        return self.diagnostics.report(await self.get_status(caller), hide_names)

    # --- all of them -------------------------------------------------------------------------------------------------

    async def _change(self, caller: Caller, what: str, do: Callable[[], Event]) -> None:
        """Have it done by the owner of the state; returns when its effects are in the kernel and published."""

        async def run() -> Event:
            return do()

        log.info("asked", what=what, uid=caller.uid, pid=caller.pid, face=caller.transport.value)
        await self._loop.command(run)

    async def _answer(self, caller: Caller, what: str, do: Callable[[], tuple[T, Event]]) -> T:
        """The same where the caller is told what came of it."""
        answers: list[T] = []

        def keep() -> Event:
            answer, event = do()
            answers.append(answer)
            return event

        await self._change(caller, what, keep)
        return answers[0]
