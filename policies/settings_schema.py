"""The settings file as a JSON Schema, for editors: `tunwarden settings schema`, docs/tunwarden.schema.json.

Made from the description that reads the file. What a schema cannot say (a time's range, what two keys must not say
together) is left to `tunwarden settings check`: whatever the daemon takes, the schema takes too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policies import settings_layout as layout
from policies import settings_values as readers
from policies.own_settings import KEYS, in_force
from policies.settings import Settings
from policies.settings_layout import Spec
from policies.settings_tables import RULE_ACTIONS
from policies.settings_words import SENTENCES

URL = "https://json-schema.org/draft/2020-12/schema"
_WORD: Mapping[str, Any] = {"type": "string"}
_MAC = {"type": "string", "pattern": "^[0-9A-Fa-f]{2}([:-][0-9A-Fa-f]{2}){5}$"}
_HEX_SSID = {"type": "string", "pattern": "^([0-9A-Fa-f]{2}){1,32}$"}
_NAME = {"type": "string", "minLength": 1, "maxLength": 32}

# By the function that reads a value: what of it a schema can say.
_READERS: Mapping[object, Mapping[str, Any]] = {
    readers.boolean: {"type": "boolean"},
    layout.version: {"type": "integer", "minimum": 1, "maximum": layout.VERSION},
    readers.rule_action: {"enum": [str(action) for action in RULE_ACTIONS]},
    readers.profile: {"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"},
    readers.server: {"type": "string", "minLength": 1, "maxLength": 71},
    readers.link_name: {"type": "string", "pattern": "^[A-Za-z0-9._@+*?-]{1,32}$"},
    readers.ssid: _NAME,
    readers.pattern: _NAME,
    readers.ssid_hex: _HEX_SSID,
    readers.bssid: _MAC,
    readers.endpoint: {"type": "string", "pattern": "^([0-9.]{7,15}|\\[[0-9A-Fa-f:.]{2,45}\\]):[1-9][0-9]{0,4}$"},
    readers.sha256: {"type": "string", "pattern": "^(:*[0-9A-Fa-f]){64}:*$"},
    readers.probe: {"type": "string", "pattern": "^http://"},
    readers.prometheus: {"type": "string", "pattern": "^/.+\\.prom$"},
    readers.resolver: {"type": "string", "pattern": "^[0-9A-Fa-f.:]{2,45}$"},
    readers.excluded: {"type": "string", "pattern": "^[0-9A-Fa-f.:]{2,45}/[0-9]{1,3}$"},
    readers.subnet: {"type": "string", "pattern": "^[0-9A-Fa-f.:]{2,45}/[0-9]{1,3}$"},
}


def schema() -> dict[str, Any]:
    """The whole schema. Raises KeyError where a reader is not described here."""
    return {
        "$schema": URL,
        "title": "tunwarden.toml",
        "description": "Settings of tunwarden: /etc/tunwarden/tunwarden.toml and tunwarden.d/*.toml.",
        **_table(layout.FILE, ""),
    }


def _table(spec: Mapping[str, Spec], path: str) -> dict[str, Any]:
    keys = {
        name: {"description": SENTENCES[f"{path}{name}"], **_one(inner, f"{path}{name}")}
        for name, inner in spec.items()
    }
    return {"type": "object", "additionalProperties": False, "properties": keys}


def _one(spec: Spec, path: str) -> dict[str, Any]:
    match spec:
        case dict():
            return _table(spec, f"{path}.")
        case list():
            return {"type": "array", "items": _one(spec[0], path)}
        case readers.Choice():
            return {"enum": [str(member.value) for member in spec.members], **_default(path)}
        case readers.Duration():
            about = f"{SENTENCES[path]} {spec.allowed.capitalize()}."
            return {
                "description": about,
                "type": "string",
                "pattern": "^[0-9]{1,9}(\\.[0-9]{1,3})?(ms|s|m|h)$",
                **_default(path),
            }
        case readers.Size():
            about = f"{SENTENCES[path]} {spec.allowed.capitalize()}."
            pattern = "^[0-9]{1,16}(\\.[0-9]{1,3})?([kMGT]|[KMGT]i)?B$"
            return {"description": about, "type": "string", "pattern": pattern, **_default(path)}
        case _:
            return {**_READERS[spec], **_default(path)}


def _default(path: str) -> dict[str, Any]:
    key = KEYS.get(path)
    text = in_force(Settings(), path) if key else ""
    if key is None or not text:
        return {}
    return {"default": {"true": True, "false": False}.get(text, text)}
