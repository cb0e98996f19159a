"""N5: the decision table of policies/README.md, every row of it: bytes of a beacon -> verdict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from policies.classify import Verdict, classify
from policies.elements import PRIVACY, parse
from policies.facts import Security, WifiNetwork
from policies.known_network import KnownNetwork, proves_identity
from policies.settings import Settings
from policies.settings_tables import Criteria, Wifi, WifiAction
from tests.policies.test_elements import (
    CCMP,
    EAP,
    GCMP256,
    IEEE,
    NAME,
    OWE,
    PSK,
    SAE,
    TKIP,
    TRANSITION,
    WFA,
    WPS,
    element,
    lists,
    rsn,
    vendor,
    wpa,
)

README = Path(__file__).parents[2] / "policies" / "README.md"
AP = b"\x02\0\0\0\0\x01"
SUITE_B, TOMORROW, OSEN = IEEE + b"\x0c", IEEE + b"\x63", WFA + b"\x01"

BEACONS: dict[str, tuple[bytes, int]] = {
    "nothing: open": (NAME, 0),
    "open with an OWE transition element": (NAME + TRANSITION, 0),
    "OWE": (NAME + rsn(OWE), PRIVACY),
    "OSEN, a hotspot's sign-up network": (NAME + rsn(OSEN), PRIVACY),
    "the privacy bit alone: WEP": (NAME, PRIVACY),
    "WPA of 2003, TKIP": (NAME + wpa(), PRIVACY),
    "WPA and WPA2 side by side": (NAME + wpa() + rsn(PSK), PRIVACY),
    "WPA2": (NAME + rsn(PSK), PRIVACY),
    "WPA2, CCMP, group cipher TKIP": (NAME + rsn(PSK, group=TKIP), PRIVACY),
    "WPA2 and WPA3 side by side": (NAME + rsn(PSK, SAE), PRIVACY),
    "WPA2, WPA3 in an RSN override": (NAME + rsn(PSK) + vendor(WFA + b"\x29", lists(CCMP, [CCMP], [SAE])), PRIVACY),
    "WPA3": (NAME + rsn(SAE), PRIVACY),
    "WPA3, and a way to join that nobody knows": (NAME + rsn(SAE, TOMORROW), PRIVACY),
    "only ways to join that nobody knows": (NAME + rsn(TOMORROW), PRIVACY),
    "802.1X": (NAME + rsn(EAP), PRIVACY),
    "802.1X, the client checks no server certificate": (NAME + rsn(EAP), PRIVACY),
    "802.1X or a password": (NAME + rsn(EAP, PSK), PRIVACY),
    "802.1X, 192 bits": (NAME + rsn(SUITE_B, pairwise=[GCMP256], group=GCMP256), PRIVACY),
    "WPA2 with WPS": (NAME + WPS + rsn(PSK), PRIVACY),
    "WPA2, a name that thousands bear": (element(0, b"linksys") + rsn(PSK), PRIVACY),
    "WPA2, no name (hidden)": (element(0, b"\0" * 4) + rsn(PSK), PRIVACY),
    "WPA2, cut short": ((NAME + rsn(PSK))[:-7], PRIVACY),
    "WPA2 without the privacy bit": (NAME + rsn(PSK), 0),
    "two RSN elements that differ": (NAME + rsn(PSK) + rsn(SAE), PRIVACY),
    "open, and damaged behind that": (NAME + b"\x30\x14\x01", 0),
}


def rows() -> dict[str, tuple[str, str, str]]:
    text = README.read_text(encoding="utf-8").split("| announced | read as |")[1].split("\n\n")[0]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]]
    return {name: (read, unsaved, saved) for name, read, unsaved, saved, _ in cells}


ROWS = rows()


def network(name: str) -> WifiNetwork:
    found = parse(*BEACONS[name])
    return WifiNetwork(
        found.ssid, AP, found.security, found.tkip, found.wps, bool(found.malformed),
        server_unchecked="checks no server" in name,
    )  # fmt: skip


def saved_as_it_is(met: WifiNetwork) -> KnownNetwork:
    """What AddKnown makes of it; a name that cannot be saved stands under another one."""
    minimum = met.offered if met.security is not Security.UNKNOWN else Security.WPA2
    action = WifiAction.IGNORE if proves_identity(minimum) else None
    return KnownNetwork(ssid=met.ssid.strip(b"\0") or b"Home", minimum_security=minimum, action=action)


def test_every_row_is_played() -> None:
    assert ROWS.keys() == BEACONS.keys()


@pytest.mark.parametrize("name", BEACONS)
def test_the_table(name: str) -> None:
    met = network(name)
    flags = [flag for flag, there in (("TKIP", met.tkip), ("WPS", met.wps)) if there]
    read = ", ".join([met.security.value, *flags]) if met.security is not Security.WPA else "wpa"
    entry = saved_as_it_is(met)
    kept = classify(met, Settings(known=(entry,)))
    assert (read, classify(met, Settings()).verdict.value, kept.verdict.value) == ROWS[name]


@pytest.mark.parametrize(
    "name, criterion, verdict",
    [
        ("OWE", {"enhanced_open": False}, Verdict.SECURED),
        ("WPA2 with WPS", {"wps": True}, Verdict.UNSECURED),
        ("WPA2, a name that thousands bear", {"common_names": True}, Verdict.UNSECURED),
        ("802.1X, the client checks no server certificate", {"weak_encryption": False}, Verdict.UNSECURED),
        ("nothing: open", {"enhanced_open": False, "weak_encryption": False}, Verdict.UNSECURED),
        ("WPA2, CCMP, group cipher TKIP", {"weak_encryption": False}, Verdict.SECURED),
    ],
)
def test_what_the_criteria_change(name: str, criterion: dict[str, bool], verdict: Verdict) -> None:
    assert classify(network(name), Settings(wifi=Wifi(criteria=Criteria(**criterion)))).verdict is verdict


def test_what_the_arguments_claim() -> None:
    mixed, strict = network("WPA2 and WPA3 side by side"), KnownNetwork(ssid=b"Home", minimum_security=Security.WPA3)
    assert classify(mixed, Settings(known=(strict,))).verdict is Verdict.UNSECURED
    tkip = network("WPA2, CCMP, group cipher TKIP")
    as_it_is, wpa2 = saved_as_it_is(tkip), KnownNetwork(ssid=b"Home")
    assert as_it_is.minimum_security is Security.WPA
    assert classify(tkip, Settings(known=(wpa2,))).verdict is Verdict.UNSECURED
    assert classify(replace(tkip, tkip=False), Settings(known=(as_it_is,))).verdict is Verdict.KNOWN
    owe = network("OWE")
    lax = Settings(wifi=Wifi(criteria=Criteria(enhanced_open=False)), known=(saved_as_it_is(owe),))
    assert classify(owe, lax).verdict is Verdict.SECURED
