"""(Facts, Settings, Intent) -> Decision: what should be, told from what is. Pure, total and stable.

Stable means: with the intent that a decision leads to, the same facts give the same decision again. So the loop may
decide as often as it likes, and an event that changed nothing changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from fnmatch import fnmatchcase
from ipaddress import IPv4Network, IPv6Network
from typing import assert_never

from policies.classify import Classification, Verdict, classify, reasons
from policies.external_links import tunnel as external_tunnel
from policies.facts import (
    Address,
    Endpoint,
    Evidence,
    Facts,
    Link,
    LinkKind,
    Picked,
    ProfileFacts,
    Reach,
    Tunnel,
    WifiNetwork,
)
from policies.settings import Settings
from policies.settings_tables import WifiAction
from policies.states import Cause, Target

ANYWHERE = "/"  # as the network of a choice: on every network, until the next choice. No link has that name


@dataclass(frozen=True, slots=True)
class Manual:
    """A user's own choice. It holds until the network changes."""

    choice: Target
    network: str  # `Decision.here` when it was made, or ANYWHERE


class Rule(StrEnum):
    """Which rule gave a link its action."""

    LINK = "link rule"
    KNOWN = "rule of the known network"
    VERDICT = "rule of the verdict"
    ANSWER = "answer to the prompt"
    MANUAL = "your own choice, without a prompt"
    WANTED = "protection is wanted already: nothing to ask"
    HOSTILE = "evidence of an attacker"
    FALLBACK = "fallback of the prompt: nobody answered"
    PENDING = "being identified"
    OFFLINE = "no Internet behind it: nothing to ask yet"
    DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the prompt that a network's rule asks for. It holds until that network is left for another."""

    network: str  # `Judgement.network`
    action: WifiAction  # auto_connect or ignore
    rule: Rule  # ANSWER, MANUAL, WANTED or FALLBACK


@dataclass(frozen=True, slots=True)
class Intent:
    """What is wanted, kept across restarts."""

    target: Target = Target.UNPROTECTED
    manual: Manual | None = None
    kill_switch: bool = True
    lockdown: bool = False
    profile: str | None = None  # the users' choice
    answers: tuple[Answer, ...] = ()  # by network; only what people answered outlives a restart
    servers: tuple[tuple[str, str], ...] = ()  # profiles, and the users' choice among the servers of each


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found out about one uplink and what is to be done on it.

    `action` is None while it is identified, and PROMPT while people are asked.
    """

    ifname: str
    kind: LinkKind
    action: WifiAction | None
    rule: Rule
    network: str  # names it: another SSID or security is another network; an address renewal or a roam is none
    classification: Classification | None = None  # Wi-Fi only


@dataclass(frozen=True, slots=True)
class Decision:
    target: Target
    judgements: tuple[Judgement, ...]
    network: str  # names the networks we are on: another string is another network
    here: str  # the same for a choice of now: a network that has no name yet, by its association
    manual: Manual | None  # the user's choice, until another network is known to be another
    answers: tuple[Answer, ...]  # the prompts that are settled
    asking: frozenset[str]  # uplinks about which people are being asked
    held: frozenset[str]  # uplinks being identified, or asked about: nothing may leave over them
    usable: frozenset[str]  # links that traffic may use when nothing has to be protected
    profile: ProfileFacts | None
    kill_switch: bool
    lockdown: bool
    lan: frozenset[str]  # uplinks whose local network may be reached while protected
    lan_subnets: tuple[IPv4Network | IPv6Network, ...]  # the administrator's own local networks
    inside: tuple[tuple[str, IPv4Network | IPv6Network], ...]  # links to containers and VMs, and their networks
    routable: bool  # whether a network has a way to the profile's server
    portal: bool  # every such way is known to lead to a captive portal
    offline: frozenset[str]  # uplinks known to have no Internet behind them: nobody is asked about those
    beacons: tuple[tuple[str, Endpoint], ...]  # uplinks, and servers there that marked packets ask for a proof
    login: frozenset[str]  # uplinks over which marked packets may look for a captive portal, and log in to it
    tree: frozenset[str] = frozenset()  # uplinks over which people log in now, in one marked process tree
    tree_dns: int = 0  # port of the loopback where DNS of that process tree is answered
    beside: frozenset[str] = frozenset()  # uplinks over which what is excluded may leave beside the tunnel
    never: bool = False  # there are programs that are excluded
    never_dns: int = 0  # port of the loopback where their DNS is answered
    subnets: tuple[IPv4Network | IPv6Network, ...] = ()  # networks that are excluded
    only: bool = False  # there are programs that use nothing but the tunnel
    closed: Cause | None = None  # stay closed whatever is wanted, and why
    leads_to: frozenset[Endpoint] = frozenset()  # those of the profile's servers that a network has a way to
    resolvers: tuple[Address, ...] = ()  # the user's own, to be asked through the tunnel; none: the profile's
    metered: bool = False  # there is an allowance of traffic through the tunnel
    set_up: bool = True  # False: no profile was ever imported, so automation has nothing to connect to
    choice: str | None = None  # among the servers of the profile's list; None: it has no list
    probed: tuple[Endpoint, ...] = ()  # servers that marked handshakes may ask now how fast they answer
    choosing: bool = False  # which server is to be used is not known before that
    external: Tunnel | None = None  # the tunnel that somebody else brings up, where the profile says so, and it is up
    carriers: frozenset[str] = frozenset()  # the uplinks: by these such a tunnel's own packets go

    @property
    def online(self) -> bool:
        """Whether any link could carry a tunnel."""
        return bool(self.judgements)

    @property
    def hold(self) -> bool:
        """Whether everything waits for an identification or an answer: no other uplink is there to be used."""
        return bool(self.held) and len(self.held) == len(self.judgements)

    @property
    def waits_for_internet(self) -> bool:
        """Whether people would be asked, if only there were Internet behind the network."""
        return not self.asking and any(each.rule is Rule.OFFLINE for each in self.judgements)


def decide(facts: Facts, settings: Settings, intent: Intent) -> Decision:
    """What should be. The caller makes `intent_after` its new intent and persists it before acting."""
    judged = tuple(_judge(link, facts, settings) for link in facts.uplinks)
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
    offline = frozenset(link.ifname for link in facts.uplinks if _reach(link, facts) is Reach.NOTHING)
    answers = _answers(
        judged, settings, intent, chosen, offline if askable else frozenset(), askable and facts.agents > 0
    )
    judgements = tuple(_answered(each, answers, offline) for each in judged)
    unanswered = frozenset(each.ifname for each in judgements if each.action is WifiAction.PROMPT)
    held = pending | unanswered if settings.wifi.hold_while_asking else pending
    ways = _ways(facts, profile)
    return Decision(
        target=chosen or _target(judgements, intent.target, set_up),
        judgements=judgements,
        network=network,
        here=here,
        manual=manual,
        # Before there is a profile, or while everything is closed, nothing is settled: it may be asked later.
        answers=_kept(answers, judgements, intent) if askable else intent.answers,
        asking=unanswered - offline,
        held=held,
        usable=_usable(facts, held),
        profile=profile,
        kill_switch=_locked(settings.protection.kill_switch, intent.kill_switch),
        lockdown=lockdown,
        lan=_lan(judgements, settings) - held,
        lan_subnets=settings.protection.lan_subnets,
        inside=_inside(facts),
        routable=bool(ways),
        leads_to=_reached(facts, profile),
        portal=_portal(ways - held, facts),
        offline=offline,
        beacons=() if closed else _beacons(judgements, facts),
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


_LAXITY = (WifiAction.AUTO_CONNECT, WifiAction.PROMPT, WifiAction.IGNORE, WifiAction.DISCONNECT)


def _judge(link: Link, facts: Facts, settings: Settings) -> Judgement:
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


def _answers(
    judged: tuple[Judgement, ...],
    settings: Settings,
    intent: Intent,
    chosen: Target | None,
    offline: frozenset[str],
    ask: bool,
) -> tuple[Answer, ...]:
    """What is settled of the prompts that the rules ask for; about the others people are asked now.

    But for those without Internet: they wait until there is some, also for their fallback.
    """
    waits = {each.network for each in judged if each.ifname in offline}
    prompts = [each.network for each in judged if each.action is WifiAction.PROMPT]
    earlier = {each.network: each for each in intent.answers}
    settled = {}
    for network in prompts:
        before = earlier.get(network)
        if chosen is not None:
            action = WifiAction.AUTO_CONNECT if chosen is Target.PROTECTED else WifiAction.IGNORE
            settled[network] = Answer(network, action, Rule.MANUAL)
        elif before and before.rule is not Rule.FALLBACK:
            settled[network] = before
        elif before or (not ask and network not in waits):
            settled[network] = Answer(network, settings.wifi.prompt_fallback, Rule.FALLBACK)
    actions = {each.action for each in judged} | {each.action for each in settled.values()}
    if intent.target is Target.PROTECTED or WifiAction.AUTO_CONNECT in actions:
        for network in prompts:
            settled.setdefault(network, Answer(network, WifiAction.AUTO_CONNECT, Rule.WANTED))
    return tuple(settled.values())


def _answered(judgement: Judgement, answers: tuple[Answer, ...], offline: frozenset[str]) -> Judgement:
    answer = next((each for each in answers if each.network == judgement.network), None)
    if judgement.action is not WifiAction.PROMPT:
        return judgement
    if answer is None:
        return replace(judgement, rule=Rule.OFFLINE) if judgement.ifname in offline else judgement
    return replace(judgement, action=answer.action, rule=answer.rule)


def _kept(answers: tuple[Answer, ...], judgements: tuple[Judgement, ...], intent: Intent) -> tuple[Answer, ...]:
    """The answers that hold from now on: also those of a Wi-Fi network that may be back in a moment.

    A cable that was pulled out says nothing about the network at its other end when it is back.
    """
    here = {each.network: each.action for each in judgements}
    unsure = not here or None in here.values()
    kept = {each.network: each for each in answers}
    for each in intent.answers:
        gone = unsure and "/" in each.network and each.network not in here
        if gone or here.get(each.network, WifiAction.PROMPT) is None:
            kept.setdefault(each.network, each)
    return tuple(kept[network] for network in sorted(kept))


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


def _inside(facts: Facts) -> tuple[tuple[str, IPv4Network | IPv6Network], ...]:
    """Where answers to forwarded traffic go: only to links that reach nothing else, by this machine's addresses."""
    return tuple(
        (link.ifname, address.network)
        for link in sorted(facts.links, key=lambda link: link.ifname)
        if link.kind is LinkKind.VIRTUAL and link.up
        for address in link.addresses
        if address.network.num_addresses > 1 and not address.is_link_local
    )


def _ways(facts: Facts, profile: ProfileFacts | None) -> frozenset[str]:
    """The uplinks over which a packet to one of the servers has a gateway, or the server is a neighbour.

    An attempt without any would lose its first handshake, and WireGuard waits five seconds before the next.
    """
    servers = profile.endpoints if profile else ()
    return frozenset(link.ifname for link in facts.uplinks for server in servers if _leads_to(link, server))


def _reached(facts: Facts, profile: ProfileFacts | None) -> frozenset[Endpoint]:
    servers = profile.endpoints if profile else ()
    return frozenset(server for server in servers if any(_leads_to(link, server) for link in facts.uplinks))


def _leads_to(link: Link, server: Endpoint) -> bool:
    version = server.address.version
    return any(gateway.version == version for gateway in link.gateways) or any(
        server.address in address.network for address in link.addresses if address.version == version
    )


def _beacons(judgements: tuple[Judgement, ...], facts: Facts) -> tuple[tuple[str, Endpoint], ...]:
    """Whom to ask over which link: what a verdict waits for, also when it has not come in time."""
    links = {link.ifname: link for link in facts.uplinks}
    return tuple(
        (each.ifname, server)
        for each in judgements
        if each.classification
        for server in each.classification.beacons
        if _leads_to(links[each.ifname], server)
    )


def _portal(ways: frozenset[str], facts: Facts) -> bool:
    """Whether a captive portal is in every way: where one leads elsewhere, or nobody knows, a tunnel is tried."""
    return bool(ways) and all(_reach(link, facts) is Reach.PORTAL for link in facts.uplinks if link.ifname in ways)


def _reach(link: Link, facts: Facts) -> Reach | None:
    """What is known to be behind a link."""
    found = facts.internet.get(link.ifname)
    return found.reach if found else None
