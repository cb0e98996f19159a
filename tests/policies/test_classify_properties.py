from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.classify import Reason, Verdict, classify
from policies.facts import Endpoint, Evidence, Security, WifiNetwork
from policies.known import matches
from policies.known_network import KnownNetwork, has_accounts, proves_identity
from policies.settings import Settings
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
    settings,
)

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
