"""VPN profiles: the text of a WireGuard configuration -> typed fields; what the store keeps. OpenVPN: openvpn.py.

The types check themselves, so whatever renders a profile (for wireguard-go, for a resolver, as a file) can rely on
fields that hold no newline and no directive. Errors and representations never show a key.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NoReturn, TypeAlias

from policies.facts import Address, Endpoint, Interface, ProfileFacts
from policies.wireguard_conf import IGNORED, Notice, ProfileError, Section, Value, read

if TYPE_CHECKING:  # what belongs to the other kinds is loaded where there is such a profile: it takes memory
    from policies.external import ExternalProfile
    from policies.openvpn import OpenVPNProfile

__all__ = [
    "Notice",
    "Profile",
    "ProfileError",
    "WireGuardPeer",
    "WireGuardProfile",
    "facts",
    "from_json",
    "is_profile_name",
    "only",
    "parse",
    "parse_wireguard",
    "to_conf",
    "to_json",
    "unresolved",
    "with_addresses",
    "with_login",
]

KEY_BYTES = 32
DEFAULT_KEEPALIVE = 25  # seconds; wg's is off, but a silent tunnel loses its place in NAT and looks like a dead one

Network = IPv4Network | IPv6Network

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")
# 32 bytes in 43 characters leave two bits over; only these last characters have them zero.
_KEY = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")


def is_profile_name(name: str) -> bool:
    """Whether a profile may be called that: 1 to 64 letters, digits, `_`, `.` and `-`, a letter or digit first."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raises ProfileError."""
    if not is_profile_name(name):
        remedy = "use 1 to 64 letters, digits, '_', '.' and '-', a letter or digit first"
        raise ProfileError(0, "name", "cannot name a profile", remedy)


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
            raise ProfileError(0, "Endpoint", "is not a host and a port", _ENDPOINT_REMEDY)
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


Profile: TypeAlias = "WireGuardProfile | OpenVPNProfile | ExternalProfile"


def parse(name: str, text: str) -> tuple[Profile, tuple[Notice, ...]]:
    """The profile in `text`, whichever kind it is, and what was ignored or is worth knowing. Raises ProfileError."""
    from policies.external import looks_like_external
    from policies.external import parse as parse_external
    from policies.openvpn_conf import looks_like_openvpn

    if looks_like_external(text):
        return parse_external(name, text)
    if not looks_like_openvpn(text):
        return parse_wireguard(name, text)
    from policies.openvpn_reader import parse as parse_openvpn

    return parse_openvpn(name, text)


# --- text -> profile --------------------------------------------------------------------------------------------------


def parse_wireguard(name: str, text: str) -> tuple[WireGuardProfile, tuple[Notice, ...]]:
    """The profile in `text`, in the syntax of wg-quick(8), and what was ignored or is worth knowing.

    Raises ProfileError for the first thing that is refused. Nothing is resolved, nothing is run.
    """
    interface, peers = read(text)
    notices = _ignored(interface)
    resolvers, search = _dns(interface)
    profile = WireGuardProfile(
        name=name,
        private_key=_key(_required(interface, "PrivateKey"), "PrivateKey"),
        addresses=_addresses(interface),
        resolvers=resolvers,
        search=search,
        peers=_peers(peers, notices),
        mtu=_mtu(interface),
    )
    return profile, (*sorted(notices, key=lambda notice: notice.line), *_consequences(profile))


def _refuse(value: Value, directive: str, problem: str, remedy: str) -> NoReturn:
    raise ProfileError(value.line, directive, problem, remedy)


def _required(section: Section, directive: str) -> Value:
    value = section.one(directive)
    if value is None:
        raise ProfileError(section.line, directive, "is missing in this section", "add it")
    return value


def _ignored(interface: Section) -> list[Notice]:
    notices = []
    for directive, reason in IGNORED.items():
        if value := interface.one(directive):
            if directive == "Table" and value.text != "auto":
                # "off" and a number mean that somebody else routes: to route all the same would not be what was asked.
                _refuse(value, directive, "asks for other routes than tunwarden's", "remove the line")
            notices.append(Notice(value.line, directive, f"ignored: {reason}"))
    return notices


def _key(value: Value, directive: str) -> bytes:
    if not _KEY.fullmatch(value.text):
        _refuse(value, directive, "is not a key", "copy all 44 characters of base64, the last one is =")
    key = base64.b64decode(value.text)
    if not any(key) and directive != "PresharedKey":
        _refuse(value, directive, "is a key of zeros", "put the real key in its place")
    return key


def _items(section: Section, directive: str) -> list[Value]:
    """The items of a list that may stand on several lines.

    wg-quick takes commas and spaces alike; wg, which reads AllowedIPs, knows commas only and drops spaces: what would
    read differently there is refused as no network.
    """
    separator = r"[ \t]*,[ \t]*" if directive == "AllowedIPs" else r"[, \t]+"
    return [
        Value(value.line, item)
        for value in section.values.get(directive, ())
        for item in re.split(separator, value.text)
        if item
    ]


def _addresses(interface: Section) -> tuple[Interface, ...]:
    addresses: dict[Interface, None] = {}
    for item in _items(interface, "Address"):
        address = _interface(item.text)
        if address is None or not is_usable(address.ip):
            _refuse(item, "Address", "is not an address of this computer", "write it like 10.2.0.2/32 or fd00::2/128")
        addresses[address] = None
    if not addresses:
        raise ProfileError(interface.line, "Address", "is missing in this section", "add the address in the tunnel")
    return tuple(addresses)


def _dns(interface: Section) -> tuple[tuple[Address, ...], tuple[str, ...]]:
    resolvers: dict[Address, None] = {}
    search: dict[str, None] = {}
    for item in _items(interface, "DNS"):
        # As wg-quick decides: digits and dots, or a colon, mean an address; all else is a search domain.
        if re.fullmatch(r"[0-9.]+|.*:.*", item.text):
            address = plain_address(item.text)
            if address is None or not is_usable(address):
                _refuse(item, "DNS", "is not a resolver that the tunnel could reach", "write an address like 10.2.0.1")
            resolvers[address] = None
        elif is_domain(item.text):
            search[item.text] = None
        else:
            _refuse(item, "DNS", "is neither an address nor a domain", "write addresses like 10.2.0.1 or domains")
    return tuple(resolvers), tuple(search)


def _mtu(interface: Section) -> int | None:
    value = interface.one("MTU")
    if value is None:
        return None
    mtu = number(value.text, 576, 65535)
    if mtu is None:
        _refuse(value, "MTU", "is out of range", "write 576 to 65535, or leave it out")
    if mtu < 1280 and any(":" in item.text for item in _items(interface, "Address")):
        _refuse(value, "MTU", "is too small for IPv6", "write at least 1280, or remove the IPv6 address")
    return mtu


def _peers(sections: Iterable[Section], notices: list[Notice]) -> tuple[WireGuardPeer, ...]:
    peers: dict[bytes, WireGuardPeer] = {}
    owners: dict[Network, int] = {}  # the line that claimed the network first
    for section in sections:
        public = _required(section, "PublicKey")
        public_key = _key(public, "PublicKey")
        if public_key in peers:
            _refuse(public, "PublicKey", "belongs to an earlier [Peer] too", "merge the two sections")
        peers[public_key] = WireGuardPeer(
            public_key=public_key,
            preshared_key=_preshared_key(section, notices),
            allowed_ips=_allowed_ips(section, owners, notices),
            keepalive=_keepalive(section),
            **_endpoint(section, notices),
        )
    if not any(peer.host for peer in peers.values()):
        raise ProfileError(0, "Endpoint", "is missing in every [Peer]", "add the server's address and port")
    return tuple(peers.values())


def _preshared_key(section: Section, notices: list[Notice]) -> bytes | None:
    value = section.one("PresharedKey")
    if value is None:
        return None
    key = _key(value, "PresharedKey")
    if any(key):
        return key
    notices.append(Notice(value.line, "PresharedKey", "ignored: a key of zeros means none"))
    return None


def _allowed_ips(section: Section, owners: dict[Network, int], notices: list[Notice]) -> tuple[Network, ...]:
    networks: dict[Network, int] = {}
    for item in _items(section, "AllowedIPs"):
        interface = _interface(item.text)
        if interface is None:
            _refuse(item, "AllowedIPs", "holds something that is no network", "write them like 0.0.0.0/0, ::/0")
        network = interface.network
        if interface.ip != network.network_address:
            # As wg does, with a warning: many providers' files hold such networks.
            notices.append(Notice(item.line, "AllowedIPs", f"{interface} was taken as its network, {network}"))
        if network in owners and network not in networks:
            # WireGuard would silently give it to the last peer that asks.
            _refuse(item, "AllowedIPs", f"another peer has {network} too", "leave it to one of them")
        networks[network] = owners[network] = item.line
    if not networks:
        raise ProfileError(section.line, "AllowedIPs", "is missing in this section", "add it, 0.0.0.0/0, ::/0 for all")
    return tuple(networks)


def _keepalive(section: Section) -> int:
    value = section.one("PersistentKeepalive")
    if value is None:
        return DEFAULT_KEEPALIVE
    seconds = 0 if value.text.lower() == "off" else number(value.text, 0, 65535)
    if seconds is None:
        _refuse(value, "PersistentKeepalive", "is out of range", "write off or 1 to 65535 seconds")
    return seconds


_ENDPOINT_REMEDY = "write it like vpn.example.com:51820, 192.0.2.1:51820 or [2001:db8::1]:51820"


def _endpoint(section: Section, notices: list[Notice]) -> dict[str, Any]:
    value = section.one("Endpoint")
    if value is None:
        reason = "missing: this peer cannot be called, and while protected it cannot call either"
        notices.append(Notice(section.line, "Endpoint", reason))
        return {"host": "", "port": 0}
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]+)", value.text)
    port = number(match[3], 1, 65535) if match else None
    if match is None or port is None:
        _refuse(value, "Endpoint", "is not a host and a port", _ENDPOINT_REMEDY)
    host = match[1] or match[2]
    address = plain_address(host)
    if not is_host(host) or (match[1] is not None) != isinstance(address, IPv6Address):
        _refuse(value, "Endpoint", "is not a host and a port", _ENDPOINT_REMEDY)
    return {"host": host, "port": port, "addresses": () if address is None else (address,)}


def _consequences(profile: WireGuardProfile) -> list[Notice]:
    networks = [network for peer in profile.peers for network in peer.allowed_ips]
    versions: tuple[tuple[str, Network, Iterable[Any]], ...] = (
        ("IPv4", IPv4Network("0.0.0.0/0"), (network for network in networks if isinstance(network, IPv4Network))),
        ("IPv6", IPv6Network("::/0"), (network for network in networks if isinstance(network, IPv6Network))),
    )
    notices = []
    for version, everything, own in versions:
        covered = list(collapse_addresses(own))
        if not covered:
            reason = f"no {version} goes through this tunnel: all {version} traffic is blocked while protected"
        elif covered != [everything]:
            reason = f"not all {version} goes through this tunnel: the rest is blocked while protected"
        else:
            continue
        notices.append(Notice(0, "AllowedIPs", reason))
    if not profile.resolvers:
        notices.append(Notice(0, "DNS", "no resolver is named: while protected, names cannot be resolved"))
    return notices


# --- values -----------------------------------------------------------------------------------------------------------


def _check_key(directive: str, key: bytes) -> None:
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise ProfileError(0, directive, "is not a key", f"it needs {KEY_BYTES} bytes")


def is_within(number: int, low: int, high: int) -> bool:
    return type(number) is int and low <= number <= high  # JSON's true is no port


def number(text: str, low: int, high: int) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) and low <= int(text) <= high else None


def plain_address(text: str) -> Address | None:
    """An address without a zone."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


def _interface(text: str) -> Interface | None:
    """An address with an optional prefix length; wg takes no netmasks and no zones."""
    if not re.fullmatch(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?", text):
        return None
    try:
        return ip_interface(text)
    except ValueError:
        return None


def is_usable(address: Address) -> bool:
    return not (address.is_unspecified or address.is_multicast or address.is_loopback or address == _BROADCAST)


_BROADCAST = IPv4Address("255.255.255.255")


def is_domain(text: str) -> bool:
    return len(text) <= 253 and _DOMAIN.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """An address that one can send to, or a name that no resolver takes for an address ("10.1" is 10.0.0.1 to some)."""
    if (address := plain_address(text)) is not None:
        return not (address.is_unspecified or address.is_multicast or address == _BROADCAST)
    last = text.rstrip(".").rpartition(".")[2].lower()
    return is_domain(text) and not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last)


# --- profile -> text --------------------------------------------------------------------------------------------------


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


def _base64(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")


def _list(items: Iterable[object]) -> str:
    return ", ".join(str(item) for item in items)


def to_json(profile: Profile) -> str:
    """The profile as the store keeps it, keys included, on one line."""
    if profile.kind == "external":
        from policies.external import to_data as external_data

        return json.dumps(external_data(profile))
    if profile.kind == "openvpn":
        from policies.openvpn import to_data

        return json.dumps(to_data(profile))
    return json.dumps(
        {
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
    )


def from_json(text: str) -> Profile:
    """What `to_json` wrote, and nothing else: a key more or a value in another form is refused. Raises ProfileError."""
    profile = None
    try:
        stored = _from_data(json.loads(text))
        if to_json(stored) == text:
            profile = stored
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass
    # Raised outside the handler: a JSONDecodeError holds the whole text, keys included.
    if profile is None:
        raise ProfileError(0, "stored profile", "is damaged", "import the configuration again")
    return profile


def _from_data(data: Any) -> Profile:
    if data["kind"] == "openvpn":
        from policies.openvpn import from_data

        return from_data(data)
    if data["kind"] == "external":
        from policies.external import from_data as external_from_data

        return external_from_data(data)
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


def facts(profile: Profile) -> ProfileFacts:
    """What decisions may know of the profile: never its keys."""
    if profile.kind == "external":
        from policies.external import facts as external_facts

        return external_facts(profile)
    if profile.kind == "openvpn":
        from policies.openvpn import facts as openvpn_facts

        return openvpn_facts(profile)
    endpoints = tuple(endpoint for peer in profile.peers for endpoint in peer.endpoints)
    return ProfileFacts(profile.name, endpoints, profile.addresses, profile.resolvers)


def only(profile: Profile, servers: tuple[Endpoint, ...]) -> Profile:
    """The profile for one attempt: where servers are tried one at a time, that one."""
    if profile.kind != "openvpn" or len(servers) != 1:
        return profile
    from policies.openvpn import only as openvpn_only

    return openvpn_only(profile, servers[0])


def with_login(profile: Profile, user: str, password: str) -> Profile:
    """The profile with what its server asks for. Raises ProfileError."""
    if profile.kind == "wireguard":
        raise ProfileError(0, profile.name, "is a WireGuard profile, which has keys only", "leave it so")
    if profile.kind == "external":
        raise ProfileError(0, profile.name, "is somebody else's tunnel", "let in whoever brings it up")
    from policies.openvpn import with_login as openvpn_with_login

    return openvpn_with_login(profile, user, password)


def unresolved(profile: Profile) -> dict[str, int]:
    """The names of servers that have no address yet, each with a port."""
    if isinstance(profile, WireGuardProfile):
        return {peer.host: peer.port for peer in profile.peers if peer.host and not peer.addresses}
    if profile.kind == "external":
        return {}
    return {remote.host: remote.port for remote in profile.remotes if not remote.addresses}


def with_addresses(profile: Profile, resolved: Mapping[str, tuple[Address, ...]]) -> Profile:
    """The profile with what its endpoints' names resolved to; what `resolved` does not name stays as it is."""
    if profile.kind == "external":
        return profile
    if profile.kind == "openvpn":
        from policies.openvpn import with_addresses as openvpn_with_addresses

        return openvpn_with_addresses(profile, resolved)
    return replace(
        profile,
        peers=tuple(
            replace(peer, addresses=tuple(resolved[peer.host]))
            if peer.host in resolved and plain_address(peer.host) is None
            else peer
            for peer in profile.peers
        ),
    )
