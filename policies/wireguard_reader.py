"""The sections of a WireGuard configuration, which wireguard_conf.py reads -> WireGuardProfile."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Address, IPv6Network, collapse_addresses, ip_interface
from typing import Any, NoReturn

from policies.facts import Address, Interface
from policies.profiles_errors import Notice, ProfileError
from policies.profiles_values import is_domain, is_host, is_usable, number, plain_address
from policies.wireguard import DEFAULT_KEEPALIVE, ENDPOINT_REMEDY, Network, WireGuardPeer, WireGuardProfile
from policies.wireguard_conf import IGNORED, Section, Value, read

# 32 bytes in 43 characters leave two bits over; only these last characters have them zero.
_KEY = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")


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


def _endpoint(section: Section, notices: list[Notice]) -> dict[str, Any]:
    value = section.one("Endpoint")
    if value is None:
        reason = "missing: this peer cannot be called, and while protected it cannot call either"
        notices.append(Notice(section.line, "Endpoint", reason))
        return {"host": "", "port": 0}
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]+)", value.text)
    port = number(match[3], 1, 65535) if match else None
    if match is None or port is None:
        _refuse(value, "Endpoint", "is not a host and a port", ENDPOINT_REMEDY)
    host = match[1] or match[2]
    address = plain_address(host)
    if not is_host(host) or (match[1] is not None) != isinstance(address, IPv6Address):
        _refuse(value, "Endpoint", "is not a host and a port", ENDPOINT_REMEDY)
    return {"host": host, "port": port, "addresses": () if address is None else (address,)}


def _interface(text: str) -> Interface | None:
    """An address with an optional prefix length; wg takes no netmasks and no zones."""
    if not re.fullmatch(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?", text):
        return None
    try:
        return ip_interface(text)
    except ValueError:
        return None


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
