"""The elements of a beacon -> how the network protects the air. Every byte comes from a stranger.

IEEE 802.11-2020, clause 9.4.2 (elements), 9.4.2.24 (RSN), tables 9-149 (ciphers) and 9-151 (AKMs), with the additions
of 802.11-2024; the WPA, WPS and OWE-transition elements of the Wi-Fi Alliance, and the RSN overrides of WPA3.

An access point offers several suites and a client takes one; what counts here is the weakest on offer. Whatever
cannot be read makes the result `malformed`, which is never better than unidentified. Two rules are stricter than the
standard. A list that is left out is not taken for its default (802.1X with CCMP), or cutting an element short would
make a network look stronger. Encryption without the privacy bit, and elements that contradict each other, are damage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from policies.facts import Security

SSID, RSN, VENDOR = 0, 48, 221
LONGEST_SSID = 32
PRIVACY = 0x0010  # of the capability field, 9.4.1.4
WPA = b"\x00\x50\xf2\x01"
WPS = b"\x00\x50\xf2\x04"
OWE_TRANSITION = b"\x50\x6f\x9a\x1c"
RSN_OVERRIDE, RSN_OVERRIDE_2 = b"\x50\x6f\x9a\x29", b"\x50\x6f\x9a\x2a"

_IEEE, _MICROSOFT, _WFA = b"\x00\x0f\xac", b"\x00\x50\xf2", b"\x50\x6f\x9a"

# What a suite makes of a network; not here: suites that nobody associates by (TDLS, PeerKey, PASN), and unknown ones.
_AKMS: Final = {
    **{_IEEE + bytes([number]): Security.ENTERPRISE for number in (1, 3, 5, 11, 13, 14, 15, 16, 17, 22, 23)},
    **{_IEEE + bytes([number]): Security.WPA2 for number in (2, 4, 6, 19, 20)},
    **{_IEEE + bytes([number]): Security.WPA3 for number in (8, 9, 24, 25)},
    _IEEE + b"\x0c": Security.ENTERPRISE_192,
    _IEEE + b"\x12": Security.OWE,
    _WFA + b"\x01": Security.OPEN,  # OSEN: encrypted for whoever asks, to sign up
    _WFA + b"\x02": Security.WPA3,  # DPP: a key that was given out beforehand
}
_USE_GROUP = _IEEE + b"\x00"
_WEP = frozenset(oui + bytes([number]) for oui in (_IEEE, _MICROSOFT) for number in (1, 5))
_TKIP = frozenset(oui + b"\x02" for oui in (_IEEE, _MICROSOFT))
_STRONG = frozenset(_IEEE + bytes([number]) for number in (4, 8, 9, 10)) | {_MICROSOFT + b"\x04"}  # CCMP, GCMP
_NO_GROUP = _IEEE + b"\x07"  # group traffic is not allowed: nothing to encrypt


@dataclass(frozen=True, slots=True)
class Announced:
    """What a beacon or probe response says. `malformed` tells what is wrong and at which byte; empty: nothing."""

    ssid: bytes = b""  # empty: hidden
    security: Security = Security.UNKNOWN
    tkip: bool = False
    wps: bool = False
    malformed: str = ""


@dataclass(frozen=True, slots=True)
class _Suites:
    security: Security
    tkip: bool


class _Damage(Exception):
    """Its text says what is wrong, its number where."""

    def __init__(self, at: int, what: str) -> None:
        super().__init__(f"{what} at byte {at}")


def parse(data: bytes, capability: int) -> Announced:
    """Any bytes give a result, in time linear in their number. `capability`: the field of that name (9.4.1.4)."""
    ssid: bytes | None = None
    found: dict[bytes, bytes] = {}  # the bodies of what protects, by element
    transition = wps = False
    damage = ""
    at, end = 0, len(data)
    while at < end:
        if at + 2 > end or at + 2 + data[at + 1] > end:
            damage = damage or f"an element longer than what there is at byte {at}"
            break
        number, start, at = data[at], at + 2, at + 2 + data[at + 1]
        if number == SSID:
            body = data[start:at]
            if len(body) > LONGEST_SSID or (ssid is not None and ssid != body):
                damage = damage or f"a name that is too long or the second one at byte {start - 2}"
            ssid = body if ssid is None else ssid
            continue
        if number == RSN:
            kind, body = b"", data[start:at]
        elif number == VENDOR:
            kind = data[start : start + 4]
            if kind == WPS:
                wps = True
            elif kind == OWE_TRANSITION:
                transition = True
            if kind not in _READERS:
                continue
            body = data[start + 4 : at]
        else:
            continue
        if found.setdefault(kind, body) != body:
            damage = damage or f"a second, different element of its kind at byte {start - 2}"
    suites: list[_Suites] = []
    for kind, body in found.items():
        try:
            suites.append(_READERS[kind](body))
        except _Damage as err:
            damage = damage or f"{_NAMES[kind]}: {err} of it"
    name = (ssid or b"")[:LONGEST_SSID]
    private = bool(capability & PRIVACY)
    if found and not private:
        damage = damage or "encryption is announced, but the privacy bit is not set"
    if damage:
        return Announced(name, Security.UNKNOWN, any(each.tkip for each in suites), wps, damage)
    if not suites:
        bare = Security.OWE_TRANSITION if transition else Security.OPEN
        return Announced(name, Security.WEP if private else bare, False, wps)
    return Announced(name, _weakest(each.security for each in suites), any(each.tkip for each in suites), wps)


def _weakest(securities: Iterable[Security]) -> Security:
    """Of all that is offered. PSK beside SAE is a mode of its own, with a name of its own."""
    offered = set(securities)
    weakest = min(offered, key=lambda security: security.strength)
    mixed = weakest is Security.WPA2 and Security.WPA3 in offered
    return Security.WPA2_WPA3 if mixed else weakest


def _rsn(body: bytes) -> _Suites:
    """The RSN element (9.4.2.24) and its overrides: the same fields after a version."""
    group, pairwise, akms, _ = _lists(body)
    offered = {_AKMS[akm] for akm in akms if akm in _AKMS}
    if not offered:
        raise _Damage(len(body), "no known way to authenticate")
    weak, tkip = _ciphers(group, pairwise)
    return _Suites(Security.WEP if weak else _weakest(offered), tkip)


def _wpa(body: bytes) -> _Suites:
    """The first WPA, of 2003: the same layout with suites of Microsoft's."""
    group, pairwise, akms, _ = _lists(body)
    if not any(akm in (_MICROSOFT + b"\x01", _MICROSOFT + b"\x02") for akm in akms):
        raise _Damage(len(body), "no known way to authenticate")
    weak, tkip = _ciphers(group, pairwise)
    return _Suites(Security.WEP if weak else Security.WPA, tkip)


def _lists(body: bytes) -> tuple[bytes, list[bytes], list[bytes], int]:
    """Group cipher, pairwise ciphers, AKMs, and where the optional fields begin. Raises _Damage."""
    if len(body) < 8:
        raise _Damage(len(body), "cut short before its ciphers")
    if body[0:2] != b"\x01\x00":
        raise _Damage(0, f"version {int.from_bytes(body[0:2], 'little')} instead of 1")
    pairwise, at = _list(body, 6, "ciphers")
    akms, at = _list(body, at, "ways to authenticate")
    _rest(body, at)
    return body[2:6], pairwise, akms, at


def _list(body: bytes, at: int, what: str) -> tuple[list[bytes], int]:
    if at + 2 > len(body):
        raise _Damage(at, f"cut short before its {what}")
    count = body[at] | body[at + 1] << 8
    start, end = at + 2, at + 2 + 4 * count
    if count == 0 or end > len(body):
        raise _Damage(at, f"{count} {what}, which there are not")
    return [body[here : here + 4] for here in range(start, end, 4)], end


def _rest(body: bytes, at: int) -> None:
    """RSN capabilities, PMKIDs, group management cipher: absent from some field on, or whole."""
    left = len(body) - at
    if left in (0, 2):
        return
    if left < 4:
        raise _Damage(at, "cut short in its capabilities")
    left -= 4 + 16 * (body[at + 2] | body[at + 3] << 8)
    if left < 0 or left in (1, 2, 3):
        raise _Damage(at + 2, "cut short in its key identifiers")


def _ciphers(group: bytes, pairwise: list[bytes]) -> tuple[bool, bool]:
    """Whether WEP is among them, and whether TKIP is. A cipher that nobody knows is damage when no other is there."""
    offered = {group if cipher == _USE_GROUP else cipher for cipher in pairwise}
    if not offered & (_STRONG | _TKIP | _WEP):
        raise _Damage(6, "no known cipher")
    if group not in _STRONG | _TKIP | _WEP | {_NO_GROUP}:
        raise _Damage(2, "an unknown cipher for groups")
    offered.add(group)
    return bool(offered & _WEP), bool(offered & _TKIP)


_READERS: Final[dict[bytes, Callable[[bytes], _Suites]]] = {
    b"": _rsn,
    WPA: _wpa,
    RSN_OVERRIDE: _rsn,
    RSN_OVERRIDE_2: _rsn,
}
_NAMES: Final = {b"": "RSN", WPA: "WPA", RSN_OVERRIDE: "RSN override", RSN_OVERRIDE_2: "RSN override 2"}
