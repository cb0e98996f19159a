"""An evil twin: an access point of this network's name that cannot be this network's (N13).

What tells it is what it asks for. A network's access points speak WPA2 here and WPA3 there, as extenders and 6 GHz have
it, but they ask for the same secret: a password, an account, or none. One that asks for another one, or for none, is
somebody else's.

Where there is no secret, everything can be copied, and the maker is what is left. Houses mix makers, and one maker has
many prefixes, so it counts only where everybody else agrees: several access points of one maker, and the one that was
joined is of another.
"""

from __future__ import annotations

from collections.abc import Iterable

from policies.facts import Evidence, Security, WifiNetwork
from policies.hostile import Finding
from policies.known_network import has_accounts, proves_identity

OTHERS = 3  # access points of one maker, none of another: then the one that is different is


def evil_twin(joined: WifiNetwork, near: Iterable[WifiNetwork]) -> Finding | None:
    """`near`: whatever was heard in scans, the joined access point too or not."""
    if not joined.ssid.strip(b"\0") or joined.malformed or joined.security is Security.UNKNOWN:
        return None
    others = [
        each
        for each in near
        if each.ssid == joined.ssid and each.bssid != joined.bssid
        if not each.malformed and each.security is not Security.UNKNOWN and len(each.bssid) == 6
    ]
    for each in others:
        if _secret(each.security) != _secret(joined.security):
            return _finding(joined, each)
    makers = {_maker(each.bssid) for each in others}
    if proves_identity(joined.security) or len(joined.bssid) != 6 or len(others) < OTHERS or len(makers) > 1:
        return None
    return None if _maker(joined.bssid) in makers else _finding(joined, others[0])


def _secret(security: Security) -> str:
    """WEP's is none: an access point without it can pretend it."""
    if has_accounts(security):
        return "account"
    return "password" if proves_identity(security) else "none"


def _maker(bssid: bytes) -> bytes:
    """Of the three bytes that a maker has, the first one is changed for every network more that an access point has."""
    return bssid[1:3]


def _finding(joined: WifiNetwork, other: WifiNetwork) -> Finding:
    pair = ", ".join(f"{each.bssid.hex(':')} {each.security.value}" for each in (joined, other))
    return Finding(Evidence.EVIL_TWIN, pair)
