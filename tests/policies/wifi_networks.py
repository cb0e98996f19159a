"""What the tests of verdicts are made of: a network with its proofs, saved entries, criteria."""

from __future__ import annotations

from ipaddress import ip_address

from policies.facts import Endpoint, Security, WifiNetwork
from policies.known_network import KnownNetwork
from policies.settings import Settings
from policies.settings_tables import Criteria, Wifi

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
