"""(Facts, Settings, Intent) -> Decision: what should be, told from what is. Pure, total and stable.

Stable means: with the intent that a decision leads to, the same facts give the same decision again. So the loop may
decide as often as it likes, and an event that changed nothing changes nothing.
"""

from __future__ import annotations

from dataclasses import replace

from policies.answers import answered, keep, settle
from policies.classify import Verdict
from policies.decision import ANYWHERE, Decision, Intent, Judgement, Manual
from policies.external_links import tunnel as external_tunnel
from policies.facts import Address, Facts, LinkKind, Picked, ProfileFacts, Reach
from policies.judge import judge
from policies.settings import Settings
from policies.settings_tables import WifiAction
from policies.states import Cause, Target
from policies.ways import beacons_to_ask, inside, portal_in_every_way, reach, reached, ways_to


def decide(facts: Facts, settings: Settings, intent: Intent) -> Decision:
    """What should be. The caller makes `intent_after` its new intent and persists it before acting."""
    judged = tuple(judge(link, facts, settings) for link in facts.uplinks)
    network = " ".join(sorted(each.network for each in judged))
    pending = frozenset(each.ifname for each in judged if each.action is None)
    here = " ".join(sorted(_here(each, facts) for each in judged))
    manual = _named(intent.manual, judged, facts)
    if manual and network and not pending and manual.network not in (network, ANYWHERE):
        manual = None  # another network. While there is none, or it is not identified, it may be the same one again
    chosen = manual.choice if manual and manual.network in (network, here, ANYWHERE) else None
    profile, named = _profile(judged, facts, settings, intent)
    choice = _choice(judged, profile, settings, intent)
    picked = facts.picked if profile and (profile.name, choice) == _key(facts.picked) else None
    if profile and choice is not None:
        profile = _with_servers(profile, picked)
    set_up = bool(facts.profiles) or facts.profiles_damaged or named
    lockdown = _locked(settings.protection.lockdown, intent.lockdown)
    closed = Cause.SETTINGS_BROKEN if facts.settings_broken else Cause.STORE_BROKEN if facts.store_broken else None
    askable = set_up and closed is None
    offline = frozenset(link.ifname for link in facts.uplinks if reach(link, facts) is Reach.NOTHING)
    answers = settle(
        judged, settings, intent, chosen, offline if askable else frozenset(), askable and facts.agents > 0
    )
    judgements = tuple(answered(each, answers, offline) for each in judged)
    unanswered = frozenset(each.ifname for each in judgements if each.action is WifiAction.PROMPT)
    held = pending | unanswered if settings.wifi.hold_while_asking else pending
    ways = ways_to(facts, profile)
    return Decision(
        target=chosen or _target(judgements, intent.target, set_up),
        judgements=judgements,
        network=network,
        here=here,
        manual=manual,
        # Before there is a profile, or while everything is closed, nothing is settled: it may be asked later.
        answers=keep(answers, judgements, intent) if askable else intent.answers,
        asking=unanswered - offline,
        held=held,
        usable=_usable(facts, held),
        profile=profile,
        kill_switch=_locked(settings.protection.kill_switch, intent.kill_switch),
        lockdown=lockdown,
        lan=_lan(judgements, settings) - held,
        lan_subnets=settings.protection.lan_subnets,
        inside=inside(facts),
        routable=bool(ways),
        leads_to=reached(facts, profile),
        portal=portal_in_every_way(ways - held, facts),
        offline=offline,
        beacons=() if closed else beacons_to_ask(judgements, facts),
        login=frozenset() if closed else (facts.probing | facts.login) & {each.ifname for each in judged} - pending,
        tree=frozenset() if closed else facts.login & {each.ifname for each in judged} - pending,
        tree_dns=facts.login_dns,
        beside=frozenset() if closed or lockdown else frozenset(each.ifname for each in judged) - held,
        never=facts.never,
        never_dns=facts.never_dns,
        subnets=settings.split.subnets,
        only=facts.only,
        closed=closed,
        resolvers=_resolvers(judgements, settings),
        metered=settings.allowance.limit is not None,
        set_up=set_up,
        choice=choice,
        probed=picked.probing if picked and picked.unmeasured else (),
        choosing=picked is not None and picked.unmeasured,
        external=external_tunnel(facts, profile),
        carriers=frozenset(each.ifname for each in judged) if profile and profile.external else frozenset(),
    )


def intent_after(intent: Intent, decision: Decision) -> Intent:
    """The intent that a decision leads to."""
    return replace(intent, target=decision.target, manual=decision.manual, answers=decision.answers)


def _here(judgement: Judgement, facts: Facts) -> str:
    """A network whose name nobody has told yet is this association."""
    link = facts.link(judgement.ifname)
    nameless = judgement.kind is LinkKind.WIFI and judgement.action is None and judgement.ifname not in facts.wifi
    return f"{judgement.network}/#{link.carrier_changes}" if link and nameless else judgement.network


def _named(manual: Manual | None, judged: tuple[Judgement, ...], facts: Facts) -> Manual | None:
    """A choice that was made before a network had a name is about that network, if it is still joined."""
    if manual is None or "/#" not in manual.network:
        return manual
    links = {each.ifname: each for each in facts.uplinks}
    names = {
        f"{each.ifname}/#{links[each.ifname].carrier_changes}": _here(each, facts)
        for each in judged
        if each.kind is LinkKind.WIFI
    }
    return replace(manual, network=" ".join(sorted(names.get(part, part) for part in manual.network.split(" "))))


def _target(judgements: tuple[Judgement, ...], before: Target, set_up: bool) -> Target:
    """The strictest action wins; a link still being identified relaxes nothing; `ignore` leaves things as they are."""
    actions = {each.action for each in judgements}
    if WifiAction.AUTO_CONNECT in actions and set_up:
        return Target.PROTECTED
    if WifiAction.DISCONNECT in actions and None not in actions:
        return Target.UNPROTECTED
    return before


def _usable(facts: Facts, held: frozenset[str]) -> frozenset[str]:
    uplinks = {link.ifname for link in facts.uplinks} - held
    others = {link.ifname for link in facts.links if (link.kind is LinkKind.VIRTUAL or link.external) and link.up}
    return frozenset(uplinks | others)


def _profile(
    judgements: tuple[Judgement, ...], facts: Facts, settings: Settings, intent: Intent
) -> tuple[ProfileFacts | None, bool]:
    """The profile to use, and whether one was named. A name that is gone gives None: never another one silently."""
    known = next(
        (j.classification.known.profile for j in judgements if j.classification and j.classification.known), None
    )
    name = known or intent.profile or settings.tunnel.default_profile
    if name is not None:
        return facts.profiles.get(name), True
    only = tuple(facts.profiles.values())
    return (only[0] if len(only) == 1 and not facts.profiles_damaged else None), False


def _choice(
    judgements: tuple[Judgement, ...], profile: ProfileFacts | None, settings: Settings, intent: Intent
) -> str | None:
    """Which servers of the profile's list are meant: by the saved network, else by the users, else by the settings."""
    if profile is None or not profile.listed:
        return None
    return server_here(judgements) or dict(intent.servers).get(profile.name) or settings.tunnel.server or ""


def server_here(judgements: tuple[Judgement, ...]) -> str | None:
    """What the saved network that we are on says of the server, if it says something."""
    found = [each.classification.known for each in judgements if each.classification]
    return next((each.server for each in found if each and each.server), None)


def _key(picked: Picked | None) -> tuple[str, str] | None:
    return (picked.profile, picked.choice) if picked else None


def _with_servers(profile: ProfileFacts, picked: Picked | None) -> ProfileFacts:
    """The profile with the chosen servers; with none while nobody has looked, or where none fits."""
    if picked is None:
        return replace(profile, endpoints=(), one_at_a_time=True)
    return replace(
        profile,
        endpoints=picked.endpoints,
        names=picked.names,
        addresses=tuple(dict.fromkeys((*profile.addresses, *picked.addresses))),
        one_at_a_time=True,
    )


def _locked(by_administrator: bool | None, by_user: bool) -> bool:
    return by_user if by_administrator is None else by_administrator


def _lan(judgements: tuple[Judgement, ...], settings: Settings) -> frozenset[str]:
    """Per network: a stranger's network, and one that is not identified yet, needs the general permission."""
    return frozenset(each.ifname for each in judgements if each.action is not None and _allows_lan(each, settings))


def _allows_lan(judgement: Judgement, settings: Settings) -> bool:
    found = judgement.classification
    own = found.known.allow_lan if found and found.known else None
    if own and found and found.verdict is not Verdict.KNOWN:
        own = None  # it can only tighten
    return settings.protection.allow_lan if own is None else own


def _resolvers(judgements: tuple[Judgement, ...], settings: Settings) -> tuple[Address, ...]:
    """Those of the first saved network that has some, else those for everywhere."""
    found = [each.classification for each in judgements if each.classification]
    known = [each.known for each in found if each.verdict is Verdict.KNOWN and each.known]
    return next((each.resolvers for each in known if each.resolvers), settings.dns.resolvers)
