"""The settings [dns] and `resolvers` of a known network, and what the decision and the firewall make of them (T6)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from policies.decide import decide
from policies.decision import Intent
from policies.facts import Facts, Link, LinkKind, ProfileFacts, Security, Tunnel, WifiNetwork
from policies.firewall import firewall, with_resolvers
from policies.own_settings import KEYS, text_of, value_of
from policies.resolvers import Manager
from policies.settings import parse_settings
from policies.settings_errors import SettingsError
from policies.settings_known import known_from_json, known_to_json
from policies.states import Phase, State

OWN, THERE, THEIRS = ip_address("192.0.2.53"), ip_address("2001:db8::53"), ip_address("198.51.100.1")
TEXT = """
[dns]
resolvers = ["192.0.2.53"]

[[known]]
ssid = "Home"
security = "wpa2"
resolvers = ["2001:db8::53"]
"""
WLAN = Link(2, "wlan0", LinkKind.WIFI, up=True, carrier=True, carrier_changes=1, gateways=(ip_address("192.0.2.1"),))
HOME = WifiNetwork(b"Home", b"\x02\0\0\0\0\x02", Security.WPA2)
IMPOSTOR = WifiNetwork(b"Home", b"\x02\0\0\0\0\x02", Security.OPEN)
OFFICE = ProfileFacts("office", (), (), (THEIRS,))
TUNNEL = Tunnel("tunwarden0", (), (THEIRS,))


def test_nothing_said_means_that_the_machine_decides_and_the_profile_names_the_resolvers() -> None:
    settings = parse_settings("")
    assert (settings.dns.manager, settings.dns.resolvers) == (Manager.AUTO, ())


@pytest.mark.parametrize("manager", list(Manager))
def test_every_manager_can_be_named(manager: Manager) -> None:
    assert parse_settings(f'[dns]\nmanager = "{manager}"').dns.manager is manager


@pytest.mark.parametrize(
    "value, problem",
    [
        ('"127.0.0.53"', "not reached through a tunnel"),
        ('"::1"', "not reached through a tunnel"),
        ('"224.0.0.251"', "not reached through a tunnel"),
        ('"0.0.0.0"', "not reached through a tunnel"),
        ('"fe80::1"', "not reached through a tunnel"),
        ('"fe80::1%wlan0"', "not reached through a tunnel"),
        ('"::ffff:192.0.2.1"', "not a plain address"),
        ('"2001:db8::1%lo"', "not a plain address"),
        ('"dns.example"', "not an address"),
        ('"192.0.2.1:53"', "not an address"),
        ('"192.0.2.0/24"', "not an address"),
        ('"192.0.2.1\\nnameserver 192.0.2.2"', "not an address"),
        ("53", "not an address"),
        ('""', "not an address"),
        ('"192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"', "4 resolvers"),
    ],
)
@pytest.mark.parametrize("table", ["[dns]\n", '[[known]]\nssid = "Home"\n'])
def test_what_cannot_be_asked_through_a_tunnel_is_refused_with_its_place(table: str, value: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=rf"tunwarden.toml:[23]: (dns|known)\.resolvers: .*{problem}"):
        parse_settings(f"{table}resolvers = [{value}]\n")


def test_an_unknown_manager_is_refused_with_the_choices() -> None:
    with pytest.raises(SettingsError, match="auto, systemd-resolved, resolvconf, networkmanager, file"):
        parse_settings('[dns]\nmanager = "dnsmasq"')


def test_users_may_set_them_and_read_them_back() -> None:
    key = KEYS["dns.resolvers"]
    for text in ("192.0.2.53, 2001:db8::53", "192.0.2.53,2001:db8::53", "192.0.2.53 2001:db8::53"):
        assert text_of(value_of(key, text)) == "192.0.2.53, 2001:db8::53"


def test_a_saved_network_keeps_its_resolvers() -> None:
    (known,) = parse_settings(TEXT).known
    assert known.resolvers == (THERE,)
    assert known_from_json(known_to_json(known)) == known


@pytest.mark.parametrize(
    "text, network, expected",
    [
        ("", HOME, (THEIRS,)),
        ('[dns]\nresolvers = ["192.0.2.53"]\n', HOME, (OWN,)),
        (TEXT, HOME, (THERE,)),
        (TEXT, WifiNetwork(b"Cafe", b"\x02\0\0\0\0\x01", Security.WPA2), (OWN,)),
        (TEXT, IMPOSTOR, (OWN,)),
        (TEXT, None, (OWN,)),
    ],
)
def test_the_network_counts_before_everywhere_and_that_before_the_profile(
    text: str, network: WifiNetwork | None, expected: tuple[object, ...]
) -> None:
    """The firewall's list follows: questions to anybody else are left out. An impostor's name gives nothing."""
    facts = Facts((WLAN,), {"wlan0": network} if network else {}, profiles={"office": OFFICE})
    decision = decide(facts, parse_settings(text), Intent())
    assert with_resolvers(TUNNEL, decision).resolvers == expected
    policy = firewall(State(Phase.CONNECTED, profile=OFFICE, tunnel=TUNNEL), decision)
    assert policy.tunnel is not None
    assert policy.tunnel.resolvers == expected
