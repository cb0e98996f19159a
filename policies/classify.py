"""What kind of network this is, and why: (WifiNetwork, Settings) -> Classification.

An attacker writes every field of a WifiNetwork. So evidence of weakness always counts, doubt is never better than
`unidentified`, and only a saved network that asked both sides for a secret can be `known`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from policies.common_ssids import is_common
from policies.facts import Security, WifiNetwork
from policies.settings import Criteria, KnownNetwork, Settings, proves_identity


class Verdict(StrEnum):
    KNOWN = "known"
    UNSECURED = "unsecured"
    SECURED = "secured"
    UNIDENTIFIED = "unidentified"


class Reason(StrEnum):
    """Why a network got its verdict. `SENTENCES` says it to people."""

    SAVED = "saved"
    SAVED_ACCESS_POINT = "saved-access-point"
    ENCRYPTED = "encrypted"
    OPEN = "open"
    OWE_TRANSITION = "owe-transition"
    ENHANCED_OPEN = "enhanced-open"
    WEP = "wep"
    WPA1 = "wpa1"
    TKIP = "tkip"
    WPS = "wps"
    COMMON_NAME = "common-name"
    IMPOSTOR_WEAKER = "impostor-weaker"
    IMPOSTOR_ACCESS_POINT = "impostor-access-point"
    UNPROVEN = "unproven"
    MALFORMED = "malformed"
    SECURITY_UNREADABLE = "security-unreadable"
    NAME_UNREADABLE = "name-unreadable"
    ACCESS_POINT_UNREADABLE = "access-point-unreadable"


SENTENCES: dict[Reason, str] = {
    Reason.SAVED: "You saved this network, and it is protected as well as then.",
    Reason.SAVED_ACCESS_POINT: "The access point is one of those you saved.",
    Reason.ENCRYPTED: "The network is encrypted and asks for a password or an account.",
    Reason.OPEN: "The network is open: everybody nearby can read and change what is not encrypted otherwise.",
    Reason.OWE_TRANSITION: "The network is open to devices without Enhanced Open: it counts as open.",
    Reason.ENHANCED_OPEN: "The network encrypts without a password: anybody can set up one of the same name.",
    Reason.WEP: "The network uses WEP, which is broken within minutes.",
    Reason.WPA1: "The network uses the first WPA, which is out of date and weak.",
    Reason.TKIP: "The network allows TKIP, a weak encryption.",
    Reason.WPS: "The network lets devices in by WPS, whose PIN can be guessed.",
    Reason.COMMON_NAME: "Thousands of networks have this name, so it says nothing about whose it is.",
    Reason.IMPOSTOR_WEAKER: "It has the name of a network you saved, but weaker protection: it may be an imitation.",
    Reason.IMPOSTOR_ACCESS_POINT: "It has the name of a network you saved, but a foreign access point: "
    "it may be an imitation.",
    Reason.UNPROVEN: "You saved this network, but without a password anybody can imitate it.",
    Reason.MALFORMED: "The network's announcement is damaged or forged.",
    Reason.SECURITY_UNREADABLE: "How the network is protected could not be read.",
    Reason.NAME_UNREADABLE: "The name of the network could not be read.",
    Reason.ACCESS_POINT_UNREADABLE: "You saved certain access points of this network; which one this is "
    "could not be read.",
}


@dataclass(frozen=True, slots=True)
class Classification:
    """The verdict with its reasons and, where one fits, the saved entry.

    `known` is set also where the network meets the entry's demands but is of a kind that proves nothing (open, OWE,
    WEP): then the verdict is not KNOWN, and the entry can only tighten, for KnownNetwork refuses others. An impostor
    and a network that could not be read whole have none.
    """

    verdict: Verdict
    reasons: tuple[Reason, ...]  # never empty
    known: KnownNetwork | None = None


def classify(network: WifiNetwork, settings: Settings) -> Classification:
    """The verdict on a Wi-Fi network; any input has one."""
    entry, shortfalls = _match(network, settings.known)
    doubts = tuple(_doubts(network))
    if Reason.ACCESS_POINT_UNREADABLE in shortfalls:  # it may still be itself: no alarm, and no trust
        doubts, shortfalls = (*doubts, Reason.ACCESS_POINT_UNREADABLE), ()
    if entry is not None and not doubts and proves_identity(network.security):
        reasons = (Reason.SAVED, Reason.SAVED_ACCESS_POINT) if entry.bssids else (Reason.SAVED,)
        return Classification(Verdict.KNOWN, reasons, entry)
    if doubts:
        entry = None
    unproven = (Reason.UNPROVEN,) if entry is not None else ()
    if weaknesses := (*shortfalls, *_weaknesses(network, settings.wifi.criteria)):
        return Classification(Verdict.UNSECURED, (*weaknesses, *unproven, *doubts), entry)
    if doubts:
        return Classification(Verdict.UNIDENTIFIED, doubts)
    return Classification(Verdict.SECURED, (Reason.ENCRYPTED, *unproven), entry)


def _doubts(network: WifiNetwork) -> Iterator[Reason]:
    if network.malformed:
        yield Reason.MALFORMED
    if network.security is Security.UNKNOWN:
        yield Reason.SECURITY_UNREADABLE
    if not network.ssid.strip(b"\0") or len(network.ssid) > 32:  # some hidden networks send zeros as their name
        yield Reason.NAME_UNREADABLE


def _weaknesses(network: WifiNetwork, criteria: Criteria) -> Iterator[Reason]:
    match network.security:
        case Security.OPEN:
            yield Reason.OPEN
        case Security.OWE_TRANSITION:  # its weaker half is open, and open can never be switched off
            yield Reason.OWE_TRANSITION
        case Security.OWE if criteria.enhanced_open:
            yield Reason.ENHANCED_OPEN
        case Security.WEP if criteria.weak_encryption:
            yield Reason.WEP
        case Security.WPA if criteria.weak_encryption:
            yield Reason.WPA1
        case _:
            pass
    if network.tkip and criteria.weak_encryption:
        yield Reason.TKIP
    if network.wps and criteria.wps:
        yield Reason.WPS
    if criteria.common_names and is_common(network.ssid):
        yield Reason.COMMON_NAME


def _match(network: WifiNetwork, known: tuple[KnownNetwork, ...]) -> tuple[KnownNetwork | None, tuple[Reason, ...]]:
    """The first saved entry that holds; else why each of the same name does not."""
    shortfalls: dict[Reason, None] = {}
    for entry in known:
        if entry.ssid == network.ssid:
            shortfall = _shortfall(network, entry)
            if shortfall is None:
                return entry, ()
            shortfalls[shortfall] = None
    return None, tuple(shortfalls)


def _shortfall(network: WifiNetwork, entry: KnownNetwork) -> Reason | None:
    # Security that could not be read is no evidence of an impostor; `_doubts` sees to it that it is not trusted either.
    readable = network.security is not Security.UNKNOWN
    if readable and network.offered.strength < entry.minimum_security.strength:
        return Reason.IMPOSTOR_WEAKER
    if not entry.bssids or network.bssid in entry.bssids:
        return None
    return Reason.IMPOSTOR_ACCESS_POINT if len(network.bssid) == 6 else Reason.ACCESS_POINT_UNREADABLE


def ssid_text(ssid: bytes) -> str:
    """An SSID for people, terminals and logs: UTF-8 where it is valid, `\\xNN` for every other byte.

    Controls, bidirectional and invisible characters are escaped byte by byte and a backslash is doubled, so that two
    different SSIDs never read the same. Empty stays empty: a hidden network.
    """
    text = ssid.decode("utf-8", "surrogateescape")
    return "".join(_shown(char, first=position == 0) for position, char in enumerate(text))


# Drawn as nothing, though their categories are those of letters, marks and symbols.
_INVISIBLE = frozenset(
    (0x034F, 0x115F, 0x1160, 0x17B4, 0x17B5, 0x2800, 0x3164, 0xFFA0, *range(0x180B, 0x1810), *range(0xFE00, 0xFE10))
) | frozenset(range(0xE0100, 0xE01F0))


def _shown(char: str, *, first: bool) -> str:
    if char == "\\":
        return "\\\\"
    category = unicodedata.category(char)
    hidden = category[0] in "CZ" or ord(char) in _INVISIBLE
    if (hidden and char != " ") or (first and category[0] == "M"):  # a leading mark would cling to the text before it
        return "".join(f"\\x{byte:02x}" for byte in char.encode("utf-8", "surrogateescape"))
    return char
