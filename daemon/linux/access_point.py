"""What NetworkManager's flags of an access point mean. Pure.

Source: https://networkmanager.dev/docs/api/latest/nm-dbus-types.html (NM80211ApFlags, NM80211ApSecurityFlags).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag

from policies.facts import Security, WifiNetwork, WifiSource


class Flag(IntFlag):
    """NM80211ApFlags."""

    PRIVACY, WPS, WPS_PBC, WPS_PIN = 0x1, 0x2, 0x4, 0x8


class Sec(IntFlag):
    """NM80211ApSecurityFlags. GCMP and 256-bit ciphers have no flag."""

    PAIR_WEP40, PAIR_WEP104, PAIR_TKIP, PAIR_CCMP = 0x1, 0x2, 0x4, 0x8
    GROUP_WEP40, GROUP_WEP104, GROUP_TKIP, GROUP_CCMP = 0x10, 0x20, 0x40, 0x80
    PSK, IEEE_8021X, SAE, OWE, OWE_TM, SUITE_B_192 = 0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000


WEP = Sec.PAIR_WEP40 | Sec.PAIR_WEP104 | Sec.GROUP_WEP40 | Sec.GROUP_WEP104
TKIP = Sec.PAIR_TKIP | Sec.GROUP_TKIP
WPS = Flag.WPS | Flag.WPS_PBC | Flag.WPS_PIN
ALL_SEC = 0x3FFF


def parse_access_point(properties: Mapping[str, object]) -> WifiNetwork:
    """What an AccessPoint object says, its values without their variants. Never raises: nonsense is `malformed`."""
    ssid, ssid_fine = _ssid(properties.get("Ssid"))
    bssid, bssid_fine = _bssid(properties.get("HwAddress"))
    numbers = [properties.get(name) for name in ("Flags", "WpaFlags", "RsnFlags")]
    if not all(isinstance(number, int) and 0 <= number < 1 << 32 for number in numbers):
        return WifiNetwork(ssid, bssid, malformed=True, source=WifiSource.NETWORKMANAGER)
    flags, wpa, rsn = (number for number in numbers if isinstance(number, int))
    return WifiNetwork(
        ssid,
        bssid,
        _security(flags, wpa, rsn),
        tkip=bool((wpa | rsn) & TKIP),
        wps=bool(flags & WPS),
        # Every WPA network must set the privacy bit; the open half of an enhanced-open pair has none, and no cipher.
        malformed=not (ssid_fine and bssid_fine) or (not flags & Flag.PRIVACY and bool(wpa | rsn & ~Sec.OWE_TM)),
        source=WifiSource.NETWORKMANAGER,
    )


def _security(flags: int, wpa: int, rsn: int) -> Security:
    """The weakest way in that the access point offers."""
    if (wpa | rsn) & ~ALL_SEC:
        return Security.UNKNOWN  # of a newer NetworkManager; nobody knows how strong it is
    if not wpa and not rsn:
        return Security.WEP if flags & Flag.PRIVACY else Security.OPEN
    ways = []
    if (wpa | rsn) & WEP:
        ways.append(Security.WEP)
    if wpa:
        ways.append(Security.WPA)
    if rsn:
        ways += _ways_of_rsn(rsn)
    return min(ways, key=lambda way: way.strength)


def _ways_of_rsn(rsn: int) -> list[Security]:
    ways = [
        way
        for flag, way in (
            (Sec.OWE_TM, Security.OWE_TRANSITION),
            (Sec.OWE, Security.OWE),
            (Sec.IEEE_8021X, Security.ENTERPRISE),
            (Sec.SUITE_B_192, Security.ENTERPRISE_192),
        )
        if rsn & flag
    ]
    match bool(rsn & Sec.PSK), bool(rsn & Sec.SAE):
        case True, True:
            ways.append(Security.WPA2_WPA3)
        case True, False:
            ways.append(Security.WPA2)
        case False, True:
            ways.append(Security.WPA3)
    return ways or [Security.UNKNOWN]  # ciphers, but a key management that NetworkManager has no flag for


def _ssid(value: object) -> tuple[bytes, bool]:
    """(bytes, whether it could be read). A beacon of a hidden network carries none, or zeros."""
    if not isinstance(value, bytes | bytearray) or len(value) > 32:
        return b"", False
    return (bytes(value), True) if any(value) else (b"", True)


def _bssid(value: object) -> tuple[bytes, bool]:
    """(6 bytes or none, whether it could be read). NetworkManager's guesses have none."""
    if not isinstance(value, str):
        return b"", False
    parts = value.split(":")
    try:
        if not value:
            return b"", True
        if [len(part) for part in parts] != [2] * 6:
            return b"", False
        packed = bytes.fromhex("".join(parts))
    except ValueError:
        return b"", False
    return (packed, True) if len(packed) == 6 and any(packed) else (b"", len(packed) == 6)
