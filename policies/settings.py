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

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from policies.known_network import KnownNetwork
from policies.settings_checks import check_lists, check_together
from policies.settings_errors import Problem, SettingsError, dotted
from policies.settings_known import build_known, name_of
from policies.settings_layout import FILE, VERSION, Findings, is_newer
from policies.settings_tables import (
    Allowance,
    Criteria,
    Dns,
    LinkRule,
    Portal,
    Protection,
    Split,
    Table,
    Traffic,
    Tunnel,
    Wifi,
    WifiAction,
)
from policies.settings_toml import parse_toml
from policies.toml_lines import Path, key_lines, line_of


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
    found = Findings()
    for file, text in files:
        try:
            document = parse_toml(text, file)
        except SettingsError as err:
            problems += err.problems
            continue
        found, read = Findings(), dict[str, Any]()
        if is_newer(document.get("version")):
            # Its other keys may be new too: calling them unknown would mislead.
            found.add(("version",), "this file is for a newer tunwarden", f"up to {VERSION}, or leave it out")
        else:
            read = found.read(FILE, document, ())
            check_lists(read, found)
        lines = key_lines(text)
        overlay(values, read)
        places |= {dotted(path): (file, line_of(lines, path)) for path in _leaves(read)}
        problems += [
            Problem(file, line_of(lines, path), dotted(path), problem, allowed)
            for path, problem, allowed in found.items
        ]
    if files and all(problem.file == files[-1][0] for problem in problems):  # else too little is known of the whole
        for path, what, allowed in check_together(values, found):
            file, line = places[dotted(path)]
            problems.append(Problem(file, line, dotted(path), what, allowed))
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
    return "pattern" in known, name_of(known)


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
        known=tuple(build_known(known) for known in values.get("known", ())),
    )


def _build_protection(values: dict[str, Any]) -> Protection:
    return Protection(**{**values, "lan_subnets": tuple(values.get("lan_subnets", ()))})


def _build_split(values: dict[str, Any]) -> Split:
    return Split(**{**values, "subnets": tuple(values.get("subnets", ()))})


def _build_portal(values: dict[str, Any]) -> Portal:
    return Portal(**{**values, "probes": tuple(values["probes"])} if "probes" in values else values)


def _build_dns(values: dict[str, Any]) -> Dns:
    return Dns(**{**values, "resolvers": tuple(values.get("resolvers", ()))})
