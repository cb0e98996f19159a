"""Settings that users may have of their own: beneath the administrator's, above the defaults.

A value is text, as it stands behind the key in the file, without quotes or brackets: `true`, `auto_connect`, `15s`,
`100.64.0.0/10, fd00::/48`. What the administrator's files say wins, also when they came later.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from enum import Enum
from typing import Any

from policies import settings_values as readers
from policies.settings import Fixed, Settings, build, overlay, parse_files
from policies.settings_checks import check_lists, check_together
from policies.settings_errors import Problem, SettingsError
from policies.settings_layout import FILE, Findings, Spec
from policies.settings_tables import RULE_ACTIONS
from policies.settings_words import SENTENCES

VERSION = 1  # of the JSON in the store
LONGEST = 4096  # bytes of a value
# The users' choice of these is part of what they want of the daemon (`policies.decision.Intent`), and kept there.
SWITCHES = ("protection.kill_switch", "protection.lockdown")
# Whole tables have commands, and rules, of their own; a path for root to write to is the administrator's alone (E7).
_NOT_OWN = ("version", "links", "known", "traffic.prometheus")


@dataclass(frozen=True, slots=True)
class Key:
    """One key that users may set, named with its table."""

    name: str
    kind: str  # boolean, choice, time, size, name or list
    allowed: str  # in words
    text: str  # what it means: one sentence
    read: Spec


def _keys(spec: Mapping[str, Spec], table: str = "") -> Iterator[Key]:
    for name, inner in spec.items():
        if isinstance(inner, dict):
            yield from _keys(inner, f"{table}{name}.")
        elif f"{table}{name}" not in _NOT_OWN:
            yield _key(f"{table}{name}", inner)


def _key(name: str, read: Spec) -> Key:
    match read:
        case readers.Choice():
            kind, allowed = "choice", ", ".join(str(each.value) for each in read.members)
        case readers.Duration():
            kind, allowed = "time", read.allowed.replace('"', "")
        case readers.Size():
            kind, allowed = "size", read.allowed.replace('"', "")
        case list():
            kind, allowed = "list", "separated by commas; empty for none"
        case readers.boolean:
            kind, allowed = "boolean", "true, false"
        case readers.rule_action:
            kind, allowed = "choice", ", ".join(RULE_ACTIONS)
        case _:
            kind, allowed = "name", ""
    return Key(name, kind, allowed, SENTENCES[name], read)


KEYS: Mapping[str, Key] = {key.name: key for key in _keys(FILE)}


def value_of(key: Key, text: str) -> Any:
    """The value that a text stands for. Raises SettingsError."""
    written: object = text
    if key.kind == "boolean":
        written = {"true": True, "false": False}.get(text, text)
    elif key.kind == "list":
        # An address has no comma in it, but a URL may.
        between = r"[,\s]+" if key.read in ([readers.subnet], [readers.excluded], [readers.resolver]) else r",?\s+"
        written = [part for part in re.split(between, text.strip()) if part]
    found = Findings()
    value = found.read(key.read, written, (key.name,))
    if not found.items:
        check_lists(_nested(key.name, value), found)
    if found.items:
        raise SettingsError(Problem("", 1, key.name, problem, allowed) for _, problem, allowed in found.items)
    return value


def text_of(value: object) -> str:
    """The text of a value in force; nothing for none."""
    match value:
        case None:
            return ""
        case bool():
            return "true" if value else "false"
        case Enum():
            return str(value.value)
        case float():
            return _time(value)
        case int():
            return _size(value)
        case tuple() | list():
            return ", ".join(str(each) for each in value)
        case _:
            return str(value)


def _time(seconds: float) -> str:
    milliseconds = round(seconds * 1000)
    for unit, size in (("h", 3_600_000), ("m", 60_000), ("s", 1000)):
        if milliseconds and milliseconds % size == 0:
            return f"{milliseconds // size}{unit}"
    return f"{milliseconds}ms"


def _size(count: int) -> str:
    units = (unit for unit in ("TB", "GB", "MB", "kB") if count and count % readers.UNITS[unit] == 0)
    unit = next(units, "B")
    return f"{count // readers.UNITS[unit]}{unit}"


def together(fixed: Fixed, own: Mapping[str, str]) -> tuple[Settings, dict[str, str]]:
    """The settings to put in force, and why which of the users' values are not."""
    values: dict[str, dict[str, Any]] = {}
    refused: dict[str, str] = {}
    for name, text in own.items():
        if name in fixed.places:
            continue
        try:
            values[name] = _nested(name, value_of(KEYS[name], text))
        except KeyError:
            refused[name] = "there is no such key"
        except SettingsError as err:
            refused[name] = _words(err.problems[0].problem, err.problems[0].allowed)
    whole = _over(fixed, values)
    if list(check_together(whole)):
        # Some of them do not go together with what the administrator says now: as many as do, in their order.
        accepted: dict[str, dict[str, Any]] = {}
        while more := [name for name in values if name not in accepted and _fits(fixed, accepted, values, name)]:
            accepted[more[0]] = values[more[0]]
        for name in values.keys() - accepted.keys():
            ((_, problem, allowed), *_) = check_together(_over(fixed, accepted | {name: values[name]}))
            refused[name] = _words(problem, allowed)
        whole = _over(fixed, accepted)
    return build(whole), refused


def _words(problem: str, allowed: str) -> str:
    return f"{problem}; allowed: {allowed}" if allowed else problem


def _nested(name: str, value: object) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    assert isinstance(value, dict)
    return value


def _over(fixed: Fixed, own: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    for each in own.values():
        overlay(whole, deepcopy(each))
    overlay(whole, fixed.values)
    return whole


def _fits(
    fixed: Fixed, accepted: Mapping[str, dict[str, Any]], values: Mapping[str, dict[str, Any]], name: str
) -> bool:
    return not list(check_together(_over(fixed, {**accepted, name: values[name]})))


def in_force(settings: Settings, name: str) -> str:
    """The text of a key's value in these settings."""
    value: Any = settings
    for part in name.removesuffix(".action").split("."):
        value = getattr(value, part)
    return text_of(value)


def from_toml(text: str) -> dict[str, str]:
    """The users' values that a text in the layout of the settings file says. Raises SettingsError."""
    read = parse_files([("text", text)])
    for table, place in (
        ("links", "the administrator's file"), ("known", "`tunwarden known import`"),
        ("traffic", "the administrator's file"),
    ):  # fmt: skip
        if read.values.get(table):
            raise SettingsError([Problem("text", 1, table, f"[[{table}]] is not among what users set here", place)])
    return {name: text_of(_inside(read.values, name)) for name in KEYS if name in read.places}


def _inside(values: Mapping[str, Any], name: str) -> object:
    value: Any = values
    for part in name.split("."):
        value = value[part]
    return value


def to_json(own: Mapping[str, str]) -> str:
    """As the store keeps them."""
    return json.dumps({"version": VERSION, "values": dict(own)}, sort_keys=True)


def from_json(text: str) -> dict[str, str]:
    """Back. Raises ValueError, also for what a newer version wrote."""
    document = json.loads(text)
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError("users' settings of another version")
    values = document.get("values")
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise ValueError("users' settings are not texts by key")
    return dict(values)
