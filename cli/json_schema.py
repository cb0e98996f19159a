"""What `--json` prints, as a JSON Schema: `python -m cli.json_schema` makes docs/cli.schema.json anew."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from cli.leak_probes import Kind, Verdict
from ipc.describe import Struct, Type, structs

_TYPES = {"bool": "boolean", "int": "integer", "string": "string"}
_COUNT = {"type": "integer", "minimum": 0}


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


def _of(base: str, many: bool = False) -> dict[str, Any]:
    return _typed(Type(base, many))


def schema() -> dict[str, Any]:
    """One definition for each command, `error` for what went wrong, and those of the interface's structs."""
    definitions = {name: _struct(struct) for name, struct in structs().items()}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "tunwarden --json",
        "description": "commands: by command, each value it prints. Structs may grow: ignore what you do not know.",
        "commands": OUTPUTS,
        "$defs": definitions,
    }


def _struct(struct: Struct) -> dict[str, Any]:
    fields = {field.name: {"description": field.doc, **_typed(field.type)} for field in struct.fields}
    return {"type": "object", "description": struct.doc, "properties": fields, "required": list(fields)}


def _typed(kind: Type) -> dict[str, Any]:
    one = {"type": _TYPES[kind.base]} if kind.base in _TYPES else {"$ref": f"#/$defs/{kind.base}"}
    whole: dict[str, Any] = {"type": "array", "items": one} if kind.many else one
    return {"anyOf": [whole, {"type": "null"}]} if kind.nullable else whole


_STATUS, _KNOWN = _of("Status"), _of("KnownNetwork")
_TEXT = {"type": "string"}
_LINES = {"type": "array", "items": _TEXT}

# Each JSON value, which stands on a line of its own, by command.
OUTPUTS: Mapping[str, Mapping[str, Any]] = {
    "status": _STATUS,
    "watch": {"description": "With --rates also Traffic.", "anyOf": [_STATUS, _of("Traffic")]},
    "connect": _STATUS,
    "disconnect": _STATUS,
    "reconnect": _STATUS,
    "networks": _of("Network", many=True),
    "known list": _of("KnownNetwork", many=True),
    "known add": _KNOWN,
    "known edit": _KNOWN,
    "known forget": _KNOWN,
    "known import": _object(imported=_COUNT),
    "portal-login": _of("LoginState"),
    "traffic": {
        "description": "With --by, --csv, --since, --until or --plot: Usage.",
        "anyOf": [_of("Traffic"), _of("Usage", many=True)],
    },
    "prompts ask": _of("Prompt"),
    "prompts list": _of("Prompt", many=True),
    "profiles list": _of("Profile", many=True),
    "profiles import": _of("Notice", many=True),
    "profiles show": _of("ProfileField", many=True),
    "profiles login": _object(),
    "profiles remove": _object(),
    "servers": _of("Server", many=True),
    "servers import": _object(imported=_COUNT),
    "servers remove": _object(),
    "servers favourite": _object(),
    "split list": _of("SplitEntry", many=True),
    "split run": _object(group=_TEXT, pid=_COUNT),
    "split add": _object(named=_LINES),
    "split remove": _object(named=_LINES),
    "killswitch": _object(on={"type": "boolean"}),
    "lockdown": _object(on={"type": "boolean"}),
    "settings get": _of("Setting", many=True),
    "settings set": _of("Setting", many=True),
    "settings reset": _of("Setting", many=True),
    "settings export": {"description": "Without a file: the text itself.", "anyOf": [_TEXT, _object(exported=_COUNT)]},
    "settings import": _object(imported=_COUNT),
    "settings check": {
        "type": "array",
        "items": _object(file=_TEXT, line=_COUNT, column=_COUNT, key=_TEXT, problem=_TEXT, allowed=_TEXT),
    },
    "trace": _of("Trace"),
    "report": _of("ReportPart", many=True),
    "doctor": _object(
        well={"type": "boolean"},
        findings={
            "type": "array",
            "items": _object(check=_TEXT, ok={"type": ["boolean", "null"]}, text=_TEXT, remedy=_TEXT),
        },
    ),
    "leak-test": _object(
        protection={"enum": ["wanted", "not wanted", "unknown"]},
        links=_LINES,
        leaked=_COUNT,
        unable={"type": ["string", "null"], "description": "Why it proves nothing."},
        probes={
            "type": "array",
            "items": _object(
                kind={"enum": [kind.value for kind in Kind]},
                target=_TEXT,
                link={"type": ["string", "null"], "description": "The one it was bound to."},
                verdict={"enum": [verdict.name.lower() for verdict in Verdict]},
                how=_TEXT,
                frames={"type": "array", "items": _object(link=_TEXT, bytes=_COUNT, head=_TEXT, summary=_TEXT)},
            ),
        },
    ),
    "panic-reset": _object(
        steps=_LINES, open={"type": "boolean"}, stays_open={"type": "boolean"}, daemon_running={"type": "boolean"}
    ),
    "error": {
        "description": "Of any command, when it fails. `error` is a word, or a name of the interface.",
        "type": "object",
        "properties": {"error": _TEXT, "what": _TEXT, "why": _TEXT, "remedy": _TEXT},
        "required": ["error"],
        "additionalProperties": False,
    },
}

if __name__ == "__main__":
    print(json.dumps(schema(), indent=1))
