"""Which keys a settings file has, and who reads the value of each; a document is read by this, all errors at once."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from policies.facts import LinkKind, Security
from policies.resolvers import Manager
from policies.settings_errors import Wrong, dotted, quoted
from policies.settings_tables import AtLimit, Period, WifiAction
from policies.settings_values import (
    Size,
    boolean,
    bssid,
    choice,
    duration,
    endpoint,
    excluded,
    link_name,
    pattern,
    probe,
    profile,
    prometheus,
    resolver,
    rule_action,
    server,
    sha256,
    ssid,
    ssid_hex,
    subnet,
)
from policies.split import SplitNames
from policies.toml_lines import Path

VERSION = 1  # the newest layout this program knows
MAX_PROBLEMS = 100  # nobody reads more, and each costs a search for the nearest key

Reader = Callable[[object], Any]  # raises Wrong
Spec = Reader | dict[str, Any] | list[Any]  # a leaf, a table of Specs by key, an array of the one Spec in it


def version(value: object) -> int:
    if type(value) is int and 1 <= value <= VERSION:
        return value
    raise Wrong(f"{quoted(value)} is not a version", f"1 to {VERSION}" if VERSION > 1 else "1")


def is_newer(value: object) -> bool:
    return type(value) is int and value > VERSION


KNOWN: dict[str, Any] = {
    "ssid": ssid,
    "ssid_hex": ssid_hex,
    "pattern": pattern,
    "except": [pattern],
    "security": choice(*Security),
    "action": choice(*WifiAction),
    "profile": profile,
    "server": server,
    "allow_lan": boolean,
    "resolvers": [resolver],
    "bssids": [bssid],
    "gateways": [bssid],
    "beacon": endpoint,
    "beacon_sha256": sha256,
}
SAVED: dict[str, Any] = {**KNOWN, "learn": boolean}  # the file is never written, so nothing is learned into it

FILE: dict[str, Any] = {
    "version": version,
    "protection": {"kill_switch": boolean, "lockdown": boolean, "allow_lan": boolean, "lan_subnets": [subnet]},
    "tunnel": {
        "default_profile": profile,
        "server": server,
        "connect_timeout": duration("1s", "5m"),
        "retry_first": duration("100ms", "5m"),
        "retry_longest": duration("1s", "1h"),
    },
    "wifi": {
        "unsecured": rule_action,
        "unidentified": rule_action,
        "secured": rule_action,
        "hostile": rule_action,
        "prompt_fallback": choice(WifiAction.AUTO_CONNECT, WifiAction.IGNORE),
        "prompt_timeout": duration("5s", "1h"),
        "hold_while_asking": boolean,
        "identify_timeout": duration("100ms", "1m"),
        "criteria": {"weak_encryption": boolean, "enhanced_open": boolean, "wps": boolean, "common_names": boolean},
    },
    "wired": {"action": rule_action},
    "cellular": {"action": rule_action},
    "portal": {"detect": boolean, "probes": [probe], "login_timeout": duration("30s", "1h")},
    "allowance": {
        "limit": Size("1MB", "1000TB"),
        "per": choice(*Period),
        "bonus": Size("0B", "1000TB"),
        "at_limit": choice(*AtLimit),
    },
    "traffic": {"prometheus": prometheus},
    "dns": {"manager": choice(*Manager), "resolvers": [resolver]},
    "split": {"subnets": [excluded], "names": choice(*SplitNames)},
    "links": [
        {
            "name": link_name,
            "kind": choice(LinkKind.WIFI, LinkKind.WIRED, LinkKind.CELLULAR, LinkKind.VIRTUAL),
            "action": choice(*WifiAction),
        }
    ],
    "known": [KNOWN],
}


def _homes(spec: Spec, path: str = "") -> Iterator[tuple[str, str]]:
    """Each key with the table it lives in, for those who wrote it elsewhere."""
    if isinstance(spec, list):
        yield from _homes(spec[0], f"[{path}]")
    elif isinstance(spec, dict):
        for key, inner in spec.items():
            yield key, f"[{path}]" if path else "the top of the file"
            yield from _homes(inner, f"{path}.{key}" if path else key)


HOMES = dict(reversed(list(_homes(FILE))))  # of two tables with the same key, the first


class Findings:
    """Reads on after an error, so that all are found at once."""

    def __init__(self) -> None:
        self.items: list[tuple[Path, str, str]] = []

    def add(self, path: Path, problem: str, allowed: str) -> None:
        if len(self.items) == MAX_PROBLEMS:
            self.items.append((path, f"and this is not all: there are more than {MAX_PROBLEMS} problems", ""))
        if len(self.items) < MAX_PROBLEMS:
            self.items.append((path, problem, allowed))

    def has(self, path: Path) -> bool:
        """Whether something is wrong at `path`, inside it or around it."""
        return any(other[: len(path)] == path[: len(other)] for other, _, _ in self.items)

    def read(self, spec: Spec, value: object, path: Path) -> Any:
        """The value as `spec` wants it; None (or left out of its table or array) where it is wrong."""
        if isinstance(spec, dict):
            return self._table(spec, value, path)
        if isinstance(spec, list):
            return self._array(spec[0], value, path)
        try:
            return spec(value)
        except Wrong as wrong:
            self.add(path, wrong.problem, wrong.allowed)
        return None

    def _table(self, spec: Mapping[str, Spec], value: object, path: Path) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.add(path, f"{quoted(value)} is not a table", "the keys " + ", ".join(spec))
            return {}
        read = {}
        for key, inner in value.items():
            if key not in spec:
                self.add((*path, key), *_unknown_key(key, spec))
            elif (result := self.read(spec[key], inner, (*path, key))) is not None:
                read[key] = result
        return read

    def _array(self, spec: Spec, value: object, path: Path) -> list[Any]:
        if not isinstance(value, list):
            tables = isinstance(spec, dict)
            self.add(path, f"{quoted(value)} is not an array", f"[[{dotted(path)}]] tables" if tables else "[...]")
            return []
        return [self.read(spec, inner, (*path, position)) for position, inner in enumerate(value)]


def _unknown_key(key: str, spec: Mapping[str, Spec]) -> tuple[str, str]:
    folded = key[:64].lower()
    if near := difflib.get_close_matches(folded, spec, n=1):
        return f'unknown key, did you mean "{near[0]}"?', ", ".join(spec)
    if home := HOMES.get(folded):
        return f"unknown key here, it belongs in {home}", ", ".join(spec)
    return "unknown key", ", ".join(spec)
