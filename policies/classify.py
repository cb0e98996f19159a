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
from policies.facts import Endpoint, Evidence, Security, WifiNetwork
from policies.known import names
from policies.known_network import KnownNetwork, has_accounts, proves_identity
from policies.settings import Settings
from policies.settings_tables import Criteria

LEARNED = 64  # access points that one entry learns at most: then a house is complete, or something is wrong


class Verdict(StrEnum):
    KNOWN = "known"
    UNSECURED = "unsecured"
    SECURED = "secured"
    UNIDENTIFIED = "unidentified"


class Reason(StrEnum):
    """Why a network got its verdict. `SENTENCES` says it to people."""

    SAVED = "saved"
    SAVED_ACCESS_POINT = "saved-access-point"
    SAVED_GATEWAY = "saved-gateway"
    SAVED_BEACON = "saved-beacon"
    NEW_ACCESS_POINT = "new-access-point"
    ENCRYPTED = "encrypted"
    OPEN = "open"
    OWE_TRANSITION = "owe-transition"
    ENHANCED_OPEN = "enhanced-open"
    WEP = "wep"
    WPA1 = "wpa1"
    TKIP = "tkip"
    SERVER_UNCHECKED = "server-unchecked"
    WPS = "wps"
    COMMON_NAME = "common-name"
    IMPOSTOR_WEAKER = "impostor-weaker"
    IMPOSTOR_KIND = "impostor-kind"
    IMPOSTOR_ACCESS_POINT = "impostor-access-point"
    IMPOSTOR_GATEWAY = "impostor-gateway"
    IMPOSTOR_BEACON = "impostor-beacon"
    EVIDENCE_GATEWAY_MOVED = "evidence-gateway-moved"
    EVIDENCE_SECOND_DHCP_SERVER = "evidence-second-dhcp-server"
    EVIDENCE_DHCP_ROUTES = "evidence-dhcp-routes"
    EVIDENCE_ROGUE_ROUTER = "evidence-rogue-router"
    EVIDENCE_EVIL_TWIN = "evidence-evil-twin"
    UNPROVEN = "unproven"
    MALFORMED = "malformed"
    SECURITY_UNREADABLE = "security-unreadable"
    NAME_UNREADABLE = "name-unreadable"
    ACCESS_POINT_UNREADABLE = "access-point-unreadable"
    GATEWAY_UNREADABLE = "gateway-unreadable"
    BEACON_UNSEEN = "beacon-unseen"
    BEACON_SILENT = "beacon-silent"


SENTENCES: dict[Reason, str] = {
    Reason.SAVED: "You saved this network, and it is protected as well as then.",
    Reason.SAVED_ACCESS_POINT: "The access point is one of those you saved.",
    Reason.SAVED_GATEWAY: "The router is one of those you saved.",
    Reason.SAVED_BEACON: "Its beacon has proven that it is the one you saved.",
    Reason.NEW_ACCESS_POINT: "Its access points are being learned, and this one has not been met before.",
    Reason.ENCRYPTED: "The network is encrypted and asks for a password or an account.",
    Reason.OPEN: "The network is open: everybody nearby can read and change what is not encrypted otherwise.",
    Reason.OWE_TRANSITION: "The network is open to devices without Enhanced Open: it counts as open.",
    Reason.ENHANCED_OPEN: "The network encrypts without a password: anybody can set up one of the same name.",
    Reason.WEP: "The network uses WEP, which is broken within minutes.",
    Reason.WPA1: "The network uses the first WPA, which is out of date and weak.",
    Reason.TKIP: "The network allows TKIP, a weak encryption.",
    Reason.SERVER_UNCHECKED: "The sign-in does not check whose server it talks to: anybody can imitate the network.",
    Reason.WPS: "The network lets devices in by WPS, whose PIN can be guessed.",
    Reason.COMMON_NAME: "Thousands of networks have this name, so it says nothing about whose it is.",
    Reason.IMPOSTOR_WEAKER: "It has the name of a network you saved, but weaker protection: it may be an imitation.",
    Reason.IMPOSTOR_KIND: "It has the name of a network you saved with a password, but asks for an account: "
    "it may be an imitation.",
    Reason.IMPOSTOR_ACCESS_POINT: "It has the name of a network you saved, but a foreign access point: "
    "it may be an imitation.",
    Reason.IMPOSTOR_GATEWAY: "It has the name of a network you saved, but a foreign router: it may be an imitation.",
    Reason.IMPOSTOR_BEACON: "It has the name of a network you saved, but its beacon shows another certificate: "
    "it may be an imitation.",
    Reason.EVIDENCE_GATEWAY_MOVED: "Two devices here claim to be the router: one of them may be reading everything.",
    Reason.EVIDENCE_SECOND_DHCP_SERVER: "Two devices here assign addresses, and disagree about the way out: "
    "one of them may be an attacker's.",
    Reason.EVIDENCE_DHCP_ROUTES: "The network asks for traffic that is none of its business, as an attacker would "
    "who wants it past the VPN.",
    Reason.EVIDENCE_ROGUE_ROUTER: "A second device here says that it is the router: it may be an attacker's.",
    Reason.EVIDENCE_EVIL_TWIN: "There are access points of this name that do not belong together: "
    "one may be an imitation.",
    Reason.UNPROVEN: "You saved this network, but without a password anybody can imitate it.",
    Reason.MALFORMED: "The network's announcement is damaged or forged.",
    Reason.SECURITY_UNREADABLE: "How the network is protected could not be read.",
    Reason.NAME_UNREADABLE: "The name of the network could not be read.",
    Reason.ACCESS_POINT_UNREADABLE: "You saved certain access points of this network; which one this is "
    "could not be read.",
    Reason.GATEWAY_UNREADABLE: "You saved certain routers of this network; which one this is has not been seen.",
    Reason.BEACON_UNSEEN: "You saved a beacon of this network, which has not answered yet.",
    Reason.BEACON_SILENT: "You saved a beacon of this network, and it does not answer.",
}
_EVIDENCE = {
    Evidence.GATEWAY_MOVED: Reason.EVIDENCE_GATEWAY_MOVED,
    Evidence.SECOND_DHCP_SERVER: Reason.EVIDENCE_SECOND_DHCP_SERVER,
    Evidence.DHCP_ROUTES: Reason.EVIDENCE_DHCP_ROUTES,
    Evidence.ROGUE_ROUTER: Reason.EVIDENCE_ROGUE_ROUTER,
    Evidence.EVIL_TWIN: Reason.EVIDENCE_EVIL_TWIN,
}
_COMING = frozenset((Reason.GATEWAY_UNREADABLE, Reason.BEACON_UNSEEN, Reason.BEACON_SILENT))
_MISSING = _COMING | {Reason.ACCESS_POINT_UNREADABLE}


@dataclass(frozen=True, slots=True)
class Classification:
    """The verdict with its reasons and, where one fits, the saved entry.

    `known` is set also where the network meets the entry's demands but is of a kind that proves nothing (open, OWE,
    WEP): then the verdict is not KNOWN, and the entry can only tighten, for KnownNetwork refuses others. An impostor
    and a network that could not be read whole have none. Where there is evidence of an attacker nothing is KNOWN.
    """

    verdict: Verdict
    reasons: tuple[Reason, ...]  # never empty
    known: KnownNetwork | None = None
    awaited: tuple[KnownNetwork, ...] = ()  # saved entries that it would be, if a router or beacon would but answer

    @property
    def awaits_proof(self) -> bool:
        """Whether proofs that may still come would settle it: worth a short wait before the verdict counts."""
        return bool(self.awaited)

    @property
    def beacons(self) -> tuple[Endpoint, ...]:
        """Whom to ask for a proof."""
        return tuple(dict.fromkeys(entry.beacon for entry in self.awaited if entry.beacon))


def classify(network: WifiNetwork, settings: Settings) -> Classification:
    """The verdict on a Wi-Fi network; any input has one."""
    entry, shortfalls, awaited = _match(network, settings.known)
    doubts = tuple(_doubts(network))
    if doubts or network.evidence or not proves_identity(network.security):
        awaited = ()
    if _MISSING.intersection(shortfalls):  # it may still be itself: no alarm, and no trust
        doubts, shortfalls = (*doubts, *shortfalls), ()
    proven = entry is not None and not doubts and entry.can_be_proven and proves_identity(network.security)
    if entry is not None and proven and not network.evidence:
        return Classification(Verdict.KNOWN, tuple(_proofs(network, entry)), entry)
    if doubts:
        entry = None
    unproven = (Reason.UNPROVEN,) if entry is not None and not proven else ()
    weaknesses = dict.fromkeys((*reasons(network.evidence), *shortfalls, *_weaknesses(network, settings.wifi.criteria)))
    if weaknesses:
        return Classification(Verdict.UNSECURED, (*weaknesses, *unproven, *doubts), entry, awaited)
    if doubts:
        return Classification(Verdict.UNIDENTIFIED, doubts, awaited=awaited)
    return Classification(Verdict.SECURED, (Reason.ENCRYPTED, *unproven), entry)


def reasons(evidence: frozenset[Evidence]) -> tuple[Reason, ...]:
    """What was found, in a lasting order."""
    return tuple(reason for found, reason in _EVIDENCE.items() if found in evidence)


def learned(network: WifiNetwork, found: Classification) -> KnownNetwork | None:
    """The saved entry with one access point more, if it learns and there is one to learn; else None.

    Ask only when the link has carried traffic both ways: an association alone has proven nothing yet.
    """
    entry = found.known
    if found.verdict is not Verdict.KNOWN or entry is None or not entry.learn or len(network.bssid) != 6:
        return None
    if network.bssid in entry.bssids or len(entry.bssids) >= LEARNED or network.bssid[0] & 1:
        return None
    return entry.model_copy(update={"bssids": entry.bssids | {network.bssid}})


def _proofs(network: WifiNetwork, entry: KnownNetwork) -> Iterator[Reason]:
    yield Reason.SAVED
    if entry.learn or entry.bssids:
        yield Reason.SAVED_ACCESS_POINT if network.bssid in entry.bssids else Reason.NEW_ACCESS_POINT
    if entry.gateways:
        yield Reason.SAVED_GATEWAY
    if entry.beacon:
        yield Reason.SAVED_BEACON


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
    if network.server_unchecked and has_accounts(network.security):
        yield Reason.SERVER_UNCHECKED
    if network.wps and criteria.wps:
        yield Reason.WPS
    if criteria.common_names and is_common(network.ssid):
        yield Reason.COMMON_NAME


_Match = tuple[KnownNetwork | None, tuple[Reason, ...], tuple[KnownNetwork, ...]]


def _match(network: WifiNetwork, known: tuple[KnownNetwork, ...]) -> _Match:
    """The first saved entry that holds; else what one lacks that may still hold; else why each of the name does not.

    With the entries that lack only what may still come.
    """
    missing: tuple[Reason, ...] = ()
    wrong: dict[Reason, None] = {}
    awaited = []
    for entry in names(known).find(network.ssid):
        shortfalls = tuple(_wrong(network, entry))
        if not shortfalls:
            lacking = tuple(_lacking(network, entry))
            if not lacking:
                return entry, (), ()
            missing = missing or lacking
            if entry.can_be_proven and _COMING.issuperset(lacking):
                awaited.append(entry)
        elif entry.can_be_proven or not entry.pattern:  # a pattern for strangers says nothing about whose they are
            wrong.update(dict.fromkeys(shortfalls))
    return None, missing or tuple(wrong), tuple(awaited)


def _wrong(network: WifiNetwork, entry: KnownNetwork) -> Iterator[Reason]:
    # Security that could not be read is no evidence of an impostor; `_doubts` sees to it that it is not trusted either.
    if network.security is not Security.UNKNOWN:
        if network.offered.strength < entry.minimum_security.strength:
            yield Reason.IMPOSTOR_WEAKER
        accounts = has_accounts(network.security)
        if accounts and proves_identity(entry.minimum_security) and not has_accounts(entry.minimum_security):
            yield Reason.IMPOSTOR_KIND  # who knows the password of the saved one has not shown it here
        if accounts and network.server_unchecked:
            yield Reason.SERVER_UNCHECKED
    if _binding(entry) and len(network.bssid) == 6 and network.bssid not in entry.bssids:
        yield Reason.IMPOSTOR_ACCESS_POINT
    if entry.gateways and len(network.gateway_mac) == 6 and network.gateway_mac not in entry.gateways:
        yield Reason.IMPOSTOR_GATEWAY
    if entry.beacon and (shown := _shown_by(network, entry.beacon)) and shown != entry.beacon_sha256:
        yield Reason.IMPOSTOR_BEACON


def _lacking(network: WifiNetwork, entry: KnownNetwork) -> Iterator[Reason]:
    if _binding(entry) and len(network.bssid) != 6:
        yield Reason.ACCESS_POINT_UNREADABLE
    if entry.gateways and len(network.gateway_mac) != 6:
        yield Reason.GATEWAY_UNREADABLE
    if entry.beacon and not (shown := _shown_by(network, entry.beacon)):
        yield Reason.BEACON_UNSEEN if shown is None else Reason.BEACON_SILENT


def _shown_by(network: WifiNetwork, beacon: Endpoint) -> bytes | None:
    """The SHA-256 of the certificate that a beacon has proven to hold; empty: it is silent; None: nobody asked it."""
    return next((shown for asked, shown in network.beacons if asked == beacon), None)


def _binding(entry: KnownNetwork) -> bool:
    return bool(entry.bssids) and not entry.learn


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
