"""VPN profiles of every kind: their text -> typed fields, what the store keeps, what decisions may know of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

from policies import wireguard
from policies.facts import Address, Endpoint, ProfileFacts
from policies.profiles_errors import Notice, ProfileError
from policies.profiles_values import plain_address
from policies.wireguard import WireGuardProfile
from policies.wireguard_reader import parse_wireguard

if TYPE_CHECKING:  # what belongs to the other kinds is loaded where there is such a profile: it takes memory
    from policies.external import ExternalProfile
    from policies.openvpn import OpenVPNProfile

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


def to_json(profile: Profile) -> str:
    """The profile as the store keeps it, keys included, on one line."""
    if profile.kind == "external":
        from policies.external import to_data as external_data

        return json.dumps(external_data(profile))
    if profile.kind == "openvpn":
        from policies.openvpn import to_data

        return json.dumps(to_data(profile))
    return json.dumps(wireguard.to_data(profile))


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
    return wireguard.from_data(data)


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
