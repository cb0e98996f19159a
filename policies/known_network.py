"""A saved network, and what its entry must not say: nothing that relaxes protection where anybody can imitate it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import model_validator

from policies.facts import Address, Endpoint, Security
from policies.profiles_values import is_profile_name
from policies.servers import CHOICES, is_choice
from policies.settings_tables import Table, WifiAction


class KnownNetwork(Table):
    """A saved network. An entry that would relax protection on a network anybody can imitate cannot exist."""

    ssid: bytes  # 1 to 32 bytes, no NUL
    pattern: bool = False  # `ssid` is UTF-8 in which * and ? match
    exceptions: tuple[bytes, ...] = ()  # patterns of names that are not meant
    minimum_security: Security = Security.WPA2  # the weakest the network may use and still be itself
    action: WifiAction | None = None
    profile: str | None = None
    server: str | None = None  # see `servers.parse_choice`
    allow_lan: bool | None = None
    resolvers: tuple[Address, ...] = ()  # asked through the tunnel there; empty: those of [dns]
    bssids: frozenset[bytes] = frozenset()  # 6 bytes each; empty: any
    gateways: frozenset[bytes] = frozenset()  # 6 bytes each; empty: any
    beacon: Endpoint | None = None  # a TLS server inside the network
    beacon_sha256: bytes = b""  # 32 bytes: of its certificate (DER); only with `beacon`
    learn: bool = False  # access points met are added to `bssids`, which bind only once this ends; saved by users only

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for key, problem, allowed in _known_flaws(self.__dict__):
            raise ValueError(f"{key}: {problem}; allowed: {allowed}")
        return self

    @property
    def key(self) -> tuple[bool, bytes]:
        """What tells saved entries apart: a pattern, and the name that is spelled like it, are two."""
        return self.pattern, self.ssid

    @property
    def can_be_proven(self) -> bool:
        """Whether a network that meets this entry is the saved one: they had a secret in common when it was saved."""
        return _can_be_proven(self.minimum_security, self.ssid if self.pattern else None)


def proves_identity(security: Security) -> bool:
    """Whether joining proves that the network is itself: both sides had to know a password or hold credentials.

    Open and enhanced-open (OWE) networks ask for nothing, and an access point without the key can pretend WEP.
    """
    return security.strength >= Security.WPA.strength


def has_accounts(security: Security) -> bool:
    """802.1X: each user proves himself, and one server stands behind all names."""
    return security.strength >= Security.ENTERPRISE.strength


def _can_be_proven(minimum: Security, pattern: bytes | None) -> bool:
    if pattern is None:
        return proves_identity(minimum)
    return has_accounts(minimum) and len(pattern.translate(None, b"*?")) >= 3


# --- what it must not say ---------------------------------------------------------------------------------------------


def _known_flaws(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(key, problem, allowed) of the fields of a KnownNetwork, whoever made it."""
    for key, names in (("ssid", (values["ssid"],)), ("except", values["exceptions"])):
        for name in names:
            if problem := ssid_problem(name) or _text_problem(name, values["pattern"]):
                yield key, problem, "1 to 32 bytes, none of them NUL"
    for key in ("bssids", "gateways"):
        for mac in values[key]:
            if problem := bssid_problem(mac):
                yield key, problem, "six bytes"
    if values["profile"] is not None and not is_profile_name(values["profile"]):
        yield "profile", "not the name of a profile", "letters, digits, dots, underscores and dashes"
    if values["server"] is not None and not is_choice(values["server"]):
        yield "server", "not a choice of a server", CHOICES
    yield from half(values)
    if values["beacon"] and (problem := beacon_problem(values["beacon"])):
        yield "beacon", problem, "an address and a TCP port"
    if values["beacon_sha256"] and len(values["beacon_sha256"]) != 32:
        yield "beacon_sha256", f"{len(values['beacon_sha256'])} bytes", "32 bytes"
    yield from clashes(values)


def half(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The key that is missing where there is half a beacon."""
    if values.get("beacon") and not values.get("beacon_sha256"):
        allowed = "beacon_sha256 of its certificate; `tunwarden known edit NAME --beacon ...` takes what is there now"
        yield "beacon_sha256", "a beacon without beacon_sha256", allowed
    if values.get("beacon_sha256") and not values.get("beacon"):
        yield "beacon", "beacon_sha256 without a beacon", "both, or none"


def clashes(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What its keys must not say together."""
    security: Security = values.get("minimum_security") or KnownNetwork.model_fields["minimum_security"].default
    pattern: bytes | None = values["ssid"] if values["pattern"] else None
    if values.get("exceptions") and pattern is None:
        yield "except", "only a pattern can have exceptions", "pattern instead of ssid, or leave it out"
    if values.get("learn") and (pattern is not None or not proves_identity(security)):
        yield "learn", "this would learn from networks that anybody can imitate", "a name, and security wpa or better"
    if _can_be_proven(security, pattern):
        return
    if pattern is not None:
        if values.get("action") is not WifiAction.AUTO_CONNECT or values.get("allow_lan"):
            problem = "a pattern relaxes protection only with security 8021x and three bytes beside its wildcards"
            yield (
                "action",
                problem,
                'auto_connect without allow_lan; or security "8021x", "8021x-192" and a longer pattern',
            )
        return
    why = f'anybody can imitate a network of security "{security.value}"'
    strong = ", ".join(f'"{other.value}"' for other in Security if proves_identity(other))
    if values.get("action") in (WifiAction.IGNORE, WifiAction.DISCONNECT):
        problem = f'"{values["action"]}" relaxes protection, and {why}'
        yield "action", problem, f"auto_connect, prompt; or security {strong}"
    if values.get("allow_lan"):
        yield "allow_lan", f"this relaxes protection, and {why}", f"false; or security {strong}"


def _text_problem(name: bytes, pattern: bool) -> str:
    try:
        name.decode()
    except UnicodeDecodeError:
        return "the pattern is not UTF-8" if pattern else ""
    return ""


def ssid_problem(ssid: bytes) -> str:
    if b"\0" in ssid:
        return "the name contains a NUL byte"
    return "" if 1 <= len(ssid) <= 32 else f"the name has {len(ssid)} bytes"


def bssid_problem(bssid: bytes) -> str:
    if len(bssid) != 6:
        return f"a hardware address of {len(bssid)} bytes"
    return "no device has this address" if bssid[0] & 1 or not any(bssid) else ""


def beacon_problem(server: Endpoint) -> str:
    address = server.address
    if server.protocol != "tcp" or not 0 < server.port <= 0xFFFF:
        return "not a TCP port"
    if address.version == 6 and (address.ipv4_mapped or address.scope_id):
        return "IPv4 in the clothes of IPv6" if address.ipv4_mapped else "a scope"
    if address.is_multicast or address.is_unspecified or address.is_loopback or int(address) == 0xFFFFFFFF:
        return "no server in a network can have this address"
    return ""
