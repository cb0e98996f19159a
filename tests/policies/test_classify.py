from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.classify import LEARNED, SENTENCES, Classification, Reason, Verdict, classify, learned, ssid_text
from policies.common_ssids import COMMON, is_common, plain
from policies.facts import Endpoint, Evidence, Security, WifiNetwork
from policies.known import matches
from policies.known_network import KnownNetwork, has_accounts, proves_identity
from policies.settings import Settings
from policies.settings_tables import Criteria, Wifi, WifiAction

AP, OTHER_AP = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ROUTER = bytes.fromhex("0200000000f1")
BEACON = Endpoint(ip_address("192.0.2.1"), 443, "tcp")
OTHER_BEACON = Endpoint(ip_address("2001:db8::1"), 8443, "tcp")
DIGEST, FOREIGN = bytes(range(32)), bytes(32)
PLAIN = WifiNetwork(ssid=b"Haus 7", bssid=AP, security=Security.WPA2)
LAX = Criteria(weak_encryption=False, enhanced_open=False, wps=False, common_names=False)
STRICT = Criteria(weak_encryption=True, enhanced_open=True, wps=True, common_names=True)


def settings(*known: KnownNetwork, criteria: Criteria | None = None) -> Settings:
    return Settings(wifi=Wifi(criteria=criteria or Criteria()), known=known)


def saved(**changes: object) -> KnownNetwork:
    return KnownNetwork(**{"ssid": b"Haus 7", **changes})  # type: ignore[arg-type]


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


def test_one_entry_that_may_hold_is_no_impostor() -> None:
    """Two flats with one name: which router answers will tell."""
    one, two = saved(bssids=frozenset({OTHER_AP})), saved(gateways=frozenset({ROUTER}), profile="two")
    for known in ((one, two), (two, one)):
        waiting = classify(PLAIN, settings(*known))
        assert (waiting.verdict, waiting.awaits_proof) == (Verdict.UNIDENTIFIED, True)
        assert classify(replace(PLAIN, gateway_mac=ROUTER), settings(*known)).known is two
        assert classify(replace(PLAIN, gateway_mac=AP), settings(*known)).verdict is Verdict.UNSECURED
    assert not classify(replace(PLAIN, malformed=True), settings(two)).awaits_proof


PINNED = saved(beacon=BEACON, beacon_sha256=DIGEST)
AWAITED = {
    "asked of nobody": (PINNED, {}, True),
    "silent": (PINNED, {"beacons": ((BEACON, b""),)}, True),
    "proven": (PINNED, {"beacons": ((BEACON, DIGEST),)}, False),
    "an impostor": (PINNED, {"beacons": ((BEACON, FOREIGN),)}, False),
    "open": (PINNED, {"security": Security.OPEN}, False),
    "malformed": (PINNED, {"malformed": True}, False),
    "an access point that cannot be told": (saved(**dict(PINNED) | {"bssids": frozenset({AP})}), {"bssid": b""}, False),
    "a router that is still silent": (saved(**dict(PINNED) | {"gateways": frozenset({ROUTER})}), {}, True),
    "a foreign router": (saved(**dict(PINNED) | {"gateways": frozenset({ROUTER})}), {"gateway_mac": AP}, False),
    "saved as open": (saved(minimum_security=Security.OPEN, beacon=BEACON, beacon_sha256=DIGEST), {}, False),
    # Known in spite of its weakness, once it is proven: worth the wait, or it would be protected first.
    "weak, and saved so": (
        saved(minimum_security=Security.WPA, beacon=BEACON, beacon_sha256=DIGEST), {"security": Security.WPA}, True,
    ),
    "a pattern": (
        saved(ssid=b"Haus*", pattern=True, minimum_security=Security.ENTERPRISE, beacon=BEACON, beacon_sha256=DIGEST),
        {"security": Security.ENTERPRISE}, True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("entry, changes, waits", AWAITED.values(), ids=AWAITED.keys())
def test_what_is_worth_waiting_for(entry: KnownNetwork, changes: dict[str, object], waits: bool) -> None:
    found = classify(replace(PLAIN, **changes), settings(entry))  # type: ignore[arg-type]
    assert (found.awaits_proof, found.beacons) == (waits, (BEACON,) if waits else ())


def test_two_flats_of_one_name_are_told_apart_by_their_beacons() -> None:
    one = saved(beacon=BEACON, beacon_sha256=DIGEST, bssids=frozenset({AP, OTHER_AP}))
    two = saved(beacon=OTHER_BEACON, beacon_sha256=FOREIGN, profile="two")
    assert classify(PLAIN, settings(one, two)).beacons == (BEACON, OTHER_BEACON)
    met = replace(PLAIN, beacons=((BEACON, FOREIGN),))
    assert classify(met, settings(one, two)).beacons == (OTHER_BEACON,), "an impostor of the one may be the other"
    assert classify(replace(met, beacons=(*met.beacons, (OTHER_BEACON, FOREIGN))), settings(one, two)).known is two
    assert classify(replace(met, beacons=(*met.beacons, (OTHER_BEACON, DIGEST))), settings(one, two)).reasons == (
        Reason.IMPOSTOR_BEACON,
    )


def test_access_points_are_learned_where_the_network_is_known() -> None:
    entry = saved(learn=True)
    for number in range(1, LEARNED + 9):
        network = replace(PLAIN, bssid=b"\x02\0\0\0\0" + bytes([number]))
        more = learned(network, classify(network, settings(entry)))
        assert (more is not None) == (number <= LEARNED)
        entry = more or entry
        assert learned(network, classify(network, settings(entry))) is None, "once"
    assert len(entry.bssids) == LEARNED
    sealed = entry.model_copy(update={"learn": False})
    assert classify(PLAIN, settings(sealed)).verdict is Verdict.KNOWN
    stranger = replace(PLAIN, bssid=b"\x02\0\0\0\0\xff")
    assert classify(stranger, settings(sealed)).reasons == (Reason.IMPOSTOR_ACCESS_POINT,)
    assert learned(stranger, classify(stranger, settings(sealed))) is None


@pytest.mark.parametrize(
    "changes",
    [{"security": Security.OPEN}, {"malformed": True}, {"tkip": True}, {"bssid": b""}, {"bssid": b"\x01\0\0\0\0\1"}],
    ids=str,
)
def test_nothing_is_learned_from_others(changes: dict[str, object]) -> None:
    network = replace(PLAIN, **changes)  # type: ignore[arg-type]
    assert learned(network, classify(network, settings(saved(learn=True)))) is None
    assert learned(PLAIN, classify(PLAIN, settings(saved()))) is None


def test_every_reason_is_a_sentence_and_every_reason_is_used() -> None:
    assert SENTENCES.keys() == set(Reason)
    assert all(sentence.endswith(".") and sentence[0].isupper() for sentence in SENTENCES.values())
    used = {reason for *_, reasons in UNSAVED for reason in reasons} | {
        reason for *_, reasons, _ in SAVED.values() for reason in reasons
    }
    assert used == set(Reason)


# --- properties -------------------------------------------------------------------------------------------------------

RANK = {Verdict.UNSECURED: 0, Verdict.UNIDENTIFIED: 0, Verdict.SECURED: 1, Verdict.KNOWN: 2}
SSIDS = st.sampled_from([b"Haus 7", b"Office", b"linksys", b"", b"\0\0"]) | st.binary(max_size=40)
BSSIDS = st.sampled_from([AP, OTHER_AP, b""])
NETWORKS = st.builds(
    WifiNetwork,
    ssid=SSIDS,
    bssid=BSSIDS | st.binary(max_size=8),
    security=st.sampled_from(Security),
    tkip=st.booleans(),
    wps=st.booleans(),
    malformed=st.booleans(),
    gateway_mac=st.sampled_from([ROUTER, AP, b""]),
    server_unchecked=st.booleans(),
    evidence=st.just(frozenset()) | st.frozensets(st.sampled_from(Evidence), max_size=2),
    beacons=st.dictionaries(
        st.sampled_from([BEACON, OTHER_BEACON]), st.sampled_from([DIGEST, FOREIGN, b"", DIGEST[:31]])
    ).map(lambda told: tuple(told.items())),
)
CRITERIA = st.builds(Criteria, *[], **{name: st.booleans() for name in Criteria.model_fields})


BEACONS = st.just({}) | st.fixed_dictionaries(
    {"beacon": st.sampled_from([BEACON, OTHER_BEACON]), "beacon_sha256": st.sampled_from([DIGEST, FOREIGN])}
)


@st.composite
def known_networks(draw: st.DrawFn) -> KnownNetwork:
    security = draw(st.sampled_from(Security))
    pattern = draw(st.booleans())
    provable = has_accounts(security) if pattern else proves_identity(security)
    actions = list(WifiAction) if provable else [WifiAction.AUTO_CONNECT]
    ssids = [b"Haus*", b"Ha??*7", b"*office"] if pattern else [b"Haus 7", b"Office", b"linksys"]
    return KnownNetwork(
        ssid=draw(st.sampled_from(ssids)),
        pattern=pattern,
        exceptions=draw(st.sampled_from([(), (b"*7",), (b"H?us*", b"x")])) if pattern else (),
        minimum_security=security,
        action=draw(st.sampled_from(actions)) if pattern else draw(st.none() | st.sampled_from(actions)),
        bssids=draw(st.frozensets(st.sampled_from([AP, OTHER_AP]))),
        gateways=draw(st.frozensets(st.sampled_from([ROUTER, AP]))),
        learn=provable and not pattern and draw(st.booleans()),
        **draw(BEACONS),
    )


SETTINGS = st.builds(
    lambda criteria, known: settings(*known, criteria=criteria), CRITERIA, st.lists(known_networks(), max_size=4)
)


def weaker(security: Security, than: Security) -> bool:
    """Whether one resists less than the other by every measure.

    Enhanced open (encrypted, unauthenticated) cannot be compared with WEP and WPA1 (badly encrypted): which of them
    is unsecured is for the administrator's two toggles to say. An account (802.1X) proves another network than a
    password does.
    """
    crossed = (than is Security.OWE and security is Security.WEP) or (than is Security.WPA and security is Security.OWE)
    return security.strength <= than.strength and not crossed and has_accounts(security) == has_accounts(than)


@given(NETWORKS, SETTINGS)
def test_any_network_has_a_verdict_with_reasons(network: WifiNetwork, given_settings: Settings) -> None:
    found = classify(network, given_settings)
    assert found.reasons and len(set(found.reasons)) == len(found.reasons)
    assert found == classify(network, given_settings)


@given(NETWORKS, SETTINGS)
def test_open_is_unsecured_whatever_else_holds(network: WifiNetwork, given_settings: Settings) -> None:
    found = classify(replace(network, security=Security.OPEN), given_settings)
    assert found.verdict is Verdict.UNSECURED and Reason.OPEN in found.reasons


@given(NETWORKS, SETTINGS)
def test_doubt_is_never_trusted(network: WifiNetwork, given_settings: Settings) -> None:
    for doubtful in (
        replace(network, malformed=True),
        replace(network, security=Security.UNKNOWN),
        replace(network, ssid=b""),
    ):
        found = classify(doubtful, given_settings)
        assert RANK[found.verdict] == 0 and found.known is None


@given(NETWORKS, SETTINGS)
def test_known_has_met_every_demand(network: WifiNetwork, given_settings: Settings) -> None:
    found = classify(network, given_settings)
    entry = found.known
    if entry is not None:
        assert matches(entry.ssid, network.ssid) if entry.pattern else entry.ssid == network.ssid
        assert not any(matches(pattern, network.ssid) for pattern in entry.exceptions)
        assert network.security.strength >= entry.minimum_security.strength
        assert not entry.bssids or entry.learn or network.bssid in entry.bssids
        assert not entry.gateways or network.gateway_mac in entry.gateways
        assert entry.beacon is None or (entry.beacon, entry.beacon_sha256) in network.beacons
        assert not (has_accounts(network.security) and network.server_unchecked)
    if found.verdict is Verdict.KNOWN:
        assert entry is not None and entry.can_be_proven and not network.malformed
        assert has_accounts(network.security) == has_accounts(entry.minimum_security)
    elif entry is not None:
        assert entry.action not in (WifiAction.IGNORE, WifiAction.DISCONNECT) or entry.can_be_proven
        assert not entry.allow_lan


@given(NETWORKS, SETTINGS, st.sampled_from(Security), *[st.booleans()] * 6)
def test_weakening_never_strengthens(
    network: WifiNetwork,
    given_settings: Settings,
    security: Security,
    tkip: bool,
    wps: bool,
    malformed: bool,
    unknown_bssid: bool,
    foreign: bool,
    unasked: bool,
) -> None:
    assume(weaker(security, network.security))
    weakened = replace(
        network,
        security=security,
        tkip=network.tkip or tkip,
        wps=network.wps or wps,
        malformed=network.malformed or malformed,
        bssid=b"" if unknown_bssid else network.bssid,
        gateway_mac=b"" if unknown_bssid else network.gateway_mac,
        beacons=tuple((beacon, FOREIGN[:31] if foreign else b"") for beacon, _ in network.beacons if not unasked),
    )
    assert RANK[classify(weakened, given_settings).verdict] <= RANK[classify(network, given_settings).verdict]


@given(NETWORKS, SETTINGS, st.dictionaries(st.sampled_from([BEACON, OTHER_BEACON]), st.binary(max_size=33)))
def test_only_the_pinned_certificate_makes_a_network_known(
    network: WifiNetwork, given_settings: Settings, told: dict[Endpoint, bytes]
) -> None:
    """Whatever an attacker's servers show: without the pinned digest it is as if nobody had answered, or worse."""
    silent = classify(replace(network, beacons=()), given_settings)
    pinned = {(entry.beacon, entry.beacon_sha256) for entry in given_settings.known}
    shown = replace(network, beacons=tuple(each for each in told.items() if each not in pinned))
    found = classify(shown, given_settings)
    assert RANK[found.verdict] <= RANK[silent.verdict]
    assert found.verdict is not Verdict.SECURED or silent.verdict is Verdict.SECURED
    assert set(found.awaited) <= set(silent.awaited)


@given(NETWORKS, SETTINGS)
def test_what_is_awaited_would_make_it_known(network: WifiNetwork, given_settings: Settings) -> None:
    for entry in (found := classify(network, given_settings)).awaited:
        assert RANK[found.verdict] == 0 and found.known is None
        proven = replace(
            network,
            gateway_mac=min(entry.gateways, default=b""),
            beacons=((entry.beacon, entry.beacon_sha256),) if entry.beacon else (),
        )
        assert classify(proven, settings(entry)).verdict is Verdict.KNOWN


@pytest.mark.parametrize("criteria", [Criteria(), LAX, STRICT], ids=["default", "lax", "strict"])
def test_verdicts_follow_the_strength_where_the_toggles_agree(criteria: Criteria) -> None:
    """Exhaustive: all of `Security`, in its own order, without the exception above."""
    for one, other in product(Security, repeat=2):
        if one.strength <= other.strength:
            verdicts = [
                classify(replace(PLAIN, security=each), settings(criteria=criteria)).verdict for each in (one, other)
            ]
            assert RANK[verdicts[0]] <= RANK[verdicts[1]], (one, other)


@given(NETWORKS, CRITERIA, st.lists(known_networks(), max_size=3))
def test_stricter_criteria_never_strengthen(
    network: WifiNetwork, criteria: Criteria, known: list[KnownNetwork]
) -> None:
    lax, strict = (classify(network, settings(*known, criteria=each)).verdict for each in (criteria, STRICT))
    assert RANK[strict] <= RANK[lax]


# --- common names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "ssid", [b"linksys", b"NETGEAR", b"xfinitywifi", b"Free Public WiFi", b"free_public_wi-fi", b"WLAN"]
)
def test_common(ssid: bytes) -> None:
    assert is_common(ssid)


@pytest.mark.parametrize("ssid", [b"", b" ", b"---", b"Linksys of Anna", b"\xff\xfe", b"A", b"a" * 64])
def test_not_common(ssid: bytes) -> None:
    assert not is_common(ssid)


def test_the_list_is_clean() -> None:
    assert 100 < len(COMMON) < 1000
    assert all(2 <= len(name) <= 32 and plain(name) == name for name in COMMON)


# --- names for people -------------------------------------------------------------------------------------------------

TEXTS = [
    (b"", ""),
    (b"Home", "Home"),
    (b"My Home", "My Home"),
    ("Café ☕ 日本 שלום".encode(), "Café ☕ 日本 שלום"),
    ("📶".encode(), "📶"),
    (b"\x1b[31mred\x1b]0;t\x07", "\\x1b[31mred\\x1b]0;t\\x07"),
    (b"a\0b", "a\\x00b"),
    (b"a\nb\r\tc\x7f", "a\\x0ab\\x0d\\x09c\\x7f"),
    ("\x85\x9b31m".encode(), "\\xc2\\x85\\xc2\\x9b31m"),  # C1: some terminals take U+009B for an escape sequence
    ("a\u202egnp.exe".encode(), "a\\xe2\\x80\\xaegnp.exe"),  # right-to-left override
    ("\u2066x\u2069".encode(), "\\xe2\\x81\\xa6x\\xe2\\x81\\xa9"),
    ("a\u200bb\ufeff\u00ad".encode(), "a\\xe2\\x80\\x8bb\\xef\\xbb\\xbf\\xc2\\xad"),  # zero width, BOM, soft hyphen
    ("a\u00a0b\u3000".encode(), "a\\xc2\\xa0b\\xe3\\x80\\x80"),  # spaces that are no spaces
    ("a\u2028b".encode(), "a\\xe2\\x80\\xa8b"),
    ("\u3164\u2800".encode(), "\\xe3\\x85\\xa4\\xe2\\xa0\\x80"),  # a letter and a symbol drawn as nothing
    ("❤\ufe0f".encode(), "❤\\xef\\xb8\\x8f"),  # variation selectors are invisible
    ("\U000e0041".encode(), "\\xf3\\xa0\\x81\\x81"),  # tag characters
    ("\ue000".encode(), "\\xee\\x80\\x80"),  # private use
    ("\u0301a\u0301".encode(), "\\xcc\\x81a\u0301"),  # a leading mark would cling to the text before it
    (b"\xff\xfe", "\\xff\\xfe"),
    (b"Caf\xe9 \xc3\xa9", "Caf\\xe9 é"),  # Latin-1 and UTF-8 in one
    (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),  # a surrogate in UTF-8 is invalid
    (b"a\\x00", "a\\\\x00"),
    (b"$(id)`id`'\"%s", "$(id)`id`'\"%s"),
]


@pytest.mark.parametrize("ssid, text", TEXTS, ids=[repr(ssid) for ssid, _ in TEXTS])
def test_ssid_text(ssid: bytes, text: str) -> None:
    assert ssid_text(ssid) == text


def back(text: str) -> bytes:
    """Undo `ssid_text`."""
    ssid, rest = b"", text
    while rest:
        if rest.startswith("\\x"):
            ssid, rest = ssid + bytes.fromhex(rest[2:4]), rest[4:]
        else:
            char = rest[1] if rest.startswith("\\") else rest[0]
            ssid, rest = ssid + char.encode(), rest[2 if rest.startswith("\\") else 1 :]
    return ssid


CHARS = st.one_of(st.characters(max_codepoint=0x24F), st.sampled_from("\\x\u202e\u200d\u0301📶é\ufffd\u2028 0"))


@given(st.binary(max_size=32) | st.text(CHARS, max_size=16).map(lambda text: text.encode("utf-8", "ignore")))
def test_ssid_text_is_safe_and_tells_all_names_apart(ssid: bytes) -> None:
    text = ssid_text(ssid)
    assert text.isprintable()  # no control, no format character, no space but the plain one
    assert back(text) == ssid
    assert len(text) <= 4 * len(ssid)
