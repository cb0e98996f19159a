from __future__ import annotations

import base64
import json
import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.facts import Endpoint
from policies.profiles import facts, from_json, to_json, with_addresses
from policies.profiles_errors import Notice, ProfileError
from policies.profiles_values import is_profile_name
from policies.wireguard import WireGuardPeer, WireGuardProfile, to_conf
from policies.wireguard_conf import ALLOWED, MAX_BYTES, SCRIPTS
from policies.wireguard_reader import parse_wireguard

GOLDEN = Path(__file__).parents[1] / "golden" / "profiles"
GOLDEN_NAMES = sorted(path.stem for path in GOLDEN.glob("*.conf"))

PRIVATE, PUBLIC, SHARED, OTHER = (
    base64.b64encode(random.Random(seed).randbytes(32)).decode() for seed in ("private", "public", "shared", "other")
)
KEYS = (PRIVATE, PUBLIC, SHARED, OTHER)

INTERFACE = f"[Interface]\nPrivateKey = {PRIVATE}\nAddress = 10.0.0.2/32\nDNS = 10.0.0.1\n"
PEER = f"[Peer]\nPublicKey = {PUBLIC}\nEndpoint = 192.0.2.1:51820\nAllowedIPs = 0.0.0.0/0, ::/0\n"
VALID = INTERFACE + PEER  # nine lines: [Peer] is the fifth


def parse(text: str) -> WireGuardProfile:
    return parse_wireguard("home", text)[0]


def notices(text: str) -> tuple[Notice, ...]:
    return parse_wireguard("home", text)[1]


def refusal(text: str, name: str = "home") -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        parse_wireguard(name, text)
    assert_no_key(caught.value)
    return caught.value


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def assert_no_key(error: BaseException) -> None:
    """Not even a piece of one, in anything that a log could print of the error or of what led to it."""
    for each in chain(error):
        shown = f"{each} {each!r} {each.args!r} {vars(each)!r}"
        for key in KEYS:
            assert not any(key[start : start + 8] in shown for start in range(0, 37))
            assert base64.b64decode(key).hex()[:16] not in shown and repr(base64.b64decode(key))[2:12] not in shown


# --- what is accepted -------------------------------------------------------------------------------------------------


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


# --- what is refused: lines added to or put in place of others, (line, directive, part of problem, part of remedy) ----

IN_INTERFACE = {
    **{
        f"script {name}": (
            f"{name} = iptables -A x",
            5,
            name,
            "would run a command as root",
            f"remove all {name} lines",
        )
        for name in SCRIPTS
    },
    "script in any case": ("pOsTuP=id", 5, "PostUp", "would run a command", "remove"),
    "empty script": ("PostUp =", 5, "PostUp", "would run a command", "remove"),
    "routes off": ("Table = off", 5, "Table", "other routes", "remove the line"),
    "routing table": ("Table = 51820", 5, "Table", "other routes", "remove the line"),
    "misspelt": ("Adress = 10.0.0.3/32", 5, "directive", "is not known", "did you mean Address?"),
    "misspelt script": ("PostUpp = id", 5, "directive", "is not known", "did you mean PostUp?"),
    "OpenVPN": ("script-security = 2", 5, "directive", "is not known", "PrivateKey"),
    "AmneziaWG": ("Jc = 4", 5, "directive", "is not known", "remove the line"),
    "shell": ("$(id) = 1", 5, "directive", "is not known", "remove the line"),
    "key alone": (OTHER, 5, "directive", "is not known", "remove the line"),
    "half a key": (OTHER[20:], 5, "directive", "is not known", "remove the line"),
    "no equals sign": ("MTU 1400", 5, "directive", "is not known", "did you mean MTU?"),
    "no value": ("MTU", 5, "MTU", "has no value", "write MTU ="),
    "semicolon comment": ("; note", 5, "directive", "is not known", "remove the line"),
    "of the peer": ("AllowedIPs = ::/0", 5, "AllowedIPs", "does not belong in [Interface]", "move it to [Peer]"),
    "key twice": (f"PrivateKey = {OTHER}", 5, "PrivateKey", "already stands on line 2", "keep one"),
    "MTU twice": ("MTU = 1400\nMTU = 1400", 6, "MTU", "already stands on line 5", "keep one"),
    "MTU small": ("MTU = 575", 5, "MTU", "out of range", "576 to 65535"),
    "MTU large": ("MTU = 65536", 5, "MTU", "out of range", "576 to 65535"),
    "MTU signed": ("MTU = +1400", 5, "MTU", "out of range", "576 to 65535"),
    "MTU empty": ("MTU =", 5, "MTU", "out of range", "576 to 65535"),
    "MTU too small for IPv6": ("Address = fd00::2\nMTU = 1279", 6, "MTU", "too small for IPv6", "at least 1280"),
    "address": ("Address = 10.0.0.256/32", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address prefix": ("Address = 10.0.0.3/33", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address mask": ("Address = 10.0.0.3/255.255.255.0", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address zone": ("Address = fe80::1%eth0", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address octal": ("Address = 010.0.0.3", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address loopback": ("Address = 127.0.0.2/8", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address multicast": ("Address = ff02::1", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address of nothing": ("Address = 0.0.0.0/0", 5, "Address", "is not an address", "10.2.0.2/32"),
    "address broadcast": ("Address = 255.255.255.255", 5, "Address", "is not an address", "10.2.0.2/32"),
    "resolver": ("DNS = 10.0.0", 5, "DNS", "is not a resolver", "10.2.0.1"),
    "resolver zone": ("DNS = fe80::1%eth0", 5, "DNS", "is not a resolver", "10.2.0.1"),
    "resolver here": ("DNS = 127.0.0.53", 5, "DNS", "is not a resolver", "10.2.0.1"),
    "resolver port": ("DNS = 10.0.0.1:53", 5, "DNS", "is not a resolver", "10.2.0.1"),
    "search": ("DNS = -corp.example", 5, "DNS", "neither an address nor a domain", "domains"),
    "search, shell": ("DNS = $(id)", 5, "DNS", "neither an address nor a domain", "domains"),
    "search, long label": (f"DNS = {'a' * 64}", 5, "DNS", "neither an address nor a domain", "domains"),
    "search, long": (f"DNS = {'a.' * 127}a", 5, "DNS", "neither an address nor a domain", "domains"),
    "second interface": (INTERFACE.rstrip(), 5, "[Interface]", "a second time", "keep one"),
    "unknown section": ("[Script]", 5, "section", "is not known", "[Interface] and [Peer]"),
    "broken section": ("[Peer", 5, "section", "is not known", "[Interface] and [Peer]"),
    "spaced section": ("[ Peer ]", 5, "section", "is not known", "[Interface] and [Peer]"),
    "doubled section": ("[[Peer]]", 5, "section", "is not known", "[Interface] and [Peer]"),
    "NUL": ("MTU = 1400\0PostUp = id", 5, "line", "control character", "remove it"),
    "NUL in a comment": ("# \0", 5, "line", "control character", "remove it"),
    "escape in a comment": ("# \x1b[1A", 5, "line", "control character", "remove it"),
    "carriage return": ("# x\rPostUp = id", 5, "line", "control character", "remove it"),
    "vertical tab": ("MTU\x0b= 1400", 5, "line", "control character", "remove it"),
    "form feed": ("MTU = 1400\x0c", 5, "line", "control character", "remove it"),
    "delete": ("MTU = 1400\x7f", 5, "line", "control character", "remove it"),
    "beyond ASCII": ("DNS = köln.example", 5, "line", "beyond ASCII", "remove it"),
    "C1 newline": ("MTU = 1400\x85PostUp = id", 5, "line", "beyond ASCII", "remove it"),
    "line separator": ("MTU = 1400\u2028PostUp = id", 5, "line", "beyond ASCII", "remove it"),
    "foreign digits": ("MTU = １４００", 5, "line", "beyond ASCII", "remove it"),
    "no-break space": ("MTU\u00a0= 1400", 5, "line", "beyond ASCII", "remove it"),
}


@pytest.mark.parametrize("lines, line, directive, problem, remedy", IN_INTERFACE.values(), ids=IN_INTERFACE.keys())
def test_refused_in_the_interface(lines: str, line: int, directive: str, problem: str, remedy: str) -> None:
    assert_refused(f"{INTERFACE}{lines}\n{PEER}", line, directive, problem, remedy)


IN_PEER = {
    "script": ("PostUp = id", 9, "PostUp", "would run a command", "remove"),
    "of the interface": ("MTU = 1400", 9, "MTU", "does not belong in [Peer]", "move it to [Interface]"),
    "public key twice": (f"PublicKey = {OTHER}", 9, "PublicKey", "already stands on line 6", "keep one"),
    "endpoint twice": ("Endpoint = 192.0.2.2:1", 9, "Endpoint", "already stands on line 7", "keep one"),
    "peer twice": (PEER, 10, "PublicKey", "earlier [Peer]", "merge"),
    "network of another": (
        PEER.replace(PUBLIC, OTHER),
        12,
        "AllowedIPs",
        "another peer has 0.0.0.0/0",
        "leave it to one",
    ),
    "peer without key": ("[Peer]\nAllowedIPs = 10.0.0.0/8", 9, "PublicKey", "is missing", "add it"),
    "peer without networks": (f"[Peer]\nPublicKey = {OTHER}", 9, "AllowedIPs", "is missing", "0.0.0.0/0"),
    "empty networks": (f"[Peer]\nPublicKey = {OTHER}\nAllowedIPs =", 9, "AllowedIPs", "is missing", "0.0.0.0/0"),
    "network": ("AllowedIPs = 10.0.0.0/33", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "network added": ("AllowedIPs = +10.0.0.0/8", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "network mask": ("AllowedIPs = 10.0.0.0/255.0.0.0", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "network, any": ("AllowedIPs = any", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "networks, spaces": ("AllowedIPs = fd00:: 1.2.3.4", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "network, key": (f"AllowedIPs = {OTHER}", 9, "AllowedIPs", "no network", "0.0.0.0/0"),
    "keepalive": ("PersistentKeepalive = 65536", 9, "PersistentKeepalive", "out of range", "off or 1 to 65535"),
    "keepalive unit": ("PersistentKeepalive = 25s", 9, "PersistentKeepalive", "out of range", "off or 1 to 65535"),
    "keepalive endless": (f"PersistentKeepalive = {'9' * 5000}", 9, "PersistentKeepalive", "out of range", "off"),
    "keepalive empty": ("PersistentKeepalive =", 9, "PersistentKeepalive", "out of range", "off"),
    "preshared key": ("PresharedKey = x", 9, "PresharedKey", "is not a key", "44 characters"),
}


@pytest.mark.parametrize("lines, line, directive, problem, remedy", IN_PEER.values(), ids=IN_PEER.keys())
def test_refused_in_the_peer(lines: str, line: int, directive: str, problem: str, remedy: str) -> None:
    assert_refused(f"{VALID}{lines}\n", line, directive, problem, remedy)


def assert_refused(text: str, line: int, directive: str, problem: str, remedy: str) -> None:
    error = refusal(text)
    assert (error.line, error.directive) == (line, directive)
    assert problem in error.problem and remedy in error.remedy
    assert str(error) == f"line {line}: {directive}: {error.problem}; {error.remedy}"
    assert str(error).isprintable() and len(str(error)) < 300


@pytest.mark.parametrize(
    "endpoint",
    [
        "", "192.0.2.1", "192.0.2.1:", ":51820", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:http", "192.0.2.1:-1",
        "192.0.2.1:51820 x", "192.0.2.256:5", "192.0.2:5", "10.1:5", "3221225985:5", "0x7f.1:5", "0xC0000201:5",
        "vpn.0x1:5", "a.9.:5", "2001:db8::1:51820", "[2001:db8::1]", "[2001:db8::1]51820", "[192.0.2.1]:5",
        "[vpn.example.com]:5", "[fe80::1%eth0]:5", "[]:5", "0.0.0.0:5", "[::]:5", "224.0.0.1:5", "255.255.255.255:5",
        "[ff02::1]:5", "vpn..example:5", ".example:5", "-a.example:5", "a-.example:5", "a b.example:5",
        f"{'a' * 64}.example:5", f"{'a.' * 127}:5", "$(id).example:5", "vpn.example.com:5,192.0.2.1:5",
        "../../etc:5", "http://vpn.example.com:5", "user@vpn.example.com:5", f"{OTHER}:5",
    ],
)  # fmt: skip
def test_refused_endpoint(endpoint: str) -> None:
    error = refusal(VALID.replace("192.0.2.1:51820", endpoint))
    assert (error.line, error.directive) == (7, "Endpoint")
    assert "[2001:db8::1]:51820" in error.remedy


@pytest.mark.parametrize(
    "key",
    [
        "", "x", OTHER[:-1], OTHER + "=", OTHER[:-2] + "==", OTHER[:-5], "A" + OTHER, OTHER.replace(OTHER[5], " "),
        OTHER[:-2] + "B=",  # the two bits that no byte uses are not zero
        OTHER.replace(OTHER[3], "-"), OTHER.replace(OTHER[3], "_"), base64.b64decode(OTHER).hex(), f'"{OTHER}"',
        base64.b64encode(bytes(31)).decode(), base64.b64encode(bytes(33)).decode(), "/dev/stdin",
    ],
)  # fmt: skip
@pytest.mark.parametrize("line, directive, old", [(2, "PrivateKey", PRIVATE), (6, "PublicKey", PUBLIC)])
def test_refused_key(key: str, line: int, directive: str, old: str) -> None:
    error = refusal(VALID.replace(old, key))
    assert (error.line, error.directive, error.problem) == (line, directive, "is not a key")


@pytest.mark.parametrize("line, directive, old", [(2, "PrivateKey", PRIVATE), (6, "PublicKey", PUBLIC)])
def test_a_key_of_zeros_is_none(line: int, directive: str, old: str) -> None:
    error = refusal(VALID.replace(old, base64.b64encode(bytes(32)).decode()))
    assert (error.line, error.directive, error.problem) == (line, directive, "is a key of zeros")


WHOLE = {
    "nothing": ("", 0, "[Interface]", "is missing"),
    "a page": ("<html>", 1, "directive", "is not known"),
    "no interface": (PEER, 0, "[Interface]", "is missing"),
    "no peer": (INTERFACE, 0, "[Peer]", "is missing"),
    "no private key": (VALID.replace("PrivateKey", "#"), 1, "PrivateKey", "is missing"),
    "no address": (VALID.replace("Address", "#"), 1, "Address", "is missing"),
    "empty address": (VALID.replace("10.0.0.2/32", ","), 1, "Address", "is missing"),
    "no endpoint": (VALID.replace("Endpoint", "#"), 0, "Endpoint", "is missing in every [Peer]"),
    "before any section": (f"MTU = 1400\n{VALID}", 1, "MTU", "before any section"),
    "script before any section": (f"PostUp = id\n{VALID}", 1, "PostUp", "before any section"),
    "mebibyte": (f"{VALID}#{'x' * MAX_BYTES}", 0, "text", "more than 1048576 bytes"),
    "a byte too many": (f"{VALID}#{'x' * (MAX_BYTES - len(VALID))}", 0, "text", "more than 1048576 bytes"),
    "lone surrogate": (f"{VALID}#\ud800", 0, "text", "not valid UTF-8"),
}


@pytest.mark.parametrize("text, line, directive, problem", WHOLE.values(), ids=WHOLE.keys())
def test_refused_as_a_whole(text: str, line: int, directive: str, problem: str) -> None:
    assert_refused(text, line, directive, problem, "")


def test_a_misspelt_directive_is_not_repeated() -> None:
    """It can be the end of a broken line, and so of a key."""
    error = refusal(f"{INTERFACE}PrivateKeyQ7x= {OTHER}\n{PEER}")
    assert "did you mean PrivateKey?" in error.remedy and "q7x" not in str(error).lower()


def test_the_largest_text_is_read() -> None:
    assert parse(f"{VALID}#{'x' * (MAX_BYTES - len(VALID) - 1)}") == parse(VALID)


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


# --- the types check themselves: nothing that renders them can be made to write another directive ---------------------

KEY = base64.b64decode(OTHER)
GOOD_PEER: dict[str, object] = {"public_key": KEY, "host": "192.0.2.1", "port": 1, "allowed_ips": ()}
GOOD: dict[str, object] = {
    "name": "x", "private_key": KEY, "addresses": (), "resolvers": (), "search": (), "peers": ()
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"public_key": KEY[:-1]}, {"public_key": KEY + b"\n"}, {"public_key": OTHER}, {"preshared_key": b""},
        {"host": "192.0.2.1\nPostUp = id"}, {"host": "vpn.example.com\n"}, {"host": "a b"}, {"host": ""},
        {"host": "a\0"},
        {"port": 0}, {"port": 65536}, {"port": -1}, {"port": True}, {"port": 1.0},
        {"keepalive": -1}, {"keepalive": 65536}, {"keepalive": True}, {"keepalive": 25.0},
    ],
)  # fmt: skip
def test_an_unsound_peer_cannot_exist(changes: dict[str, object]) -> None:
    WireGuardPeer(**GOOD_PEER)  # type: ignore[arg-type]
    with pytest.raises(ProfileError) as caught:
        WireGuardPeer(**{**GOOD_PEER, **changes})  # type: ignore[arg-type]
    assert_no_key(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "x\nPostUp = id"}, {"name": ""}, {"private_key": KEY[:-1]}, {"private_key": OTHER},
        {"search": ("a.example\nnameserver 192.0.2.9",)}, {"search": ("a b",)}, {"search": ("",)}, {"search": ("a#b",)},
        {"mtu": 575}, {"mtu": 65536}, {"mtu": True}, {"mtu": 1400.0},
    ],
)  # fmt: skip
def test_an_unsound_profile_cannot_exist(changes: dict[str, object]) -> None:
    WireGuardProfile(**GOOD)  # type: ignore[arg-type]
    with pytest.raises(ProfileError) as caught:
        WireGuardProfile(**{**GOOD, **changes})  # type: ignore[arg-type]
    assert_no_key(caught.value)


def test_no_representation_shows_a_secret_key() -> None:
    shown = repr(parse(f"{VALID}PresharedKey = {SHARED}"))
    for secret in (PRIVATE, SHARED):
        assert secret[:8] not in shown and repr(base64.b64decode(secret))[2:10] not in shown
    assert "192.0.2.1" in shown


# --- the store --------------------------------------------------------------------------------------------------------


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


# --- properties -------------------------------------------------------------------------------------------------------

V4 = st.integers(0x0A000000, 0x0AFFFFFF).map(lambda number: ip_address(number))
V6 = st.integers(0, 2**64 - 1).map(lambda number: ip_address((0xFD00 << 112) + number))
ADDRESSES = V4 | V6
INTERFACES = st.builds(
    lambda address, bits: ip_interface(f"{address}/{min(bits, address.max_prefixlen)}"), ADDRESSES, st.integers(0, 128)
)
NETWORKS = INTERFACES.map(lambda interface: interface.network)
KEY_BYTES = st.binary(min_size=32, max_size=32).filter(any)
LABELS = st.text(st.sampled_from("abzAZ09_"), min_size=1, max_size=8)
DOMAINS = st.lists(LABELS, min_size=1, max_size=3).map(lambda labels: ".".join([*labels, "example"]))


@st.composite
def profiles(draw: st.DrawFn) -> WireGuardProfile:
    networks = draw(st.lists(NETWORKS, min_size=1, max_size=8, unique=True))
    keys = draw(st.lists(KEY_BYTES, min_size=1, max_size=3, unique=True))
    peers = []
    for number, key in enumerate(keys):
        own = tuple(networks[number :: len(keys)])
        if not own:
            break
        address = draw(st.none() | ADDRESSES)
        calls = number == 0 or draw(st.booleans())
        peers.append(
            WireGuardPeer(
                public_key=key,
                host=(str(address) if address else draw(DOMAINS)) if calls else "",
                port=draw(st.integers(1, 65535)) if calls else 0,
                allowed_ips=own,
                preshared_key=draw(st.none() | KEY_BYTES),
                keepalive=draw(st.integers(0, 65535)),
                addresses=(address,) if calls and address else (),
            )
        )
    return WireGuardProfile(
        name=draw(st.text(st.sampled_from("ab.-_9"), max_size=63).map(lambda rest: f"x{rest}")),
        private_key=draw(KEY_BYTES),
        addresses=tuple(draw(st.lists(INTERFACES, min_size=1, max_size=3, unique=True))),
        resolvers=tuple(draw(st.lists(ADDRESSES, max_size=3, unique=True))),
        search=tuple(draw(st.lists(DOMAINS, max_size=3, unique=True))),
        peers=tuple(peers),
        mtu=draw(st.none() | st.integers(1280, 65535)),
    )


@given(profiles())
def test_a_rendered_profile_parses_back_to_itself(profile: WireGuardProfile) -> None:
    assert parse_wireguard(profile.name, to_conf(profile))[0] == profile
    assert from_json(to_json(profile)) == profile


@given(profiles())
def test_a_rendered_profile_holds_only_allowed_directives(profile: WireGuardProfile) -> None:
    allowed = {name for names in ALLOWED.values() for name in names}
    for line in to_conf(profile).splitlines():
        assert line in ("", "[Interface]", "[Peer]") or line.partition(" = ")[0] in allowed


FRAGMENTS = st.sampled_from(
    [
        *VALID.splitlines(keepends=True), *KEYS, "\n", "\r\n", "=", " ", "#", "[", "]", ",", "\0", "\x1b", "é",
        "\ud800", "PostUp = id\n", "[Peer]\n", "[Interface]\n", "PrivateKey = ", "PublicKey = ", "PresharedKey = ",
        "AllowedIPs = ", "Endpoint = ", "DNS = ", "MTU = ", "0.0.0.0/0", "::/0", "vpn.example.com", ":51820",
        "Table = ", "off", "65536",
    ]
)  # fmt: skip
TEXTS = st.text(st.one_of(st.characters(max_codepoint=0x2FF), st.sampled_from("\u2028\ud800\U0001f600\ufeff")))


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


@given(st.integers(0, len(STORED)), st.integers(0, 12), st.lists(FRAGMENTS, max_size=2).map("".join) | TEXTS)
def test_any_stored_text_is_a_profile_or_a_profile_error(place: int, length: int, more: str) -> None:
    text = STORED[:place] + more + STORED[place + length :]
    try:
        assert to_json(from_json(text)) == text
    except ProfileError as error:
        assert_no_key(error)


# --- the peer: wg(8) itself -------------------------------------------------------------------------------------------

WG = shutil.which("wg")
QUICK = re.compile(r"^(Address|DNS|MTU) = .*\n", re.MULTILINE)  # wg-quick takes these out before wg sees the rest


def wg_accepts(text: str, path: Path) -> bool:
    """Whether wg can read it: it complains about the file before it notices that there is no such interface."""
    path.write_text(QUICK.sub("", text))
    run = subprocess.run([str(WG), "setconf", "no-such-link", str(path)], capture_output=True, text=True, timeout=10)
    assert run.returncode == 1
    return "Unable to modify interface" in run.stderr


@pytest.mark.skipif(WG is None, reason="needs wireguard-tools")
def test_wg_reads_what_we_render(tmp_path: Path) -> None:
    other = PEER.replace(PUBLIC, OTHER).replace("0.0.0.0/0, ::/0", "10.0.0.0/8").replace("192.0.2.1", "[2001:db8::1]")
    profile = parse(f"{INTERFACE}MTU = 1400\n{PEER}PresharedKey = {SHARED}\nPersistentKeepalive = off\n{other}")
    assert wg_accepts(to_conf(profile), tmp_path / "x.conf")
    assert not wg_accepts(to_conf(profile) + "PostUp = id\n", tmp_path / "x.conf")  # the judge can say no
