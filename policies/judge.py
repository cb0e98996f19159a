"""(link, facts, settings) -> Judgement: what is to be done on one network, by the rules alone."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from typing import assert_never

from policies.classify import Classification, Verdict, classify, reasons
from policies.decision import Judgement, Rule
from policies.facts import Evidence, Facts, Link, LinkKind, WifiNetwork
from policies.settings import Settings
from policies.settings_tables import WifiAction

_LAXITY = (WifiAction.AUTO_CONNECT, WifiAction.PROMPT, WifiAction.IGNORE, WifiAction.DISCONNECT)


def judge(link: Link, facts: Facts, settings: Settings) -> Judgement:
    """By the rules alone: PROMPT stays PROMPT."""
    found = facts.wifi.get(link.ifname) if link.kind is LinkKind.WIFI else None
    name = f"{link.ifname}/{found.ssid.hex()}/{found.security.value}" if found else link.ifname
    if facts.asleep:  # it may wake up anywhere, and be back on the air before anybody has looked
        return Judgement(link.ifname, link.kind, None, Rule.PENDING, name)
    for rule in settings.links:
        if rule.action is not None and fnmatchcase(link.ifname, rule.name):
            return Judgement(link.ifname, link.kind, rule.action, Rule.LINK, name)
    match link.kind:
        case LinkKind.WIFI:
            return _judge_wifi(link, name, facts, settings)
        case LinkKind.WIRED:
            return Judgement(link.ifname, link.kind, settings.wired, Rule.DEFAULT, name)
        case LinkKind.CELLULAR:
            return Judgement(link.ifname, link.kind, settings.cellular, Rule.DEFAULT, name)
        case LinkKind.LOOPBACK | LinkKind.VIRTUAL | LinkKind.TUNNEL:
            raise AssertionError(f"{link.ifname} is no uplink")
        case _:
            assert_never(link.kind)


def _judge_wifi(link: Link, name: str, facts: Facts, settings: Settings) -> Judgement:
    network = facts.network(link.ifname)
    if network is None and link.ifname not in facts.overdue:
        return Judgement(link.ifname, link.kind, None, Rule.PENDING, name)
    evidence = facts.evidence.get(link.ifname, frozenset())
    found = _classified(network, settings, evidence)
    if found.awaits_proof and link.ifname not in facts.overdue:
        return Judgement(link.ifname, link.kind, None, Rule.PENDING, name, found)
    action, rule = _by_verdict(found, settings)
    if evidence:  # it only tightens, whatever the settings say of networks where there is none
        calm, _ = _by_verdict(_classified(network, settings, frozenset()), settings)
        strictest = min(settings.wifi.hostile, calm, action, key=_LAXITY.index)
        action, rule = (action, rule) if strictest is action else (strictest, Rule.HOSTILE)
    return Judgement(link.ifname, link.kind, action, rule, name, found)


def _classified(network: WifiNetwork | None, settings: Settings, evidence: frozenset[Evidence]) -> Classification:
    if network is not None:
        return classify(replace(network, evidence=evidence), settings)
    return Classification(Verdict.UNSECURED if evidence else Verdict.UNIDENTIFIED, reasons(evidence))


def _by_verdict(found: Classification, settings: Settings) -> tuple[WifiAction, Rule]:
    own, rule = found.known.action if found.known else None, Rule.VERDICT
    match found.verdict:
        case Verdict.KNOWN:
            action, rule = (own, Rule.KNOWN) if own else (WifiAction.IGNORE, Rule.DEFAULT)
        case Verdict.UNSECURED:
            action = settings.wifi.unsecured
        case Verdict.UNIDENTIFIED:
            action = settings.wifi.unidentified
        case Verdict.SECURED:
            action = settings.wifi.secured
        case _:
            assert_never(found.verdict)
    if found.verdict is not Verdict.KNOWN and own and _LAXITY.index(own) <= _LAXITY.index(action):
        action, rule = own, Rule.KNOWN  # a saved network that proves nothing can only tighten
    return action, rule
