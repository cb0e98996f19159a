"""What an access point announces -> how strong its network is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.linux.access_point import ALL_SEC, Flag, Sec, parse_access_point
from policies.facts import Security, WifiNetwork, WifiSource

PRIVACY = Flag.PRIVACY
CCMP, TKIP = Sec.PAIR_CCMP | Sec.GROUP_CCMP, Sec.PAIR_TKIP | Sec.GROUP_TKIP
MIXED = Sec.PAIR_CCMP | Sec.PAIR_TKIP | Sec.GROUP_TKIP
BSSID = "02:00:00:00:00:0A"

# (Flags, WpaFlags, RsnFlags) -> security, tkip, wps, malformed
FLAGS = {
    "open": ((0, 0, 0), Security.OPEN, False, False, False),
    "open with WPS": ((Flag.WPS, 0, 0), Security.OPEN, False, True, False),
    "WEP": ((PRIVACY, 0, 0), Security.WEP, False, False, False),
    "WPA1": ((PRIVACY, TKIP | Sec.PSK, 0), Security.WPA, True, False, False),
    "WPA1 with CCMP": ((PRIVACY, CCMP | Sec.PSK, 0), Security.WPA, False, False, False),
    "WPA1 enterprise": ((PRIVACY, TKIP | Sec.IEEE_8021X, 0), Security.WPA, True, False, False),
    "WPA1 without key management": ((PRIVACY, TKIP, 0), Security.WPA, True, False, False),
    "WPA2": ((PRIVACY, 0, CCMP | Sec.PSK), Security.WPA2, False, False, False),
    "WPA2 with TKIP, pairwise": ((PRIVACY, 0, CCMP | Sec.PAIR_TKIP | Sec.PSK), Security.WPA2, True, False, False),
    "WPA2 with TKIP, group": ((PRIVACY, 0, CCMP | Sec.GROUP_TKIP | Sec.PSK), Security.WPA2, True, False, False),
    "WPA2 without ciphers": ((PRIVACY, 0, Sec.PSK), Security.WPA2, False, False, False),
    "WPA1 and WPA2": ((PRIVACY, TKIP | Sec.PSK, MIXED | Sec.PSK), Security.WPA, True, False, False),
    "WPA1 and WPA3": ((PRIVACY, CCMP | Sec.PSK, CCMP | Sec.SAE), Security.WPA, False, False, False),
    "WPA1 and enterprise": ((PRIVACY, TKIP | Sec.PSK, CCMP | Sec.IEEE_8021X), Security.WPA, True, False, False),
    "WPA2 with WPS": ((PRIVACY | Flag.WPS, 0, CCMP | Sec.PSK), Security.WPA2, False, True, False),
    "WPA2 with WPS button": ((PRIVACY | Flag.WPS_PBC, 0, CCMP | Sec.PSK), Security.WPA2, False, True, False),
    "WPA2 with WPS PIN": ((PRIVACY | Flag.WPS_PIN, 0, CCMP | Sec.PSK), Security.WPA2, False, True, False),
    "WPA2 and WPA3": ((PRIVACY, 0, CCMP | Sec.PSK | Sec.SAE), Security.WPA2_WPA3, False, False, False),
    "WPA2 and WPA3 with TKIP": ((PRIVACY, 0, MIXED | Sec.PSK | Sec.SAE), Security.WPA2_WPA3, True, False, False),
    "WPA3": ((PRIVACY, 0, CCMP | Sec.SAE), Security.WPA3, False, False, False),
    "WPA3 with ciphers that have no flag": ((PRIVACY, 0, Sec.SAE), Security.WPA3, False, False, False),
    "enhanced open": ((PRIVACY, 0, CCMP | Sec.OWE), Security.OWE, False, False, False),
    "enhanced open, the open half": ((0, 0, Sec.OWE_TM), Security.OWE_TRANSITION, False, False, False),
    "enhanced open, the hidden half": (
        (PRIVACY, 0, CCMP | Sec.OWE | Sec.OWE_TM), Security.OWE_TRANSITION, False, False, False,
    ),
    "enhanced open and WPA3": ((PRIVACY, 0, CCMP | Sec.OWE | Sec.SAE), Security.OWE, False, False, False),
    "enterprise": ((PRIVACY, 0, CCMP | Sec.IEEE_8021X), Security.ENTERPRISE, False, False, False),
    "enterprise with TKIP": ((PRIVACY, 0, MIXED | Sec.IEEE_8021X), Security.ENTERPRISE, True, False, False),
    "enterprise or a password": ((PRIVACY, 0, CCMP | Sec.IEEE_8021X | Sec.PSK), Security.WPA2, False, False, False),
    "enterprise 192": ((PRIVACY, 0, Sec.SUITE_B_192), Security.ENTERPRISE_192, False, False, False),
    "enterprise 192 or not": (
        (PRIVACY, 0, Sec.SUITE_B_192 | Sec.IEEE_8021X), Security.ENTERPRISE, False, False, False,
    ),
    "WPA2 with WEP for groups": (
        (PRIVACY, 0, Sec.PAIR_CCMP | Sec.GROUP_WEP104 | Sec.PSK), Security.WEP, False, False, False,
    ),
    "WPA1 with WEP": ((PRIVACY, Sec.PAIR_WEP40 | Sec.PSK, 0), Security.WEP, False, False, False),
    "WPA3 with WEP": ((PRIVACY, 0, CCMP | Sec.GROUP_WEP40 | Sec.SAE), Security.WEP, False, False, False),
    "key management without a flag": ((PRIVACY, 0, CCMP), Security.UNKNOWN, False, False, False),
    "WPA1, and key management without a flag": ((PRIVACY, TKIP | Sec.PSK, CCMP), Security.UNKNOWN, True, False, False),
    "flag from the future": ((PRIVACY, 0, CCMP | Sec.SAE | 0x4000), Security.UNKNOWN, False, False, False),
    "flag from the future in WPA1": ((PRIVACY, 0x8000_0000, CCMP | Sec.SAE), Security.UNKNOWN, False, False, False),
    "general flag from the future": ((PRIVACY | 0x10, 0, CCMP | Sec.SAE), Security.WPA3, False, False, False),
    "WPA2 without privacy": ((0, 0, CCMP | Sec.PSK), Security.WPA2, False, False, True),
    "WPA1 without privacy": ((0, TKIP | Sec.PSK, 0), Security.WPA, True, False, True),
    "enhanced open without privacy": ((0, 0, CCMP | Sec.OWE), Security.OWE, False, False, True),
    "the open half with a cipher": ((0, 0, CCMP | Sec.OWE_TM), Security.OWE_TRANSITION, False, False, True),
}  # fmt: skip


def properties(flags: tuple[int, int, int], **other: object) -> dict[str, object]:
    names = dict(zip(("Flags", "WpaFlags", "RsnFlags"), flags, strict=True))
    return {**names, "Ssid": b"cafe", "HwAddress": BSSID, "Strength": 80, **other}


@pytest.mark.parametrize("case", FLAGS)
def test_flags(case: str) -> None:
    flags, security, tkip, wps, malformed = FLAGS[case]
    wanted = WifiNetwork(
        b"cafe", bytes.fromhex("02000000000a"), security, tkip, wps, malformed, WifiSource.NETWORKMANAGER
    )
    assert parse_access_point(properties(flags)) == wanted


WPA3 = (PRIVACY, 0, CCMP | Sec.SAE)


@pytest.mark.parametrize(
    ("ssid", "wanted", "malformed"),
    [
        (b"", b"", False),
        (b"\0" * 7, b"", False),  # a hidden network's beacon
        (b"\0a", b"\0a", False),
        (b"$(id)\n\x1b\xff", b"$(id)\n\x1b\xff", False),
        (b"x" * 32, b"x" * 32, False),
        (b"x" * 33, b"", True),
        ("text", b"", True),
        (None, b"", True),
    ],
)
def test_ssid(ssid: object, wanted: bytes, malformed: bool) -> None:
    found = parse_access_point(properties(WPA3, Ssid=ssid))
    assert (found.ssid, found.malformed) == (wanted, malformed)


@pytest.mark.parametrize(
    ("bssid", "wanted", "malformed"),
    [
        (BSSID, b"\x02\0\0\0\0\x0a", False),
        (BSSID.lower(), b"\x02\0\0\0\0\x0a", False),
        ("", b"", False),  # NetworkManager's guess of a hidden network
        ("00:00:00:00:00:00", b"", False),
        ("02:00:00:00:00", b"", True),
        ("02:00:00:00:00:0A:0B", b"", True),
        ("02:00:00:00:00:0", b"", True),
        ("02:00:00:00:00: A", b"", True),
        ("02:00:00:00:00:xx", b"", True),
        (b"\x02\0\0\0\0\x0a", b"", True),
        (None, b"", True),
    ],
)
def test_bssid(bssid: object, wanted: bytes, malformed: bool) -> None:
    found = parse_access_point(properties(WPA3, HwAddress=bssid))
    assert (found.bssid, found.malformed) == (wanted, malformed)


@pytest.mark.parametrize("name", ["Flags", "WpaFlags", "RsnFlags"])
@pytest.mark.parametrize("value", [None, "1", b"\x01", -1, 1 << 32, 1.0])
def test_flags_that_are_none(name: str, value: object) -> None:
    found = parse_access_point(properties(WPA3, **{name: value}))
    assert (found.security, found.malformed) == (Security.UNKNOWN, True)


def test_nothing_at_all() -> None:
    assert parse_access_point({}) == WifiNetwork(b"", malformed=True)


@given(st.integers(0, 0xF), st.integers(0, ALL_SEC), st.integers(0, ALL_SEC))
def test_offering_one_more_way_in_never_makes_a_network_stronger(flags: int, wpa: int, rsn: int) -> None:
    """The exception that proves the rule: a key management beside ciphers alone turns UNKNOWN into something."""
    before = parse_access_point(properties((flags, wpa, rsn))).security
    for bit in (each for each in Sec if each & rsn == 0):
        after = parse_access_point(properties((flags, wpa, rsn | bit))).security
        opened_to_secured = before in {Security.OPEN, Security.WEP} and not wpa and not rsn
        together = {before, after} == {Security.WPA2_WPA3, Security.WPA2}  # SAE beside PSK
        assert after.strength <= before.strength or before is Security.UNKNOWN or opened_to_secured or together


@given(st.dictionaries(st.sampled_from(["Flags", "WpaFlags", "RsnFlags", "Ssid", "HwAddress"]), st.from_type(object)))
def test_nonsense_never_raises(nonsense: dict[str, object]) -> None:
    assert isinstance(parse_access_point(nonsense), WifiNetwork)
