from __future__ import annotations

from dataclasses import replace

import pytest

from policies.classify import SENTENCES, Classification, Reason, Verdict, classify
from policies.facts import Evidence, Security
from policies.known_network import KnownNetwork
from policies.settings_tables import Criteria, WifiAction
from tests.policies.wifi_networks import (
    AP,
    BEACON,
    DIGEST,
    FOREIGN,
    LAX,
    OTHER_AP,
    OTHER_BEACON,
    PLAIN,
    ROUTER,
    STRICT,
    saved,
    settings,
)

# --- no network is saved: security, flags, criteria -> verdict, reasons -----------------------------------------------

UNSAVED = [
    (Security.WPA2, {}, Criteria(), Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.WPA2_WPA3, {}, STRICT, Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.WPA3, {}, STRICT, Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.ENTERPRISE, {}, STRICT, Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.ENTERPRISE_192, {}, STRICT, Verdict.SECURED, (Reason.ENCRYPTED,)),
    (
        Security.ENTERPRISE,
        {"server_unchecked": True},
        LAX,
        Verdict.UNSECURED,
        (Reason.SERVER_UNCHECKED,),
    ),
    (Security.WPA3, {"server_unchecked": True}, STRICT, Verdict.SECURED, (Reason.ENCRYPTED,)),  # of 802.1X alone
    *[
        (Security.WPA3, {"evidence": frozenset({evidence})}, LAX, Verdict.UNSECURED, (Reason(f"evidence-{evidence}"),))
        for evidence in Evidence
    ],
    (
        Security.OPEN,
        {"evidence": frozenset(Evidence)},
        LAX,
        Verdict.UNSECURED,
        (*(Reason(f"evidence-{evidence}") for evidence in Evidence), Reason.OPEN),
    ),
    (Security.OPEN, {}, Criteria(), Verdict.UNSECURED, (Reason.OPEN,)),
    (Security.OPEN, {}, LAX, Verdict.UNSECURED, (Reason.OPEN,)),
    (Security.OWE_TRANSITION, {}, LAX, Verdict.UNSECURED, (Reason.OWE_TRANSITION,)),
    (Security.OWE, {}, Criteria(), Verdict.UNSECURED, (Reason.ENHANCED_OPEN,)),
    (Security.OWE, {}, Criteria(enhanced_open=False), Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.OWE, {}, Criteria(weak_encryption=False), Verdict.UNSECURED, (Reason.ENHANCED_OPEN,)),
    (Security.WEP, {}, Criteria(weak_encryption=False), Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.WEP, {}, Criteria(enhanced_open=False), Verdict.UNSECURED, (Reason.WEP,)),
    (Security.WPA, {}, Criteria(weak_encryption=False), Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.OWE, {}, LAX, Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.WEP, {}, Criteria(), Verdict.UNSECURED, (Reason.WEP,)),
    (Security.WEP, {}, LAX, Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.WPA, {}, Criteria(), Verdict.UNSECURED, (Reason.WPA1,)),
    (Security.WPA, {}, LAX, Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.WPA, {"tkip": True}, Criteria(), Verdict.UNSECURED, (Reason.WPA1, Reason.TKIP)),
    (Security.WPA2, {"tkip": True}, Criteria(), Verdict.UNSECURED, (Reason.TKIP,)),
    (Security.WPA2, {"tkip": True}, LAX, Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.WPA2, {"wps": True}, Criteria(), Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.WPA2, {"wps": True}, Criteria(wps=True), Verdict.UNSECURED, (Reason.WPS,)),
    (Security.WPA2, {"ssid": b"linksys"}, Criteria(), Verdict.SECURED, (Reason.ENCRYPTED,)),
    (Security.WPA2, {"ssid": b"linksys"}, Criteria(common_names=True), Verdict.UNSECURED, (Reason.COMMON_NAME,)),
    (Security.WPA2, {"ssid": b"Free_Wi-Fi"}, Criteria(common_names=True), Verdict.UNSECURED, (Reason.COMMON_NAME,)),
    (Security.WPA2, {"ssid": b"my linksys"}, Criteria(common_names=True), Verdict.SECURED, (Reason.ENCRYPTED,)),
    (
        Security.WEP,
        {"ssid": b"default", "tkip": True, "wps": True},
        STRICT,
        Verdict.UNSECURED,
        (Reason.WEP, Reason.TKIP, Reason.WPS, Reason.COMMON_NAME),
    ),
    (Security.UNKNOWN, {}, Criteria(), Verdict.UNIDENTIFIED, (Reason.SECURITY_UNREADABLE,)),
    (Security.WPA3, {"malformed": True}, Criteria(), Verdict.UNIDENTIFIED, (Reason.MALFORMED,)),
    (Security.WPA3, {"ssid": b""}, Criteria(), Verdict.UNIDENTIFIED, (Reason.NAME_UNREADABLE,)),
    (Security.WPA3, {"ssid": b"\0\0\0"}, Criteria(), Verdict.UNIDENTIFIED, (Reason.NAME_UNREADABLE,)),
    (Security.WPA3, {"ssid": b"a" * 33}, Criteria(), Verdict.UNIDENTIFIED, (Reason.NAME_UNREADABLE,)),
    (
        Security.UNKNOWN,
        {"ssid": b"", "malformed": True},
        Criteria(),
        Verdict.UNIDENTIFIED,
        (Reason.MALFORMED, Reason.SECURITY_UNREADABLE, Reason.NAME_UNREADABLE),
    ),
    # Evidence of weakness counts more than doubt: being unreadable as well must not help.
    (Security.OPEN, {"malformed": True}, LAX, Verdict.UNSECURED, (Reason.OPEN, Reason.MALFORMED)),
    (Security.UNKNOWN, {"tkip": True}, Criteria(), Verdict.UNSECURED, (Reason.TKIP, Reason.SECURITY_UNREADABLE)),
]


@pytest.mark.parametrize("security, changes, criteria, verdict, reasons", UNSAVED)
def test_unsaved(
    security: Security, changes: dict[str, object], criteria: Criteria, verdict: Verdict, reasons: tuple[Reason, ...]
) -> None:
    network = replace(PLAIN, security=security, **changes)  # type: ignore[arg-type]
    assert classify(network, settings(criteria=criteria)) == Classification(verdict, reasons)


# --- a network is saved: the entry, what is met -> verdict, reasons, whether the entry comes along --------------------

SAVED = {
    "itself": (saved(), {}, Verdict.KNOWN, (Reason.SAVED,), True),
    "stronger": (saved(), {"security": Security.WPA3}, Verdict.KNOWN, (Reason.SAVED,), True),
    "the saved access point": (
        saved(bssids=frozenset({AP, OTHER_AP})), {}, Verdict.KNOWN, (Reason.SAVED, Reason.SAVED_ACCESS_POINT), True,
    ),
    "saved as WPA1": (
        saved(minimum_security=Security.WPA), {"security": Security.WPA}, Verdict.KNOWN, (Reason.SAVED,), True,
    ),
    "with WPS": (saved(), {"wps": True}, Verdict.KNOWN, (Reason.SAVED,), True),
    "TKIP appears": (
        saved(), {"tkip": True}, Verdict.UNSECURED, (Reason.IMPOSTOR_WEAKER, Reason.TKIP), False,
    ),
    "saved as WPA, TKIP and all": (
        saved(minimum_security=Security.WPA), {"tkip": True}, Verdict.KNOWN, (Reason.SAVED,), True,
    ),
    "another name": (saved(), {"ssid": b"haus 7"}, Verdict.SECURED, (Reason.ENCRYPTED,), False),
    "a longer name": (saved(), {"ssid": b"Haus 7\0"}, Verdict.SECURED, (Reason.ENCRYPTED,), False),
    "impostor, open": (
        saved(), {"security": Security.OPEN}, Verdict.UNSECURED, (Reason.IMPOSTOR_WEAKER, Reason.OPEN), False,
    ),
    "impostor, enhanced open": (
        saved(), {"security": Security.OWE}, Verdict.UNSECURED, (Reason.IMPOSTOR_WEAKER, Reason.ENHANCED_OPEN), False,
    ),
    "impostor, still strong": (
        saved(minimum_security=Security.WPA3), {}, Verdict.UNSECURED, (Reason.IMPOSTOR_WEAKER,), False,
    ),
    "impostor, transition mode": (
        saved(minimum_security=Security.WPA3), {"security": Security.WPA2_WPA3},
        Verdict.UNSECURED, (Reason.IMPOSTOR_WEAKER,), False,
    ),
    "impostor, access point": (
        saved(bssids=frozenset({OTHER_AP})), {}, Verdict.UNSECURED, (Reason.IMPOSTOR_ACCESS_POINT,), False,
    ),
    "impostor, malformed too": (
        saved(bssids=frozenset({OTHER_AP})), {"malformed": True},
        Verdict.UNSECURED, (Reason.IMPOSTOR_ACCESS_POINT, Reason.MALFORMED), False,
    ),
    "access point unknown": (
        saved(bssids=frozenset({AP})), {"bssid": b""}, Verdict.UNIDENTIFIED, (Reason.ACCESS_POINT_UNREADABLE,), False,
    ),
    "security unknown": (
        saved(), {"security": Security.UNKNOWN},
        Verdict.UNIDENTIFIED, (Reason.SECURITY_UNREADABLE,), False,
    ),
    "malformed": (saved(), {"malformed": True}, Verdict.UNIDENTIFIED, (Reason.MALFORMED,), False),
    "saved as open": (
        saved(minimum_security=Security.OPEN, action=WifiAction.AUTO_CONNECT), {"security": Security.OPEN},
        Verdict.UNSECURED, (Reason.OPEN, Reason.UNPROVEN), True,
    ),
    "saved as unknown, met as open": (
        saved(minimum_security=Security.UNKNOWN), {"security": Security.OPEN},
        Verdict.UNSECURED, (Reason.OPEN, Reason.UNPROVEN), True,
    ),
    "saved as WEP": (
        saved(minimum_security=Security.WEP), {"security": Security.WEP},
        Verdict.UNSECURED, (Reason.WEP, Reason.UNPROVEN), True,
    ),
    "saved as OWE": (
        saved(minimum_security=Security.OWE), {"security": Security.OWE},
        Verdict.UNSECURED, (Reason.ENHANCED_OPEN, Reason.UNPROVEN), True,
    ),
    "saved as open, met as WPA2": (
        saved(minimum_security=Security.OPEN), {}, Verdict.SECURED, (Reason.ENCRYPTED, Reason.UNPROVEN), True,
    ),
    "saved with a password, met with accounts": (
        saved(), {"security": Security.ENTERPRISE}, Verdict.UNSECURED, (Reason.IMPOSTOR_KIND,), False,
    ),
    "saved with accounts": (
        saved(minimum_security=Security.ENTERPRISE), {"security": Security.ENTERPRISE},
        Verdict.KNOWN, (Reason.SAVED,), True,
    ),
    "saved with accounts, met with Suite B": (
        saved(minimum_security=Security.ENTERPRISE), {"security": Security.ENTERPRISE_192},
        Verdict.KNOWN, (Reason.SAVED,), True,
    ),
    "saved with accounts, met with a password": (
        saved(minimum_security=Security.ENTERPRISE), {"security": Security.WPA3},
        Verdict.UNSECURED, (Reason.IMPOSTOR_WEAKER,), False,
    ),
    "saved with accounts, nobody checks the server": (
        saved(minimum_security=Security.ENTERPRISE), {"security": Security.ENTERPRISE, "server_unchecked": True},
        Verdict.UNSECURED, (Reason.SERVER_UNCHECKED,), False,
    ),
    "saved as open, met with accounts": (
        saved(minimum_security=Security.OPEN), {"security": Security.ENTERPRISE},
        Verdict.SECURED, (Reason.ENCRYPTED, Reason.UNPROVEN), True,
    ),
    "the saved gateway": (
        saved(gateways=frozenset({ROUTER})), {"gateway_mac": ROUTER},
        Verdict.KNOWN, (Reason.SAVED, Reason.SAVED_GATEWAY), True,
    ),
    "impostor, gateway": (
        saved(gateways=frozenset({ROUTER})), {"gateway_mac": AP}, Verdict.UNSECURED, (Reason.IMPOSTOR_GATEWAY,), False,
    ),
    "the gateway is not known yet": (
        saved(gateways=frozenset({ROUTER})), {}, Verdict.UNIDENTIFIED, (Reason.GATEWAY_UNREADABLE,), False,
    ),
    "access point and gateway, both unknown": (
        saved(gateways=frozenset({ROUTER}), bssids=frozenset({AP})), {"bssid": b""},
        Verdict.UNIDENTIFIED, (Reason.ACCESS_POINT_UNREADABLE, Reason.GATEWAY_UNREADABLE), False,
    ),
    "a foreign access point before the gateway is known": (
        saved(gateways=frozenset({ROUTER}), bssids=frozenset({OTHER_AP})), {},
        Verdict.UNSECURED, (Reason.IMPOSTOR_ACCESS_POINT,), False,
    ),
    "the saved beacon": (
        saved(beacon=BEACON, beacon_sha256=DIGEST), {"beacons": ((BEACON, DIGEST),)},
        Verdict.KNOWN, (Reason.SAVED, Reason.SAVED_BEACON), True,
    ),
    "every proof at once": (
        saved(beacon=BEACON, beacon_sha256=DIGEST, gateways=frozenset({ROUTER}), bssids=frozenset({AP})),
        {"beacons": ((OTHER_BEACON, FOREIGN), (BEACON, DIGEST)), "gateway_mac": ROUTER},
        Verdict.KNOWN, (Reason.SAVED, Reason.SAVED_ACCESS_POINT, Reason.SAVED_GATEWAY, Reason.SAVED_BEACON), True,
    ),
    "impostor, beacon": (
        saved(beacon=BEACON, beacon_sha256=DIGEST), {"beacons": ((BEACON, FOREIGN),)},
        Verdict.UNSECURED, (Reason.IMPOSTOR_BEACON,), False,
    ),
    "impostor, beacon cut short": (
        saved(beacon=BEACON, beacon_sha256=DIGEST), {"beacons": ((BEACON, DIGEST[:-1]),)},
        Verdict.UNSECURED, (Reason.IMPOSTOR_BEACON,), False,
    ),
    "the beacon is silent": (
        saved(beacon=BEACON, beacon_sha256=DIGEST), {"beacons": ((BEACON, b""),)},
        Verdict.UNIDENTIFIED, (Reason.BEACON_SILENT,), False,
    ),
    "nobody has asked the beacon": (
        saved(beacon=BEACON, beacon_sha256=DIGEST), {}, Verdict.UNIDENTIFIED, (Reason.BEACON_UNSEEN,), False,
    ),
    "another server with the saved certificate": (
        saved(beacon=BEACON, beacon_sha256=DIGEST), {"beacons": ((OTHER_BEACON, DIGEST),)},
        Verdict.UNIDENTIFIED, (Reason.BEACON_UNSEEN,), False,
    ),
    "the saved beacon, with less security": (
        saved(beacon=BEACON, beacon_sha256=DIGEST), {"beacons": ((BEACON, DIGEST),), "security": Security.OPEN},
        Verdict.UNSECURED, (Reason.IMPOSTOR_WEAKER, Reason.OPEN), False,
    ),
    "the saved beacon behind a foreign router": (
        saved(beacon=BEACON, beacon_sha256=DIGEST, gateways=frozenset({ROUTER})),
        {"beacons": ((BEACON, DIGEST),), "gateway_mac": AP}, Verdict.UNSECURED, (Reason.IMPOSTOR_GATEWAY,), False,
    ),
    "a beacon adds no secret to an open network": (
        saved(minimum_security=Security.OPEN, beacon=BEACON, beacon_sha256=DIGEST),
        {"beacons": ((BEACON, DIGEST),), "security": Security.OPEN},
        Verdict.UNSECURED, (Reason.OPEN, Reason.UNPROVEN), True,
    ),
    "learning, nothing yet": (
        saved(learn=True), {}, Verdict.KNOWN, (Reason.SAVED, Reason.NEW_ACCESS_POINT), True,
    ),
    "learning, another one": (
        saved(learn=True, bssids=frozenset({OTHER_AP})), {},
        Verdict.KNOWN, (Reason.SAVED, Reason.NEW_ACCESS_POINT), True,
    ),
    "learning, met before": (
        saved(learn=True, bssids=frozenset({AP})), {}, Verdict.KNOWN, (Reason.SAVED, Reason.SAVED_ACCESS_POINT), True,
    ),
    "learning, but weaker": (
        saved(learn=True, minimum_security=Security.WPA3), {}, Verdict.UNSECURED, (Reason.IMPOSTOR_WEAKER,), False,
    ),
    "a pattern of accounts": (
        saved(ssid=b"Haus*", pattern=True, minimum_security=Security.ENTERPRISE), {"security": Security.ENTERPRISE},
        Verdict.KNOWN, (Reason.SAVED,), True,
    ),
    "a pattern of accounts, met with a password": (
        saved(ssid=b"Haus*", pattern=True, minimum_security=Security.ENTERPRISE), {},
        Verdict.UNSECURED, (Reason.IMPOSTOR_WEAKER,), False,
    ),
    "a pattern with an exception": (
        saved(ssid=b"H*", exceptions=(b"?aus 7",), pattern=True, action=WifiAction.AUTO_CONNECT), {},
        Verdict.SECURED, (Reason.ENCRYPTED,), False,
    ),
    "a pattern that only tightens": (
        saved(ssid=b"*", pattern=True, action=WifiAction.AUTO_CONNECT), {},
        Verdict.SECURED, (Reason.ENCRYPTED, Reason.UNPROVEN), True,
    ),
    "a pattern that only tightens, on something weaker": (
        saved(ssid=b"*", pattern=True, action=WifiAction.AUTO_CONNECT), {"security": Security.OPEN},
        Verdict.UNSECURED, (Reason.OPEN,), False,
    ),
}  # fmt: skip


@pytest.mark.parametrize("entry, changes, verdict, reasons, comes", SAVED.values(), ids=SAVED.keys())
def test_saved(
    entry: KnownNetwork, changes: dict[str, object], verdict: Verdict, reasons: tuple[Reason, ...], comes: bool
) -> None:
    network = replace(PLAIN, **changes)  # type: ignore[arg-type]
    found = classify(network, settings(entry))
    assert (found.verdict, found.reasons, found.known) == (verdict, reasons, entry if comes else None)


def test_saved_open_network_is_not_known_whatever_the_criteria() -> None:
    entry = saved(minimum_security=Security.OWE)
    found = classify(replace(PLAIN, security=Security.OWE), settings(entry, criteria=LAX))
    assert found == Classification(Verdict.SECURED, (Reason.ENCRYPTED, Reason.UNPROVEN), entry)


def test_of_several_entries_the_one_that_holds_counts() -> None:
    one, two = saved(bssids=frozenset({OTHER_AP})), saved(bssids=frozenset({AP}), profile="two")
    assert classify(PLAIN, settings(one, two)).known == two
    stranger = replace(PLAIN, bssid=bytes.fromhex("020000000003"))
    assert classify(stranger, settings(one, two)).reasons == (Reason.IMPOSTOR_ACCESS_POINT,)


def test_an_exact_name_counts_before_any_pattern() -> None:
    """Or an impostor of the one would be let in by the other."""
    pattern = saved(ssid=b"Haus*", pattern=True, minimum_security=Security.ENTERPRISE)
    exact = saved(minimum_security=Security.ENTERPRISE, bssids=frozenset({OTHER_AP}))
    company = replace(PLAIN, security=Security.ENTERPRISE)
    for known in ((pattern, exact), (exact, pattern)):
        assert classify(company, settings(*known)).reasons == (Reason.IMPOSTOR_ACCESS_POINT,)
        assert classify(replace(company, ssid=b"Haus 8"), settings(*known)).known is pattern


def test_every_reason_is_a_sentence_and_every_reason_is_used() -> None:
    assert SENTENCES.keys() == set(Reason)
    assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in SENTENCES.values())
    used = {reason for *_, reasons in UNSAVED for reason in reasons} | {
        reason for *_, reasons, _ in SAVED.values() for reason in reasons
    }
    assert used == set(Reason)
