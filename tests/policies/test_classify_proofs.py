"""What a verdict waits for, and which access points are learned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.classify import LEARNED, Reason, Verdict, classify, learned
from policies.facts import Security
from policies.known_network import KnownNetwork
from tests.policies.wifi_networks import (
    AP,
    BEACON,
    DIGEST,
    FOREIGN,
    OTHER_AP,
    OTHER_BEACON,
    PLAIN,
    ROUTER,
    saved,
    settings,
)


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
