"""[[known]] tables: what an entry must not say, values -> KnownNetwork, and the line of JSON that the store keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from policies.facts import Security
from policies.known_network import KnownNetwork, clashes, half
from policies.settings_errors import Problem, SettingsError, dotted
from policies.settings_layout import SAVED, Findings
from policies.settings_tables import MOST_RESOLVERS
from policies.settings_values import endpoint_text
from policies.toml_lines import Path

_NAME_KEYS = ("ssid", "ssid_hex", "pattern")


def name_of(known: Mapping[str, Any]) -> bytes | None:
    return next((known[key] for key in _NAME_KEYS if known.get(key)), None)


def check_known(known: Mapping[str, Any], path: Path, found: Findings) -> None:
    names = [key for key in _NAME_KEYS if key in known or found.has((*path, key))]
    if len(names) != 1:
        problem = f"{' and '.join(names)} at once" if names else "a known network without a name"
        found.add(path, problem, f"exactly one of {', '.join(_NAME_KEYS)}")
    if len(known.get("resolvers", ())) > MOST_RESOLVERS:
        found.add((*path, "resolvers"), f"{len(known['resolvers'])} resolvers", f"up to {MOST_RESOLVERS}")
    for key, what in (("bssids", "access point"), ("gateways", "router"), ("except", "name")):
        if known.get(key) == [] and not found.has((*path, key)):
            found.add((*path, key), f"an empty list would match no {what}", "at least one, or leave the key out")
    for key, problem, allowed in half(known):
        if not found.has((*path, key)):
            found.add(path, problem, allowed)
    if not found.has((*path, "security")) and not found.has((*path, "pattern")):
        fields = {"minimum_security": known.get("security"), "exceptions": known.get("except"), **known}
        for key, problem, allowed in clashes({**fields, "pattern": "pattern" in known, "ssid": name_of(known) or b""}):
            if not found.has((*path, key)):
                found.add((*path, key), problem, allowed)


def build_known(values: dict[str, Any]) -> KnownNetwork:
    own = ("action", "profile", "server", "allow_lan", "beacon", "beacon_sha256", "learn")
    return KnownNetwork(
        ssid=name_of(values) or b"",
        pattern="pattern" in values,
        exceptions=tuple(values.get("except", ())),
        minimum_security=values.get("security", Security.WPA2),
        bssids=frozenset(values.get("bssids", ())),
        gateways=frozenset(values.get("gateways", ())),
        resolvers=tuple(values.get("resolvers", ())),
        **{key: values[key] for key in own if key in values},
    )


def known_to_json(known: KnownNetwork) -> str:
    """A known network as the store keeps it, one line; `known_from_json` reads it back."""
    values = {
        **({"pattern": known.ssid.decode()} if known.pattern else {"ssid_hex": known.ssid.hex()}),
        "except": [pattern.decode() for pattern in known.exceptions] or None,
        "security": known.minimum_security.value,
        "action": known.action,
        "profile": known.profile,
        "server": known.server,
        "allow_lan": known.allow_lan,
        "resolvers": [str(address) for address in known.resolvers] or None,
        "bssids": [bssid.hex(":") for bssid in sorted(known.bssids)] or None,
        "gateways": [mac.hex(":") for mac in sorted(known.gateways)] or None,
        "beacon": endpoint_text(known.beacon) if known.beacon else None,
        "beacon_sha256": known.beacon_sha256.hex() or None,
        "learn": known.learn or None,
    }
    return json.dumps({key: value for key, value in values.items() if value is not None})


def known_from_json(text: str) -> KnownNetwork:
    """A known network with the keys and rules of a [[known]] table, and `learn`. Raises SettingsError."""
    file = "known network"
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SettingsError([Problem(file, 1, "", "not a JSON object")])
    found = Findings()
    values = found.read(SAVED, document, ())
    check_known(values, (), found)
    if found.items:
        raise SettingsError(Problem(file, 1, dotted(path), problem, allowed) for path, problem, allowed in found.items)
    return build_known(values)
