"""The tables of the settings file as types, with their defaults. The guide is the beginning of settings.py."""

from __future__ import annotations

from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network

from pydantic import BaseModel, ConfigDict

from policies.facts import Address, LinkKind
from policies.portals import PROBES
from policies.resolvers import Manager
from policies.split import SplitNames

MOST_RESOLVERS = 3  # resolv.conf(5), MAXNS


class WifiAction(StrEnum):
    AUTO_CONNECT = "auto_connect"
    PROMPT = "prompt"
    IGNORE = "ignore"
    DISCONNECT = "disconnect"  # known networks and link rules only


RULE_ACTIONS = (WifiAction.AUTO_CONNECT, WifiAction.PROMPT, WifiAction.IGNORE)  # from the strictest to the laxest


class Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class Criteria(Table):
    """What counts as unsecured beside open networks, which can never be switched off."""

    weak_encryption: bool = True  # WEP, WPA1, TKIP
    enhanced_open: bool = True
    wps: bool = False
    common_names: bool = False


class Wifi(Table):
    unsecured: WifiAction = WifiAction.PROMPT
    unidentified: WifiAction = WifiAction.PROMPT
    secured: WifiAction = WifiAction.IGNORE
    hostile: WifiAction = WifiAction.AUTO_CONNECT  # where there is evidence of an attacker
    prompt_fallback: WifiAction = WifiAction.AUTO_CONNECT  # auto_connect or ignore
    prompt_timeout: float = 60.0  # seconds; then the fallback applies
    hold_while_asking: bool = True
    identify_timeout: float = 3.0  # seconds ("3s" in the file); then a link counts as unidentified
    criteria: Criteria = Criteria()


class Protection(Table):
    kill_switch: bool | None = None  # None: the users' choice (on at first); a value locks it
    lockdown: bool | None = None
    allow_lan: bool = False
    lan_subnets: tuple[IPv4Network | IPv6Network, ...] = ()  # local networks beside the constant ones; never public


class Tunnel(Table):
    default_profile: str | None = None
    server: str | None = None  # see `servers.parse_choice`
    connect_timeout: float = 15.0  # seconds
    retry_first: float = 1.0  # seconds
    retry_longest: float = 30.0  # seconds


class Portal(Table):
    """Captive portals: networks that want people to log in before they lead anywhere."""

    detect: bool = True  # look for them, by marked probes
    probes: tuple[str, ...] = PROBES  # see `policies.portals.probe`; asked in this order
    login_timeout: float = 600.0  # seconds, for people to log in


class Period(StrEnum):
    DAY = "day"
    WEEK = "week"  # from Monday on
    MONTH = "month"


class AtLimit(StrEnum):
    """What happens when the allowance is used up."""

    BLOCK = "block"  # nothing passes through the tunnel until the next period
    ASK = "ask"  # the same, and people may grant themselves the allowance once more
    DISCONNECT = "disconnect"  # protection ends


class Allowance(Table):
    """Of traffic through the tunnel, in bytes in both directions."""

    limit: int | None = None  # None: unlimited
    per: Period = Period.DAY
    bonus: int = 0
    at_limit: AtLimit | None = None  # None: as the network is, see `policies.quota.at_limit`


class Traffic(Table):
    prometheus: str | None = None  # where counters are written for Prometheus; None: nowhere


class Dns(Table):
    """How names are resolved while connected."""

    manager: Manager = Manager.AUTO
    resolvers: tuple[Address, ...] = ()  # asked through the tunnel instead of the profile's


class Split(Table):
    """What goes beside the tunnel."""

    subnets: tuple[IPv4Network | IPv6Network, ...] = ()
    names: SplitNames = SplitNames.NETWORK


class LinkRule(Table):
    name: str  # a link name; * and ? match
    kind: LinkKind | None = None  # what the link is, where the kernel cannot tell
    action: WifiAction | None = None
