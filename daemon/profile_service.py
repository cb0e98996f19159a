"""What callers may ask for of VPN profiles. Part of `daemon.service`."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import replace
from ipaddress import ip_address

from daemon import status as tell
from daemon.loop import Loop
from daemon.refusals import no_such_profile, saving
from daemon.server_service import ServerService
from ipc import structs
from ipc.errors import Error, ServiceError
from policies.facts import Address
from policies.profiles import Profile, parse, unresolved, with_addresses, with_login
from policies.profiles import facts as profile_facts
from policies.profiles_errors import ProfileError
from policies.states import Changed, Event, Reconnect

RESOLVE_S = 5.0  # for the names of an imported profile's servers


class ProfileService:
    """`parsed`, `listed` and `shown` may be called at any time, the others by the owner of the state.

    All raise ServiceError. `servers`: whose lists end with their profiles.
    """

    def __init__(self, loop: Loop, servers: ServerService) -> None:
        self._loop, self._servers = loop, servers

    async def parsed(self, name: str, text: str) -> tuple[Profile, tuple[structs.Notice, ...]]:
        """The profile in a text, with the addresses of its servers, and what was left out."""
        try:
            profile, notices = parse(name, text)
        except ProfileError as err:
            raise _refused("Import", err) from None
        told = tuple(structs.Notice(each.line, each.directive, each.reason) for each in notices)
        return await _resolved(profile), told

    def bring(self, profile: Profile) -> Event:
        """Store a profile, also instead of another one of its name."""
        loop, name, only = self._loop, profile.name, tuple(self._loop.profiles)
        former, state = loop.profiles.get(name), loop.state
        if former != profile:
            self._servers.forget(name)
        saving(lambda: loop.store.save_profile(profile))
        loop.configuration.load_profiles()
        if loop.intent.profile is None and len(only) == 1 and len(loop.profiles) > 1:
            # It was chosen by being the only one, and stays so.
            loop.choices.keep(replace(loop.intent, profile=only[0]))
        # Decisions know no keys, so nobody else would notice that only those have changed.
        other_keys = former != profile and state.profile is not None and state.profile.name == name
        return Reconnect() if other_keys else Changed()

    def listed(self) -> tuple[structs.Profile, ...]:
        """All of them."""
        chosen = self._loop.decision.profile
        return tuple(
            structs.Profile(
                name=profile.name,
                kind=profile.kind,
                servers=tuple(tell.endpoint_text(each) for each in profile_facts(profile).endpoints),
                chosen=chosen is not None and chosen.name == profile.name,
            )
            for profile in self._loop.profiles.values()
        )

    def shown(self, name: str) -> tuple[structs.ProfileField, ...]:
        """A profile without its secrets."""
        from policies.profiles_shown import shown

        if name not in self._loop.profiles:
            raise no_such_profile(name)
        return tuple(structs.ProfileField(*each) for each in shown(self._loop.profiles[name]))

    def set_login(self, name: str, user: str, password: str) -> Event:
        """Put a login into a profile."""
        loop = self._loop
        if name not in loop.profiles:
            raise no_such_profile(name)
        try:
            profile = with_login(loop.profiles[name], user, password)
        except ProfileError as err:
            raise _refused("SetLogin", err) from None
        saving(lambda: loop.store.save_profile(profile))
        loop.configuration.load_profiles()
        used = loop.state.profile is not None and loop.state.profile.name == name
        return Reconnect() if used else Changed()

    def remove(self, name: str) -> Event:
        """Remove a profile that is not in use, with its list of servers."""
        loop = self._loop
        if name not in loop.profiles and name not in loop.store.damaged_profiles:
            raise no_such_profile(name)
        if loop.state.profile is not None and loop.state.profile.name == name:
            raise ServiceError(Error.NOT_NOW, "Remove", f"{name} is in use.", "Disconnect first.")
        self._servers.forget(name)
        saving(lambda: loop.store.remove_profile(name))
        loop.configuration.load_profiles()
        if loop.intent.profile == name:
            loop.choices.keep(replace(loop.intent, profile=None))
        return Changed()


async def _resolved(profile: Profile) -> Profile:
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


def _refused(what: str, err: ProfileError) -> ServiceError:
    problem = f"line {err.line}: {err.directive}: {err.problem}."
    return ServiceError(Error.PROFILE_REFUSED, what, problem, f"{err.remedy}.")
