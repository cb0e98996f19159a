"""Which settings are in force, from whom each comes, and what users may change of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from daemon import settings_file
from daemon.inbox import LinksHint
from daemon.loop import Loop
from daemon.settings_file import FILE, Loaded
from daemon.store import StoreError
from ipc.errors import Error, ServiceError
from ipc.structs import Setting
from policies.decision import Intent
from policies.own_settings import KEYS, SWITCHES, from_toml, in_force, text_of, value_of
from policies.settings import Settings
from policies.settings_errors import SettingsError
from policies.states import Changed, Event

log = structlog.get_logger()


class SettingsKeeper:
    """Everything here is called by the owner of the state, but for `reload`, which only asks him."""

    def __init__(self, loop: Loop, file: Path = FILE) -> None:
        self._loop, self._file = loop, file
        self._waits = False
        self.loaded = Loaded(loop.settings)

    # --- the administrator's files ------------------------------------------------------------------------------------

    def take(self, loaded: Loaded) -> None:
        """Put settings in force, and what people should know about them. Post Changed afterwards."""
        loop, self.loaded = self._loop, loaded
        loop.configuration.take(loaded.settings)
        loop.facts = replace(loop.facts, settings_broken=loaded.broken)
        refused = (f"The setting {key} of a user is not in force: {why}." for key, why in loaded.refused.items())
        for topic, told in (("settings", loaded.warning), ("own settings", " ".join(refused))):
            loop.warnings.pop(topic, None)
            if told:
                loop.warn(topic, told)
                log.warning(topic, problem=told)

    def reload(self) -> None:
        """Have the files read again. However often that is asked for, one reading waits at most."""
        if not self._waits:
            self._waits = True
            self._loop.post_command(self._reload)

    async def _reload(self) -> Event:
        self._waits = False
        fixed = None if self.loaded.broken else self.loaded.fixed
        self.take(settings_file.load(self._loop.store, self._file, fixed))
        self._loop.post(LinksHint())  # other rules may say what a link is
        return Changed()

    def place(self, key: str) -> str | None:
        """Where the administrator fixes it; None when he does not."""
        found = self.loaded.fixed.places.get(key)
        return f"{found[0]}:{found[1]}" if found else None

    # --- users --------------------------------------------------------------------------------------------------------

    def listed(self) -> tuple[Setting, ...]:
        """Every setting, in the order of the file."""
        return tuple(self._setting(name) for name in KEYS)

    def _setting(self, name: str) -> Setting:
        key, own, place = KEYS[name], self.loaded.own.get(name), self.place(name)
        value, default = in_force(self.loaded.settings, name), in_force(Settings(), name)
        if name in SWITCHES:
            field = name.rpartition(".")[2]
            default = text_of(getattr(Intent(), field))
            mine = text_of(getattr(self._loop.intent, field))
            own, value = mine if mine != default else None, value or mine
        is_own = own is not None and name not in self.loaded.refused
        origin = "administrator" if place else "user" if is_own else "default"
        return Setting(name, value, origin, place, default, own, key.kind, key.allowed, key.text)

    def change(self, name: str, text: str) -> Event:
        """Raises ServiceError."""
        return self._put("ChangeSetting", {name: text}, keep=True)

    def reset(self, name: str | None) -> Event:
        """Raises ServiceError."""
        if name:
            _known("ResetSettings", name)
        gone = {name} if name else set(KEYS)
        self._save("ResetSettings", {key: text for key, text in self.loaded.own.items() if key not in gone})
        for key in gone & set(SWITCHES):
            field = key.rpartition(".")[2]
            self._loop.choices.keep(replace(self._loop.intent, **{field: getattr(Intent(), field)}))
        return Changed()

    def bring(self, text: str) -> tuple[int, Event]:
        """How many settings the text has. Raises ServiceError."""
        try:
            wanted = from_toml(text)
        except SettingsError as err:
            problem = err.problems[0]
            where = f"line {problem.line}: {problem.key}: " if problem.key else f"line {problem.line}: "
            raise _invalid("ImportSettings", f"{where}{problem.problem}", problem.allowed) from None
        return len(wanted), self._put("ImportSettings", wanted, keep=False)

    def _put(self, what: str, wanted: Mapping[str, str], *, keep: bool) -> Event:
        """All of it or nothing. `keep`: beside what users set before."""
        values = {name: self._checked(what, name, text) for name, text in wanted.items()}
        free = {name: text for name, text in values.items() if not self._is_fixed(what, name, text)}
        before = self.loaded.own if keep else {}
        self._save(what, {**before, **{name: text for name, text in free.items() if name not in SWITCHES}})
        switches = {name.rpartition(".")[2]: free[name] == "true" for name in SWITCHES if name in free}
        self._loop.choices.keep(replace(self._loop.intent, **switches))  # type: ignore[arg-type]
        return Changed()

    def _checked(self, what: str, name: str, text: str) -> str:
        """The value in our own spelling."""
        _known(what, name)
        try:
            value = text_of(value_of(KEYS[name], text))
        except SettingsError as err:
            problem = err.problems[0]
            raise _invalid(what, f"{name}: {problem.problem}", problem.allowed) from None
        if name == "tunnel.default_profile" and value not in self._loop.profiles:
            remedy = "`tunwarden profiles list` shows them."
            raise ServiceError(Error.NO_SUCH_PROFILE, what, f"no profile {value!r} is stored.", remedy)
        return value

    def _is_fixed(self, what: str, name: str, text: str) -> bool:
        """Raises ServiceError when the administrator says something else."""
        place = self.place(name)
        if place is None:
            return False
        value = in_force(self.loaded.settings, name)
        if value != text:
            why = f"{name} is fixed to {value or 'nothing'} in {place}."
            raise ServiceError(Error.LOCKED, what, why, "Only the administrator can change it, there.")
        return True

    def _save(self, what: str, own: Mapping[str, str]) -> None:
        """Raises ServiceError."""
        if self.loaded.broken:
            raise ServiceError(
                Error.NOT_NOW,
                what,
                "the settings file has errors, so nobody knows what the administrator allows.",
                "Correct it; `tunwarden settings check FILE` names the errors.",
            )
        loaded = settings_file.over(self.loaded, own)
        for name, why in loaded.refused.items():
            if name not in self.loaded.refused:
                raise _invalid(what, f"{name}: {why}")
        if own != self.loaded.own:
            try:
                self._loop.store.save_own_settings(own)
            except StoreError as err:
                remedy = "Nothing was changed; free the disk and try again."
                raise ServiceError(Error.NOT_NOW, what, f"{err}.", remedy) from err
            log.info("settings of users", own=dict(own))
        self.take(loaded)


def _known(what: str, name: str) -> None:
    if name not in KEYS:
        near = difflib.get_close_matches(name[:64], KEYS, n=1, cutoff=0.5)
        hint = f", did you mean {near[0]}?" if near else "."
        raise ServiceError(
            Error.INVALID_ARGUMENT,
            what,
            f"there is no setting {name[:64]!a}{hint}",
            "`tunwarden settings get` lists them.",
        )


def _invalid(what: str, why: str, allowed: str = "") -> ServiceError:
    return ServiceError(Error.INVALID_ARGUMENT, what, f"{why}." if not allowed else f"{why}; allowed: {allowed}.")
