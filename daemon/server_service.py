"""What callers may ask for of servers: lists, favourites, and which server is used. Part of `daemon.service`."""

from __future__ import annotations

from dataclasses import replace

from daemon import status as tell
from daemon.loop import Loop
from daemon.refusals import no_such_profile, saving
from daemon.store import StoreError
from ipc import interface, structs
from ipc.errors import Error, ServiceError
from policies.decide import server_here
from policies.decision import Manual
from policies.profiles_errors import ProfileError
from policies.server_lists import parse_servers
from policies.servers import CHOICES, How, Measured, Server, ServerList, is_country, meant, parse_choice, why_no_list
from policies.states import Changed, Event, Reconnect, Target


class ServerService:
    """`parsed` and `listed` may be called at any time, the others by the owner of the state. All raise ServiceError."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    # --- the list ----------------------------------------------------------------------------------------------------

    def parsed(self, text: str) -> ServerList:
        """The list in a text."""
        try:
            return parse_servers(text)
        except ProfileError as err:
            where = f"line {err.line}: " if err.line else ""
            why = f"{where}{err.directive}: {err.problem}."
            raise ServiceError(
                Error.PROFILE_REFUSED, "Import", why, f"{err.remedy[:1].upper()}{err.remedy[1:]}."
            ) from None

    def bring(self, profile: str, servers: ServerList) -> Event:
        """Store a list. Favourites that are in it stay."""
        loop = self._loop
        if why := why_no_list(self._profile(profile, "Import")):
            raise ServiceError(Error.PROFILE_REFUSED, "Import", f"{why}.")
        kept: tuple[str, ...] = ()
        if profile in loop.store.listed():
            try:
                kept = tuple(name for name in loop.store.servers(profile).favourites if servers.find(name))
            except StoreError:
                kept = ()  # of a damaged list nothing is left; it is being replaced
        self._save(profile, replace(servers, favourites=kept))
        return self._another(profile, servers)

    def take_away(self, profile: str) -> Event:
        """Remove a list."""
        self._profile(profile, "Remove")
        self._with_list(profile, "Remove")
        saving(lambda: self._loop.store.remove_servers(profile))
        return self._another(profile, ServerList(()))

    def _another(self, profile: str, servers: ServerList) -> Event:
        loop, state = self._loop, self._loop.state
        used = state.servers if state.profile is not None and state.profile.name == profile else ()
        # Decisions know no keys, so nobody else would notice that only those have changed.
        other_keys = loop.servers.changed(profile, servers, used)
        if loop.facts.picked is not None and loop.facts.picked.profile == profile:
            loop.facts = replace(loop.facts, picked=None)
        loop.configuration.load_profiles()
        return Reconnect() if other_keys else Changed()

    def forget(self, profile: str) -> None:
        """Another configuration comes under that name, or none: its list, and what was chosen of it, end first."""
        loop = self._loop
        saving(lambda: loop.store.remove_servers(profile))
        others = tuple(each for each in loop.intent.servers if each[0] != profile)
        loop.choices.keep(replace(loop.intent, servers=others))

    def listed(self, profile: str | None, country: str | None, start: int) -> tuple[structs.Server, ...]:
        """A page of the list."""
        name = self._named(profile, "List")
        if country and not is_country(country):
            raise ServiceError(Error.INVALID_ARGUMENT, "List", "country: two capital letters are needed, such as SE.")
        servers = self._with_list(name, "List")
        used = tell.server_name(self._loop.state) if self._in_use(name) else None
        picked = self._loop.facts.picked
        tried = frozenset(picked.names) if picked and picked.profile == name and not picked.unmeasured else frozenset()
        measured = self._loop.servers.measured(name)
        there = [each for each in servers.servers if not country or each.country == country]
        return tuple(
            _told(each, servers, each.name in tried, each.name == used, measured.get(each.name))
            for each in there[max(start, 0) :][: interface.SERVERS_PAGE]
        )

    # --- choosing ----------------------------------------------------------------------------------------------------

    def connect(self, profile: str | None, text: str) -> Event:
        """Want protection through such a server, from now on."""
        loop, name = self._loop, self._named(profile, "Connect")
        try:
            choice = parse_choice(text)
        except ValueError:
            why = f"server: that is no choice of a server; allowed: {CHOICES}."
            raise ServiceError(Error.INVALID_ARGUMENT, "Connect", why) from None
        servers = self._with_list(name, "Connect")
        if not meant(servers, choice):
            raise _no_such_server("Connect", name, "no favourites" if choice.how is How.FAVOURITES else f"no {text}")
        fixed = server_here(loop.decision.judgements)
        if fixed is not None and fixed != text:
            raise ServiceError(
                Error.LOCKED,
                "Connect",
                f"the saved network that you are on wants the server “{fixed}”.",
                "Change it there: `server` of [[known]] in the settings, or `tunwarden known edit`.",
            )
        kept = {**dict(loop.intent.servers), name: text}
        loop.choices.decide_anew()
        manual = Manual(Target.PROTECTED, loop.decision.here)
        chosen = tuple(sorted((profile, kept[profile]) for profile in kept if kept[profile]))
        loop.choices.keep(replace(loop.intent, target=Target.PROTECTED, manual=manual, profile=name, servers=chosen))
        loop.facts = replace(loop.facts, picked=None)  # chosen anew, also where the choice is the same
        return Changed()

    def favour(self, profile: str | None, server: str, on: bool) -> Event:
        """Add or take out a favourite."""
        name = self._named(profile, "SetFavourite")
        servers = self._with_list(name, "SetFavourite")
        if servers.find(server) is None:
            raise _no_such_server("SetFavourite", name, f"no {server!r}")
        self._save(name, servers.favour(server, on))
        return Changed()

    # --- all of them -------------------------------------------------------------------------------------------------

    def _in_use(self, profile: str) -> bool:
        used = self._loop.state.profile
        return used is not None and used.name == profile

    def _named(self, profile: str | None, what: str) -> str:
        if profile:
            self._profile(profile, what)
            return profile
        chosen = self._loop.decision.profile
        if chosen is None:
            raise ServiceError(Error.NO_SUCH_PROFILE, what, "no profile is chosen.", "Name one.")
        return chosen.name

    def _profile(self, name: str, what: str) -> object:
        if name not in self._loop.profiles:
            raise no_such_profile(name, what)
        return self._loop.profiles[name]

    def _with_list(self, profile: str, what: str) -> ServerList:
        if profile not in self._loop.store.listed():
            remedy = "`tunwarden servers import` gives it one."
            raise ServiceError(Error.NOT_NOW, what, f"the profile {profile} has no list of servers.", remedy)
        try:
            return self._loop.store.servers(profile)
        except StoreError as err:
            remedy = "Import the list again, or remove it: `tunwarden servers remove`."
            if what == "Remove":
                return ServerList(())
            raise ServiceError(Error.NOT_NOW, what, f"{err}.", remedy) from None

    def _save(self, profile: str, servers: ServerList) -> None:
        saving(lambda: self._loop.store.save_servers(profile, servers))


def _no_such_server(what: str, profile: str, missing: str) -> ServiceError:
    why = f"the list of {profile} has {missing}."
    return ServiceError(Error.NO_SUCH_SERVER, what, why, "`tunwarden servers` shows what there is.")


def _told(server: Server, servers: ServerList, tried: bool, used: bool, measured: Measured | None) -> structs.Server:
    known = measured if measured and measured.sent else None
    return structs.Server(
        name=server.name,
        country=server.country or None,
        city=server.city or None,
        tags=server.tags,
        endpoints=tuple(tell.endpoint_text(each) for each in server.endpoints),
        favourite=server.name in servers.favourites,
        chosen=tried,
        used=used,
        latency_ms=max(1, round(known.latency * 1000)) if known and known.latency is not None else 0,
        loss_percent=round(100 * known.loss) if known else 0,
        measured=int(known.at) if known else 0,
    )
