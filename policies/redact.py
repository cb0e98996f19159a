"""What must never be read in a log, a trace or a report, taken out of any text. Pure.

Keys and passwords always: by their shape, and by the words beside them. On request also what tells where somebody has
been: names of networks, addresses, hardware addresses. These get the same stand-in wherever they appear again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from ipaddress import ip_address
from typing import Any

from pydantic import BaseModel

KEY, SECRET = "<key>", "<secret>"
MAC_BYTES = 6
SHORTEST_NAME = 3  # characters of a name that is taken out wherever it stands; shorter ones only between quotes

_PEM = re.compile(r"-----BEGIN [^\n]{1,60}?-----.*?(?:-----END [^\n]{1,60}?-----|\Z)", re.DOTALL)
# OpenVPN: a block of two lines (those with keys hold PEM), and what its management socket is told.
_BLOCK = re.compile(r"<auth-user-pass>.*?(?:</auth-user-pass>|\Z)", re.DOTALL)
_ANSWER = re.compile(
    r"""\b((?:username|password)\s+"[^"]*"\s+|auth-token(?:-user)?\s+)(?:"(?:[^"\\]|\\.)*"?|[^\s,'"]+)"""
)
# 32 bytes as WireGuard writes them, base64, and as its sockets do, hexadecimal; also with a stray character more.
# Fingerprints of certificates are public.
_KEY = re.compile(r"(?<![A-Za-z0-9+/])[A-Za-z0-9+/]{42,}={1,2}|(?<![0-9A-Fa-f])(?<!sha256=)[0-9A-Fa-f]{64,}")
_BEARER = re.compile(r"\b(bearer|basic)\s+[A-Za-z0-9._~+/=-]{4,}|\beyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]+)*", re.I)
_USERINFO = re.compile(r"(://)[^/\s@\"']+@")
_NAMED = re.compile(
    r"""((?:private|pre-?_?shared|secret|api|wep|wpa)[-_ ]?key\d*|pass(?:word|wd|phrase)?|psk|secret|token|authorization
    |cookie|otp|pin)
    (["']?\s*[=:]\s*)
    (?:"(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s,;&"'}\])]+)""",
    re.IGNORECASE | re.VERBOSE,
)
_MAC = re.compile(r"(?<![0-9A-Fa-f:.-])[0-9A-Fa-f]{2}(?:([:-])[0-9A-Fa-f]{2})(?:\1[0-9A-Fa-f]{2}){4}(?![0-9A-Fa-f:])")
# How decisions name a network: link, bytes of its name, security.
_NETWORK = re.compile(r"(?<=/)(?:[0-9a-f]{2}){1,32}(?=/[a-z0-9-]{3,14}\b)")
_PLACES = frozenset({"ssid", "ssid_hex", "bssid", "gateway_mac"})  # fields that are such names, whatever is in them
_ADDRESS = re.compile(
    r"(?<![0-9A-Za-z:.])(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*)"
)


def without_secrets(text: str) -> str:
    """The text with a stand-in for everything that looks like a key, a password or a token."""
    text = _PEM.sub(SECRET, text)
    text = _BLOCK.sub(SECRET, text)
    text = _ANSWER.sub(lambda found: f"{found[1]}{SECRET}", text)
    text = _BEARER.sub(SECRET, text)
    text = _NAMED.sub(lambda found: f"{found[1]}{found[2]}{SECRET}", text)
    text = _USERINFO.sub(lambda found: f"{found[1]}{SECRET}@", text)
    return _KEY.sub(KEY, text)


class Redactor:
    """`redact(text)`. With `hide_names`, also places; `names` are those of networks, as shown to people and in hex."""

    def __init__(self, hide_names: bool = False, names: Iterable[str] = ()) -> None:
        self._hide = hide_names
        self._stand_ins: dict[str, str] = {}
        self._names: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        self.meet(names)

    def meet(self, names: Iterable[str]) -> None:
        """More names of networks."""
        fresh = {name for name in names if name} - self._names
        if fresh and self._hide:
            self._names |= fresh
            longest = sorted(self._names, key=lambda name: (-len(name), name))
            self._pattern = re.compile("|".join(map(_whole, longest)))

    def __call__(self, text: str) -> str:
        text = without_secrets(text)
        if not self._hide:
            return text
        if self._pattern is not None:
            text = self._pattern.sub(lambda found: self._stand_in("network", found[0]), text)
        text = _NETWORK.sub(lambda found: self._stand_in("network", found[0]), text)
        text = _MAC.sub(lambda found: self._stand_in("mac", found[0].lower().replace("-", ":")), text)
        return _ADDRESS.sub(lambda found: self._address(found[0]), text)

    def value(self, value: Any) -> Any:
        """Anything as plain values, with every text in it redacted."""
        match value:
            case Enum():
                return self.value(value.value)
            case None | bool() | int() | float():
                return value
            case str():
                return self(value)
            case bytes():
                return self(value.hex(":") if len(value) == MAC_BYTES else value.hex())
            case Mapping():
                return {self(str(key)): self._field(str(key), inner) for key, inner in value.items()}
            case list() | tuple() | set() | frozenset():
                return [self.value(inner) for inner in value]
            case BaseModel():
                return self.value(dict(value))
            case _ if is_dataclass(value) and not isinstance(value, type):
                return {
                    each.name: self._field(each.name, getattr(value, each.name)) for each in fields(value) if each.repr
                }
            case _:
                return self(str(value))

    def _field(self, key: str, value: Any) -> Any:
        """The name of a field may tell what is in it."""
        if isinstance(value, str | bytes):
            if _NAMED.fullmatch(f"{key}=x"):
                return SECRET
            if "sha256" in key:
                return value.hex() if isinstance(value, bytes) else value
            if self._hide and key in _PLACES and value:
                return self._stand_in("network", str(value.hex() if isinstance(value, bytes) else value))
        return self.value(value)

    def _address(self, text: str) -> str:
        bare = text.rstrip(".:") if text.endswith((".", ":")) and not text.endswith("::") else text
        try:
            address = ip_address(bare)
        except ValueError:
            return text
        if address.is_loopback or address.is_unspecified:
            return text
        return self._stand_in("address", str(address)) + text[len(bare) :]

    def _stand_in(self, kind: str, found: str) -> str:
        name = f"{kind} {found}"
        if name not in self._stand_ins:
            count = sum(each.startswith(f"{kind} ") for each in self._stand_ins) + 1
            self._stand_ins[name] = f"<{kind} {count}>"
        return self._stand_ins[name]


def _whole(name: str) -> str:
    escaped = re.escape(name)
    if len(name) >= SHORTEST_NAME:
        return escaped
    return f"(?<=[\"'“/]){escaped}(?=[\"'”/])"
