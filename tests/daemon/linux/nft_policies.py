"""The policies whose packets are tried, by name."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from policies.facts import Endpoint, Tunnel
from policies.firewall import FirewallPolicy
from policies.states import Phase

TUNNEL = Tunnel(
    "tunwarden0",
    (ip_interface("10.66.0.2/32"), ip_interface("fd66::2/128")),
    (ip_address("10.66.0.1"), ip_address("fd66::1")),
)
GUARDED = tuple(address.ip for address in TUNNEL.addresses)
HOME = frozenset({"eth0", "ctr0"})
SERVERS = (Endpoint(ip_address("203.0.113.7"), 51820), Endpoint(ip_address("2001:db8:7::1"), 51820))
LAN_SERVERS = (Endpoint(ip_address("192.168.7.9"), 51820),)

INSIDE = (("ctr0", ip_network("172.17.0.0/24")), ("ctr0", ip_network("fd17::/64")))
SUBNETS = (ip_network("100.64.0.0/10"), ip_network("2001:db8:64::/48"))

CONNECTING = FirewallPolicy(Phase.CONNECTING, servers=SERVERS, guarded=GUARDED, capture=True)
CONNECTED = FirewallPolicy(Phase.CONNECTED, servers=SERVERS, tunnel=TUNNEL, guarded=GUARDED, capture=True)
BLOCKED = FirewallPolicy(Phase.BLOCKED, guarded=GUARDED, capture=True)
SPLIT: dict[str, Any] = {
    "never": True, "beside": frozenset({"eth0"}), "beside_dns": 30054, "only": True,
    "subnets": SUBNETS, "subnet_links": frozenset({"eth0"}),
}  # fmt: skip
POLICIES = {
    "idle": FirewallPolicy(Phase.IDLE, cleared=frozenset({"eth0", "ctr0"}), guarded=GUARDED),
    "idle, nothing cleared": FirewallPolicy(Phase.IDLE, guarded=GUARDED),
    "held": FirewallPolicy(Phase.HELD, guarded=GUARDED, capture=True),
    "connecting": CONNECTING,
    "connecting, LAN": replace(CONNECTING, lan=HOME),
    "connecting, server in the LAN": replace(CONNECTING, servers=LAN_SERVERS, lan=HOME),
    "connected": CONNECTED,
    "connected, LAN": replace(CONNECTED, lan=HOME),
    "reconnecting": replace(CONNECTING, phase=Phase.RECONNECTING),
    "blocked": BLOCKED,
    "blocked, LAN": replace(BLOCKED, lan=HOME),
    "disconnecting": replace(BLOCKED, phase=Phase.DISCONNECTING),
    "connected, inside": replace(CONNECTED, inside=INSIDE),
    "blocked, inside": replace(BLOCKED, inside=INSIDE),
    "blocked, LAN and inside": replace(BLOCKED, lan=frozenset({"eth0"}), inside=INSIDE),
    "connected, subnets": replace(CONNECTED, lan=frozenset({"eth0"}), lan_subnets=SUBNETS),
    "blocked, subnets without a LAN": replace(BLOCKED, lan_subnets=SUBNETS),
    "held, login": FirewallPolicy(Phase.HELD, guarded=GUARDED, login=frozenset({"eth0"}), capture=True),
    "portal": FirewallPolicy(Phase.PORTAL, guarded=GUARDED, capture=True),
    "portal, login": FirewallPolicy(Phase.PORTAL, guarded=GUARDED, login=frozenset({"eth0"}), capture=True),
    "portal, tree": FirewallPolicy(
        Phase.PORTAL, guarded=GUARDED, login=frozenset({"eth0"}), tree=frozenset({"eth0"}), tree_dns=30053, capture=True
    ),
    "idle, split": FirewallPolicy(
        Phase.IDLE, cleared=frozenset({"eth0", "ctr0"}), guarded=GUARDED, never=True, only=True
    ),
    "blocked, split": replace(BLOCKED, **SPLIT),
    "connected, split": replace(CONNECTED, **SPLIT),
    "connecting, LAN and login": replace(CONNECTING, lan=HOME, login=frozenset({"eth0"})),
}
