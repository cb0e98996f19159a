"""WireGuard profiles: typed fields -> a file for wg-quick(8), and JSON. wireguard_reader.py makes them.

The types check themselves, so whatever renders a profile (for wireguard-go, for a resolver, as a file) can rely on
fields that hold no newline and no directive. Errors and representations never show a key.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_interface, ip_network
from typing import Any, ClassVar, Literal

from policies.facts import Address, Endpoint, Interface
from policies.profiles_errors import ProfileError
from policies.profiles_values import check_name, is_domain, is_host, is_within

KEY_BYTES = 32
DEFAULT_KEEPALIVE = 25  # seconds; wg's is off, but a silent tunnel loses its place in NAT and looks like a dead one
ENDPOINT_REMEDY = "write it like vpn.example.com:51820, 192.0.2.1:51820 or [2001:db8::1]:51820"
Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class WireGuardPeer:
    """The other end. A peer without endpoint (`host` empty, `port` 0) cannot be called. Raises ProfileError."""

    public_key: bytes  # 32 bytes
    host: str  # the endpoint's host as written: an address or a name
    port: int
    allowed_ips: tuple[Network, ...]
    preshared_key: bytes | None = field(default=None, repr=False)  # 32 bytes
    keepalive: int = DEFAULT_KEEPALIVE  # seconds; 0 switches it off
    addresses: tuple[Address, ...] = ()  # what `host` resolved to at import; an address stands for itself

    def __post_init__(self) -> None:
        _check_key("PublicKey", self.public_key)
        if self.preshared_key is not None:
            _check_key("PresharedKey", self.preshared_key)
        if (self.host, self.port) != ("", 0) and not (is_host(self.host) and is_within(self.port, 1, 65535)):
            raise ProfileError(0, "Endpoint", "is not a host and a port", ENDPOINT_REMEDY)
        if not is_within(self.keepalive, 0, 65535):
            raise ProfileError(0, "PersistentKeepalive", "is out of range", "write off or 1 to 65535 seconds")

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(Endpoint(address, self.port, "udp") for address in self.addresses)


@dataclass(frozen=True, slots=True)
class WireGuardProfile:
    """A tunnel with its keys. Raises ProfileError where a field could not stand in a configuration."""

    kind: ClassVar[Literal["wireguard"]] = "wireguard"
    name: str
    private_key: bytes = field(repr=False)  # 32 bytes
    addresses: tuple[Interface, ...]
    resolvers: tuple[Address, ...]
    search: tuple[str, ...]
    peers: tuple[WireGuardPeer, ...]
    mtu: int | None = None

    def __post_init__(self) -> None:
        check_name(self.name)
        _check_key("PrivateKey", self.private_key)
        if not all(is_domain(domain) for domain in self.search):
            raise ProfileError(0, "DNS", "holds something that is no domain", "use addresses and domain names")
        if self.mtu is not None and not is_within(self.mtu, 576, 65535):
            raise ProfileError(0, "MTU", "is out of range", "write 576 to 65535, or leave it out")


def _check_key(directive: str, key: bytes) -> None:
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise ProfileError(0, directive, "is not a key", f"it needs {KEY_BYTES} bytes")


def to_conf(profile: WireGuardProfile) -> str:
    """The profile as a file for wg-quick(8), keys included; `parse_wireguard` reads it back (bar resolved names)."""
    lines = ["[Interface]", f"PrivateKey = {_base64(profile.private_key)}", f"Address = {_list(profile.addresses)}"]
    if profile.resolvers or profile.search:
        lines.append(f"DNS = {_list((*profile.resolvers, *profile.search))}")
    if profile.mtu is not None:
        lines.append(f"MTU = {profile.mtu}")
    for peer in profile.peers:
        lines += ["", "[Peer]", f"PublicKey = {_base64(peer.public_key)}"]
        if peer.preshared_key is not None:
            lines.append(f"PresharedKey = {_base64(peer.preshared_key)}")
        if peer.host:
            lines.append(f"Endpoint = {f'[{peer.host}]' if ':' in peer.host else peer.host}:{peer.port}")
        lines.append(f"AllowedIPs = {_list(peer.allowed_ips)}")
        lines.append(f"PersistentKeepalive = {peer.keepalive or 'off'}")
    return "\n".join(lines) + "\n"


def to_data(profile: WireGuardProfile) -> dict[str, Any]:
    """As `policies.profiles.to_json` keeps it, keys included."""
    return {
        "kind": "wireguard",
        "name": profile.name,
        "private_key": _base64(profile.private_key),
        "addresses": [str(address) for address in profile.addresses],
        "resolvers": [str(address) for address in profile.resolvers],
        "search": list(profile.search),
        "mtu": profile.mtu,
        "peers": [
            {
                "public_key": _base64(peer.public_key),
                "preshared_key": _base64(peer.preshared_key) if peer.preshared_key is not None else None,
                "host": peer.host,
                "port": peer.port,
                "addresses": [str(address) for address in peer.addresses],
                "allowed_ips": [str(network) for network in peer.allowed_ips],
                "keepalive": peer.keepalive,
            }
            for peer in profile.peers
        ],
    }


def from_data(data: Any) -> WireGuardProfile:
    """What `to_data` gave. Raises ProfileError, ValueError, TypeError, LookupError."""
    return WireGuardProfile(
        name=data["name"],
        private_key=base64.b64decode(data["private_key"], validate=True),
        addresses=tuple(ip_interface(text) for text in data["addresses"]),
        resolvers=tuple(ip_address(text) for text in data["resolvers"]),
        search=tuple(data["search"]),
        mtu=data["mtu"],
        peers=tuple(
            WireGuardPeer(
                public_key=base64.b64decode(peer["public_key"], validate=True),
                preshared_key=peer["preshared_key"] and base64.b64decode(peer["preshared_key"], validate=True),
                host=peer["host"],
                port=peer["port"],
                addresses=tuple(ip_address(text) for text in peer["addresses"]),
                allowed_ips=tuple(ip_network(text) for text in peer["allowed_ips"]),
                keepalive=peer["keepalive"],
            )
            for peer in data["peers"]
        ),
    )


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")


def _list(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items)
