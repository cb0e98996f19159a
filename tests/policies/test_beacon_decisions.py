"""decide() and firewall(): which beacon is asked over which link, and what may pass for that (N5)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface
from typing import Any

import pytest

from policies.decide import decide, intent_after
from policies.decision import Decision, Intent, Rule
from policies.facts import Endpoint, Facts, Link, LinkKind, ProfileFacts, Security, Tunnel, WifiNetwork
from policies.firewall import MARK, TUNNEL_IFNAME, firewall
from policies.known_network import KnownNetwork
from policies.settings import Settings
from policies.settings_tables import LinkRule, Wifi, WifiAction
from policies.states import Cause, Phase, State, Target
from tests.policies.evaluator import Hook, Packet, passes

ROUTER = ip_address("192.0.2.1")
BEACON, BEACON6 = Endpoint(ROUTER, 443, "tcp"), Endpoint(ip_address("2001:db8::1"), 443, "tcp")
DIGEST, FOREIGN = bytes(range(32)), bytes(32)
OWN = ip_interface("192.0.2.9/24")
WLAN = Link(2, "wlan0", LinkKind.WIFI, up=True, carrier=True, addresses=(OWN,), gateways=(ROUTER,))
CABLE = Link(3, "eth0", LinkKind.WIRED, up=True, carrier=True, addresses=(OWN,), gateways=(ROUTER,))
HOME = WifiNetwork(b"Home", b"\x02\0\0\0\0\x01", Security.WPA2)
OFFICE = ProfileFacts("office", (Endpoint(ip_address("198.51.100.1"), 51820),), (ip_interface("203.0.113.7/32"),), ())
PINNED = KnownNetwork(ssid=b"Home", action=WifiAction.IGNORE, beacon=BEACON, beacon_sha256=DIGEST)
SETTINGS = Settings(known=(PINNED,), wifi=Wifi(unsecured=WifiAction.AUTO_CONNECT))
AT_HOME = Facts(links=(WLAN,), wifi={"wlan0": HOME}, profiles={"office": OFFICE})


def outcome(facts: Facts, settings: Settings = SETTINGS, intent: Intent | None = None) -> Decision:
    intent = intent or Intent()
    found = decide(facts, settings, intent)
    assert decide(facts, settings, intent_after(intent, found)) == found
    return found


def shown(digest: bytes) -> Any:
    return {"wlan0": ((BEACON, digest),)}


def test_the_link_is_held_until_the_beacon_has_answered() -> None:
    found = outcome(AT_HOME)
    (judged,) = found.judgements
    assert (judged.action, judged.rule, found.held, found.usable) == (None, Rule.PENDING, {"wlan0"}, frozenset())
    assert found.beacons == (("wlan0", BEACON),)


def test_what_an_answer_comes_to() -> None:
    proven = outcome(replace(AT_HOME, beacons=shown(DIGEST)))
    assert (proven.judgements[0].rule, proven.usable, proven.beacons) == (Rule.KNOWN, {"wlan0"}, ())
    impostor = outcome(replace(AT_HOME, beacons=shown(FOREIGN)))
    assert (impostor.target, impostor.beacons) == (Target.PROTECTED, ())


def test_silence_is_waited_out_and_asked_again_also_when_it_is_late() -> None:
    silent = replace(AT_HOME, beacons=shown(b""))
    assert outcome(silent).held == {"wlan0"}
    late = outcome(replace(silent, overdue=frozenset({"wlan0"})))
    assert (late.target, late.beacons) == (Target.PROTECTED, (("wlan0", BEACON),))
    proven = replace(silent, overdue=frozenset({"wlan0"}), beacons=shown(DIGEST))
    assert outcome(proven).judgements[0].rule is Rule.KNOWN


NOT_ASKED: dict[str, dict[str, Any]] = {
    "no way there yet": {"links": (replace(WLAN, addresses=(), gateways=()),)},
    "a way of the other family": {
        "links": (replace(WLAN, addresses=(ip_interface("2001:db8::9/64"),), gateways=(ip_address("fe80::1"),)),)
    },
    "asleep": {"asleep": True},
    "settings broken": {"settings_broken": True},
    "store broken": {"store_broken": True},
    "no carrier": {"links": (replace(WLAN, carrier=False),)},
    "a cable": {"links": (CABLE,)},
    "another network": {"wifi": {"wlan0": replace(HOME, ssid=b"Hotel")}},
    "a weaker one of the name": {"wifi": {"wlan0": replace(HOME, security=Security.OPEN)}},
    "damaged": {"wifi": {"wlan0": replace(HOME, malformed=True)}},
    "nobody has told which network": {"wifi": {}},
}


@pytest.mark.parametrize("changes", NOT_ASKED.values(), ids=NOT_ASKED.keys())
def test_nobody_is_asked(changes: dict[str, Any]) -> None:
    assert outcome(replace(AT_HOME, **changes)).beacons == ()


def test_nor_where_a_link_rule_decides() -> None:
    ruled = SETTINGS.model_copy(update={"links": (LinkRule(name="wlan*", action=WifiAction.AUTO_CONNECT),)})
    assert outcome(AT_HOME, ruled).beacons == ()


def test_a_neighbour_is_asked_without_a_gateway_and_a_stranger_is_not() -> None:
    assert outcome(replace(AT_HOME, links=(replace(WLAN, gateways=()),))).beacons == (("wlan0", BEACON),)
    far = PINNED.model_copy(update={"beacon": Endpoint(ip_address("198.51.100.9"), 443, "tcp")})
    settings = SETTINGS.model_copy(update={"known": (far,)})
    assert outcome(replace(AT_HOME, links=(replace(WLAN, gateways=()),)), settings).beacons == ()


STATES = {
    "idle": State(Phase.IDLE),
    "held": State(Phase.HELD),
    "connecting": State(Phase.CONNECTING, profile=OFFICE),
    "connected": State(Phase.CONNECTED, profile=OFFICE, tunnel=Tunnel(TUNNEL_IFNAME, OFFICE.addresses)),
    "reconnecting": State(Phase.RECONNECTING, profile=OFFICE),
    "blocked": State(Phase.BLOCKED, Cause.SERVER_UNREACHABLE),
    "portal": State(Phase.PORTAL, Cause.PORTAL),
    "disconnecting": State(Phase.DISCONNECTING),
}


def asking(**changes: Any) -> Packet:
    packet = Packet(Hook.OUT, OWN.ip, ROUTER, "tcp", 40000, 443, oifname="wlan0", mark=MARK)
    return replace(packet, **changes)


def answering(**changes: Any) -> Packet:
    packet = Packet(Hook.IN, ROUTER, OWN.ip, "tcp", 443, 40000, iifname="wlan0", mark=MARK, established=True)
    return replace(packet, **changes)


STRANGERS = [
    asking(mark=0), asking(mark=1), asking(oifname="eth0"), asking(destination_port=80), asking(protocol="udp"),
    asking(destination=ip_address("192.0.2.2")), asking(source=OFFICE.addresses[0].ip), asking(protocol="icmp"),
    answering(mark=0), answering(established=False), answering(iifname="eth0"), answering(source_port=80),
    answering(source=ip_address("192.0.2.2")), answering(protocol="udp"), answering(hook=Hook.FORWARD, oifname="br0"),
    asking(hook=Hook.FORWARD, iifname="br0"),
]  # fmt: skip


def test_every_phase_is_there() -> None:
    assert {state.phase for state in STATES.values()} == set(Phase)


@pytest.mark.parametrize("state", STATES.values(), ids=STATES.keys())
def test_only_the_question_and_its_answer_pass(state: State) -> None:
    """And nothing of it without a question."""
    asked, settled = outcome(AT_HOME), replace(outcome(AT_HOME), beacons=())
    policy = firewall(state, asked)
    assert policy.beacons == (("wlan0", BEACON),)
    assert passes(policy, asking()) and passes(policy, answering())
    guarded = replace(policy, guarded=(OFFICE.addresses[0].ip,))
    assert [packet for packet in STRANGERS if passes(guarded, packet)] == []
    without = firewall(state, settled)
    assert not passes(without, asking()) and not passes(without, answering())


def test_a_cleared_link_needs_no_exception() -> None:
    """The kill switch is off, and the network has been late: everything passes there anyway."""
    lax = SETTINGS.model_copy(update={"wifi": Wifi(unsecured=WifiAction.IGNORE, unidentified=WifiAction.IGNORE)})
    late = outcome(replace(AT_HOME, overdue=frozenset({"wlan0"})), lax)
    assert late.beacons and firewall(State(Phase.IDLE), late).beacons == ()
    assert passes(firewall(State(Phase.IDLE), late), asking())
