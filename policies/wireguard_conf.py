"""The text of a WireGuard configuration (wg(8), wg-quick(8)) -> sections of allowed directives with readable values.

What is not on the lists below is refused: a configuration comes from strangers, and wg-quick would run its scripts as
root. `wireguard_reader.py` gives the values their meaning. Errors never carry a value: it could be a key in the wrong
place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from policies.profiles_errors import ProfileError

MAX_BYTES = 1 << 20

ALLOWED = {
    "interface": ("PrivateKey", "Address", "DNS", "MTU", "ListenPort", "FwMark", "Table", "SaveConfig"),
    "peer": ("PublicKey", "PresharedKey", "Endpoint", "AllowedIPs", "PersistentKeepalive"),
}
REPEATABLE = frozenset({"Address", "DNS", "AllowedIPs"})  # wg adds these up; of all others it silently takes the last
# Taken and not used; the reasons are told.
IGNORED = {
    "ListenPort": "the port is chosen anew for each connection",
    "FwMark": "tunwarden marks the tunnel's packets with its own mark",
    "SaveConfig": "tunwarden never writes to a configuration",
    "Table": "tunwarden sets the routes",
}
SCRIPTS = ("PreUp", "PostUp", "PreDown", "PostDown")

_KNOWN = {name.lower(): name for names in (*ALLOWED.values(), SCRIPTS) for name in names}
_HOME = {name: section for section, names in ALLOWED.items() for name in names}
_TITLE = {"interface": "[Interface]", "peer": "[Peer]"}


@dataclass(frozen=True, slots=True)
class Value:
    line: int
    text: str = field(repr=False)  # printable ASCII without spaces at its ends


@dataclass(slots=True)
class Section:
    """One [Interface] or [Peer]; the values of each directive in the order of their lines."""

    line: int
    name: str  # "interface" or "peer"
    values: dict[str, list[Value]] = field(default_factory=dict)

    def one(self, directive: str) -> Value | None:
        """The value of a directive that stands at most once."""
        return next(iter(self.values.get(directive, ())), None)


def read(text: str) -> tuple[Section, tuple[Section, ...]]:
    """The interface and its peers, at least one. Raises ProfileError for the first thing that is wrong."""
    _check_text(text)
    sections: list[Section] = []
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = _content(number, raw)
        if line.startswith("["):
            sections.append(_section(number, line, sections))
        elif line:
            _directive(number, line, sections)
    interface = next((section for section in sections if section.name == "interface"), None)
    if interface is None:
        raise ProfileError(0, "[Interface]", "is missing", "this does not look like a WireGuard configuration")
    peers = tuple(section for section in sections if section.name == "peer")
    if not peers:
        raise ProfileError(0, "[Peer]", "is missing", "add the section of the VPN server")
    return interface, peers


def nearest(word: str, names: Mapping[str, str]) -> str | None:
    """The name that was probably meant by `word`; `names` maps the lower-case form to the name."""
    near = difflib.get_close_matches(word[:40].lower(), names, n=1)
    return names[near[0]] if near else None


def _check_text(text: str) -> None:
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        size = -1
    # Raised outside the handler: the error that was handled holds the whole text, keys included.
    if size < 0:
        raise ProfileError(0, "text", "is not valid UTF-8", "save it as UTF-8")
    if size > MAX_BYTES:
        raise ProfileError(0, "text", f"has more than {MAX_BYTES} bytes", "a WireGuard configuration has a few hundred")


def _content(number: int, raw: str) -> str:
    """The line without its comment and the spaces at its ends."""
    raw = raw.removesuffix("\r")
    # In comments too: a carriage return or an escape sequence there shows a reader other lines than we read.
    if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", raw):
        raise ProfileError(number, "line", "contains a control character", "remove it")
    line = raw.partition("#")[0].strip(" \t")
    if not line.isascii():
        raise ProfileError(number, "line", "contains a character beyond ASCII outside a comment", "remove it")
    return line


def _section(number: int, line: str, sections: list[Section]) -> Section:
    name = line.strip("[]").lower()
    if line.lower() != _TITLE.get(name, "").lower():
        raise ProfileError(number, "section", "is not known", "only [Interface] and [Peer] are")
    if name == "interface" and any(section.name == name for section in sections):
        raise ProfileError(number, "[Interface]", "stands here a second time", "keep one")
    return Section(number, name)


def _directive(number: int, line: str, sections: list[Section]) -> None:
    word, equals, text = line.partition("=")
    word = word.rstrip(" \t").lower()
    name = _KNOWN.get(word)
    if name is None:
        # What stands there is not repeated: the second half of a broken line can be half a key.
        near = nearest(word.partition(" ")[0], _KNOWN)
        remedy = f"did you mean {near}?" if near else "remove the line; " + ", ".join(_HOME) + " are known"
        raise ProfileError(number, "directive", "is not known", remedy)
    if not equals:
        raise ProfileError(number, name, "has no value", f"write {name} = ...")
    if not sections:
        raise ProfileError(number, name, "stands before any section", "begin with [Interface]")
    if name in SCRIPTS:
        raise ProfileError(number, name, "would run a command as root", f"tunwarden runs none: remove all {name} lines")
    section = sections[-1]
    if _HOME[name] != section.name:
        raise ProfileError(
            number, name, f"does not belong in {_TITLE[section.name]}", f"move it to {_TITLE[_HOME[name]]}"
        )
    values = section.values.setdefault(name, [])
    if values and name not in REPEATABLE:
        raise ProfileError(number, name, f"already stands on line {values[0].line}", "keep one")
    values.append(Value(number, text.strip(" \t")))
