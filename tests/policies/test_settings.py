from __future__ import annotations

import json
import re
from hashlib import sha256
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies import settings as module
from policies.facts import Endpoint, LinkKind, Security
from policies.known_network import KnownNetwork, proves_identity
from policies.resolvers import Manager
from policies.settings import Settings, parse_settings
from policies.settings_errors import Problem, SettingsError
from policies.settings_known import known_from_json, known_to_json
from policies.settings_layout import FILE, HOMES, KNOWN, MAX_PROBLEMS
from policies.settings_tables import (
    Allowance,
    AtLimit,
    Criteria,
    Dns,
    LinkRule,
    Period,
    Portal,
    Protection,
    Split,
    Traffic,
    Tunnel,
    Wifi,
    WifiAction,
)
from policies.settings_toml import MAX_BYTES
from policies.split import SplitNames

FULL = """\
version = 1

[protection]
kill_switch = true
lockdown = false
allow_lan = true
lan_subnets = ["100.64.0.0/10", "fd00:1::/64"]

[tunnel]
default_profile = "home"
server = "fastest"
connect_timeout = "20s"
retry_first = "500ms"
retry_longest = "2m"

[wifi]
unsecured = "auto_connect"
unidentified = "auto_connect"
secured = "prompt"
hostile = "auto_connect"
prompt_fallback = "ignore"
prompt_timeout = "2m"
hold_while_asking = false
identify_timeout = "1.5s"

[wifi.criteria]
weak_encryption = false
enhanced_open = false
wps = true
common_names = true

[wired]
action = "prompt"

[cellular]
action = "auto_connect"

[portal]
detect = false
probes = ["http://probe.example:80/is/it?you#Yes%2C%20it%20is", "http://192.0.2.9"]
login_timeout = "5m"

[allowance]
limit = "1.5GB"
per = "month"
bonus = "100MiB"
at_limit = "disconnect"

[traffic]
prometheus = "/var/lib/prometheus/node-exporter/tunwarden.prom"

[split]
subnets = ["203.0.113.0/24", "2001:db8::/32"]
names = "tunnel"

[dns]
manager = "networkmanager"
resolvers = ["192.0.2.53", "2001:db8::53"]

[[links]]
name = "wlan*"
kind = "wifi"
action = "disconnect"

[[links]]
name = "eth0"
kind = "wired"

[[known]]
ssid = "Café"
security = "wpa3"
action = "disconnect"
profile = "office"
server = "country:SE"
allow_lan = true
bssids = ["aa:bb:cc:dd:ee:ff", "02-00-00-00-00-01"]
gateways = ["02:00:00:00:00:02"]
resolvers = ["192.0.2.54"]
beacon = "[2001:db8::1]:443"
beacon_sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

[[known]]
ssid_hex = "0aFF"

[[known]]
pattern = "Büro-*"
except = ["*-Gast"]
security = "8021x"
"""

EXPECTED = Settings(
    protection=Protection(
        kill_switch=True,
        lockdown=False,
        allow_lan=True,
        lan_subnets=(ip_network("100.64.0.0/10"), ip_network("fd00:1::/64")),
    ),
    tunnel=Tunnel(default_profile="home", server="fastest", connect_timeout=20.0, retry_first=0.5, retry_longest=120.0),
    wifi=Wifi(
        unsecured=WifiAction.AUTO_CONNECT,
        unidentified=WifiAction.AUTO_CONNECT,
        secured=WifiAction.PROMPT,
        hostile=WifiAction.AUTO_CONNECT,
        prompt_fallback=WifiAction.IGNORE,
        prompt_timeout=120.0,
        hold_while_asking=False,
        identify_timeout=1.5,
        criteria=Criteria(weak_encryption=False, enhanced_open=False, wps=True, common_names=True),
    ),
    wired=WifiAction.PROMPT,
    cellular=WifiAction.AUTO_CONNECT,
    portal=Portal(
        detect=False,
        probes=("http://probe.example:80/is/it?you#Yes%2C%20it%20is", "http://192.0.2.9"),
        login_timeout=300.0,
    ),
    allowance=Allowance(limit=1_500_000_000, per=Period.MONTH, bonus=100 << 20, at_limit=AtLimit.DISCONNECT),
    traffic=Traffic(prometheus="/var/lib/prometheus/node-exporter/tunwarden.prom"),
    split=Split(subnets=(ip_network("203.0.113.0/24"), ip_network("2001:db8::/32")), names=SplitNames.TUNNEL),
    dns=Dns(manager=Manager.NETWORKMANAGER, resolvers=(ip_address("192.0.2.53"), ip_address("2001:db8::53"))),
    links=(
        LinkRule(name="wlan*", kind=LinkKind.WIFI, action=WifiAction.DISCONNECT),
        LinkRule(name="eth0", kind=LinkKind.WIRED),
    ),
    known=(
        KnownNetwork(
            ssid="Café".encode(),
            minimum_security=Security.WPA3,
            action=WifiAction.DISCONNECT,
            profile="office",
            server="country:SE",
            allow_lan=True,
            bssids=frozenset({bytes.fromhex("aabbccddeeff"), bytes.fromhex("020000000001")}),
            gateways=frozenset({bytes.fromhex("020000000002")}),
            resolvers=(ip_address("192.0.2.54"),),
            beacon=Endpoint(ip_address("2001:db8::1"), 443, "tcp"),
            beacon_sha256=sha256().digest(),
        ),
        KnownNetwork(ssid=b"\n\xff"),
        KnownNetwork(
            ssid="Büro-*".encode(),
            pattern=True,
            exceptions=(b"*-Gast",),
            minimum_security=Security.ENTERPRISE,
        ),
    ),
)


def problems(text: str) -> tuple[Problem, ...]:
    with pytest.raises(SettingsError) as caught:
        parse_settings(text, "t.toml")
    return caught.value.problems


def test_every_key() -> None:
    assert parse_settings(FULL) == EXPECTED


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\r\n", "version = 1", "[wifi]\n[tunnel]\n[wifi.criteria]", "links = []"]
)
def test_nothing_said_means_the_defaults(text: str) -> None:
    assert parse_settings(text) == Settings()


def test_the_documented_example_is_valid() -> None:
    """The module's docstring is the administrator's guide; alternatives aside, it can be pasted."""
    example = module.__doc__ or ""
    text = "\n".join(line.strip() for line in example.splitlines() if line.startswith("    "))
    settings = parse_settings(text)
    assert settings.wifi == Wifi() and settings.tunnel == Tunnel(default_profile="home", server="fastest")
    documented = set(re.findall(r"^(\w+) =", text, re.MULTILINE)) | {"ssid_hex"}
    assert documented == {line.split(" =")[0] for line in FULL.splitlines() if " =" in line}


@pytest.mark.parametrize(
    "wifi, unidentified",
    [
        ("", WifiAction.PROMPT),
        ('unsecured = "auto_connect"', WifiAction.AUTO_CONNECT),
        ('unsecured = "ignore"', WifiAction.PROMPT),
        ('unsecured = "ignore"\nunidentified = "ignore"', WifiAction.IGNORE),
        ('unidentified = "auto_connect"', WifiAction.AUTO_CONNECT),
    ],
)
def test_unidentified_is_never_laxer_than_unsecured(wifi: str, unidentified: WifiAction) -> None:
    assert parse_settings(f"[wifi]\n{wifi}").wifi.unidentified is unidentified


def test_retries_may_all_wait_alike() -> None:
    tunnel = parse_settings("[tunnel]\nretry_first = '30s'").tunnel
    assert tunnel.retry_first == tunnel.retry_longest == 30.0


@pytest.mark.parametrize(
    "written, seconds", [("1s", 1.0), ("1500ms", 1.5), ("2m", 120.0), ("0.05h", 180.0), ("1.25s", 1.25), ("5m", 300.0)]
)
def test_times(written: str, seconds: float) -> None:
    assert parse_settings(f'tunnel.connect_timeout = "{written}"').tunnel.connect_timeout == pytest.approx(seconds)


# --- errors: text -> (line, key, part of the problem, part of what is allowed) ----------------------------------------

ONE_ERROR = {
    "unknown key": ("[wifi]\nunsecurd = 'prompt'", 2, "wifi.unsecurd", 'did you mean "unsecured"', "identify_timeout"),
    "unknown table": ("\n[tunel]", 2, "tunel", 'did you mean "tunnel"', "cellular"),
    "unlike anything": ("[wifi]\nzzz = 1", 2, "wifi.zzz", "unknown key", "secured"),
    "dashes": ("[protection]\nKill-Switch = true", 2, "protection.Kill-Switch", '"kill_switch"', "lockdown"),
    "in the wrong table": ("[wifi]\nlockdown = true", 2, "wifi.lockdown", "it belongs in [protection]", "secured"),
    "in no table": ("\nssid = 'x'", 2, "ssid", "it belongs in [[known]]", "version"),
    "of the top": ("[wifi]\ncellular = 1", 2, "wifi.cellular", "it belongs in the top of the file", "secured"),
    "unknown key of known": (
        "[[known]]\nssid = 'x'\n[[known]]\nssid='y'\n\nacton = 'prompt'",
        6,
        "known.acton",
        '"action"',
        "",
    ),
    "unknown key, hostile": ('"a\\n\\u001b[31m" = 1', 1, "'a\\n\\x1b[31m'", "unknown key", "wifi"),
    "text for a truth value": (
        "[protection]\nlockdown = 'true'",
        2,
        "protection.lockdown",
        "'true' is not",
        "true, false",
    ),
    "number for a truth value": ("[protection]\nlockdown = 1", 2, "protection.lockdown", "1 is not", "true, false"),
    "value for a table": ("wifi = 1", 1, "wifi", "1 is not a table", "unsecured"),
    "array for a table": ("[[wifi]]", 1, "wifi", "an array is not a table", "unsecured"),
    "table for an array": ("[links]\nname = 'a'", 1, "links", "a table is not an array", "[[links]]"),
    "value in an array": ("\nlinks = [1]", 2, "links", "1 is not a table", "name"),
    "table for a value": ("[version]", 1, "version", "a table is not a version", "1"),
    "date for a value": ("[wired]\naction = 1979-05-27", 2, "wired.action", "a date or time is not", "ignore"),
    "enum": ("[wifi]\nunsecured = 'connect'", 2, "wifi.unsecured", "'connect' is not", "auto_connect, prompt, ignore"),
    "enum, number": ("[wired]\naction = 3", 2, "wired.action", "3 is not", "auto_connect, prompt, ignore"),
    "enum of links": ("[[links]]\nname='a'\naction = 'x'", 3, "links.action", "'x'", "ignore, disconnect"),
    "link kind": (
        "[[links]]\nname='a'\nkind = 'loopback'",
        3,
        "links.kind",
        "loopback",
        "wifi, wired, cellular, virtual",
    ),
    "our tunnel's kind": ("[[links]]\nname='a'\nkind = 'tunnel'", 3, "links.kind", "tunnel", "wifi, wired"),
    "security": (
        "[[known]]\nssid='a'\nsecurity = 'wpa4'",
        3,
        "known.security",
        "'wpa4'",
        "owe-transition, owe, wep, wpa",
    ),
    "disconnect, unsecured": ("[wifi]\nunsecured = 'disconnect'", 2, "wifi.unsecured", "only for [[known]]", "prompt"),
    "disconnect, unidentified": ("[wifi]\nunidentified = 'disconnect'", 2, "wifi.unidentified", "[[links]]", "prompt"),
    "disconnect, secured": ("[wifi]\nsecured = 'disconnect'", 2, "wifi.secured", "only for [[known]]", "prompt"),
    "disconnect, wired": ("[wired]\naction = 'disconnect'", 2, "wired.action", "only for [[known]]", "prompt"),
    "probe over https": ("[portal]\nprobes = ['https://a.example/']", 2, "portal.probes", "over http", "#Network"),
    "probe on another port": ("[portal]\nprobes = ['http://a.example:81/']", 2, "portal.probes", "port 80", "204"),
    "probe with a user": ("[portal]\nprobes = ['http://me@a.example/']", 2, "portal.probes", "not http://", "204"),
    "probe without a host": ("[portal]\nprobes = ['http:///x']", 2, "portal.probes", "not http://HOST", "such as"),
    "probe with a space": ("[portal]\nprobes = ['http://a.example/ x']", 2, "portal.probes", "not http://", "such as"),
    "probe that expects nothing": ("[portal]\nprobes = ['http://a.example/#']", 2, "portal.probes", "nothing is", ""),
    "probe that is a number": ("[portal]\nprobes = [80]", 2, "portal.probes", "80 is not text", "such as"),
    "probe without end": (f"[portal]\nprobes = ['http://a/{'x' * 2000}']", 2, "portal.probes", "2000 char", "such"),
    "no probes": ("[portal]\ndetect = true\nprobes = []", 3, "portal.probes", "0 probes", "1 to 8; detect = false"),
    "many probes": (f"[portal]\nprobes = {['http://a/'] * 9}", 2, "portal.probes", "9 probes", "1 to 8"),
    "disconnect, cellular": ("[cellular]\naction = 'disconnect'", 2, "cellular.action", "only for [[known]]", "prompt"),
    "fallback prompts": (
        "[wifi]\nprompt_fallback = 'prompt'",
        2,
        "wifi.prompt_fallback",
        "'prompt'",
        "auto_connect, ignore",
    ),
    "fallback disconnects": (
        "wifi.prompt_fallback = 'disconnect'",
        1,
        "wifi.prompt_fallback",
        "'disconnect'",
        "ignore",
    ),
    "laxer, both": (
        "[wifi]\nunsecured='auto_connect'\nunidentified = 'prompt'",
        3,
        "wifi.unidentified",
        "laxer",
        "auto_connect",
    ),
    "laxer, default": ("[wifi]\nunidentified = 'ignore'", 2, "wifi.unidentified", "laxer", "auto_connect, prompt"),
    "bare number": ("[tunnel]\nconnect_timeout = 15", 2, "tunnel.connect_timeout", "15 has no unit", 'such as "1s"'),
    "bare fraction": ("[tunnel]\nretry_first = 0.5", 2, "tunnel.retry_first", "0.5 has no unit", "units: ms, s, m, h"),
    "number as text": ("[tunnel]\nretry_first = '5'", 2, "tunnel.retry_first", "'5' is not a time", "units: ms"),
    "unknown unit": ("[tunnel]\nretry_first = '5d'", 2, "tunnel.retry_first", "'5d' is not a time", "units: ms"),
    "space in a time": ("[tunnel]\nretry_first = '5 s'", 2, "tunnel.retry_first", "'5 s' is not a time", "units: ms"),
    "negative time": ("[tunnel]\nretry_first = '-5s'", 2, "tunnel.retry_first", "'-5s' is not a time", "units: ms"),
    "foreign digits": ("[tunnel]\nretry_first = '５s'", 2, "tunnel.retry_first", "is not a time", "units: ms"),
    "truth value as time": ("[tunnel]\nretry_first = true", 2, "tunnel.retry_first", "true is not a time", "units: ms"),
    "too short": ("[tunnel]\nconnect_timeout = '999ms'", 2, "tunnel.connect_timeout", "out of range", '"1s" to "5m"'),
    "too long": ("[tunnel]\nconnect_timeout = '6m'", 2, "tunnel.connect_timeout", "out of range", '"1s" to "5m"'),
    "first too short": ("[tunnel]\nretry_first = '0s'", 2, "tunnel.retry_first", "out of range", '"100ms" to "5m"'),
    "longest too long": ("[tunnel]\nretry_longest = '2h'", 2, "tunnel.retry_longest", "out of range", '"1s" to "1h"'),
    "identify too long": (
        "[wifi]\nidentify_timeout = '2m'",
        2,
        "wifi.identify_timeout",
        "out of range",
        '"100ms" to "1m"',
    ),
    "retries crossed": ("[tunnel]\nretry_longest='2s'\nretry_first = '3s'", 3, "tunnel.retry_first", "longer", "<="),
    "retries crossed, default": ("[tunnel]\nretry_first = '31s'", 2, "tunnel.retry_first", "longer", "<="),
    "profile": ("[tunnel]\ndefault_profile = '../x'", 2, "tunnel.default_profile", "not the name", "letters"),
    "profile, newline": ('[tunnel]\ndefault_profile = "x\\n"', 2, "tunnel.default_profile", "'x\\n' is not", "letters"),
    "profile of known": ("[[known]]\nssid='a'\nprofile = ''", 3, "known.profile", "'' is not the name", "letters"),
    "server": ("[tunnel]\nserver = 'country:Sweden'", 2, "tunnel.server", "not a choice of a server", "country:SE"),
    "server of known": ("[[known]]\nssid='a'\nserver = ''", 3, "known.server", "not a choice", "fastest"),
    "link name": ("[[links]]\nname = 'wlan 0'\nkind='wifi'", 2, "links.name", "'wlan 0'", "wildcards"),
    "link name, class": ("[[links]]\nname = 'wlan[0]'\nkind='wifi'", 2, "links.name", "'wlan[0]'", "wildcards"),
    "link name, shell": ("[[links]]\nname = '$(id)'\nkind='wifi'", 2, "links.name", "'$(id)'", "wildcards"),
    "link without name": ("\n[[links]]\nkind='wifi'", 2, "links", "without a name", "name ="),
    "link without rule": ("\n[[links]]\nname='a'", 2, "links", "says nothing", "kind, action or both"),
    "link twice": (
        "[[links]]\nname='a'\nkind='wifi'\n[[links]]\nname='a'\nkind='wired'",
        5,
        "links.name",
        "earlier rule",
        "",
    ),
    "known without name": (
        "\n[[known]]\naction='prompt'",
        2,
        "known",
        "without a name",
        "exactly one of ssid, ssid_hex",
    ),
    "two names": ("[[known]]\nssid='a'\nssid_hex='61'", 1, "known", "at once", "exactly one"),
    "empty name": ("[[known]]\nssid = ''", 2, "known.ssid", "0 bytes", "1 to 32 bytes"),
    "33 bytes": (f"[[known]]\nssid = '{'é' * 16}x'", 2, "known.ssid", "33 bytes", "1 to 32 bytes"),
    "NUL in a name": ('[[known]]\nssid = "a\\u0000"', 2, "known.ssid", "NUL", "none of them NUL"),
    "number as name": ("[[known]]\nssid = 5", 2, "known.ssid", "5 is not text", "in quotes"),
    "odd hex": ("[[known]]\nssid_hex = '0af'", 2, "known.ssid_hex", "'0af' is not hexadecimal", "two digits"),
    "spaced hex": ("[[known]]\nssid_hex = '0a ff'", 2, "known.ssid_hex", "is not hexadecimal", "two digits"),
    "empty hex": ("[[known]]\nssid_hex = ''", 2, "known.ssid_hex", "is not hexadecimal", "two digits"),
    "NUL in hex": ("[[known]]\nssid_hex = '0a00'", 2, "known.ssid_hex", "NUL", "none of them NUL"),
    "long hex": (f"[[known]]\nssid_hex = '{'61' * 33}'", 2, "known.ssid_hex", "33 bytes", "1 to 32"),
    "bssid": (
        "[[known]]\nssid='a'\nbssids = [\n 'aa:bb:cc:dd:ee:ff',\n 'aa:bb'\n]",
        5,
        "known.bssids",
        "'aa:bb'",
        "six bytes",
    ),
    "bssid alone": ("[[known]]\nssid='a'\nbssids = 'aa:bb:cc:dd:ee:ff'", 3, "known.bssids", "not an array", "[...]"),
    "bssid of a group": (
        "[[known]]\nssid='a'\nbssids = ['01:00:5e:00:00:01']",
        3,
        "known.bssids",
        "no device",
        "such as",
    ),
    "bssid of zeros": (
        "[[known]]\nssid='a'\nbssids = ['00:00:00:00:00:00']",
        3,
        "known.bssids",
        "no device",
        "such as",
    ),
    "no bssid": ("[[known]]\nssid='a'\nbssids = []", 3, "known.bssids", "no access point", "leave the key out"),
    "network twice": ("[[known]]\nssid='a'\n[[known]]\nssid_hex='61'", 3, "known", "earlier entry", "disjoint"),
    "network twice, pinned": (
        "[[known]]\nssid='a'\nbssids=['02:00:00:00:00:01']\n[[known]]\nssid='a'\nbssids=['02:00:00:00:00:01']",
        4,
        "known",
        "earlier entry",
        "disjoint",
    ),
    "everything excluded": ("[split]\nsubnets = ['0.0.0.0/0']", 2, "split.subnets", "too wide", "/8"),
    "everything of IPv6 excluded": ("[split]\nsubnets = ['::/0']", 2, "split.subnets", "too wide", "/16"),
    "half of everything excluded": ("[split]\nsubnets = ['128.0.0.0/1']", 2, "split.subnets", "too wide", "/8"),
    "an excluded loopback": ("[split]\nsubnets = ['127.0.0.0/8']", 2, "split.subnets", "never goes", "such as"),
    "excluded multicast": ("[split]\nsubnets = ['ff02::/16']", 2, "split.subnets", "never goes", "such as"),
    "excluded host bits": ("[split]\nsubnets = ['203.0.113.1/24']", 2, "split.subnets", "did you mean", "such as"),
    "IPv4 excluded as IPv6": ("[split]\nsubnets = ['::ffff:0:0/96']", 2, "split.subnets", "clothes", "such as"),
    "other names": ("[split]\nnames = 'both'", 2, "split.names", "not one of the choices", "tunnel, network"),
    "host bits": (
        "[protection]\nlan_subnets = [\n'10.0.0.0/8',\n'100.64.0.1/10']",
        4,
        "protection.lan_subnets",
        'did you mean "100.64.0.0/10"?',
        "an address and a length",
    ),
    "no length": ("[protection]\nlan_subnets = ['fd00::1']", 2, "protection.lan_subnets", '"fd00::1/128"?', "length"),
    "a scope": ("[protection]\nlan_subnets = ['fd00::%a/64']", 2, "protection.lan_subnets", "not a network", "length"),
    "a netmask": (
        "[protection]\nlan_subnets = ['10.0.0.0/255.0.0.0']",
        2,
        "protection.lan_subnets",
        "not a network",
        "length",
    ),
    "no network": (
        "[protection]\nlan_subnets = ['10/8; accept']",
        2,
        "protection.lan_subnets",
        "not a network",
        "such",
    ),
    "subnet alone": ("[protection]\nlan_subnets = 'fd00::/8'", 2, "protection.lan_subnets", "not an array", "[...]"),
    "too many": (
        f"[protection]\nlan_subnets = {['10.0.0.0/8'] * 5001}",
        2,
        "protection.lan_subnets",
        "5001 networks",
        "up to 5000",
    ),
    "newer": ("\nversion = 2\nnovelty = 1\n[wifi]\nx = 1", 2, "version", "newer tunwarden", "up to 1"),
    "version zero": ("version = 0", 1, "version", "0 is not a version", "1"),
    "version true": ("version = true", 1, "version", "true is not a version", "1"),
    "version text": ("version = '1'", 1, "version", "'1' is not a version", "1"),
    "long value": (f"[wired]\naction = '{'x' * 5000}'", 2, "wired.action", "'...", "ignore"),
    "large number": (f"version = 0x{'f' * 100}", 1, "version", "newer", "up to"),
    "larger number": (f"[wired]\naction = 0x{'f' * 100}", 2, "wired.action", "a large number", "ignore"),
}


@pytest.mark.parametrize("text, line, key, problem, allowed", ONE_ERROR.values(), ids=ONE_ERROR.keys())
def test_one_error(text: str, line: int, key: str, problem: str, allowed: str) -> None:
    (found,) = problems(text)
    assert (found.file, found.line, found.key, found.column) == ("t.toml", line, key, 0)
    assert problem in found.problem
    assert allowed in found.allowed
    assert str(found) == f"t.toml:{line}: {key}: {found.problem}; allowed: {found.allowed}"
    assert len(str(found)) < 600 and str(found).isprintable()


IMITABLE = ("unknown", "open", "owe-transition", "owe", "wep")


@pytest.mark.parametrize("security", [each.value for each in Security])
@pytest.mark.parametrize(
    "key, value, relaxes",
    [
        ("action", "disconnect", True),
        ("action", "ignore", True),
        ("action", "prompt", False),
        ("action", "auto_connect", False),
        ("allow_lan", True, True),
        ("allow_lan", False, False),
    ],
)
def test_nothing_relaxes_protection_where_anybody_can_imitate(
    security: str, key: str, value: object, relaxes: bool
) -> None:
    written = f"'{value}'" if isinstance(value, str) else str(value).lower()
    text = f"[[known]]\nssid = 'x'\nsecurity = '{security}'\n{key} = {written}"
    if relaxes and security in IMITABLE:
        (found,) = problems(text)
        assert (found.line, found.key) == (4, f"known.{key}")
        assert "anybody can imitate" in found.problem and '"wpa"' in found.allowed
        with pytest.raises(ValidationError, match="anybody can imitate"):
            KnownNetwork(ssid=b"x", minimum_security=Security(security), **{key: value})  # type: ignore[arg-type]
    else:
        assert getattr(parse_settings(text).known[0], key) == value


def test_identity_is_proven_by_a_secret_on_both_sides() -> None:
    assert {each.value for each in Security if not proves_identity(each)} == set(IMITABLE)


def test_same_name_with_other_access_points_is_another_network() -> None:
    text = "[[known]]\nssid='a'\nbssids=['02:00:00:00:00:01']\n[[known]]\nssid='a'\nbssids=['02:00:00:00:00:02']"
    assert len(parse_settings(text).known) == 2


def test_all_errors_at_once_in_the_order_of_their_lines() -> None:
    text = """\
[wifi]
unsecured = "never"
unidentified = "ignore"
[wifi.criteria]
wsp = true
wps = "yes"
[tunnel]
retry_first = 9
retry_longest = "1x"
[[known]]
action = "ignore"
[[known]]
ssid = "a"
security = "open"
action = "ignore"
allow_lan = true
bssids = ["x", 1]
[zzz]
"""
    assert [(found.line, found.key) for found in problems(text)] == [
        (2, "wifi.unsecured"),
        (5, "wifi.criteria.wsp"),
        (6, "wifi.criteria.wps"),
        (8, "tunnel.retry_first"),
        (9, "tunnel.retry_longest"),
        (10, "known"),
        (15, "known.action"),
        (16, "known.allow_lan"),
        (17, "known.bssids"),
        (17, "known.bssids"),
        (18, "zzz"),
    ]


def test_the_error_as_text_has_one_line_each() -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings("x = 1\nwired.action = 'no'", "/etc/t.toml")
    assert str(caught.value).splitlines() == [
        f"/etc/t.toml:1: x: unknown key; allowed: {', '.join(FILE)}",
        "/etc/t.toml:2: wired.action: 'no' is not one of the choices; allowed: auto_connect, prompt, ignore",
    ]


def test_endless_errors_are_cut() -> None:
    found = problems("\n".join(f"x{number} = 1" for number in range(20_000)))
    assert len(found) == MAX_PROBLEMS + 1
    assert "more than 100" in found[-1].problem


SYNTAX = {
    "no value": ("a = 1\nb = \n", 2, 5),
    "end of the file": ("a = 1\nb = [1,\n", 2, 8),
    "end, no newline": ("a = 1\nb =", 2, 4),
    "twice": ("[wifi]\n[wifi]", 2, 6),
    "control character": ('a = "\x01"', 1, 6),
    "open string": ('\na = "x\n', 2, 7),
    "carriage returns": ("a = 1\r\nb\r\n", 2, 2),
    "endless number": (f"a = {'1' * 5000}", 1, 0),
    "deep": (f"a = {'[' * 5000}", 1, 0),
    "dots": (f"a = 1\n{'a.' * 70}b = 1", 2, 0),
    "lone surrogate": ("a = 1\nb = '\ud800'", 2, 0),
    "mebibyte": (f"a = 1\n#{'x' * MAX_BYTES}", 1, 0),
    "a byte too many": (f"#{'é' * (MAX_BYTES // 2)}", 1, 0),
}


@pytest.mark.parametrize("text, line, column", SYNTAX.values(), ids=SYNTAX.keys())
def test_not_toml(text: str, line: int, column: int) -> None:
    (found,) = problems(text)
    assert (found.line, found.column, found.key) == (line, column, "")
    assert str(found).startswith(f"t.toml:{line}:{column}: " if column else f"t.toml:{line}: ")
    assert "at line" not in found.problem and str(found).isprintable() and len(str(found)) < 300


def test_the_largest_file_is_read() -> None:
    assert parse_settings("#" + "x" * (MAX_BYTES - 1)) == Settings()


def test_dots_in_comments_and_values_are_no_keys() -> None:
    assert parse_settings("# " + "." * 500 + "\n[wired]\naction = 'ignore' # " + "..." * 100) == Settings()


# --- what can be local ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "subnet, problem",
    [
        *((public, "reaches beyond private networks") for public in (
            "0.0.0.0/0", "::/0", "8.8.8.0/24", "1.1.1.1/32", "2000::/3", "2606:4700::/32", "10.0.0.0/7", "172.0.0.0/8",
            "100.0.0.0/8", "100.64.0.0/9", "192.168.0.0/15", "fc00::/6", "198.18.0.0/14", "192.0.2.0/23", "0.0.0.0/8",
            "240.0.0.0/4", "64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "::ffff:10.0.0.0/104", "2001::/32",
        )),
        ("127.0.0.0/8", "loopback"), ("::1/128", "loopback"),
        ("169.254.0.0/16", "link-local"), ("fe80::/10", "link-local"),
        ("224.0.0.0/4", "multicast"), ("239.1.0.0/16", "multicast"), ("ff05::/16", "multicast"),
    ],
)  # fmt: skip
def test_l8_what_is_not_private_never_counts_as_local(subnet: str, problem: str) -> None:
    try:
        ip_network(subnet)
    except ValueError:
        problem = "is not a network"  # 100.64.0.0/9 has host bits
    (found,) = problems(f"[protection]\nlan_subnets = ['{subnet}']")
    assert problem in found.problem
    assert "host bits" in found.problem or found.allowed


@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)), st.integers(0, 128))
def test_l8_no_subnet_covers_a_public_address(address: object, length: int) -> None:
    network = ip_network(f"{address}/{min(length, address.max_prefixlen)}", strict=False)  # type: ignore[attr-defined]
    try:
        taken = parse_settings(f'[protection]\nlan_subnets = ["{network}"]').protection.lan_subnets
    except SettingsError:
        return
    assert taken == (network,)
    for edge in (network.network_address, network.broadcast_address):
        assert not edge.is_global and not edge.is_multicast and not edge.is_loopback and not edge.is_unspecified


def test_five_thousand_subnets_on_one_line() -> None:
    subnets = [f"100.{64 + number // 256}.{number % 256}.0/24" for number in range(5000)]
    settings = parse_settings(f"[protection]\nlan_subnets = {json.dumps(subnets)}")
    assert [str(network) for network in settings.protection.lan_subnets] == subnets


def test_keys_that_look_like_addresses_are_counted_all_the_same() -> None:
    for key in ('"1.1.1.1/8".', '"1.1.1.1/8".a.', "'1.1.1.1/8'.1."):
        (found,) = problems(key * 100_000 + "a = 1" if len(key) * 100_000 < MAX_BYTES else key * 50_000 + "a = 1")
        assert "more than 64 dots" in found.problem


# --- every key of a valid file, broken one at a time ------------------------------------------------------------------

KEYS = [
    (number, match[1])
    for number, line in enumerate(FULL.splitlines(), 1)
    if (match := re.match(r"(\w+) = ", line))
]  # fmt: skip
HEADERS = [(number, line) for number, line in enumerate(FULL.splitlines(), 1) if line.startswith("[")]


def changed(number: int, line: str) -> str:
    lines = FULL.splitlines()
    lines[number - 1] = line
    return "\n".join(lines)


@pytest.mark.parametrize("number, key", KEYS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_misspelt_key_is_found_on_its_line(number: int, key: str, newline: str) -> None:
    text = changed(number, FULL.splitlines()[number - 1].replace(key, f"{key}x", 1)).replace("\n", newline)
    found = [each for each in problems(text) if each.key.split(".")[-1] == f"{key}x"]
    assert [each.line for each in found] == [number]
    assert f'did you mean "{key}"?' in found[0].problem


@pytest.mark.parametrize("number, key", KEYS)
@pytest.mark.parametrize("value", ["[1979-05-27]", "{}", "-7.5", "07:32:00", "''''''", '"""\n\\u0000\n"""'])
def test_a_wrong_value_is_found_on_its_line(number: int, key: str, value: str) -> None:
    found = [each for each in problems(changed(number, f"{key} = {value}")) if each.key.split(".")[-1] == key]
    assert found and {each.line for each in found} == {number}
    assert all(each.allowed for each in found)


@pytest.mark.parametrize("number, header", HEADERS)
def test_a_misspelt_table_is_found_on_its_line(number: int, header: str) -> None:
    name = header.strip("[]").split(".")[-1]
    text = changed(number, header.replace(name, f"{name}x"))
    assert number in {each.line for each in problems(text) if each.key.split(".")[-1] == f"{name}x"}


def test_the_table_covers_every_key() -> None:
    tables = {
        "protection",
        "tunnel",
        "wifi",
        "criteria",
        "wired",
        "cellular",
        "portal",
        "dns",
        "allowance",
        "traffic",
        "split",
        "links",
        "known",
    }
    assert {key for _, key in KEYS} == set(HOMES) - tables


# --- properties -------------------------------------------------------------------------------------------------------

# Lone surrogates among them: a str can hold them, UTF-8 cannot.
TEXTS = st.text(st.one_of(st.characters(max_codepoint=0x2FF), st.sampled_from("\u2028\ud800\U0001f600\ufeff")))
FRAGMENTS = st.sampled_from(
    [
        *FULL.splitlines(keepends=True),
        *"[]='\"{}.\n#,\0é1",
        "'''\n",
        "x = 1\n",
        "[wifi]\n",
        "[[known]]\n",
        "ssid = 'x'\n",
        "wifi.wps = 1\n",
        "known = [{}, 1]\n",
        "links = 3\n",
    ]
)


@given(st.one_of(TEXTS, st.lists(FRAGMENTS, max_size=30).map("".join)))
def test_any_text_is_settings_or_a_settings_error(text: str) -> None:
    check(text)


@given(st.integers(0, len(FULL)), st.integers(0, 12), st.text(st.sampled_from("[]{}='\".#\n, a1\\"), max_size=3))
def test_any_damage_is_settings_or_a_settings_error(place: int, length: int, more: str) -> None:
    check(FULL[:place] + more + FULL[place + length :])


def check(text: str) -> None:
    try:
        parse_settings(text)
    except SettingsError as error:
        assert error.problems
        last = max(1, text.count("\n") + (not text.endswith("\n")))
        for each in error.problems:
            assert 1 <= each.line <= last
            assert len(str(each).splitlines()) == 1
        assert [each.line for each in error.problems] == sorted(each.line for each in error.problems)


BSSIDS = st.binary(min_size=6, max_size=6).filter(lambda bssid: not bssid[0] & 1 and any(bssid))
NAMES = st.text(st.sampled_from("aZ09_.-"), max_size=63).map(lambda rest: f"x{rest}")


@st.composite
def known_networks(draw: st.DrawFn) -> KnownNetwork:
    security = draw(st.sampled_from(Security))
    actions = list(WifiAction) if proves_identity(security) else [WifiAction.AUTO_CONNECT, WifiAction.PROMPT]
    return KnownNetwork(
        ssid=draw(st.binary(min_size=1, max_size=32).filter(lambda ssid: b"\0" not in ssid)),
        minimum_security=security,
        action=draw(st.none() | st.sampled_from(actions)),
        profile=draw(st.none() | NAMES),
        allow_lan=draw(st.sampled_from([None, False, True] if proves_identity(security) else [None, False])),
        bssids=draw(st.frozensets(BSSIDS, max_size=3)),
    )


@given(known_networks())
def test_known_networks_survive_the_store(known: KnownNetwork) -> None:
    text = known_to_json(known)
    assert known_from_json(text) == known
    assert "\n" not in text


@pytest.mark.parametrize(
    "text, key, problem",
    [
        ("", "", "not a JSON object"),
        ("[]", "", "not a JSON object"),
        ("[" * 100_000, "", "not a JSON object"),
        ("{}", "known", "without a name"),
        ('{"ssid_hex": "00"}', "ssid_hex", "NUL"),
        ('{"ssid_hex": "61", "more": 1}', "more", "unknown key"),
        ('{"ssid_hex": "61", "security": "wpa9"}', "security", "'wpa9'"),
        ('{"ssid_hex": "61", "security": "open", "action": "disconnect"}', "action", "anybody can imitate"),
        ('{"ssid_hex": "61", "bssids": [null]}', "bssids", "not a hardware address"),
        ('{"ssid_hex": "61", "allow_lan": null}', "allow_lan", "not a truth value"),
    ],
)
def test_a_damaged_store_is_refused(text: str, key: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        known_from_json(text)
    (found,) = caught.value.problems
    assert found.key == key or (key == "known" and found.key == "")
    assert problem in found.problem


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KNOWN, "x"]), inner, max_size=5),
    max_leaves=10,
)


@given(TEXTS | JSON.map(json.dumps))
def test_any_stored_text_is_a_network_or_a_settings_error(text: str) -> None:
    try:
        known_from_json(text)
    except SettingsError as error:
        assert error.problems


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"ssid": b""}, "0 bytes"),
        ({"ssid": b"a" * 33}, "33 bytes"),
        ({"ssid": b"a\0"}, "NUL"),
        ({"ssid": b"a", "bssids": frozenset({b"short"})}, "5 bytes"),
        ({"ssid": b"a", "profile": "../x"}, "not the name"),
    ],
)
def test_an_unsound_network_cannot_exist(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        KnownNetwork(**fields)  # type: ignore[arg-type]
