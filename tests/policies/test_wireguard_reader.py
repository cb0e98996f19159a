from __future__ import annotations

import base64
import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.facts import Endpoint
from policies.profiles import from_json, to_json
from policies.profiles_errors import ProfileError
from policies.wireguard import to_conf
from policies.wireguard_conf import MAX_BYTES
from policies.wireguard_reader import parse_wireguard
from tests.policies.wireguard_texts import (
    FRAGMENTS,
    GOLDEN,
    GOLDEN_NAMES,
    INTERFACE,
    KEYS,
    OTHER,
    PEER,
    PUBLIC,
    SHARED,
    TEXTS,
    VALID,
    assert_no_key,
    notices,
    parse,
)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_golden(name: str) -> None:
    profile, given_notices = parse_wireguard(name, (GOLDEN / f"{name}.conf").read_bytes().decode())
    expected = json.loads((GOLDEN / f"{name}.json").read_text())
    assert json.loads(to_json(profile)) == expected["profile"]
    assert [[each.line, each.directive, each.reason] for each in given_notices] == expected["notices"]


def test_there_are_golden_files() -> None:
    assert GOLDEN_NAMES == ["everything", "minimal", "provider", "split", "windows"]
    assert b"\r\n" in (GOLDEN / "windows.conf").read_bytes()  # and no tool has quietly mended it


def test_an_ordinary_profile_gives_no_notice() -> None:
    assert notices(VALID) == ()


LINES = {
    "comment": ("# PostUp = id", {}),
    "comment behind": ("MTU = 1400 # PostUp = id", {"mtu": 1400}),
    "comment beyond ASCII": ("# Zürich 🇨🇭", {}),
    "smallest MTU": ("MTU = 576", {"mtu": 576}),
    "largest MTU": ("MTU=65535", {"mtu": 65535}),
    "empty DNS": ("DNS =", {}),
    "search domain": ("DNS = corp.example, _tcp.local", {"search": ("corp.example", "_tcp.local")}),
    "resolver twice": ("DNS = 10.0.0.1", {"resolvers": (ip_address("10.0.0.1"),)}),
    "resolver more": ("DNS = fd00::1", {"resolvers": (ip_address("10.0.0.1"), ip_address("fd00::1"))}),
    "address more": (
        "Address = fd00::2",
        {"addresses": (ip_interface("10.0.0.2/32"), ip_interface("fd00::2/128"))},
    ),
}


@pytest.mark.parametrize("line, changes", LINES.values(), ids=LINES.keys())
def test_a_line_in_the_interface(line: str, changes: dict[str, object]) -> None:
    assert parse(f"{INTERFACE}{line}\n{PEER}") == replace(parse(VALID), **changes)  # type: ignore[arg-type]


PEER_LINES = {
    "preshared key": (f"PresharedKey = {SHARED}", {"preshared_key": base64.b64decode(SHARED)}),
    "keepalive": ("PersistentKeepalive = 1", {"keepalive": 1}),
    "keepalive off": ("PersistentKeepalive = Off", {"keepalive": 0}),
    "keepalive zero": ("PersistentKeepalive = 0", {"keepalive": 0}),
    "a network more": (
        "AllowedIPs = 10.0.0.0/8",
        {"allowed_ips": (ip_network("0.0.0.0/0"), ip_network("::/0"), ip_network("10.0.0.0/8"))},
    ),
    "a network twice": ("AllowedIPs = ::/0", {}),
    "one address": (
        "AllowedIPs = 10.0.0.1",
        {"allowed_ips": (ip_network("0.0.0.0/0"), ip_network("::/0"), ip_network("10.0.0.1/32"))},
    ),
}


@pytest.mark.parametrize("line, changes", PEER_LINES.values(), ids=PEER_LINES.keys())
def test_a_line_in_the_peer(line: str, changes: dict[str, object]) -> None:
    profile = parse(VALID)
    assert parse(f"{VALID}{line}\n") == replace(profile, peers=(replace(profile.peers[0], **changes),))  # type: ignore[arg-type]


def test_silence_means_a_keepalive_of_25_seconds() -> None:
    assert parse(VALID).peers[0].keepalive == 25


ENDPOINTS = {
    "192.0.2.1:1": ("192.0.2.1", 1, ("192.0.2.1",)),
    "[2001:db8::1]:65535": ("2001:db8::1", 65535, ("2001:db8::1",)),
    "[::ffff:192.0.2.1]:5": ("::ffff:192.0.2.1", 5, ("::ffff:192.0.2.1",)),
    "127.0.0.1:5": ("127.0.0.1", 5, ("127.0.0.1",)),  # a local wrapper such as udp2raw
    "vpn.example.com:51820": ("vpn.example.com", 51820, ()),
    "vpn.example.com.:51820": ("vpn.example.com.", 51820, ()),
    "localhost:5": ("localhost", 5, ()),
    "de_1.7up.example:5": ("de_1.7up.example", 5, ()),
}


@pytest.mark.parametrize("written, expected", ENDPOINTS.items())
def test_endpoint(written: str, expected: tuple[str, int, tuple[str, ...]]) -> None:
    peer = parse(VALID.replace("192.0.2.1:51820", written)).peers[0]
    host, port, addresses = expected
    assert (peer.host, peer.port, peer.addresses) == (host, port, tuple(ip_address(each) for each in addresses))
    assert peer.endpoints == tuple(Endpoint(ip_address(each), port, "udp") for each in addresses)


COVERAGE = {
    "0.0.0.0/0, ::/0": [],
    "0.0.0.0/1, 128.0.0.0/1, ::/1, 8000::/1": [],
    "0.0.0.0/0": ["no IPv6"],
    "::/0": ["no IPv4"],
    "0.0.0.0/0, 2000::/3": ["not all IPv6"],
    "10.0.0.0/8, fd00::/8": ["not all IPv4", "not all IPv6"],
    "0.0.0.0/1, 128.0.0.0/2, ::/0": ["not all IPv4"],
}


@pytest.mark.parametrize("networks, expected", COVERAGE.items())
def test_what_the_tunnel_does_not_carry_is_said(networks: str, expected: list[str]) -> None:
    found = notices(VALID.replace("0.0.0.0/0, ::/0", networks))
    assert len(found) == len(expected)
    for notice, start in zip(found, expected, strict=True):
        assert notice.reason.startswith(start) and "blocked" in notice.reason
        assert (notice.line, notice.directive) == (0, "AllowedIPs")


def test_coverage_counts_all_peers_together() -> None:
    other = PEER.replace(PUBLIC, OTHER).replace("0.0.0.0/0, ::/0", "128.0.0.0/1, ::/0")
    assert notices(VALID.replace("0.0.0.0/0, ::/0", "0.0.0.0/1") + other) == ()


def test_the_largest_text_is_read() -> None:
    assert parse(f"{VALID}#{'x' * (MAX_BYTES - len(VALID) - 1)}") == parse(VALID)


# --- properties -------------------------------------------------------------------------------------------------------


def check(text: str, name: str = "home") -> None:
    try:
        profile, given_notices = parse_wireguard(name, text)
    except ProfileError as error:
        assert_no_key(error)
        assert 0 <= error.line <= text.count("\n") + 1
        assert len(str(error).splitlines()) == 1 and str(error).isprintable()
        return
    assert not any(key[:8] in repr(given_notices) for key in KEYS)
    assert parse_wireguard(name, to_conf(profile))[0] == profile
    assert from_json(to_json(profile)) == profile


@given(TEXTS | st.lists(FRAGMENTS, max_size=30).map("".join), TEXTS)
@example("PostUp", "home")
def test_any_text_is_a_profile_or_a_profile_error(text: str, name: str) -> None:
    check(text, name)
    check(text)


@given(st.integers(0, len(VALID)), st.integers(0, 12), st.lists(FRAGMENTS, max_size=2).map("".join))
def test_any_damage_is_a_profile_or_a_profile_error(place: int, length: int, more: str) -> None:
    check(VALID[:place] + more + VALID[place + length :])
