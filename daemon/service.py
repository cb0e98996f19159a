"""What the daemon does for its callers. Whatever changes something is done by the loop, in its turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import replace
from functools import partial
from ipaddress import ip_address

import structlog
from pydantic import ValidationError

from daemon import status as tell
from daemon.beacons import told
from daemon.diagnostics import Diagnostics
from daemon.host import Counters, HostError
from daemon.inbox import Found
from daemon.loop import Loop
from daemon.prompts import rule_to_save
from daemon.server_service import ServerService
from daemon.settings_keeper import SettingsKeeper
from daemon.store import StoreError
from daemon.trace import Trace
from daemon.traffic import TrafficTeller
from ipc import interface
from ipc.access import Caller
from ipc.errors import Error, ServiceError
from ipc.feed import Feed
from policies.classify import ssid_text
from policies.decision import Answer, Manual, Rule
from policies.facts import Address, Security, WifiNetwork
from policies.known import stands_for
from policies.known_network import KnownNetwork
from policies.profiles import Profile, parse, unresolved, with_addresses, with_login
from policies.profiles import facts as profile_facts
from policies.profiles_errors import ProfileError
from policies.settings import parse_settings
from policies.settings_errors import Problem, SettingsError
from policies.settings_known import known_from_json, known_to_json
from policies.settings_tables import WifiAction
from policies.settings_values import endpoint_text
from policies.split import Group
from policies.states import Changed, Event, Reconnect, State, Target

log = structlog.get_logger()

COUNTED_S = 0.1  # so old may the bytes be that GetStatus tells
RESOLVE_S = 5.0  # for the names of an imported profile's servers
KNOWN_PAGE = 200  # networks of one answer: whoever asks for all of them must not stop the loop
KNOWN_LINES, KNOWN_MOST = 500, 20_000  # networks of one import, and of all users


class DaemonService:
    """Implements `ipc.interface.Service`."""

    def __init__(
        self, loop: Loop, version: str, settings: SettingsKeeper | None = None, trace: Trace | None = None
    ) -> None:
        self._loop, self._version = loop, version
        self._settings = settings or SettingsKeeper(loop)
        self._servers = ServerService(loop)
        self.diagnostics = Diagnostics(loop, self._settings, trace or Trace(loop.store.folder / "trace", time.time))
        self._entered: tuple[State, int] = (loop.state, int(time.time()))
        self._traffic = TrafficTeller(loop.accounting, loop.allowances)
        self._listed: tuple[object, ...] = ()
        self._lists = 0  # grows when what is listed has changed
        self._counted: tuple[State, float, Counters | None] = (loop.state, -math.inf, None)  # when, and what it was
        self.feed = Feed(self._status())

    # --- Manager -----------------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """Tell every watcher what is true now."""
        if self._entered[0].phase is not self._loop.state.phase:
            self._entered = (self._loop.state, int(time.time()))
        self.feed.publish(self._status())

    def _status(self) -> interface.Status:
        loop = self._loop
        profile = loop.decision.profile
        # Whoever changes one of these puts another object in its place.
        listed = (loop.known, loop.settings, loop.profiles, loop.intent.profile, profile and profile.name)
        if len(self._listed) != len(listed) or any(a is not b for a, b in zip(listed, self._listed, strict=True)):
            self._listed = listed
            self._lists += 1
        return tell.status(
            loop.state,
            loop.decision,
            loop.facts,
            loop.enforcer.enforced,
            loop.enforcer.blocking,
            since=self._entered[1],
            warnings=tuple(loop.warnings.values()),
            alarm=" ".join(loop.alarms.values()) or None,
            lists=self._lists,
            sequence=0,
            version=self._version,
            outside=loop.splits.outside,
            detail=loop.detail,
            mtu=loop.mtus.mtu or 0,
            mtu_source=loop.mtus.source.value,
        )

    async def get_status(self, caller: Caller) -> interface.Status:
        counters = await self._counters()
        return replace(self.feed.status, rx_bytes=counters.rx, tx_bytes=counters.tx) if counters else self.feed.status

    async def _counters(self) -> Counters | None:
        """Asking the tunnel takes a millisecond of its process: many callers at once get one answer."""
        now, (state, when, counters) = time.monotonic(), self._counted
        if state is self._loop.state and now - when < COUNTED_S:
            return counters
        try:
            counters = self._counted_by_link() or await self._loop.host.tunnel.counters()
        except HostError:  # it is going away at this moment
            counters = None
        self._counted = (self._loop.state, now, counters)
        return counters

    def _counted_by_link(self) -> Counters | None:
        """Of a tunnel that somebody else brought up, since then. Raises HostError."""
        loop, tunnel = self._loop, self._loop.state.tunnel
        link = loop.facts.link(tunnel.ifname) if tunnel else None
        counts = loop.host.link_counters.read(link.ifindex) if link and link.external else None
        return Counters(counts.rx_bytes, counts.tx_bytes, None) if counts else None

    def watch(self, caller: Caller) -> AsyncGenerator[interface.Status, None]:
        return self.feed.watch()

    async def get_version(self, caller: Caller) -> str:
        return self._version

    async def connect(self, caller: Caller, profile: str | None) -> None:
        async def run() -> Event:
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
        async def run() -> Event:
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
        loop.decide_anew()
        manual = Manual(target, loop.decision.here)
        loop.keep(replace(loop.intent, target=target, manual=manual, profile=profile))

    async def reconnect(self, caller: Caller) -> None:
        async def run() -> Event:
            if self._loop.decision.target is not Target.PROTECTED:
                raise ServiceError(
                    Error.NOT_NOW, "Reconnect", "protection is not wanted now.", "Use `tunwarden connect`."
                )
            return Reconnect()

        await self._change(caller, "reconnect", run)

    async def set_kill_switch(self, caller: Caller, on: bool) -> None:
        async def run() -> Event:
            self._unlocked("SetKillSwitch", "protection.kill_switch", self._loop.settings.protection.kill_switch, on)
            self._loop.keep(replace(self._loop.intent, kill_switch=on))
            return Changed()

        await self._change(caller, f"kill switch {'on' if on else 'off'}", run)

    async def set_lockdown(self, caller: Caller, on: bool) -> None:
        async def run() -> Event:
            self._unlocked("SetLockdown", "protection.lockdown", self._loop.settings.protection.lockdown, on)
            self._loop.keep(replace(self._loop.intent, lockdown=on))
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

    async def current(self, caller: Caller) -> tuple[interface.Network, ...]:
        return self.feed.status.networks

    async def list_known(self, caller: Caller, start: int = 0) -> tuple[interface.KnownNetwork, ...]:
        fixed = self._loop.settings.known
        names = {network.key for network in fixed}
        added = [network for network in self._loop.known if network.key not in names]
        everything = (*((each, "settings") for each in fixed), *((each, "user") for each in added))
        return tuple(_known(network, source) for network, source in everything[max(start, 0) :][:KNOWN_PAGE])

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
    ) -> interface.KnownNetwork:
        saved: list[KnownNetwork] = []

        async def run() -> Event:
            name, joined = self._named(ssid, ssid_hex)
            if pin and (joined is None or len(joined.bssid) != 6):
                why = (
                    "its access point cannot be read."
                    if joined
                    else "it is not joined now, so nothing is to be pinned."
                )
                raise ServiceError(Error.NO_SUCH_NETWORK, "AddKnown", why, "Join it first, or name the access points.")
            minimum = Security(security) if security else joined.offered if joined else Security.WPA2
            network = checked(
                "AddKnown",
                lambda: KnownNetwork(
                    ssid=name,
                    minimum_security=minimum,
                    action=WifiAction(action) if action else None,
                    profile=profile or None,
                    allow_lan=allow_lan,
                    bssids=frozenset((joined.bssid,)) if pin and joined else frozenset(),
                    gateways=frozenset((joined.gateway_mac,)) if pin and joined and joined.gateway_mac else frozenset(),
                    learn=learn,
                ),
            )
            self._save_known("AddKnown", (network,))
            saved.append(network)
            return Changed()

        await self._change(caller, "save a known network", run)
        return _known(saved[0], "user")

    async def edit_known(
        self, caller: Caller, ssid_hex: str, changes: str, pattern: bool = False
    ) -> interface.KnownNetwork:
        saved: list[KnownNetwork] = []
        changes = await self._with_digest(self._saved("EditKnown", ssid_hex, pattern), changes)

        async def run() -> Event:
            before = self._saved("EditKnown", ssid_hex, pattern)
            network = checked("EditKnown", lambda: changed_known(before, changes))
            self._save_known("EditKnown", (network,), instead_of=before)
            saved.append(network)
            return Changed()

        await self._change(caller, "edit a known network", run)
        return _known(saved[0], "user")

    async def import_known(self, caller: Caller, text: str) -> int:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        if len(lines) > KNOWN_LINES:
            raise invalid("ImportKnown", f"{len(lines)} networks at once; up to {KNOWN_LINES} are taken")
        networks: dict[tuple[bool, bytes], KnownNetwork] = {}
        for number, line in lines:
            network = checked(f"ImportKnown, line {number}", lambda line=line: known_from_json(line))  # type: ignore[misc]
            if network.key in networks:
                raise invalid(f"ImportKnown, line {number}", "an earlier line has the same name")
            networks[network.key] = network

        async def run() -> Event:
            self._save_known("ImportKnown", tuple(networks.values()))
            return Changed()

        await self._change(caller, f"import {len(networks)} known networks", run)
        return len(networks)

    async def _with_digest(self, network: KnownNetwork, changes: str) -> str:
        """With the certificate that is there now, where a beacon is to be saved without one. Raises ServiceError."""
        try:
            wanted = json.loads(changes)
        except (ValueError, RecursionError):
            return changes  # which will be refused
        if not isinstance(wanted, dict) or wanted.get("beacon") is None or "beacon_sha256" in wanted:
            return changes
        anything = json.dumps({**wanted, "beacon_sha256": "00" * 32})
        beacon = checked("EditKnown", lambda: changed_known(network, anything)).beacon
        assert beacon is not None
        joined = [ifname for ifname, met in self._loop.facts.wifi.items() if stands_for(network, met.ssid)]
        why = "" if len(joined) == 1 else "this network is not joined now, so its beacon cannot be asked."
        cleared = self._loop.enforcer.enforced.cleared if self._loop.enforcer.enforced else frozenset()
        if not why and joined[0] not in cleared:
            why = "nothing but the tunnel passes on this network now, so its beacon cannot be asked."
        link = None if why else self._loop.facts.link(joined[0])
        try:
            digest = await self._loop.host.beacons.fingerprint(link.ifname, beacon) if link else b""
        except HostError as err:
            why = f"{err}."
        if why or link is None:
            raise ServiceError(
                Error.NOT_NOW, "EditKnown", why, "Join it and disconnect the VPN first, or give beacon_sha256 as well."
            )
        # What is known is not asked again, which would hold the link once more.
        shown = partial(told, ifname=link.ifname, beacon=beacon, shown=digest)
        self._loop.post(Found(link.ifname, link.association, shown))
        return json.dumps({**wanted, "beacon_sha256": digest.hex()})

    def _saved(self, what: str, ssid_hex: str, pattern: bool) -> KnownNetwork:
        """The network of that name that a user saved."""
        try:
            key = (pattern, bytes.fromhex(ssid_hex))
        except ValueError:
            raise invalid(what, "ssid_hex: two hexadecimal digits a byte are needed.") from None
        if any(each.key == key for each in self._loop.settings.known):
            raise _fixed(what, key[1])
        for network in self._loop.known:
            if network.key == key:
                return network
        raise ServiceError(
            Error.NO_SUCH_NETWORK,
            what,
            f"“{ssid_text(key[1])}” is not saved.",
            "`tunwarden known list` shows the saved ones.",
        )

    def _save_known(
        self, what: str, networks: tuple[KnownNetwork, ...], instead_of: KnownNetwork | None = None
    ) -> None:
        """All or none, in the store and then in force."""
        loop, fixed = self._loop, {each.key for each in self._loop.settings.known}
        for network in networks:
            if network.profile is not None and network.profile not in loop.profiles:
                raise no_such_profile(network.profile)
            if network.key in fixed:
                raise _fixed(what, network.ssid)
        after = {each.key for each in (*loop.known, *networks)}
        if instead_of is not None and instead_of.key not in {each.key for each in networks}:
            raise invalid(what, "the name stays: add the other one and forget this")
        if len(after) > KNOWN_MOST:
            raise ServiceError(Error.NOT_NOW, what, f"{KNOWN_MOST} networks are saved already.", "Forget some first.")
        self._keep_known(networks)

    def _keep_known(self, networks: tuple[KnownNetwork, ...]) -> None:
        """In the store and then in force, in its order: reading ten thousand anew takes half a second."""
        self._saving(lambda: self._loop.store.save_known(*networks))
        after = {each.key: each for each in (*self._loop.known, *networks)}
        self._loop.known = tuple(after[key] for key in sorted(after))

    def _named(self, ssid: str | None, ssid_hex: str | None) -> tuple[bytes, WifiNetwork | None]:
        """The SSID that is meant, and the network if it is joined now."""
        joined = [
            self._loop.facts.wifi[link.ifname]
            for link in self._loop.facts.uplinks
            if link.ifname in self._loop.facts.wifi
        ]
        if not ssid and not ssid_hex:
            if len(joined) != 1:
                why = "no Wi-Fi network is joined now." if not joined else "several Wi-Fi networks are joined."
                raise ServiceError(Error.NO_SUCH_NETWORK, "AddKnown", why, "Name the network.")
            return joined[0].ssid, joined[0]
        try:
            name = bytes.fromhex(ssid_hex) if ssid_hex else (ssid or "").encode()
        except ValueError:
            raise invalid("AddKnown", "ssid_hex: two hexadecimal digits a byte are needed.") from None
        return name, next((each for each in joined if each.ssid == name), None)

    async def forget_known(self, caller: Caller, ssid_hex: str, pattern: bool = False) -> None:
        async def run() -> Event:
            network = self._saved("ForgetKnown", ssid_hex, pattern)
            self._saving(lambda: self._loop.store.forget_known(network.key))
            self._loop.known = tuple(each for each in self._loop.known if each.key != network.key)
            return Changed()

        await self._change(caller, "forget a known network", run)

    async def portal_login(self, caller: Caller) -> AsyncGenerator[interface.LoginState, None]:
        log.info("asked", what="log in to the portal", uid=caller.uid, pid=caller.pid, face=caller.transport.value)
        async with contextlib.aclosing(self._loop.logins.log_in(caller.process, caller.uid)) as told:
            async for each in told:
                yield each

    # --- Prompts -----------------------------------------------------------------------------------------------------

    async def waiting_prompts(self, caller: Caller) -> tuple[interface.Prompt, ...]:
        return self._loop.prompts.waiting

    def watch_prompts(self, caller: Caller) -> AsyncGenerator[interface.Prompt | None, None]:
        log.info("an agent listens", uid=caller.uid, pid=caller.pid, face=caller.transport.value)
        return self._loop.prompts.listen()

    async def answer_prompt(self, caller: Caller, id: str, answer: str, remember: bool = False) -> None:
        async def run() -> Event:
            loop = self._loop
            asked = loop.prompts.find(id)
            if remember:
                rule = rule_to_save(asked.judgement, answer, loop.facts, loop.settings, loop.known)
                self._keep_known((rule,))
            loop.prompts.answered(id, answer)
            loop.settle(Answer(asked.judgement.network, WifiAction(answer), Rule.ANSWER))
            return Changed()

        await self._change(caller, f"answer {answer}{' for ever' if remember else ''}", run)

    # --- Profiles ----------------------------------------------------------------------------------------------------

    async def import_profile(self, caller: Caller, name: str, text: str) -> tuple[interface.Notice, ...]:
        try:
            profile, notices = parse(name, text)
        except ProfileError as err:
            raise _refused("Import", err) from None
        resolved = await self._resolved(profile)

        async def run() -> Event:
            loop, only = self._loop, tuple(self._loop.profiles)
            former, state = loop.profiles.get(name), loop.state
            if former != resolved:
                self._servers.forget(name)
            self._saving(lambda: loop.store.save_profile(resolved))
            loop.load_profiles()
            if loop.intent.profile is None and len(only) == 1 and len(loop.profiles) > 1:
                loop.keep(replace(loop.intent, profile=only[0]))  # it was chosen by being the only one, and stays so
            # Decisions know no keys, so nobody else would notice that only those have changed.
            other_keys = former != resolved and state.profile is not None and state.profile.name == name
            return Reconnect() if other_keys else Changed()

        await self._change(caller, f"import profile {name}", run)
        return tuple(interface.Notice(each.line, each.directive, each.reason) for each in notices)

    async def _resolved(self, profile: Profile) -> Profile:
        """Names of servers are resolved now, once: while a tunnel is being made no DNS may pass."""
        hosts = unresolved(profile)
        found: dict[str, tuple[Address, ...]] = {}
        until = asyncio.get_running_loop().time() + RESOLVE_S  # for all of them: the caller does not wait for ever
        for host, port in hosts.items():
            try:
                async with asyncio.timeout_at(until):
                    answers = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_DGRAM)
                # A link-local address is one only together with its link, which no profile names.
                texts = dict.fromkeys(str(each[4][0]) for each in answers)
                found[host] = tuple(ip_address(text) for text in texts if "%" not in text)
            except (OSError, TimeoutError, UnicodeError):
                found[host] = ()
            if not found[host]:
                raise ServiceError(
                    Error.PROFILE_REFUSED,
                    "Import",
                    f"Endpoint: the name {host} cannot be resolved now.",
                    "Write the server's address instead, or import while this machine can resolve names.",
                )
        return with_addresses(profile, found) if found else profile

    async def list_profiles(self, caller: Caller) -> tuple[interface.Profile, ...]:
        chosen = self._loop.decision.profile
        return tuple(
            interface.Profile(
                name=profile.name,
                kind=profile.kind,
                servers=tuple(tell.endpoint_text(each) for each in profile_facts(profile).endpoints),
                chosen=chosen is not None and chosen.name == profile.name,
            )
            for profile in self._loop.profiles.values()
        )

    async def show_profile(self, caller: Caller, name: str) -> tuple[interface.ProfileField, ...]:
        from policies.profiles_shown import shown

        if name not in self._loop.profiles:
            raise no_such_profile(name)
        return tuple(interface.ProfileField(*each) for each in shown(self._loop.profiles[name]))

    async def set_login(self, caller: Caller, name: str, user: str, password: str) -> None:
        async def run() -> Event:
            loop = self._loop
            if name not in loop.profiles:
                raise no_such_profile(name)
            try:
                profile = with_login(loop.profiles[name], user, password)
            except ProfileError as err:
                raise _refused("SetLogin", err) from None
            self._saving(lambda: loop.store.save_profile(profile))
            loop.load_profiles()
            used = loop.state.profile is not None and loop.state.profile.name == name
            return Reconnect() if used else Changed()

        await self._change(caller, f"login for profile {name!r}", run)

    async def remove_profile(self, caller: Caller, name: str) -> None:
        async def run() -> Event:
            loop = self._loop
            if name not in loop.profiles and name not in loop.store.damaged_profiles:
                raise no_such_profile(name)
            if loop.state.profile is not None and loop.state.profile.name == name:
                raise ServiceError(Error.NOT_NOW, "Remove", f"{name} is in use.", "Disconnect first.")
            self._servers.forget(name)
            self._saving(lambda: loop.store.remove_profile(name))
            loop.load_profiles()
            if loop.intent.profile == name:
                loop.keep(replace(loop.intent, profile=None))
            return Changed()

        await self._change(caller, f"remove profile {name!r}", run)

    # --- Traffic -----------------------------------------------------------------------------------------------------

    async def get_traffic(self, caller: Caller) -> interface.Traffic:
        return self._traffic.now()

    def follow_traffic(self, caller: Caller) -> AsyncGenerator[interface.Traffic, None]:
        return self._traffic.follow()

    async def get_usage(
        self, caller: Caller, by: str, first: str | None = None, last: str | None = None
    ) -> tuple[interface.Usage, ...]:
        return self._traffic.usage(by, first, last)

    async def grant_allowance(self, caller: Caller) -> None:
        async def run() -> Event:
            return self._loop.allowances.grant()

        await self._change(caller, "grant the allowance once more", run)

    # --- Servers -----------------------------------------------------------------------------------------------------

    async def import_servers(self, caller: Caller, profile: str, text: str) -> int:
        servers = self._servers.parsed(text)

        async def run() -> Event:
            return self._servers.bring(profile, servers)

        await self._change(caller, f"import {len(servers.servers)} servers of {profile!r}", run)
        return len(servers.servers)

    async def remove_servers(self, caller: Caller, profile: str) -> None:
        async def run() -> Event:
            return self._servers.take_away(profile)

        await self._change(caller, f"remove the servers of {profile!r}", run)

    async def list_servers(
        self, caller: Caller, profile: str | None, country: str | None = None, start: int = 0
    ) -> tuple[interface.Server, ...]:
        return self._servers.listed(profile, country, start)

    async def connect_server(self, caller: Caller, profile: str | None, server: str) -> None:
        async def run() -> Event:
            return self._servers.connect(profile, server)

        await self._change(caller, f"connect through {server!r}", run)

    async def set_favourite(self, caller: Caller, profile: str | None, server: str, on: bool) -> None:
        async def run() -> Event:
            return self._servers.favour(profile, server, on)

        await self._change(caller, f"favourite {server!r} {'on' if on else 'off'}", run)

    # --- Split -------------------------------------------------------------------------------------------------------

    async def list_split(self, caller: Caller) -> tuple[interface.SplitEntry, ...]:
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

    async def list_settings(self, caller: Caller) -> tuple[interface.Setting, ...]:
        return self._settings.listed()

    async def change_setting(self, caller: Caller, key: str, value: str) -> None:
        async def run() -> Event:
            return self._settings.change(key, value)

        await self._change(caller, f"set {key!r}", run)

    async def reset_settings(self, caller: Caller, key: str | None) -> None:
        async def run() -> Event:
            return self._settings.reset(key)

        await self._change(caller, f"reset {key or 'all settings'!r}", run)

    async def import_settings(self, caller: Caller, text: str) -> int:
        counts: list[int] = []

        async def run() -> Event:
            count, event = self._settings.bring(text)
            counts.append(count)
            return event

        await self._change(caller, "import settings", run)
        return counts[0]

    # --- Diagnostics -------------------------------------------------------------------------------------------------

    async def check_settings(self, caller: Caller, text: str) -> tuple[interface.Problem, ...]:
        try:
            parse_settings(text)
        except SettingsError as err:
            return tuple(interface.Problem(each.line, each.key, each.problem, each.allowed) for each in err.problems)
        return ()

    async def get_trace(self, caller: Caller) -> interface.Trace:
        return self.diagnostics.told()

    async def start_trace(self, caller: Caller, minutes: int, hide_names: bool = False) -> interface.Trace:
        log.info("asked", what=f"trace for {minutes} minutes", uid=caller.uid, pid=caller.pid)
        return self.diagnostics.start(minutes, hide_names)

    async def stop_trace(self, caller: Caller) -> interface.Trace:
        return self.diagnostics.stop()

    async def get_report(self, caller: Caller, hide_names: bool = False) -> tuple[interface.ReportPart, ...]:
        return self.diagnostics.report(await self.get_status(caller), hide_names)

    # --- all of them -------------------------------------------------------------------------------------------------

    async def _change(self, caller: Caller, what: str, run: Callable[[], Awaitable[Event]]) -> None:
        log.info("asked", what=what, uid=caller.uid, pid=caller.pid, face=caller.transport.value)
        await self._loop.command(run)

    def _saving(self, save: Callable[[], object]) -> None:
        try:
            save()
        except StoreError as err:
            raise ServiceError(
                Error.NOT_NOW, "Save", f"{err}.", "Nothing was changed; free the disk and try again."
            ) from err


def checked(what: str, make: Callable[[], KnownNetwork]) -> KnownNetwork:
    """What a caller wants saved, held to the rules of the settings file. Raises ServiceError."""
    try:
        return make()
    except SettingsError as err:
        first = err.problems[0]
        where = f"{first.key}: " if first.key else ""
        raise invalid(
            what, f"{where}{first.problem}" + (f"; allowed: {first.allowed}" if first.allowed else "")
        ) from None
    except ValidationError as err:
        # pydantic's own text has several lines and an address of its documentation.
        raise invalid(what, "; ".join(each["msg"].removeprefix("Value error, ") for each in err.errors())) from None


def changed_known(network: KnownNetwork, changes: str) -> KnownNetwork:
    """The network with the keys of a JSON object put in place of its own; null ends one. Raises SettingsError."""
    try:
        wanted = json.loads(changes)
    except (ValueError, RecursionError):
        wanted = None
    if not isinstance(wanted, dict):
        raise SettingsError([Problem("changes", 1, "", "not a JSON object")])
    keys = {**json.loads(known_to_json(network)), **wanted}
    return known_from_json(json.dumps({key: value for key, value in keys.items() if value is not None}))


def _fixed(what: str, ssid: bytes) -> ServiceError:
    return ServiceError(
        Error.LOCKED,
        what,
        f"“{ssid_text(ssid)}” stands in the administrator's settings.",
        "Change [[known]] in /etc/tunwarden/tunwarden.toml.",
    )


def invalid(what: str, why: str) -> ServiceError:
    """An argument is wrong."""
    return ServiceError(Error.INVALID_ARGUMENT, what, why)


def _refused(what: str, err: ProfileError) -> ServiceError:
    problem = f"line {err.line}: {err.directive}: {err.problem}."
    return ServiceError(Error.PROFILE_REFUSED, what, problem, f"{err.remedy}.")


def no_such_profile(name: str) -> ServiceError:
    """No profile of that name."""
    return ServiceError(
        Error.NO_SUCH_PROFILE, "Profile", f"no profile {name!r} is stored.", "`tunwarden profiles list` shows them."
    )


def _known(network: KnownNetwork, source: str) -> interface.KnownNetwork:
    return interface.KnownNetwork(
        ssid=ssid_text(network.ssid),
        ssid_hex=network.ssid.hex(),
        security=network.minimum_security.value,
        action=network.action.value if network.action else None,
        profile=network.profile,
        allow_lan=bool(network.allow_lan),
        source=source,
        pattern=network.pattern,
        exceptions=tuple(ssid_text(pattern) for pattern in network.exceptions),
        bssids=tuple(mac.hex(":") for mac in sorted(network.bssids)),
        gateways=tuple(mac.hex(":") for mac in sorted(network.gateways)),
        beacon=endpoint_text(network.beacon) if network.beacon else None,
        beacon_sha256=network.beacon_sha256.hex(":") or None,
        learn=network.learn,
        entry=known_to_json(network),
    )
