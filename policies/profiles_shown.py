"""A profile for people: everything that is no secret."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import TYPE_CHECKING

from policies.facts import Endpoint
from policies.profiles import Profile
from policies.wireguard import WireGuardProfile

if TYPE_CHECKING:
    from policies.external import ExternalProfile
    from policies.openvpn import OpenVPNProfile

KEPT = "kept, never shown"


def shown(profile: Profile) -> tuple[tuple[str, str], ...]:
    """Names and values. Of keys, passwords and user names only whether they are there."""
    if profile.kind == "external":
        fields = _external(profile)
    else:
        fields = _wireguard(profile) if profile.kind == "wireguard" else _openvpn(profile)
    return (("kind", profile.kind), *fields)


def _wireguard(profile: WireGuardProfile) -> Iterator[tuple[str, str]]:
    yield "private key", KEPT
    yield from (("address", str(each)) for each in profile.addresses)
    yield from (("resolver", str(each)) for each in profile.resolvers)
    yield from (("search domain", each) for each in profile.search)
    if profile.mtu is not None:
        yield "mtu", str(profile.mtu)
    for peer in profile.peers:
        yield "peer", base64.b64encode(peer.public_key).decode("ascii")
        if peer.preshared_key is not None:
            yield "preshared key", KEPT
        if peer.host:
            yield "endpoint", _place(peer.host, peer.port, peer.endpoints)
        yield "allowed networks", ", ".join(str(each) for each in peer.allowed_ips)
        yield "keepalive", f"{peer.keepalive} s" if peer.keepalive else "off"


def _openvpn(profile: OpenVPNProfile) -> Iterator[tuple[str, str]]:
    for remote in profile.remotes:
        yield "server", f"{_place(remote.host, remote.port, remote.endpoints)} {remote.protocol}"
    if profile.ca:
        yield "authorities", str(len(profile.ca))
    yield from (("server's fingerprint", each) for each in profile.fingerprints)
    if profile.certificates:
        yield "certificates of this computer", str(len(profile.certificates))
        yield "private key", KEPT
    if profile.wrap:
        yield profile.wrap, KEPT
    if profile.login:
        yield "user name and password", KEPT if profile.password is not None else "missing"
    yield from (("resolver", str(each)) for each in profile.resolvers)
    yield from ((words[0], " ".join(words[1:]) or "on") for words in profile.options)


def _external(profile: ExternalProfile) -> Iterator[tuple[str, str]]:
    way = profile.external
    if way.link:
        yield "link", way.link
    if way.kind:
        yield "its kind", way.kind
    yield from (("server", f"{_place(str(at.address), at.port, ())} {at.protocol}") for at in profile.endpoints)
    yield "reached by", f"packets with the mark {way.fwmark:#x}" if way.uid is None else f"the user {way.uid}"
    yield from (("resolver", str(each)) for each in profile.resolvers)


def _place(host: str, port: int, endpoints: tuple[Endpoint, ...]) -> str:
    """As written, and what a name has been found to be."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    found = [str(each.address) for each in endpoints if str(each.address) != host]
    return f"{place} ({', '.join(found)})" if found else place
