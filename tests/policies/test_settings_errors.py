from __future__ import annotations

import pytest

from policies.settings import parse_settings
from policies.settings_errors import SettingsError
from policies.settings_layout import FILE, MAX_PROBLEMS
from tests.policies.settings_texts import problems

# --- text -> (line, key, part of the problem, part of what is allowed) ------------------------------------------------

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
