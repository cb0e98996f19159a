"""What the tests of other programs' tunnels are made of: a text, what it says, and the links of such tunnels."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface

from policies.external import ExternalProfile
from policies.facts import Endpoint, External, Link, LinkKind

TEXT = """\
# the company's tunnel, brought up by wg-quick
[external]
link = "wg-office"
kind = "wireguard"
endpoints = ["192.0.2.1:51820/udp", "[2001:db8::1]:443/tcp"]
fwmark = 0xca6c
resolvers = ["10.2.0.1", "fd02::1"]
"""
SERVERS = (Endpoint(ip_address("192.0.2.1"), 51820, "udp"), Endpoint(ip_address("2001:db8::1"), 443, "tcp"))
PROFILE = ExternalProfile(
    "office",
    External("wg-office", "wireguard", 0xCA6C, None),
    SERVERS,
    (ip_address("10.2.0.1"), ip_address("fd02::1")),
)
BY_USER = ExternalProfile("user", External("tun0", "", None, 977), SERVERS)


def link(ifname: str, tunnel: str, **other: object) -> Link:
    found = Link(9, ifname, LinkKind.WIRED, True, True, 0, b"", (ip_interface("10.2.0.2/24"),), (), tunnel)
    return replace(found, **other)  # type: ignore[arg-type]


WG, TUN, TAP = link("wg-office", "wireguard"), link("tun0", "tun"), link("tap0", "tap")
