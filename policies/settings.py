"""Settings: the text of tunwarden.toml -> Settings, or every error at once with its key and its line.

The file, with its defaults. Every table and key may be absent.

    version = 1                      # of this layout

    [protection]
    kill_switch = true               # true or false locks it; absent: the users choose, on at first
    lockdown = false                 # likewise; absent: off at first
    allow_lan = false                # the local network, while protected: private addresses on the link, but for DNS
    lan_subnets = ["100.64.0.0/10"]  # networks that count as local there, up to 5000; absent: the private ones alone

    [tunnel]
    default_profile = "home"         # absent: none
    server = "fastest"               # of a profile with a list, where nobody chose: docs/servers.md; absent: the first
    connect_timeout = "15s"          # 1s to 5m
    retry_first = "1s"               # 100ms to 5m; the delay grows up to
    retry_longest = "30s"            # 1s to 1h, not below retry_first

    [wifi]                           # auto_connect, prompt or ignore
    unsecured = "prompt"
    unidentified = "prompt"          # never laxer than unsecured; absent: like unsecured, but at least prompt
    secured = "ignore"
    hostile = "auto_connect"         # where an attacker is noticed; never laxer than the others there
    prompt_fallback = "auto_connect" # auto_connect or ignore: nobody answered the prompt
    prompt_timeout = "1m"            # 5s to 1h, for people to answer
    hold_while_asking = true         # nothing leaves over a link while people are asked about it
    identify_timeout = "3s"          # 100ms to 1m; then the network counts as unidentified

    [wifi.criteria]                  # what is unsecured beside open networks, which always are
    weak_encryption = true           # WEP, WPA (the first) and TKIP
    enhanced_open = true             # OWE: encrypted, but nobody proves who the access point is
    wps = false                      # the WPS button and PIN are on
    common_names = false             # names that thousands of networks bear, "linksys"

    [wired]
    action = "ignore"                # auto_connect, prompt or ignore

    [cellular]
    action = "ignore"

    [portal]                         # captive portals: networks that want people to log in
    detect = true                    # send probes where a connection does not come up, or people are asked
    probes = ["http://connectivity-check.example/#the%20right%20answer"]  # up to 8; the list: docs/portals.md
    login_timeout = "10m"            # 30s to 1h, for `tunwarden portal-login`

    [allowance]                      # of traffic through the tunnel, in both directions
    limit = "200MB"                  # 1MB to 1000TB; kB, MB, GB, TB, or KiB, MiB, GiB, TiB; absent: unlimited
    per = "day"                      # day, week or month, from local midnight
    bonus = "100MB"                  # beside the limit
    at_limit = "block"               # block, ask or disconnect; absent: block, but ask on secured and known networks

    [traffic]
    prometheus = "/var/lib/prometheus/node-exporter/tunwarden.prom" # absent: none; a folder that only root writes

    [dns]                            # while connected
    manager = "auto"                 # who is told: systemd-resolved, resolvconf, networkmanager, file, or auto
    resolvers = ["192.0.2.53"]       # asked through the tunnel instead of the profile's, up to 3; absent: the profile's

    [split]                          # beside the tunnel; docs/split.md
    subnets = ["203.0.113.0/24"]     # networks that are reached beside it, up to 256; absent: none
    names = "network"                # who resolves those of programs that are: network or tunnel

    [[links]]                        # the first rule whose name matches wins
    name = "wlan*"                   # * and ? match
    kind = "wifi"                    # wifi, wired, cellular or virtual, where the kernel cannot tell
    action = "prompt"                # auto_connect, prompt, ignore or disconnect

    [[known]]
    ssid = "Home"                    # 1 to 32 bytes; or ssid_hex = "486f6d65" for any bytes
    security = "wpa2"                # the weakest it may use and still be itself
    action = "ignore"                # also disconnect; absent: ignore
    profile = "office"               # absent: the default profile
    server = "country:SE"            # of a profile with a list; absent: what users chose, or as in [tunnel]
    allow_lan = true                 # absent: as in [protection]
    resolvers = ["192.0.2.54"]       # absent: as in [dns]
    bssids = ["aa:bb:cc:dd:ee:ff"]   # only these access points; absent: any
    gateways = ["aa:bb:cc:dd:ee:ff"] # only behind these routers' hardware addresses; absent: any
    beacon = "192.0.2.1:443"         # only where this TLS server ("[2001:db8::1]:443") proves to hold the certificate
    beacon_sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855" # of this SHA-256, colons allowed

    [[known]]
    pattern = "Corp-*"               # instead of ssid: * matches any bytes, ? any one
    except = ["Corp-Guest*"]         # but not these; absent: none
    security = "8021x"

Times are a number and a unit: "500ms", "3s", "2m", "1h". What relaxes protection on a known network (`ignore`,
`disconnect`, `allow_lan = true`) needs security "wpa" or better there: anybody can imitate a weaker one. A pattern that
relaxes needs "8021x" and three bytes beside its wildcards: a password proves one name, and which names there are, an
attacker chooses. Every other pattern must say `auto_connect`. An entry with an `ssid` counts before all patterns.

A beacon is the strongest proof, if it can be reached from inside that network alone: whoever reaches it from elsewhere
can hand its answers on. It is an address and never a name, for a name would be asked in the clear, and of a stranger.

Always local are 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16, fe80::/10 and fc00::/7. What `lan_subnets`
adds must be as private: nothing that reaches the internet can be made local, by nobody.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum, StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from policies.facts import Address, Endpoint, LinkKind, Security
from policies.portals import MOST_PROBES, PROBES, probe
from policies.profiles import is_profile_name
from policies.redact import without_secrets
from policies.resolvers import Manager
from policies.servers import CHOICES, is_choice
from policies.split import SplitNames
from policies.toml_lines import Path, key_lines, line_of

VERSION = 1  # the newest layout this program knows
MAX_BYTES = 1 << 20
MAX_PROBLEMS = 100  # nobody reads more, and each costs a search for the nearest key
MAX_DOTS = 64  # on one line; tomllib takes minutes for a key of 100,000 parts
MAX_SUBNETS = 5000
MAX_EXCLUDED = 256
WIDEST = {4: 8, 6: 16}  # the shortest prefix of an excluded network: no default route, nor half of one
MOST_RESOLVERS = 3  # resolv.conf(5), MAXNS

# What a local network can be made of: private (RFC 1918, RFC 4193; firewall.py has these as its constant list), shared
# (RFC 6598), benchmarks (RFC 2544), documentation (RFC 5737, RFC 3849, RFC 9637). A list of our own: what the
# `ipaddress` module calls private has changed between Python's versions.
PRIVATE: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "198.18.0.0/15",
        "192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "fc00::/7", "2001:db8::/32", "3fff::/20",
    )
)  # fmt: skip


class WifiAction(StrEnum):
    AUTO_CONNECT = "auto_connect"
    PROMPT = "prompt"
    IGNORE = "ignore"
    DISCONNECT = "disconnect"  # known networks and link rules only


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


class KnownNetwork(Table):
    """A saved network. An entry that would relax protection on a network anybody can imitate cannot exist."""

    ssid: bytes  # 1 to 32 bytes, no NUL
    pattern: bool = False  # `ssid` is UTF-8 in which * and ? match
    exceptions: tuple[bytes, ...] = ()  # patterns of names that are not meant
    minimum_security: Security = Security.WPA2  # the weakest the network may use and still be itself
    action: WifiAction | None = None
    profile: str | None = None
    server: str | None = None  # see `servers.parse_choice`
    allow_lan: bool | None = None
    resolvers: tuple[Address, ...] = ()  # asked through the tunnel there; empty: those of [dns]
    bssids: frozenset[bytes] = frozenset()  # 6 bytes each; empty: any
    gateways: frozenset[bytes] = frozenset()  # 6 bytes each; empty: any
    beacon: Endpoint | None = None  # a TLS server inside the network
    beacon_sha256: bytes = b""  # 32 bytes: of its certificate (DER); only with `beacon`
    learn: bool = False  # access points met are added to `bssids`, which bind only once this ends; saved by users only

    @model_validator(mode="after")
    def _sound(self) -> Self:
        for key, problem, allowed in _known_flaws(self.__dict__):
            raise ValueError(f"{key}: {problem}; allowed: {allowed}")
        return self

    @property
    def key(self) -> tuple[bool, bytes]:
        """What tells saved entries apart: a pattern, and the name that is spelled like it, are two."""
        return self.pattern, self.ssid

    @property
    def can_be_proven(self) -> bool:
        """Whether a network that meets this entry is the saved one: they had a secret in common when it was saved."""
        return _can_be_proven(self.minimum_security, self.ssid if self.pattern else None)


class Settings(Table):
    version: int = VERSION
    protection: Protection = Protection()
    tunnel: Tunnel = Tunnel()
    wifi: Wifi = Wifi()
    wired: WifiAction = WifiAction.IGNORE
    cellular: WifiAction = WifiAction.IGNORE
    portal: Portal = Portal()
    dns: Dns = Dns()
    allowance: Allowance = Allowance()
    traffic: Traffic = Traffic()
    split: Split = Split()
    links: tuple[LinkRule, ...] = ()
    known: tuple[KnownNetwork, ...] = Field(default=())


def proves_identity(security: Security) -> bool:
    """Whether joining proves that the network is itself: both sides had to know a password or hold credentials.

    Open and enhanced-open (OWE) networks ask for nothing, and an access point without the key can pretend WEP.
    """
    return security.strength >= Security.WPA.strength


def has_accounts(security: Security) -> bool:
    """802.1X: each user proves himself, and one server stands behind all names."""
    return security.strength >= Security.ENTERPRISE.strength


def _can_be_proven(minimum: Security, pattern: bytes | None) -> bool:
    if pattern is None:
        return proves_identity(minimum)
    return has_accounts(minimum) and len(pattern.translate(None, b"*?")) >= 3


@dataclass(frozen=True, slots=True)
class Problem:
    """One error of a file. `line` and `column` are 1-based; column 0 means the whole line, key "" the whole file."""

    file: str
    line: int
    key: str
    problem: str
    allowed: str = ""
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"
        what = f"{self.key}: {self.problem}" if self.key else self.problem
        return f"{place}: {what}; allowed: {self.allowed}" if self.allowed else f"{place}: {what}"


class SettingsError(ValueError):
    """A text that cannot become settings, with every problem, in the order of its lines. One line each as text."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


def parse_settings(text: str, file: str = "tunwarden.toml") -> Settings:
    """The settings in `text`, up to 1 MiB of TOML; `file` is only named in errors. Raises SettingsError."""
    return build(parse_files([(file, text)]).values)


@dataclass(frozen=True, slots=True)
class Fixed:
    """What the administrator's files say together, and where: file and line of every key, dotted."""

    values: Mapping[str, Any]  # read and checked, in the layout of the file
    places: Mapping[str, tuple[str, int]]


def parse_files(files: Sequence[tuple[str, str]]) -> Fixed:
    """Names and texts. A later file wins, key by key; in [[links]] and [[known]] name by name, and its entries come
    first. Raises SettingsError with the problems of all files.
    """
    values: dict[str, Any] = {}
    places: dict[str, tuple[str, int]] = {}
    problems: list[Problem] = []
    found = _Findings()
    for file, text in files:
        try:
            document = _parse_toml(text, file)
        except SettingsError as err:
            problems += err.problems
            continue
        found, read = _Findings(), dict[str, Any]()
        if _is_newer(document.get("version")):
            # Its other keys may be new too: calling them unknown would mislead.
            found.add(("version",), "this file is for a newer tunwarden", f"up to {VERSION}, or leave it out")
        else:
            read = found.read(_FILE, document, ())
            _check_lists(read, found)
        lines = key_lines(text)
        overlay(values, read)
        places |= {_dotted(path): (file, line_of(lines, path)) for path in _leaves(read)}
        problems += [
            Problem(file, line_of(lines, path), _dotted(path), problem, allowed)
            for path, problem, allowed in found.items
        ]
    if files and all(problem.file == files[-1][0] for problem in problems):  # else too little is known of the whole
        for path, what, allowed in check_together(values, found):
            file, line = places[_dotted(path)]
            problems.append(Problem(file, line, _dotted(path), what, allowed))
    if problems:
        order = [file for file, _ in files]
        raise SettingsError(sorted(problems, key=lambda problem: (order.index(problem.file), problem.line)))
    return Fixed(values, places)


def _leaves(values: Mapping[str, Any], path: Path = ()) -> Iterator[Path]:
    """The keys of tables, but for those of the entries of [[links]] and [[known]]."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        elif (*path, key) not in (("links",), ("known",), ("version",)):
            yield (*path, key)


def overlay(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    """Put checked values over others: key by key, the entries of [[links]] and [[known]] name by name."""
    for key, value in above.items():
        if isinstance(value, dict):
            overlay(below.setdefault(key, {}), value)
        elif key in ("links", "known"):
            name = _rule_name if key == "links" else _known_name
            taken = {name(entry) for entry in value}
            below[key] = [*value, *(entry for entry in below.get(key, ()) if name(entry) not in taken)]
        else:
            below[key] = value


def _rule_name(rule: Mapping[str, Any]) -> object:
    return rule.get("name")


def _known_name(known: Mapping[str, Any]) -> object:
    return "pattern" in known, _name(known)


def known_to_json(known: KnownNetwork) -> str:
    """A known network as the store keeps it, one line; `known_from_json` reads it back."""
    values = {
        **({"pattern": known.ssid.decode()} if known.pattern else {"ssid_hex": known.ssid.hex()}),
        "except": [pattern.decode() for pattern in known.exceptions] or None,
        "security": known.minimum_security.value,
        "action": known.action,
        "profile": known.profile,
        "server": known.server,
        "allow_lan": known.allow_lan,
        "resolvers": [str(address) for address in known.resolvers] or None,
        "bssids": [bssid.hex(":") for bssid in sorted(known.bssids)] or None,
        "gateways": [mac.hex(":") for mac in sorted(known.gateways)] or None,
        "beacon": endpoint_text(known.beacon) if known.beacon else None,
        "beacon_sha256": known.beacon_sha256.hex() or None,
        "learn": known.learn or None,
    }
    return json.dumps({key: value for key, value in values.items() if value is not None})


def known_from_json(text: str) -> KnownNetwork:
    """A known network with the keys and rules of a [[known]] table, and `learn`. Raises SettingsError."""
    file = "known network"
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise SettingsError([Problem(file, 1, "", "not a JSON object")])
    found = _Findings()
    values = found.read(_SAVED, document, ())
    _check_known(values, (), found)
    if found.items:
        raise SettingsError(Problem(file, 1, _dotted(path), problem, allowed) for path, problem, allowed in found.items)
    return _build_known(values)


# --- TOML -------------------------------------------------------------------------------------------------------------


def _parse_toml(text: str, file: str) -> dict[str, Any]:
    problem = _unfit(text)
    try:
        if not problem:
            return tomllib.loads(text)
    except RecursionError:
        problem = (1, 0, "nested too deeply")
    except tomllib.TOMLDecodeError as error:
        problem = _syntax_problem(str(error), text)
    except ValueError:  # a number of thousands of digits
        problem = (1, 0, "a value is out of range")
    line, column, what = problem
    raise SettingsError([Problem(file, line, "", what, column=column)])


_SINGLE_DOT = re.compile(r"(?<!\.)\.(?!\.)")
_SUBNET4 = re.compile(r"""["'][0-9.]{7,15}/[0-9]{1,2}["']""")


def _unfit(text: str) -> tuple[int, int, str] | None:
    """What must not even reach the parser, as (line, column, problem)."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return text.count("\n", 0, error.start) + 1, 0, "not valid UTF-8"
    if size > MAX_BYTES:
        return 1, 0, f"the file has {size} bytes; at most {MAX_BYTES} are allowed"
    for number, line in enumerate(text.split("\n"), 1):
        # An array of addresses may stand on one line: with their slashes they are no keys.
        if line.count(".") > MAX_DOTS and len(_SINGLE_DOT.findall(_SUBNET4.sub("0", line))) > MAX_DOTS:
            return number, 0, f"more than {MAX_DOTS} dots on a line"
    return None


def _syntax_problem(message: str, text: str) -> tuple[int, int, str]:
    """(line, column, problem) of a message of tomllib, which ends in its place."""
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    if place := re.search(r" \(at line ([0-9]+), column ([0-9]+)\)$", message):
        return int(place[1]), int(place[2]), f"not TOML: {message[: place.start()][:200]}"
    message = re.sub(r" \(at [^()]*\)$", "", message)
    return len(lines), len(lines[-1]) + 1, f"not TOML: {message[:200]} (at the end of the file)"


def _dotted(path: Path) -> str:
    """The key as one would write it; positions are left out, the line tells them."""
    keys = [part for part in path if isinstance(part, str)]
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key) else _quoted(key) for key in keys)


def _quoted(value: object) -> str:
    """A value for a message: one line of printable ASCII, of bounded length."""
    if isinstance(value, str):
        shown = without_secrets(value)  # somebody may have put a key into the wrong place
        return ascii(shown) if len(shown) <= 64 else ascii(shown[:64]) + "..."
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value) if abs(value) < 10**15 else "a large number"
    if isinstance(value, dict):
        return "a table"
    return "an array" if isinstance(value, list) else "a date or time"


# --- reading values ---------------------------------------------------------------------------------------------------


class _Wrong(Exception):
    def __init__(self, problem: str, allowed: str) -> None:
        self.problem, self.allowed = problem, allowed


Reader = Callable[[object], Any]  # raises _Wrong
Spec = Reader | dict[str, Any] | list[Any]  # a leaf, a table of Specs by key, an array of the one Spec in it


class _Findings:
    """Reads on after an error, so that all are found at once."""

    def __init__(self) -> None:
        self.items: list[tuple[Path, str, str]] = []

    def add(self, path: Path, problem: str, allowed: str) -> None:
        if len(self.items) == MAX_PROBLEMS:
            self.items.append((path, f"and this is not all: there are more than {MAX_PROBLEMS} problems", ""))
        if len(self.items) < MAX_PROBLEMS:
            self.items.append((path, problem, allowed))

    def has(self, path: Path) -> bool:
        """Whether something is wrong at `path`, inside it or around it."""
        return any(other[: len(path)] == path[: len(other)] for other, _, _ in self.items)

    def read(self, spec: Spec, value: object, path: Path) -> Any:
        """The value as `spec` wants it; None (or left out of its table or array) where it is wrong."""
        if isinstance(spec, dict):
            return self._table(spec, value, path)
        if isinstance(spec, list):
            return self._array(spec[0], value, path)
        try:
            return spec(value)
        except _Wrong as wrong:
            self.add(path, wrong.problem, wrong.allowed)
        return None

    def _table(self, spec: Mapping[str, Spec], value: object, path: Path) -> dict[str, Any]:
        if not isinstance(value, dict):
            self.add(path, f"{_quoted(value)} is not a table", "the keys " + ", ".join(spec))
            return {}
        read = {}
        for key, inner in value.items():
            if key not in spec:
                self.add((*path, key), *_unknown_key(key, spec))
            elif (result := self.read(spec[key], inner, (*path, key))) is not None:
                read[key] = result
        return read

    def _array(self, spec: Spec, value: object, path: Path) -> list[Any]:
        if not isinstance(value, list):
            tables = isinstance(spec, dict)
            self.add(path, f"{_quoted(value)} is not an array", f"[[{_dotted(path)}]] tables" if tables else "[...]")
            return []
        return [self.read(spec, inner, (*path, position)) for position, inner in enumerate(value)]


def _unknown_key(key: str, spec: Mapping[str, Spec]) -> tuple[str, str]:
    folded = key[:64].lower()
    if near := difflib.get_close_matches(folded, spec, n=1):
        return f'unknown key, did you mean "{near[0]}"?', ", ".join(spec)
    if home := _HOMES.get(folded):
        return f"unknown key here, it belongs in {home}", ", ".join(spec)
    return "unknown key", ", ".join(spec)


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise _Wrong(f"{_quoted(value)} is not a truth value", "true, false (without quotes)")


def _version(value: object) -> int:
    if type(value) is int and 1 <= value <= VERSION:
        return value
    raise _Wrong(f"{_quoted(value)} is not a version", f"1 to {VERSION}" if VERSION > 1 else "1")


def _is_newer(value: object) -> bool:
    return type(value) is int and value > VERSION


@dataclass(frozen=True, slots=True)
class Choice:
    """A reader: one of these words."""

    members: tuple[Enum, ...]

    def __call__(self, value: object) -> Enum:
        choices = {member.value: member for member in self.members}
        if isinstance(value, str) and value in choices:
            return choices[value]
        raise _Wrong(f"{_quoted(value)} is not one of the choices", ", ".join(choices))


def _choice(*members: Enum) -> Choice:
    return Choice(members)


def _rule_action(value: object) -> Enum:
    if value == WifiAction.DISCONNECT:
        raise _Wrong('"disconnect" is only for [[known]] networks and [[links]]', ", ".join(_RULE_ACTIONS))
    return _choice(*_RULE_ACTIONS)(value)


@dataclass(frozen=True, slots=True)
class Duration:
    """A reader: a time in seconds, written as a number and a unit."""

    shortest: str
    longest: str

    @property
    def allowed(self) -> str:
        return f'a time from "{self.shortest}" to "{self.longest}"'

    def __call__(self, value: object) -> float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            raise _Wrong(
                f"{_quoted(value)} has no unit", f'{self.allowed}, such as "{self.shortest}"; units: ms, s, m, h'
            )
        seconds = _seconds(value)
        if seconds is None:
            raise _Wrong(f"{_quoted(value)} is not a time", f"{self.allowed}; units: ms, s, m, h")
        if not (_seconds(self.shortest) or 0.0) <= seconds <= (_seconds(self.longest) or 0.0):
            raise _Wrong(f"{_quoted(value)} is out of range", self.allowed)
        return seconds


def _duration(shortest: str, longest: str) -> Duration:
    return Duration(shortest, longest)


def _seconds(value: object) -> float | None:
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h)", value)):
        return float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]
    return None


_UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
          "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Size:
    """A reader: a number of bytes, written as a number and a unit."""

    least: str
    most: str

    @property
    def allowed(self) -> str:
        return f'a size from "{self.least}" to "{self.most}"'

    def __call__(self, value: object) -> int:
        size = _bytes(value)
        if size is None:
            raise _Wrong(f"{_quoted(value)} is not a size", f"{self.allowed}; units: {', '.join(_UNITS)}")
        if not (_bytes(self.least) or 0) <= size <= (_bytes(self.most) or 0):
            raise _Wrong(f"{_quoted(value)} is out of range", self.allowed)
        return size


def _bytes(value: object) -> int | None:
    match = re.fullmatch(r"([0-9]{1,16})(?:\.([0-9]{1,3}))?([kKMGTi]{0,2}B)", value) if isinstance(value, str) else None
    if match is None or match[3] not in _UNITS:
        return None
    return int(match[1] + (match[2] or "").ljust(3, "0")) * _UNITS[match[3]] // 1000


def _prometheus(value: object) -> str:
    allowed = 'an absolute path that ends in ".prom", without ".."'
    parts = value.split("/") if isinstance(value, str) else []
    named = bool(parts) and not parts[0] and all(re.fullmatch(r"[A-Za-z0-9._@+-]{1,64}", part) for part in parts[1:])
    if not isinstance(value, str) or not named or len(parts) < 3 or {".", ".."} & set(parts):
        raise _Wrong(f"{_quoted(value)} is not such a path", allowed)
    if not value.endswith(".prom"):
        raise _Wrong(f"{_quoted(value)} does not end in .prom", allowed)
    return value


def _profile(value: object) -> str:
    if isinstance(value, str) and is_profile_name(value):
        return value
    raise _Wrong(
        f"{_quoted(value)} is not the name of a profile",
        "1 to 64 letters, digits, dots, underscores and dashes; a letter or digit first",
    )


def _server(value: object) -> str:
    if isinstance(value, str) and is_choice(value):
        return value
    raise _Wrong(f"{_quoted(value)} is not a choice of a server", CHOICES)


def _link_name(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._@+*?-]{1,32}", value) and value not in (".", ".."):
        return value
    raise _Wrong(f"{_quoted(value)} is not a link name", "letters, digits and . _ - + @, with * and ? as wildcards")


def _ssid(value: object) -> bytes:
    if not isinstance(value, str):
        raise _Wrong(f"{_quoted(value)} is not text", "the network's name in quotes")
    return _ssid_bytes(value.encode())


def _pattern(value: object) -> bytes:
    if not isinstance(value, str):
        raise _Wrong(f"{_quoted(value)} is not text", 'a name in which * and ? match, such as "Corp-*"')
    return _ssid_bytes(value.encode())


def _ssid_hex(value: object) -> bytes:
    if isinstance(value, str) and re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", value):
        return _ssid_bytes(bytes.fromhex(value))
    raise _Wrong(f"{_quoted(value)} is not hexadecimal", 'two digits a byte, such as "486f6d65"')


def _ssid_bytes(ssid: bytes) -> bytes:
    if problem := _ssid_problem(ssid):
        raise _Wrong(problem, "1 to 32 bytes, none of them NUL")
    return ssid


def _ssid_problem(ssid: bytes) -> str:
    if b"\0" in ssid:
        return "the name contains a NUL byte"
    return "" if 1 <= len(ssid) <= 32 else f"the name has {len(ssid)} bytes"


def _bssid(value: object) -> bytes:
    if isinstance(value, str) and re.fullmatch(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}", value):
        bssid = bytes.fromhex(value.replace(":", "").replace("-", ""))
        if not _bssid_problem(bssid):
            return bssid
        raise _Wrong(f"{_quoted(value)}: {_bssid_problem(bssid)}", 'such as "aa:bb:cc:dd:ee:ff"')
    raise _Wrong(f"{_quoted(value)} is not a hardware address", 'six bytes, such as "aa:bb:cc:dd:ee:ff"')


def _bssid_problem(bssid: bytes) -> str:
    if len(bssid) != 6:
        return f"a hardware address of {len(bssid)} bytes"
    return "no device has this address" if bssid[0] & 1 or not any(bssid) else ""


def _endpoint(value: object) -> Endpoint:
    allowed = 'an address and a port, such as "192.0.2.1:443" or "[2001:db8::1]:443"; no name: it would be asked openly'
    match = re.fullmatch(r"(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\]):([1-9][0-9]{0,4})", str(value))
    try:
        endpoint = Endpoint(ip_address(match[1] or match[2]), int(match[3]), "tcp") if match else None
    except ValueError:
        endpoint = None
    if match is None or endpoint is None or not isinstance(value, str) or endpoint.port > 0xFFFF:
        raise _Wrong(f"{_quoted(value)} is not an address and a port", allowed)
    if endpoint.address.version != (4 if match[1] else 6):
        raise _Wrong(f"{_quoted(value)} is not an address and a port", allowed)
    if problem := _beacon_problem(endpoint):
        raise _Wrong(f"{_quoted(value)}: {problem}", allowed)
    return endpoint


def _beacon_problem(server: Endpoint) -> str:
    address = server.address
    if server.protocol != "tcp" or not 0 < server.port <= 0xFFFF:
        return "not a TCP port"
    if address.version == 6 and (address.ipv4_mapped or address.scope_id):
        return "IPv4 in the clothes of IPv6" if address.ipv4_mapped else "a scope"
    if address.is_multicast or address.is_unspecified or address.is_loopback or int(address) == 0xFFFFFFFF:
        return "no server in a network can have this address"
    return ""


def endpoint_text(server: Endpoint) -> str:
    """`192.0.2.1:443` or `[2001:db8::1]:443`: what a settings file says."""
    return f"[{server.address}]:{server.port}" if server.address.version == 6 else f"{server.address}:{server.port}"


def _sha256(value: object) -> bytes:
    digits = value.replace(":", "") if isinstance(value, str) and len(value) <= 95 else ""
    if re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
        return bytes.fromhex(digits)
    raise _Wrong(f"{_quoted(value)} is not a SHA-256", "64 hexadecimal digits, with or without colons")


def _probe(value: object) -> str:
    allowed = 'such as "http://network-test.debian.org/nm#NetworkManager%20is%20online"; without #: status 204'
    if not isinstance(value, str):
        raise _Wrong(f"{_quoted(value)} is not text", allowed)
    try:
        probe(value)
    except ValueError as err:
        raise _Wrong(f"{_quoted(value)} is no probe: {err}", allowed) from None
    return value


def _resolver(value: object) -> Address:
    allowed = 'the address of a resolver that the tunnel leads to, such as "192.0.2.53"; port 53'
    try:
        address = ip_address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if address is None:
        raise _Wrong(f"{_quoted(value)} is not an address", allowed)
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
        raise _Wrong(f"{_quoted(value)} is not reached through a tunnel", allowed)
    if address.version == 6 and (address.ipv4_mapped or address.scope_id):
        raise _Wrong(f"{_quoted(value)} is not a plain address", allowed)
    return address


def _network(value: object, allowed: str) -> IPv4Network | IPv6Network:
    # No scope and no netmask: the text is in our own spelling when it reaches the rules.
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Fa-f.:]{2,45}(?:/[0-9]{1,3})?", value):
        raise _Wrong(f"{_quoted(value)} is not a network", allowed)
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise _Wrong(f"{_quoted(value)} is not a network", allowed) from None
    if str(network.network_address) != str(ip_address(value.partition("/")[0])) or "/" not in value:
        raise _Wrong(f'{_quoted(value)} is not a network, did you mean "{network}"?', allowed)
    return network


def _excluded(value: object) -> IPv4Network | IPv6Network:
    allowed = f'a network of at least /{WIDEST[4]}, or /{WIDEST[6]} of IPv6, such as "203.0.113.0/24"'
    network = _network(value, allowed)
    if network.prefixlen < WIDEST[network.version]:
        raise _Wrong(f"{_quoted(value)} is too wide: the tunnel would be for little else", allowed)
    if network.is_multicast or network.is_loopback or network.is_link_local or network.is_unspecified:
        raise _Wrong(f"{_quoted(value)} never goes through a tunnel", allowed)
    if network.version == 6 and network.network_address.ipv4_mapped:
        raise _Wrong(f"{_quoted(value)} is IPv4 in the clothes of IPv6", allowed)
    return network


def _subnet(value: object) -> IPv4Network | IPv6Network:
    network = _network(value, 'an address and a length, such as "100.64.0.0/10"')
    if not any(network.version == each.version and network.subnet_of(each) for each in PRIVATE):  # type: ignore[arg-type]
        private = ", ".join(str(each) for each in PRIVATE)
        raise _Wrong(f"{_quoted(value)} {_never_local(network)}", f"private networks: within {private}")
    return network


def _never_local(network: IPv4Network | IPv6Network) -> str:
    if network.is_multicast:
        return "is multicast, which is local by itself where it is"
    if network.is_loopback:
        return "is loopback, which always works"
    if network.is_link_local:
        return "is link-local, which is local by itself"
    return "reaches beyond private networks: public addresses never count as local"


# --- the layout -------------------------------------------------------------------------------------------------------

_RULE_ACTIONS = (WifiAction.AUTO_CONNECT, WifiAction.PROMPT, WifiAction.IGNORE)  # from the strictest to the laxest

_KNOWN: dict[str, Any] = {
    "ssid": _ssid,
    "ssid_hex": _ssid_hex,
    "pattern": _pattern,
    "except": [_pattern],
    "security": _choice(*Security),
    "action": _choice(*WifiAction),
    "profile": _profile,
    "server": _server,
    "allow_lan": _boolean,
    "resolvers": [_resolver],
    "bssids": [_bssid],
    "gateways": [_bssid],
    "beacon": _endpoint,
    "beacon_sha256": _sha256,
}
_SAVED: dict[str, Any] = {**_KNOWN, "learn": _boolean}  # the file is never written, so nothing is learned into it

_FILE: dict[str, Any] = {
    "version": _version,
    "protection": {"kill_switch": _boolean, "lockdown": _boolean, "allow_lan": _boolean, "lan_subnets": [_subnet]},
    "tunnel": {
        "default_profile": _profile,
        "server": _server,
        "connect_timeout": _duration("1s", "5m"),
        "retry_first": _duration("100ms", "5m"),
        "retry_longest": _duration("1s", "1h"),
    },
    "wifi": {
        "unsecured": _rule_action,
        "unidentified": _rule_action,
        "secured": _rule_action,
        "hostile": _rule_action,
        "prompt_fallback": _choice(WifiAction.AUTO_CONNECT, WifiAction.IGNORE),
        "prompt_timeout": _duration("5s", "1h"),
        "hold_while_asking": _boolean,
        "identify_timeout": _duration("100ms", "1m"),
        "criteria": {"weak_encryption": _boolean, "enhanced_open": _boolean, "wps": _boolean, "common_names": _boolean},
    },
    "wired": {"action": _rule_action},
    "cellular": {"action": _rule_action},
    "portal": {"detect": _boolean, "probes": [_probe], "login_timeout": _duration("30s", "1h")},
    "allowance": {
        "limit": Size("1MB", "1000TB"),
        "per": _choice(*Period),
        "bonus": Size("0B", "1000TB"),
        "at_limit": _choice(*AtLimit),
    },
    "traffic": {"prometheus": _prometheus},
    "dns": {"manager": _choice(*Manager), "resolvers": [_resolver]},
    "split": {"subnets": [_excluded], "names": _choice(*SplitNames)},
    "links": [
        {
            "name": _link_name,
            "kind": _choice(LinkKind.WIFI, LinkKind.WIRED, LinkKind.CELLULAR, LinkKind.VIRTUAL),
            "action": _choice(*WifiAction),
        }
    ],
    "known": [_KNOWN],
}


def _homes(spec: Spec, path: str = "") -> Iterator[tuple[str, str]]:
    """Each key with the table it lives in, for those who wrote it elsewhere."""
    if isinstance(spec, list):
        yield from _homes(spec[0], f"[{path}]")
    elif isinstance(spec, dict):
        for key, inner in spec.items():
            yield key, f"[{path}]" if path else "the top of the file"
            yield from _homes(inner, f"{path}.{key}" if path else key)


_HOMES = dict(reversed(list(_homes(_FILE))))  # of two tables with the same key, the first


# --- what one key cannot tell alone -----------------------------------------------------------------------------------


def check_together(values: Mapping[str, Any], found: _Findings | None = None) -> Iterator[tuple[Path, str, str]]:
    """What is wrong between keys that may stand in several places; `found`: what is wrong with them alone."""
    found = found or _Findings()
    tunnel = values.get("tunnel", {})
    first, longest = (tunnel.get(key, Tunnel.model_fields[key].default) for key in ("retry_first", "retry_longest"))
    if first > longest and not (found.has(("tunnel", "retry_first")) or found.has(("tunnel", "retry_longest"))):
        key = "retry_first" if "retry_first" in tunnel else "retry_longest"
        yield ("tunnel", key), "retry_first is longer than retry_longest", "retry_first <= retry_longest"
    wifi = values.get("wifi", {})
    unsecured = wifi.get("unsecured", Wifi.model_fields["unsecured"].default)
    stricter = _RULE_ACTIONS[: _RULE_ACTIONS.index(unsecured) + 1]
    if wifi.get("unidentified", unsecured) not in stricter and not found.has(("wifi", "unsecured")):
        problem = f'laxer than unsecured = "{unsecured}": an attacker can choose to be unreadable'
        yield ("wifi", "unidentified"), problem, ", ".join(stricter)
    hostile = wifi.get("hostile", Wifi.model_fields["hostile"].default)
    if hostile not in stricter and not found.has(("wifi", "unsecured")):
        problem = f'laxer than unsecured = "{unsecured}": evidence of an attacker makes a network unsecured'
        yield ("wifi", "hostile"), problem, ", ".join(stricter)


def _check_lists(values: Mapping[str, Any], found: _Findings) -> None:
    resolvers = values.get("dns", {}).get("resolvers", ())
    if len(resolvers) > MOST_RESOLVERS:
        found.add(("dns", "resolvers"), f"{len(resolvers)} resolvers", f"up to {MOST_RESOLVERS}: programs ask no more")
    subnets = values.get("protection", {}).get("lan_subnets", ())
    if len(subnets) > MAX_SUBNETS:
        found.add(("protection", "lan_subnets"), f"{len(subnets)} networks", f"up to {MAX_SUBNETS}")
    excluded = values.get("split", {}).get("subnets", ())
    if len(excluded) > MAX_EXCLUDED:
        found.add(("split", "subnets"), f"{len(excluded)} networks", f"up to {MAX_EXCLUDED}")
    probes = values.get("portal", {}).get("probes")
    if probes is not None and not 1 <= len(probes) <= MOST_PROBES and not found.has(("portal", "probes")):
        found.add(("portal", "probes"), f"{len(probes)} probes", f"1 to {MOST_PROBES}; detect = false sends none")
    names = set()
    for position, rule in enumerate(values.get("links", ())):
        path = ("links", position)
        if "name" not in rule and not found.has((*path, "name")):
            found.add(path, "a link rule without a name", 'name = "wlan0"')
        if rule.get("name") in names:
            found.add((*path, "name"), "an earlier rule has the same name", "one rule for each name")
        names.add(rule.get("name"))
        if rule.keys() == {"name"} and not (found.has((*path, "kind")) or found.has((*path, "action"))):
            found.add(path, "the rule says nothing", "kind, action or both")
    taken: dict[tuple[bool, bytes], set[bytes]] = {}  # the pinned BSSIDs by name; an empty set takes all
    for position, known in enumerate(values.get("known", ())):
        path = ("known", position)
        _check_known(known, path, found)
        name, bssids = _name(known), set(known.get("bssids", ()))
        own = ("pattern" in known, name or b"")
        if own in taken and (not bssids or not taken[own] or bssids & taken[own]):
            found.add(path, "an earlier entry stands for the same network", "one entry, or disjoint bssids")
        if name is not None:
            taken[own] = taken.get(own, bssids) | bssids


_NAME_KEYS = ("ssid", "ssid_hex", "pattern")


def _name(known: Mapping[str, Any]) -> bytes | None:
    return next((known[key] for key in _NAME_KEYS if known.get(key)), None)


def _check_known(known: Mapping[str, Any], path: Path, found: _Findings) -> None:
    names = [key for key in _NAME_KEYS if key in known or found.has((*path, key))]
    if len(names) != 1:
        problem = f"{' and '.join(names)} at once" if names else "a known network without a name"
        found.add(path, problem, f"exactly one of {', '.join(_NAME_KEYS)}")
    if len(known.get("resolvers", ())) > MOST_RESOLVERS:
        found.add((*path, "resolvers"), f"{len(known['resolvers'])} resolvers", f"up to {MOST_RESOLVERS}")
    for key, what in (("bssids", "access point"), ("gateways", "router"), ("except", "name")):
        if known.get(key) == [] and not found.has((*path, key)):
            found.add((*path, key), f"an empty list would match no {what}", "at least one, or leave the key out")
    for key, problem, allowed in _half(known):
        if not found.has((*path, key)):
            found.add(path, problem, allowed)
    if not found.has((*path, "security")) and not found.has((*path, "pattern")):
        fields = {"minimum_security": known.get("security"), "exceptions": known.get("except"), **known}
        for key, problem, allowed in _clashes({**fields, "pattern": "pattern" in known, "ssid": _name(known) or b""}):
            if not found.has((*path, key)):
                found.add((*path, key), problem, allowed)


def _known_flaws(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(key, problem, allowed) of the fields of a KnownNetwork, whoever made it."""
    for key, names in (("ssid", (values["ssid"],)), ("except", values["exceptions"])):
        for name in names:
            if problem := _ssid_problem(name) or _text_problem(name, values["pattern"]):
                yield key, problem, "1 to 32 bytes, none of them NUL"
    for key in ("bssids", "gateways"):
        for mac in values[key]:
            if problem := _bssid_problem(mac):
                yield key, problem, "six bytes"
    if values["profile"] is not None and not is_profile_name(values["profile"]):
        yield "profile", "not the name of a profile", "letters, digits, dots, underscores and dashes"
    if values["server"] is not None and not is_choice(values["server"]):
        yield "server", "not a choice of a server", CHOICES
    yield from _half(values)
    if values["beacon"] and (problem := _beacon_problem(values["beacon"])):
        yield "beacon", problem, "an address and a TCP port"
    if values["beacon_sha256"] and len(values["beacon_sha256"]) != 32:
        yield "beacon_sha256", f"{len(values['beacon_sha256'])} bytes", "32 bytes"
    yield from _clashes(values)


def _half(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """The key that is missing where there is half a beacon."""
    if values.get("beacon") and not values.get("beacon_sha256"):
        allowed = "beacon_sha256 of its certificate; `tunwarden known edit NAME --beacon ...` takes what is there now"
        yield "beacon_sha256", "a beacon without beacon_sha256", allowed
    if values.get("beacon_sha256") and not values.get("beacon"):
        yield "beacon", "beacon_sha256 without a beacon", "both, or none"


def _text_problem(name: bytes, pattern: bool) -> str:
    try:
        name.decode()
    except UnicodeDecodeError:
        return "the pattern is not UTF-8" if pattern else ""
    return ""


def _clashes(values: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """What its keys must not say together."""
    security: Security = values.get("minimum_security") or KnownNetwork.model_fields["minimum_security"].default
    pattern: bytes | None = values["ssid"] if values["pattern"] else None
    if values.get("exceptions") and pattern is None:
        yield "except", "only a pattern can have exceptions", "pattern instead of ssid, or leave it out"
    if values.get("learn") and (pattern is not None or not proves_identity(security)):
        yield "learn", "this would learn from networks that anybody can imitate", "a name, and security wpa or better"
    if _can_be_proven(security, pattern):
        return
    if pattern is not None:
        if values.get("action") is not WifiAction.AUTO_CONNECT or values.get("allow_lan"):
            problem = "a pattern relaxes protection only with security 8021x and three bytes beside its wildcards"
            yield (
                "action",
                problem,
                'auto_connect without allow_lan; or security "8021x", "8021x-192" and a longer pattern',
            )
        return
    why = f'anybody can imitate a network of security "{security.value}"'
    strong = ", ".join(f'"{other.value}"' for other in Security if proves_identity(other))
    if values.get("action") in (WifiAction.IGNORE, WifiAction.DISCONNECT):
        problem = f'"{values["action"]}" relaxes protection, and {why}'
        yield "action", problem, f"auto_connect, prompt; or security {strong}"
    if values.get("allow_lan"):
        yield "allow_lan", f"this relaxes protection, and {why}", f"false; or security {strong}"


# --- values -> Settings -----------------------------------------------------------------------------------------------


def build(values: Mapping[str, Any]) -> Settings:
    """The settings of values that were read and checked."""
    wifi = dict(values.get("wifi", {}))
    criteria = Criteria(**wifi.pop("criteria", {}))
    if wifi.get("unsecured") is WifiAction.AUTO_CONNECT:
        wifi.setdefault("unidentified", WifiAction.AUTO_CONNECT)
    return Settings(
        version=values.get("version", VERSION),
        protection=_build_protection(values.get("protection", {})),
        tunnel=Tunnel(**values.get("tunnel", {})),
        wifi=Wifi(criteria=criteria, **wifi),
        wired=values.get("wired", {}).get("action", WifiAction.IGNORE),
        cellular=values.get("cellular", {}).get("action", WifiAction.IGNORE),
        portal=_build_portal(values.get("portal", {})),
        dns=_build_dns(values.get("dns", {})),
        allowance=Allowance(**values.get("allowance", {})),
        traffic=Traffic(**values.get("traffic", {})),
        split=_build_split(values.get("split", {})),
        links=tuple(LinkRule(**rule) for rule in values.get("links", ())),
        known=tuple(_build_known(known) for known in values.get("known", ())),
    )


def _build_protection(values: dict[str, Any]) -> Protection:
    return Protection(**{**values, "lan_subnets": tuple(values.get("lan_subnets", ()))})


def _build_split(values: dict[str, Any]) -> Split:
    return Split(**{**values, "subnets": tuple(values.get("subnets", ()))})


def _build_portal(values: dict[str, Any]) -> Portal:
    return Portal(**{**values, "probes": tuple(values["probes"])} if "probes" in values else values)


def _build_dns(values: dict[str, Any]) -> Dns:
    return Dns(**{**values, "resolvers": tuple(values.get("resolvers", ()))})


def _build_known(values: dict[str, Any]) -> KnownNetwork:
    own = ("action", "profile", "server", "allow_lan", "beacon", "beacon_sha256", "learn")
    return KnownNetwork(
        ssid=_name(values) or b"",
        pattern="pattern" in values,
        exceptions=tuple(values.get("except", ())),
        minimum_security=values.get("security", Security.WPA2),
        bssids=frozenset(values.get("bssids", ())),
        gateways=frozenset(values.get("gateways", ())),
        resolvers=tuple(values.get("resolvers", ())),
        **{key: values[key] for key in own if key in values},
    )
