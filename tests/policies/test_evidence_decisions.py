"""decide(): evidence of an attacker raises what is done, and never relaxes anything (N13)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.classify import Verdict
from policies.decide import decide, intent_after
from policies.decision import Decision, Intent, Manual, Rule
from policies.facts import Endpoint, Evidence, Facts, Link, LinkKind, ProfileFacts, Security, WifiNetwork
from policies.known_network import KnownNetwork
from policies.settings import Settings, parse_settings
from policies.settings_errors import SettingsError
from policies.settings_tables import LinkRule, Protection, Wifi, WifiAction
from policies.states import Target

SERVER = Endpoint(ip_address("198.51.100.7"), 51820)
PROFILE = ProfileFacts("office", (SERVER,), (), ())
LINK = Link(2, "wlan0", LinkKind.WIFI, up=True, carrier=True)
CAFE = WifiNetwork(b"Cafe", b"\x02\0\0\0\0\x01", Security.WPA2)
LAX = Settings(wifi=Wifi(unsecured=WifiAction.IGNORE, unidentified=WifiAction.IGNORE, secured=WifiAction.IGNORE))
RULE_ACTIONS = (WifiAction.AUTO_CONNECT, WifiAction.PROMPT, WifiAction.IGNORE)
LAXITY = [*RULE_ACTIONS, WifiAction.DISCONNECT]


def facts(network: WifiNetwork | None = CAFE, *evidence: Evidence) -> Facts:
    return Facts(
        links=(LINK,),
        wifi={} if network is None else {"wlan0": network},
        overdue=frozenset({"wlan0"} if network is None else ()),
        evidence={"wlan0": frozenset(evidence)} if evidence else {},
        profiles={"office": PROFILE},
        agents=1,
    )


def decided(seen: Facts, settings: Settings = LAX, intent: Intent = Intent()) -> Decision:  # noqa: B008
    found = decide(seen, settings, intent)
    assert decide(seen, settings, intent_after(intent, found)) == found
    return found


@pytest.mark.parametrize("evidence", Evidence)
@pytest.mark.parametrize("network", [CAFE, replace(CAFE, security=Security.OPEN), replace(CAFE, malformed=True), None])
def test_a_network_that_was_left_alone_is_protected(network: WifiNetwork | None, evidence: Evidence) -> None:
    (calm,) = decided(facts(network)).judgements
    assert calm.action is WifiAction.IGNORE
    found = decided(facts(network, evidence))
    (judgement,) = found.judgements
    assert (judgement.action, judgement.rule, found.target) == (WifiAction.AUTO_CONNECT, Rule.HOSTILE, Target.PROTECTED)
    assert judgement.classification is not None
    assert judgement.classification.verdict is Verdict.UNSECURED
    assert judgement.classification.reasons[0].value == f"evidence-{evidence.value}"


def test_a_prompt_is_not_waited_for() -> None:
    settings = LAX.model_copy(update={"wifi": Wifi()})
    open_cafe = replace(CAFE, security=Security.OPEN)
    assert decided(facts(open_cafe), settings).asking == {"wlan0"}
    found = decided(facts(open_cafe, Evidence.GATEWAY_MOVED), settings)
    assert not found.asking and found.target is Target.PROTECTED


def test_an_answer_from_before_does_not_count_against_it() -> None:
    settings = Settings(wifi=Wifi(secured=WifiAction.PROMPT))
    asked = decided(facts(), settings)
    before = Intent(answers=tuple(asked.answers))
    assert decided(facts(CAFE, Evidence.EVIL_TWIN), settings, before).target is Target.PROTECTED


def test_a_persons_own_choice_still_holds() -> None:
    """It was made for this network, and holds until another one, as everywhere; the reason is shown."""
    seen = decided(facts())
    chosen = Intent(manual=Manual(Target.UNPROTECTED, seen.network))
    assert decided(facts(CAFE, Evidence.GATEWAY_MOVED), LAX, chosen).target is Target.UNPROTECTED


def test_a_rule_of_the_administrator_for_the_link_still_holds() -> None:
    settings = LAX.model_copy(update={"links": (LinkRule(name="wlan*", action=WifiAction.IGNORE),)})
    (judgement,) = decided(facts(CAFE, Evidence.GATEWAY_MOVED), settings).judgements
    assert judgement.rule is Rule.LINK


def test_a_known_network_is_none_while_there_is_evidence() -> None:
    home = KnownNetwork(ssid=b"Cafe", action=WifiAction.DISCONNECT, allow_lan=True, profile="office")
    settings = Settings(known=(home,))
    assert decided(facts(), settings).lan == {"wlan0"}
    found = decided(facts(CAFE, Evidence.ROGUE_ROUTER), settings)
    (judgement,) = found.judgements
    assert judgement.classification is not None
    assert [reason.value for reason in judgement.classification.reasons] == ["evidence-rogue-router"]
    assert (found.target, found.lan) == (Target.PROTECTED, frozenset())
    assert found.profile == PROFILE


def test_what_a_known_network_forbids_stays_forbidden() -> None:
    home = KnownNetwork(ssid=b"Cafe", allow_lan=False)
    settings = Settings(known=(home,), protection=Protection(allow_lan=True))
    assert decided(facts(), settings).lan == decided(facts(CAFE, Evidence.EVIL_TWIN), settings).lan == frozenset()


def test_the_setting() -> None:
    assert parse_settings("").wifi.hostile is WifiAction.AUTO_CONNECT
    text = '[wifi]\nunsecured = "ignore"\nunidentified = "ignore"\nhostile = "ignore"'
    assert parse_settings(text).wifi.hostile is WifiAction.IGNORE
    with pytest.raises(SettingsError, match=r"t.toml:2: wifi.hostile: laxer than unsecured"):
        parse_settings('[wifi]\nhostile = "ignore"', "t.toml")


NETWORKS = st.builds(
    WifiNetwork, ssid=st.sampled_from([b"Cafe", b"Home", b""]), bssid=st.sampled_from([b"", CAFE.bssid]),
    security=st.sampled_from(Security), tkip=st.booleans(), malformed=st.booleans(), server_unchecked=st.booleans(),
)  # fmt: skip


@st.composite
def saved(draw: st.DrawFn) -> KnownNetwork:
    return KnownNetwork(
        ssid=draw(st.sampled_from([b"Cafe", b"Home"])),
        minimum_security=draw(st.sampled_from([Security.WPA, Security.WPA2, Security.ENTERPRISE])),
        action=draw(st.none() | st.sampled_from(WifiAction)),
        allow_lan=draw(st.none() | st.booleans()),
    )


SETTINGS = st.builds(
    lambda actions, known, lan: Settings(
        wifi=Wifi(unsecured=actions[0], unidentified=actions[1], secured=actions[2], hostile=actions[3]),
        known=tuple(known),
        protection=Protection(allow_lan=lan),
    ),
    st.tuples(*[st.sampled_from(RULE_ACTIONS)] * 4), st.lists(saved(), max_size=2), st.booleans(),
)  # fmt: skip
INTENTS = st.builds(
    Intent, target=st.sampled_from(Target), kill_switch=st.booleans(),
    manual=st.none() | st.builds(Manual, st.sampled_from(Target), st.just("/")),
)  # fmt: skip


@given(NETWORKS | st.none(), SETTINGS, INTENTS, st.frozensets(st.sampled_from(Evidence), min_size=1))
def test_evidence_never_relaxes_anything(
    network: WifiNetwork | None, settings: Settings, intent: Intent, evidence: frozenset[Evidence]
) -> None:
    """Whatever the settings say, also where they are stricter with secured networks than with others."""
    before, after = decided(facts(network), settings, intent), decided(facts(network, *evidence), settings, intent)
    (calm,), (alarmed,) = before.judgements, after.judgements
    assert calm.action is not None and alarmed.action is not None
    assert LAXITY.index(alarmed.action) <= LAXITY.index(calm.action)
    assert after.lan <= before.lan | before.held  # a link that people are asked about reaches nothing at all
    if before.target is Target.PROTECTED:
        assert after.target is Target.PROTECTED
    assert alarmed.classification is not None
    assert alarmed.classification.verdict is Verdict.UNSECURED
