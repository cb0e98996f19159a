"""N11 in the decisions: what portals and networks without Internet change, and where probes may leave."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface

import pytest

from policies.decide import decide, intent_after
from policies.decision import Answer, Decision, Intent, Rule
from policies.facts import (
    Endpoint,
    Facts,
    Internet,
    Link,
    LinkKind,
    ProfileFacts,
    Reach,
    Security,
    WifiNetwork,
)
from policies.firewall import firewall
from policies.settings import Settings
from policies.settings_tables import Wifi, WifiAction
from policies.states import Cause, Phase, State, Target

GATEWAY = ip_address("192.0.2.1")
WLAN = Link(2, "wlan0", LinkKind.WIFI, up=True, carrier=True, gateways=(GATEWAY,))
CABLE = Link(3, "eth0", LinkKind.WIRED, up=True, carrier=True, gateways=(GATEWAY,))
CAFE = WifiNetwork(b"cafe", security=Security.OPEN)
PROFILE = ProfileFacts("office", (Endpoint(ip_address("198.51.100.1"), 51820),), (ip_interface("203.0.113.77/32"),), ())
DEFAULTS, NEW = Settings(), Intent()
WANTED = Intent(target=Target.PROTECTED)
PORTAL, NOTHING, OPEN = (Internet(reach, "probe") for reach in (Reach.PORTAL, Reach.NOTHING, Reach.INTERNET))


def at(*links: Link, agents: int = 1, **internet: Internet) -> Facts:
    return Facts(links=links, wifi={"wlan0": CAFE}, profiles={"office": PROFILE}, agents=agents, internet=internet)


def settled(facts: Facts, settings: Settings = DEFAULTS, intent: Intent = NEW) -> Decision:
    decision = decide(facts, settings, intent)
    assert decide(facts, settings, intent_after(intent, decision)) == decision
    return decision


@pytest.mark.parametrize(
    "facts, portal",
    [
        (at(WLAN), False),
        (at(WLAN, wlan0=PORTAL), True),
        (at(WLAN, wlan0=NOTHING), False),
        (at(WLAN, wlan0=OPEN), False),
        (at(WLAN, CABLE, wlan0=PORTAL), False),  # the cable may lead somewhere
        (at(WLAN, CABLE, wlan0=PORTAL, eth0=OPEN), False),
        (at(WLAN, CABLE, wlan0=PORTAL, eth0=NOTHING), False),  # a probe may be wrong
        (at(WLAN, CABLE, wlan0=PORTAL, eth0=PORTAL), True),
        (at(WLAN, replace(CABLE, gateways=()), wlan0=PORTAL), True),  # it leads nowhere near the server
        (at(WLAN, replace(CABLE, carrier=False), wlan0=PORTAL, eth0=OPEN), True),
        (at(replace(WLAN, gateways=()), wlan0=PORTAL), False),
        (at(replace(WLAN, gateways=(ip_address("fe80::1"),)), wlan0=PORTAL), False),  # of the other family
        (replace(at(WLAN, CABLE, eth0=PORTAL), wifi={}), True),  # what is being identified is no way yet
    ],
)
def test_a_portal_is_in_the_way_where_every_way_leads_to_one(facts: Facts, portal: bool) -> None:
    assert settled(facts, intent=WANTED).portal is portal


def test_without_internet_a_prompt_waits_and_so_does_its_fallback() -> None:
    for agents in (0, 1):
        decision = settled(at(WLAN, agents=agents, wlan0=NOTHING))
        assert (decision.asking, decision.held, decision.hold) == (frozenset(), {"wlan0"}, True)
        assert decision.judgements[0].rule is Rule.OFFLINE
        assert decision.target is Target.UNPROTECTED and decision.answers == () and decision.waits_for_internet
    assert settled(at(WLAN, wlan0=PORTAL)).asking == {"wlan0"}
    assert settled(at(WLAN, wlan0=OPEN)).asking == {"wlan0"}


@pytest.mark.parametrize("rule", [Rule.ANSWER, Rule.FALLBACK])
def test_what_was_settled_before_stays_settled_without_internet(rule: Rule) -> None:
    network = settled(at(WLAN)).judgements[0].network
    intent = Intent(answers=(Answer(network, WifiAction.IGNORE, rule),))
    fallback = Settings(wifi=Wifi(prompt_fallback=WifiAction.IGNORE))
    decision = settled(at(WLAN, wlan0=NOTHING), fallback, intent)
    assert (decision.held, decision.judgements[0].action) == (frozenset(), WifiAction.IGNORE)


def test_without_a_hold_the_network_is_used_while_it_waits() -> None:
    decision = settled(at(WLAN, wlan0=NOTHING), Settings(wifi=Wifi(hold_while_asking=False)))
    assert decision.usable == {"wlan0"} and not decision.asking


def test_one_of_two_is_asked_about() -> None:
    asks = Settings(wired=WifiAction.PROMPT)
    decision = settled(at(WLAN, CABLE, wlan0=NOTHING), asks)
    assert (decision.asking, decision.held, decision.waits_for_internet) == ({"eth0"}, {"wlan0", "eth0"}, False)


@pytest.mark.parametrize(
    "facts, login",
    [
        (at(WLAN, CABLE), {"wlan0", "eth0"}),
        (replace(at(WLAN, CABLE), wifi={}), {"eth0"}),  # not judged yet
        (at(CABLE), {"eth0"}),
        (at(WLAN, replace(CABLE, carrier=False)), {"wlan0"}),
        (replace(at(WLAN, CABLE), asleep=True), set()),
        (replace(at(WLAN, CABLE), settings_broken=True), set()),
        (replace(at(WLAN, CABLE), store_broken=True), set()),
    ],
)
def test_where_probes_may_leave(facts: Facts, login: set[str]) -> None:
    assert settled(replace(facts, probing=frozenset({"wlan0", "eth0", "gone0"})), intent=WANTED).login == login


@pytest.mark.parametrize("phase", Phase)
def test_in_which_states_probes_may_leave(phase: Phase) -> None:
    decision = settled(replace(at(WLAN), probing=frozenset({"wlan0"})), intent=WANTED)
    policy = firewall(State(phase, Cause.NO_ROUTE, PROFILE), decision)
    closed = phase not in (Phase.IDLE, Phase.CONNECTED, Phase.DISCONNECTING)
    assert policy.login == ({"wlan0"} if closed else set())
    assert not policy.cleared or phase is Phase.IDLE


def test_with_the_kill_switch_off_a_portal_is_used_like_any_network() -> None:
    decision = settled(at(WLAN, wlan0=PORTAL), intent=replace(WANTED, kill_switch=False))
    policy = firewall(State(Phase.PORTAL, Cause.PORTAL), decision)
    assert (policy.cleared, policy.capture) == ({"wlan0"}, False)
    locked = settled(at(WLAN, wlan0=PORTAL), intent=replace(WANTED, kill_switch=False, lockdown=True))
    assert firewall(State(Phase.PORTAL, Cause.PORTAL), locked).closed
