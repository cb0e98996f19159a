from __future__ import annotations

from ipaddress import ip_address, ip_interface

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.facts import Endpoint
from policies.profiles import facts, from_json, to_json, with_addresses
from policies.profiles_errors import ProfileError
from policies.profiles_values import is_profile_name
from policies.wireguard_reader import parse_wireguard
from tests.policies.wireguard_texts import FRAGMENTS, KEY, PRIVATE, TEXTS, VALID, assert_no_key, parse, refusal

NAMES = {
    "home": True, "a": True, "0": True, "DE-42_x.y": True, "a" * 64: True,
    "": False, "a" * 65: False, ".hidden": False, "-rf": False, "_x": False, "a/b": False, "..": False, "a b": False,
    "a\n": False, "a\0": False, "é": False, "a%n": False, "$(id)": False,
}  # fmt: skip


@pytest.mark.parametrize("name, allowed", NAMES.items())
def test_names(name: str, allowed: bool) -> None:
    assert is_profile_name(name) is allowed
    if allowed:
        assert parse_wireguard(name, VALID)[0].name == name
    else:
        assert refusal(VALID, name).directive == "name"


def test_facts_hold_no_key() -> None:
    found = facts(parse(VALID))
    assert found.name == "home"
    assert found.endpoints == (Endpoint(ip_address("192.0.2.1"), 51820, "udp"),)
    assert found.addresses == (ip_interface("10.0.0.2/32"),)
    assert found.resolvers == (ip_address("10.0.0.1"),)
    assert repr(KEY)[2:10] not in repr(found)


def test_names_are_resolved_elsewhere() -> None:
    profile = parse(VALID.replace("192.0.2.1", "vpn.example.com"))
    one, two = ip_address("192.0.2.1"), ip_address("2001:db8::1")
    resolved = with_addresses(profile, {"vpn.example.com": (one, two), "other.example": (one,)})
    assert profile.peers[0].addresses == ()
    assert facts(resolved).endpoints == (Endpoint(one, 51820, "udp"), Endpoint(two, 51820, "udp"))
    assert with_addresses(resolved, {}) == resolved
    assert from_json(to_json(resolved)) == resolved


def test_an_address_stands_for_itself_whatever_a_resolver_says() -> None:
    profile = parse(VALID)
    assert with_addresses(profile, {"192.0.2.1": (ip_address("203.0.113.1"),)}) == profile


# --- the store --------------------------------------------------------------------------------------------------------

STORED = to_json(parse(VALID))


@pytest.mark.parametrize(
    "old, new",
    [
        ("{", ""), ("{", "[" * 100_000), ("}", ""), (STORED, ""), (STORED, "null"), (STORED, "[]"), (STORED, "{}"),
        ('"kind": "wireguard"', '"kind": "openvpn"'), ('"kind": "wireguard", ', ""), ('"mtu"', '"MTU"'),
        ('"mtu": null', '"mtu": true'), ('"mtu": null', '"mtu": 1400.0'), ('"mtu": null', '"mtu": 1, "mtu": null'),
        ('"mtu": null', '"mtu": null, "post_up": "id"'), ('"mtu": null, ', ""), ('"name": "home"', '"name": "a/b"'),
        ('"name": "home"', '"name": 5'), ('"port": 51820', '"port": "51820"'), ('"port": 51820', '"port": 0'),
        ('"port": 51820', '"port": true'), ('"keepalive": 25', '"keepalive": 25.0'),
        (PRIVATE, PRIVATE[:-1]), (PRIVATE, PRIVATE[:-4]), (PRIVATE, PRIVATE[:-2] + "B="), (f'"{PRIVATE}"', "null"),
        ('"host": "192.0.2.1"', '"host": "192.0.2.1\\nPostUp = id"'), ('"search": []', '"search": "a"'),
        ('"search": []', '"search": ["a\\nb"]'), ('"10.0.0.2/32"', "5"), ('"10.0.0.2/32"', '"10.0.0.2"'),
        ('"0.0.0.0/0"', '"10.0.0.1/8"'), ('"0.0.0.0/0"', '"any"'), ('"preshared_key": null', '"preshared_key": ""'),
        ('"peers": [', '"peers": [null, '), ('"kind"', ' "kind"'),
    ],
)  # fmt: skip
def test_a_damaged_store_is_refused(old: str, new: str) -> None:
    damaged = STORED.replace(old, new, 1)
    assert damaged != STORED
    with pytest.raises(ProfileError, match="damaged") as caught:
        from_json(damaged)
    assert_no_key(caught.value)


@given(st.integers(0, len(STORED)), st.integers(0, 12), st.lists(FRAGMENTS, max_size=2).map("".join) | TEXTS)
def test_any_stored_text_is_a_profile_or_a_profile_error(place: int, length: int, more: str) -> None:
    text = STORED[:place] + more + STORED[place + length :]
    try:
        assert to_json(from_json(text)) == text
    except ProfileError as error:
        assert_no_key(error)
