"""What the tests of the settings file are made of: a file with every key, and what it says."""

from __future__ import annotations

from hashlib import sha256
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import strategies as st

from policies.facts import Endpoint, LinkKind, Security
from policies.known_network import KnownNetwork
from policies.resolvers import Manager
from policies.settings import Settings, parse_settings
from policies.settings_errors import Problem, SettingsError
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


# Lone surrogates among them: a str can hold them, UTF-8 cannot.
TEXTS = st.text(st.one_of(st.characters(max_codepoint=0x2FF), st.sampled_from("\u2028\ud800\U0001f600\ufeff")))
