"""OpenVPN profiles (T1): what is taken of realistic files, what is refused, and that the rendered file is ours."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from dataclasses import replace
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from policies.facts import Endpoint
from policies.openvpn import OPTIONS, OpenVPNProfile, Remote, render, to_data
from policies.openvpn_directives import BLOCKS, DIRECTIVES, Fate
from policies.profiles import facts, from_json, only, parse, to_json, unresolved, with_addresses, with_login
from policies.profiles_errors import Notice, ProfileError
from policies.profiles_reference import reference
from policies.profiles_shown import shown
from policies.wireguard import WireGuardProfile
from tests.policies.openvpn_texts import CORPUS, HEAD, NAMES, TAIL, VALID, block, corpus, with_line

PROGRAM = "/usr/sbin/openvpn"


def read(text: str) -> OpenVPNProfile:
    profile = parse("home", text)[0]
    assert isinstance(profile, OpenVPNProfile)
    return profile


def notices(text: str) -> tuple[Notice, ...]:
    return parse("home", text)[1]


def refusal(text: str) -> ProfileError:
    with pytest.raises(ProfileError) as caught:
        parse("home", text)
    return caught.value


# --- the corpus -------------------------------------------------------------------------------------------------------


def shortened(value: Any) -> Any:
    """Keys and certificates by their digests."""
    if isinstance(value, dict):
        return {name: shortened(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [shortened(inner) for inner in value]
    if isinstance(value, str) and len(value) > 100 and re.fullmatch(r"[A-Za-z0-9+/=]+", value):
        return "sha256:" + sha256(value.encode()).hexdigest()[:16]
    return value


@pytest.mark.parametrize("name", NAMES)
def test_golden(name: str) -> None:
    profile, told = parse(name, corpus(name))
    assert isinstance(profile, OpenVPNProfile)
    found = {
        "profile": shortened(to_data(profile)),
        "notices": [[each.line, each.directive, each.reason] for each in told],
    }
    file = CORPUS / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(file.read_text())
    assert from_json(to_json(profile)) == profile


def test_there_are_a_dozen_files() -> None:
    assert len(NAMES) >= 12
    assert corpus("windows").startswith("\ufeff")
    assert "\r\n" in corpus("windows")


@pytest.mark.skipif(not Path(PROGRAM).exists(), reason="openvpn is missing: run lab/install-missing")
@pytest.mark.parametrize("name", NAMES)
def test_the_real_openvpn_takes_what_is_rendered(name: str, tmp_path: Path) -> None:
    """It reads all of it before it waits for our word, and is ended then: nothing is sent."""
    from daemon.linux.openvpn_process import configuration

    profile = read(corpus(name))
    if profile.login:
        profile = replace(profile, user="alice", password="sesame")
    place = tmp_path / "m"
    lines = configuration(profile, Endpoint(ip_address("192.0.2.1"), 1194, profile.remotes[0].protocol), place)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen(1)
        listener.settimeout(25)
        given = subprocess.Popen([PROGRAM, "--config", "stdin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            assert given.stdin is not None
            given.stdin.write("".join(f"{line}\n" for line in lines).encode())
            given.stdin.close()
            heard, _ = listener.accept()
            with heard:
                assert b">" in heard.recv(1000)
        finally:
            given.kill()
            assert given.stdout is not None
            told = given.stdout.read().decode()
            given.wait()
            given.stdout.close()
    assert "Options error" not in told


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not Path(PROGRAM).exists(), reason="openvpn is missing: run lab/install-missing")
def test_every_directive_of_openvpn_is_in_the_table() -> None:
    told = subprocess.run([PROGRAM, "--help"], capture_output=True, text=True, check=False).stdout
    known = set(re.findall(r"^--([a-z0-9-]+)", told, re.MULTILINE))
    assert len(known) > 200
    assert known - DIRECTIVES.keys() == set()


def test_what_is_used_has_a_meaning() -> None:
    assert {name for name in OPTIONS if DIRECTIVES[name][0] is not Fate.USED} == set()
    assert {name for name in BLOCKS if DIRECTIVES[name][0] is not Fate.USED} == set()


REFUSED = sorted(name for name, (fate, _) in DIRECTIVES.items() if fate is Fate.REFUSED)
IGNORED = sorted(name for name, (fate, _) in DIRECTIVES.items() if fate is Fate.IGNORED)


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("form", ["{}", "--{} x", "  {}\tx y # z", 'setenv opt {} "x"', '"{}" x'])
def test_what_is_refused(name: str, form: str) -> None:
    error = refusal(with_line(form.format(name)))
    assert (error.line, error.directive, error.problem) == (5, name, DIRECTIVES[name][1])
    assert name in error.remedy


@pytest.mark.parametrize("name", IGNORED)
def test_what_is_ignored_leaves_no_trace(name: str) -> None:
    words = {"setenv": "UV_ID evil", "setenv-safe": "UV_ID evil"}.get(name, "evil")
    profile, told = parse("home", with_line(f"{name} {words}"))
    assert profile == read(VALID)
    assert [(each.line, each.directive) for each in told] == [(5, name)]
    assert told[0].reason.startswith(("ignored: ", "ignored in part: "))


# --- what is taken ----------------------------------------------------------------------------------------------------


def test_an_ordinary_profile_gives_no_notice() -> None:
    assert notices(VALID) == ()


OPTIONS_TAKEN = {
    "auth sha256": ("auth", "SHA256"),
    "cipher aes-256-gcm": ("data-ciphers-fallback", "AES-256-GCM"),
    "data-ciphers AES-128-GCM:?CHACHA20-POLY1305:BF-CBC": ("data-ciphers", "AES-128-GCM:CHACHA20-POLY1305"),
    "ncp-ciphers AES-128-GCM": ("data-ciphers", "AES-128-GCM"),
    "comp-lzo no": ("comp-lzo", "no"),
    "compress stub-v2": ("compress", "stub-v2"),
    "compress": ("compress",),
    "ping-exit 30": ("ping-restart", "30"),
    "tls-version-min 1.3 or-highest": ("tls-version-min", "1.3"),
    'verify-x509-name "CN=vpn example, O=X" subject': ("verify-x509-name", "CN=vpn example, O=X", "subject"),
    "verify-x509-name vpn\\ example name": ("verify-x509-name", "vpn example", "name"),
    "mssfix 1400 mtu": ("mssfix", "1400", "mtu"),
}


@pytest.mark.parametrize("line, option", OPTIONS_TAKEN.items(), ids=OPTIONS_TAKEN.keys())
def test_an_option(line: str, option: tuple[str, ...]) -> None:
    profile = read(with_line(line))
    assert profile == replace(read(VALID), options=(*read(VALID).options, option))
    written = " ".join([option[0], *(f'"{word}"' for word in option[1:])])
    if option[0].startswith("data-ciphers"):
        written = "data-ciphers "
    assert any(each.startswith(written) for each in render(profile))


NOT_TAKEN = (
    "comp-lzo", "comp-lzo yes", "comp-lzo adaptive", "compress lz4", "compress lzo", "compress lz4-v2", "auth none",
    "auth MD5", "cipher none", "cipher BF-CBC", "cipher DES-EDE3-CBC", "data-ciphers none", "data-ciphers BF-CBC",
    "remote-cert-tls client", "dev tap", "dev tap0", "dev eth0", "dev tun ../x", "dev-type tap", "proto icmp",
    "proto tcp-server", "proto", "port 0", "rport 65536", "remote", "remote a b c d", "remote 192.0.2.1 x",
    "remote 0.0.0.0", "remote 256.1.1.1", "remote a;b", "remote 192.0.2.1 1194 udp6", "key-direction 2", "keepalive 10",
    "keepalive 1 x", "ping -1", "reneg-sec 1e9", "tls-cipher DEFAULT:@SECLEVEL=0", "tls-cert-profile insecure",
    "dhcp-option DNS", "dhcp-option DNS 127.0.0.53", "dhcp-option DNS resolver.example", "verify-hash xx",
    "ca ca.crt", "cert /etc/x.crt", "key client.key", "tls-auth ta.key 1", "tls-crypt ta.key", "crl-verify crl.pem",
    "auth-user-pass login.txt", "route 192.0.2.0 255.255.255.0 net_gateway", "setenv LD_PRELOAD /x", "setenv",
    "setenv PATH /tmp", "nosuchdirective", "remote-cert-tls server x", 'auth "SHA256', "auth SHA256\\n", "\x00",
    "verb 3\rup /x", "verb\x0b3", "auth SHA\x1b256", "<up>\n</up>", "<secret>\n</secret>", "<pkcs12>\n</pkcs12>",
    "<connection>\nup x\n</connection>", "<connection>\n</connection>", "<key2>\n</key2>",
    "<connection>\nremote a\nauth SHA1\n</connection>", "x" * 256, "auth SHA1\nauth SHA256",
)  # fmt: skip


@pytest.mark.parametrize("line", NOT_TAKEN)
def test_not_taken(line: str) -> None:
    error = refusal(with_line(line))
    assert error.line in (5, 6, 7)
    assert error.problem
    assert error.remedy


def test_nothing_of_a_key_in_an_error() -> None:
    for text in (
        VALID.replace("-----BEGIN CERTIFICATE-----", "-----BEGIN CERTIFICATE-----\n!"),
        HEAD + block("ca") + block("cert") + block("key").replace("PRIVATE KEY-----\n", "PRIVATE KEY-----\nQUJD"),
        VALID.replace("<key>", "").replace("</key>", ""),
        VALID + block("tls-crypt").replace("a", "g"),
    ):
        error = refusal(text)
        secret = block("key").splitlines()[2]
        assert not any(secret[start : start + 8] in f"{error!r} {vars(error)}" for start in range(len(secret) - 8))
        assert error.__cause__ is None


BLOCKS_REFUSED = {
    "an encrypted key": block("key").replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
    "a key of old, encrypted": block("key").replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n", 1),
    "another's PEM": block("cert").replace("<cert>", "<key>").replace("</cert>", "</key>"),
    "half a static key": block("tls-crypt").replace("\n", " ", 8)[:-300] + "\n</tls-crypt>\n",
    "three lines of a login": block("auth-user-pass", "a\nb\nc"),
    "twice": block("ca"),
}


@pytest.mark.parametrize("text", BLOCKS_REFUSED.values(), ids=BLOCKS_REFUSED.keys())
def test_a_block_that_is_refused(text: str) -> None:
    base = HEAD + block("ca") + block("cert") if "key>" in text else VALID
    assert refusal(base + text).line > 4


def test_what_a_profile_needs() -> None:
    assert refusal("client\ndev tun\n" + TAIL).directive == "remote"
    assert refusal(HEAD + block("cert") + block("key")).directive == "ca"
    assert refusal(HEAD + block("ca")).directive == "cert"
    assert refusal(HEAD + block("ca") + block("cert")).directive == "key"
    assert read(HEAD + block("ca") + "auth-user-pass\n").login


def test_an_unproven_server_is_told() -> None:
    (notice,) = notices(VALID.replace("remote-cert-tls server\n", ""))
    assert notice.directive == "remote-cert-tls"


# --- servers ----------------------------------------------------------------------------------------------------------


def test_servers_are_told_apart() -> None:
    text = with_line("port 1000\nproto tcp\nremote a.example\nremote b.example 1 udp\nremote 2001:db8::1 2 tcp6")
    assert read(text).remotes == (
        Remote("192.0.2.1", 1194, "tcp", 0, (ip_address("192.0.2.1"),)),
        Remote("a.example", 1000, "tcp"),
        Remote("b.example", 1, "udp"),
        Remote("2001:db8::1", 2, "tcp", 6, (ip_address("2001:db8::1"),)),
    )


def test_names_are_resolved_once() -> None:
    profile = read(with_line("remote vpn.example 443 tcp\nremote four.example 1 udp4"))
    assert unresolved(profile) == {"vpn.example": 443, "four.example": 1}
    found = ip_address("2001:db8::1"), ip_address("192.0.2.9")
    resolved = with_addresses(profile, {"vpn.example": found, "four.example": found, "192.0.2.1": found})
    assert unresolved(resolved) == {}
    told = facts(resolved)
    assert told.one_at_a_time
    assert told.endpoints == (
        Endpoint(ip_address("192.0.2.1"), 1194, "udp"),
        Endpoint(found[1], 443, "tcp"),
        Endpoint(found[0], 443, "tcp"),
        Endpoint(found[1], 1, "udp"),
    )
    assert from_json(to_json(resolved)) == resolved
    one = only(resolved, told.servers(2))
    assert isinstance(one, OpenVPNProfile)
    assert facts(one).endpoints == (told.endpoints[2],)
    assert replace(one, remotes=resolved.remotes) == resolved
    assert told.servers(4) == (told.endpoints[0],)


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_the_login_is_kept_and_never_shown() -> None:
    profile = with_login(read(HEAD + block("ca") + "auth-user-pass\n"), "alice", 'se"sa\\me')
    assert from_json(to_json(profile)) == profile
    assert "alice" not in repr(profile) + str(shown(profile)) + "".join(render(profile))
    for user, password in (("", "x"), ("x", "a\nb"), ("x" * 129, "y"), ("a\x00", "y")):
        with pytest.raises(ProfileError):
            with_login(profile, user, password)
    with pytest.raises(ProfileError):
        with_login(read(VALID), "alice", "sesame")


def test_what_is_shown_is_no_secret() -> None:
    for name in NAMES:
        profile = read(corpus(name))
        told = f"{shown(profile)} {profile!r}"
        secrets = [each for each in (profile.key, profile.wrap_key) if each is not None]
        assert "kept, never shown" in told or not secrets
        for secret in secrets:
            assert repr(secret)[10:30] not in told
            assert secret.hex()[20:40] not in told
        assert "sesame" not in told


def test_damage_in_the_store_is_seen() -> None:
    text = to_json(read(corpus("windows")))
    changes = (
        ('"tcp"', '"icmp"'),
        ("remote-cert-tls", "up"),
        ('"server"', '"server\\nup"'),
        ('"openvpn"', '"x"'),
        ("}", ""),
    )
    for old, new in changes:
        broken = text.replace(old, new)
        assert broken != text
        with pytest.raises(ProfileError):
            from_json(broken)


def test_the_kind_is_told_by_the_text() -> None:
    assert isinstance(parse("home", (CORPUS.parent / "profiles" / "minimal.conf").read_text())[0], WireGuardProfile)
    assert isinstance(parse("home", corpus("nas"))[0], OpenVPNProfile)


def test_the_reference_that_is_checked_in_is_current() -> None:
    current = (Path(__file__).parents[2] / "docs" / "profiles.md").read_text()
    assert current == "\n".join(reference()) + "\n", "run: python -m policies.profiles_reference > docs/profiles.md"
    for name, (fate, reason) in DIRECTIVES.items():
        part = current.partition(f"### {fate.capitalize()}")[2].partition("\n##")[0]
        assert any(f"`{name}`" in line and reason in line for line in part.splitlines())
