"""decide() and prompts: who is asked, when, and what an answer is worth (N8, N9)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.decide import decide, intent_after
from policies.decision import ANYWHERE, Answer, Decision, Intent, Manual, Rule
from policies.facts import Facts, Link, LinkKind, ProfileFacts, Security, WifiNetwork
from policies.known_network import KnownNetwork
from policies.settings import Settings
from policies.settings_tables import LinkRule, Protection, Wifi, WifiAction
from policies.states import Target

WLAN = Link(2, "wlan0", LinkKind.WIFI, up=True, carrier=True)
CABLE = Link(3, "eth0", LinkKind.WIRED, up=True, carrier=True)
MODEM = Link(4, "wwan0", LinkKind.CELLULAR, up=True, carrier=True)
OPEN = WifiNetwork(b"Cafe", b"\x02\0\0\0\0\x01", Security.OPEN)
AT_CAFE = Facts(
    links=(WLAN,), wifi={"wlan0": OPEN}, agents=1, profiles={"office": ProfileFacts("office", (), (), ())}
)  # fmt: skip
ASKS = Settings(wired=WifiAction.PROMPT, cellular=WifiAction.PROMPT)
KEY = f"wlan0/{b'Cafe'.hex()}/open"
CONNECT, IGNORE, PROMPT = WifiAction.AUTO_CONNECT, WifiAction.IGNORE, WifiAction.PROMPT


def outcome(facts: Facts, settings: Settings = ASKS, intent: Intent | None = None) -> Decision:
    """The decision, which is stable."""
    intent = intent or Intent()
    found = decide(facts, settings, intent)
    assert decide(facts, settings, intent_after(intent, found)) == found
    return found


def told(decision: Decision) -> list[tuple[str, str | None, Rule]]:
    return [(each.ifname, each.action, each.rule) for each in decision.judgements]


def test_while_people_are_asked_the_link_is_held_or_not() -> None:
    found = outcome(AT_CAFE)
    assert told(found) == [("wlan0", PROMPT, Rule.VERDICT)]
    assert (found.asking, found.held, found.usable) == ({"wlan0"}, {"wlan0"}, frozenset())
    assert (found.hold, found.target, found.answers) == (True, Target.UNPROTECTED, ())
    loose = outcome(AT_CAFE, Settings(wifi=Wifi(hold_while_asking=False)))
    assert (loose.asking, loose.held, loose.usable, loose.hold) == ({"wlan0"}, frozenset(), {"wlan0"}, False)


def test_also_the_local_network_waits() -> None:
    """In lockdown it would be reached otherwise, for the administrator allows it everywhere."""
    local = Settings(protection=Protection(allow_lan=True))
    assert outcome(AT_CAFE, local, Intent(lockdown=True)).lan == frozenset()
    answered = Intent(lockdown=True, answers=(Answer(KEY, IGNORE, Rule.ANSWER),))
    assert outcome(AT_CAFE, local, answered).lan == {"wlan0"}


@pytest.mark.parametrize("fallback", [CONNECT, IGNORE])
def test_with_nobody_to_ask_the_fallback_applies_at_once_and_settles_it(fallback: WifiAction) -> None:
    settings = Settings(wifi=Wifi(prompt_fallback=fallback))
    alone = outcome(replace(AT_CAFE, agents=0), settings)
    assert told(alone) == [("wlan0", fallback, Rule.FALLBACK)]
    assert alone.target is (Target.PROTECTED if fallback is CONNECT else Target.UNPROTECTED)
    later = outcome(AT_CAFE, settings, intent_after(Intent(), alone))  # somebody has come: the question is over
    assert told(later) == told(alone) and not later.asking


@pytest.mark.parametrize("action, target", [(CONNECT, Target.PROTECTED), (IGNORE, Target.UNPROTECTED)])
def test_an_answer_counts_until_the_network_is_left(action: WifiAction, target: Target) -> None:
    intent = Intent(answers=(Answer(KEY, action, Rule.ANSWER),))
    here = outcome(AT_CAFE, ASKS, intent)
    assert (told(here), here.target, here.held) == ([("wlan0", action, Rule.ANSWER)], target, frozenset())
    intent = intent_after(intent, here)
    roamed = replace(OPEN, bssid=b"\x02\0\0\0\0\x09")
    unsure: list[dict[str, Any]] = [{"wifi": {}}, {"links": ()}, {"asleep": True}, {"wifi": {"wlan0": roamed}}]
    for what in unsure:  # a flap, no network, sleep, a roam: it may be the same one again
        found = outcome(replace(AT_CAFE, **what), ASKS, intent)
        assert found.answers == intent.answers, what
        assert told(outcome(AT_CAFE, ASKS, intent_after(intent, found)))[0][2] is Rule.ANSWER
    elsewhere = outcome(replace(AT_CAFE, wifi={"wlan0": replace(OPEN, ssid=b"Bar")}), ASKS, intent)
    if action is IGNORE:
        assert (elsewhere.asking, elsewhere.answers) == ({"wlan0"}, ())
        assert outcome(AT_CAFE, ASKS, intent_after(intent, elsewhere)).asking, "it was left for another one"


def test_a_cable_that_was_pulled_out_may_be_another_network() -> None:
    facts = replace(AT_CAFE, links=(CABLE,), wifi={})
    assert outcome(facts).asking == {"eth0"}
    intent = Intent(answers=(Answer("eth0", IGNORE, Rule.ANSWER),))
    assert not outcome(facts, ASKS, intent).asking
    assert not outcome(replace(facts, asleep=True), ASKS, intent).asking
    out = outcome(replace(facts, links=()), ASKS, intent)
    assert outcome(facts, ASKS, intent_after(intent, out)).asking == {"eth0"}


def test_wired_and_cellular_links_and_link_rules_ask_too() -> None:
    assert outcome(replace(AT_CAFE, links=(MODEM,), wifi={})).asking == {"wwan0"}
    ruled = Settings(links=(LinkRule(name="eth*", action=PROMPT),))
    assert outcome(replace(AT_CAFE, links=(CABLE,), wifi={}), ruled).asking == {"eth0"}
    both = outcome(replace(AT_CAFE, links=(WLAN, CABLE)), Settings())
    assert (both.asking, both.usable, both.hold) == ({"wlan0"}, {"eth0"}, False), "the cable goes on"


def test_the_order_of_rules() -> None:
    """N8: the link's rule, the known network's own, the verdict's, the default."""
    cafe = KnownNetwork(ssid=b"Cafe", minimum_security=Security.OPEN, action=CONNECT)
    link = LinkRule(name="wlan0", action=IGNORE)
    assert told(outcome(AT_CAFE, Settings(known=(cafe,), links=(link,)))) == [("wlan0", IGNORE, Rule.LINK)]
    assert told(outcome(AT_CAFE, Settings(known=(cafe,)))) == [("wlan0", CONNECT, Rule.KNOWN)]
    assert told(outcome(AT_CAFE, Settings())) == [("wlan0", PROMPT, Rule.VERDICT)]
    assert told(outcome(replace(AT_CAFE, links=(CABLE,), wifi={}), Settings())) == [("eth0", IGNORE, Rule.DEFAULT)]


@pytest.mark.parametrize("choice, action", [(Target.PROTECTED, CONNECT), (Target.UNPROTECTED, IGNORE)])
@pytest.mark.parametrize("where", [KEY, ANYWHERE])
def test_a_users_own_choice_answers(choice: Target, action: WifiAction, where: str) -> None:
    intent = Intent(target=choice, manual=Manual(choice, where), answers=(Answer(KEY, CONNECT, Rule.ANSWER),))
    found = outcome(AT_CAFE, ASKS, intent)
    assert (told(found), found.asking, found.target) == ([("wlan0", action, Rule.MANUAL)], frozenset(), choice)
    if where == KEY:  # a cable comes: another network, on which the choice does not hold. The answer for the cafe does
        plugged = outcome(replace(AT_CAFE, links=(WLAN, CABLE)), Settings(), intent_after(intent, found))
        assert (plugged.manual, plugged.target, plugged.asking) == (None, choice, frozenset())


def test_there_is_nothing_to_ask_while_protection_is_wanted_anyway() -> None:
    wanted = outcome(AT_CAFE, ASKS, Intent(target=Target.PROTECTED))
    assert (told(wanted), wanted.target) == ([("wlan0", CONNECT, Rule.WANTED)], Target.PROTECTED)
    strict = Settings(wired=CONNECT)
    both = outcome(replace(AT_CAFE, links=(WLAN, CABLE)), strict)
    assert (both.target, both.asking, told(both)[0]) == (
        Target.PROTECTED, frozenset(), ("wlan0", CONNECT, Rule.WANTED),
    )  # fmt: skip


@pytest.mark.parametrize("what", [{"profiles": {}}, {"settings_broken": True}, {"store_broken": True}])
def test_nobody_is_asked_what_would_change_nothing(what: dict[str, Any]) -> None:
    facts = replace(AT_CAFE, **what)
    found = outcome(facts)
    assert (found.asking, found.answers) == (frozenset(), ())
    assert outcome(AT_CAFE, ASKS, intent_after(Intent(), found) if "profiles" in what else Intent()).asking == {"wlan0"}


def test_a_rule_that_no_longer_asks_ends_the_answer() -> None:
    intent = Intent(answers=(Answer(KEY, IGNORE, Rule.ANSWER),))
    found = outcome(AT_CAFE, Settings(wifi=Wifi(unsecured=CONNECT, unidentified=CONNECT)), intent)
    assert (found.target, found.answers) == (Target.PROTECTED, ())


LAXITY = (CONNECT, PROMPT, IGNORE)


@pytest.mark.parametrize("own", [None, CONNECT, PROMPT])
@pytest.mark.parametrize("verdict", LAXITY)
def test_of_a_saved_network_that_proves_nothing_the_stricter_rule_counts(
    own: WifiAction | None, verdict: WifiAction
) -> None:
    """N8: such an entry can only tighten."""
    entry = KnownNetwork(ssid=b"Cafe", minimum_security=Security.OPEN, action=own)
    found = outcome(AT_CAFE, Settings(known=(entry,), wifi=Wifi(unsecured=verdict, unidentified=verdict)))
    strictest = min([verdict, *([own] if own else [])], key=LAXITY.index)
    assert told(found) == [("wlan0", strictest, Rule.KNOWN if own is strictest else Rule.VERDICT)]
