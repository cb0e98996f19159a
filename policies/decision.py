"""What is wanted, what was found out, and what is decided, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from policies.classify import Classification
from policies.facts import Address, Endpoint, LinkKind, ProfileFacts, Tunnel
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
