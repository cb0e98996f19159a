"""Access points as NetworkManager describes them: SSID, BSSID and three sets of flags.

Source: https://networkmanager.dev/docs/api/latest/nm-dbus-types.html (NM80211ApFlags, NM80211ApSecurityFlags).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

PRIVACY, WPS, WPS_PBC = 0x1, 0x2, 0x4
PAIR_TKIP, PAIR_CCMP = 0x4, 0x8
GROUP_TKIP, GROUP_CCMP = 0x40, 0x80
PSK, IEEE_8021X, SAE, OWE, OWE_TM, SUITE_B_192 = 0x100, 0x200, 0x400, 0x800, 0x1000, 0x2000
CCMP, TKIP = PAIR_CCMP | GROUP_CCMP, PAIR_TKIP | GROUP_TKIP


class Air(Enum):
    """How an access point protects the air: (Flags, WpaFlags, RsnFlags)."""

    OPEN = (0, 0, 0)
    OWE_TRANSITION = (0, 0, OWE_TM)  # the open half of an enhanced-open pair
    OWE = (PRIVACY, 0, CCMP | OWE)
    WEP = (PRIVACY, 0, 0)
    WPA = (PRIVACY, TKIP | PSK, 0)
    WPA_WPA2 = (PRIVACY, TKIP | PSK, PAIR_TKIP | PAIR_CCMP | GROUP_TKIP | PSK)
    WPA2_TKIP = (PRIVACY, 0, TKIP | PSK)
    WPA2 = (PRIVACY, 0, CCMP | PSK)
    WPA2_WPS = (PRIVACY | WPS | WPS_PBC, 0, CCMP | PSK)
    WPA2_WPA3 = (PRIVACY, 0, CCMP | PSK | SAE)
    WPA3 = (PRIVACY, 0, CCMP | SAE)
    ENTERPRISE = (PRIVACY, 0, CCMP | IEEE_8021X)
    ENTERPRISE_192 = (PRIVACY, 0, SUITE_B_192)  # its GCMP-256 ciphers have no flag


@dataclass(frozen=True, slots=True)
class AccessPoint:
    """What is in the air at a place."""

    ssid: bytes  # 0 to 32 bytes of any value
    bssid: str  # "02:..", as D-Bus spells it in upper case
    air: Air
