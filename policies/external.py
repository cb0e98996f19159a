"""Tunnels that somebody else brings up (T2): the text of a profile -> typed fields, and which link is meant.

We guard such a tunnel and never touch it: no link is made, changed or removed, no address and no MTU is set. So all
that a profile says is how its link is known, where its server is, and who may reach that.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, ip_address
from typing import Any, ClassVar, Literal, NoReturn

from policies.external_links import LINK_NAME
from policies.facts import Address, Endpoint, External, ProfileFacts
from policies.firewall import LOGIN_MARK, MARK, NEVER_MARK, ONLY_MARK, PROBE_IFNAME, TUNNEL_IFNAME
from policies.profiles_errors import Notice, ProfileError
from policies.profiles_values import check_name
from policies.toml_lines import key_lines, line_of
from policies.wireguard_conf import MAX_BYTES

# What the kernel calls them (IFLA_INFO_KIND; `tap` is a tun that carries Ethernet). Never hardware, a bridge or a VLAN:
# those are ways out, whatever a profile says.
KINDS = ("wireguard", "tun", "tap", "ppp", "xfrm")
MOST_ENDPOINTS, MOST_RESOLVERS = 64, 16
OUR_MARKS = frozenset({MARK, LOGIN_MARK, NEVER_MARK, ONLY_MARK})
HIGHEST_UID = (1 << 32) - 2  # the last one means "none"

KEYS = {
    "link": "the link's name",
    "kind": f"the link's kind: {', '.join(f'`{kind}`' for kind in KINDS)}. Alone, it must be the only one of its kind",
    "endpoints": "the servers, each as `ADDRESS:PORT/PROTOCOL`, such as `192.0.2.1:51820/udp`, `[2001:db8::1]:443/tcp`",
    "fwmark": "the mark that the other program sets on its own packets, not 0; or:",
    "uid": "the number of the user under which it opens its sockets",
    "resolvers": "the resolvers inside the tunnel, which tunwarden then sets on its link; optional",
}

_HEADER = re.compile(r"\ufeff?(?:[ \t\r\n]+|#[^\n]*)*\[[ \t]*external[ \t]*\]")
_ENDPOINT = re.compile(r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15})):([0-9]{1,5})/(udp|tcp)")
_REMEDY = "write it like 192.0.2.1:51820/udp or [2001:db8::1]:443/tcp"


@dataclass(frozen=True, slots=True)
class ExternalProfile:
    """A tunnel of somebody else's, to be guarded. Raises ProfileError where a field could not be meant."""

    kind: ClassVar[Literal["external"]] = "external"
    name: str
    external: External
    endpoints: tuple[Endpoint, ...]
    resolvers: tuple[Address, ...] = ()

    def __post_init__(self) -> None:
        check_name(self.name)
        for key, (problem, remedy) in _problems(self):
            raise ProfileError(0, key, problem, remedy)


def _problems(profile: ExternalProfile) -> Iterable[tuple[str, tuple[str, str]]]:
    """What is wrong with which key, and what to do."""
    way, mark, uid = profile.external, profile.external.fwmark, profile.external.uid
    if not way.link and not way.kind:
        yield "link", ("is missing, and so is kind", "name the link, or say of which kind it is")
    if way.link and not LINK_NAME.fullmatch(way.link):
        yield "link", ("is not a link's name", "use 1 to 15 letters, digits, and _ . @ + -")
    if way.link in (TUNNEL_IFNAME, PROBE_IFNAME):
        yield "link", ("is tunwarden's own", "name the other program's link")
    if way.kind and way.kind not in KINDS:
        yield "kind", ("is no kind of tunnel", f"use one of {', '.join(KINDS)}")
    if (mark is None) == (uid is None):
        remedy = "say how the other program's packets are told from all others, with one of the two"
        yield "fwmark", ("or uid: exactly one is needed", remedy)
    if mark is not None and (not _is_whole(mark) or not 0 < mark <= 0xFFFFFFFF):
        yield "fwmark", ("is out of range", "write 1 to 4294967295, or 0x1 to 0xffffffff")
    if _is_whole(mark) and mark in OUR_MARKS:
        yield "fwmark", ("is one of tunwarden's own marks", "have the other program use another one")
    if uid is not None and (not _is_whole(uid) or not 0 <= uid <= HIGHEST_UID):
        yield "uid", ("is out of range", "write the user's number, which `id -u NAME` shows")
    if not 0 < len(profile.endpoints) <= MOST_ENDPOINTS:
        yield "endpoints", ("needs to name a server, and not too many", f"name 1 to {MOST_ENDPOINTS}")
    for each in profile.endpoints:
        if not (_is_reachable(each.address) and 0 < each.port < 65536 and each.protocol in ("udp", "tcp")):
            yield "endpoints", ("holds something that is no server", _REMEDY)
    if len(set(profile.endpoints)) != len(profile.endpoints):
        yield "endpoints", ("names a server twice", "leave one out")
    if len(profile.resolvers) > MOST_RESOLVERS or len(set(profile.resolvers)) != len(profile.resolvers):
        yield "resolvers", ("has too many, or one twice", f"name {MOST_RESOLVERS} at most, each once")
    if not all(_is_reachable(each) for each in profile.resolvers):
        yield "resolvers", ("holds something that the tunnel could not reach", "write addresses like 10.2.0.1")


def _is_whole(number: object) -> bool:
    return type(number) is int  # TOML's true is no mark


def _is_reachable(address: Address) -> bool:
    """Whether it names one machine, without its link."""
    named = not (address.is_unspecified or address.is_multicast or address.is_loopback or address.is_link_local)
    return named and address != IPv4Address("255.255.255.255")


# --- text -> profile --------------------------------------------------------------------------------------------------


def looks_like_external(text: str) -> bool:
    """Whether somebody who brings this text means such a tunnel. No check: the parser does that."""
    return _HEADER.match(text) is not None


def parse(name: str, text: str) -> tuple[ExternalProfile, tuple[Notice, ...]]:
    """The profile in `text` (TOML), and what is worth knowing. Raises ProfileError for what is refused first."""
    said, lines = _read(text)

    def refuse(key: str, problem: str, remedy: str, *at: int) -> NoReturn:
        raise ProfileError(line_of(lines, ("external", key, *at)), key, problem, remedy)

    for key in said:
        if key not in KEYS:
            # As it was written, it could be anything, so it is not repeated.
            raise ProfileError(line_of(lines, ("external", key)), "[external]", "has an unknown key", _known())
    texts: dict[str, list[str]] = {}
    for key in ("link", "kind"):
        if not isinstance(said.get(key, ""), str) or said.get(key) == "":
            refuse(key, "is not a name", "write it in quotes")
    for key in ("endpoints", "resolvers"):
        texts[key] = said.get(key, [])
        if not isinstance(texts[key], list) or not all(isinstance(each, str) for each in texts[key]):
            refuse(key, "is not a list of texts", f'write it like {key} = ["192.0.2.1{_EXAMPLE[key]}"]')
    endpoints, resolvers = [], []
    for at, each in enumerate(texts["endpoints"]):
        if (endpoint := _endpoint(each)) is None:
            refuse("endpoints", "holds something that is no address with port and protocol", _REMEDY, at)
        endpoints.append(endpoint)
    for at, each in enumerate(texts["resolvers"]):
        try:
            resolvers.append(ip_address("" if "%" in each else each))
        except ValueError:
            refuse("resolvers", "holds something that is no address", "write addresses like 10.2.0.1", at)
    external = External(said.get("link", ""), said.get("kind", ""), said.get("fwmark"), said.get("uid"))
    try:
        profile = ExternalProfile(name, external, tuple(endpoints), tuple(resolvers))
    except ProfileError as err:
        line = line_of(lines, ("external", err.directive)) if err.directive in KEYS else 0
        raise ProfileError(line, err.directive, err.problem, err.remedy) from None
    return profile, tuple(_notices(profile, line_of(lines, ("external", "uid"))))


_EXAMPLE = {"endpoints": ":51820/udp", "resolvers": ""}


def _known() -> str:
    return f"use {', '.join(KEYS)}"


def _read(text: str) -> tuple[dict[str, Any], dict[tuple[str | int, ...], int]]:
    """The keys of the one table, and where each stands."""
    if len(text.encode("utf-8", "surrogatepass")) > MAX_BYTES:
        raise ProfileError(0, "file", "is too large", f"a configuration has at most {MAX_BYTES} bytes")
    text = text.removeprefix("\ufeff")
    try:
        document = tomllib.loads(text)
    except (ValueError, RecursionError) as err:
        place = re.search(r"at line ([0-9]{1,9})", str(err)) if isinstance(err, tomllib.TOMLDecodeError) else None
        remedy = 'write lines like link = "wg0" below [external]'
        raise ProfileError(int(place[1]) if place else 0, "file", "is no TOML", remedy) from None
    lines = key_lines(text)
    said = document.get("external")
    others = [key for key in document if key != "external"]
    if others or not isinstance(said, dict):
        line = line_of(lines, (others[0],)) if others else 1
        raise ProfileError(line, "file", "holds more than one table [external]", "remove the rest")
    return said, lines


def _endpoint(text: str) -> Endpoint | None:
    match = _ENDPOINT.fullmatch(text)
    if match is None:
        return None
    try:
        address = ip_address(match[1] or match[2])
    except ValueError:
        return None
    return Endpoint(address, int(match[3]), match[4]) if (address.version == 6) is (match[1] is not None) else None


def _notices(profile: ExternalProfile, uid_line: int) -> Iterable[Notice]:
    if profile.external.uid == 0:
        yield Notice(uid_line, "uid", "every program of root can reach the server; a mark would be narrower")
    if profile.external.kind and not profile.external.link:
        yield Notice(0, "kind", "the tunnel is whichever link of this kind there is; with two of them, it is none")
    if not profile.resolvers:
        reason = "none: names are asked of whomever the other program sets, and only through its tunnel"
        yield Notice(0, "resolvers", reason)


# --- the store --------------------------------------------------------------------------------------------------------


def to_data(profile: ExternalProfile) -> dict[str, Any]:
    """For JSON."""
    return {
        "kind": "external",
        "name": profile.name,
        "link": profile.external.link,
        "link_kind": profile.external.kind,
        "fwmark": profile.external.fwmark,
        "uid": profile.external.uid,
        "endpoints": [[str(each.address), each.port, each.protocol] for each in profile.endpoints],
        "resolvers": [str(each) for each in profile.resolvers],
    }


def from_data(data: Any) -> ExternalProfile:
    """Raises ValueError, TypeError, LookupError."""
    return ExternalProfile(
        data["name"],
        External(data["link"], data["link_kind"], data["fwmark"], data["uid"]),
        tuple(Endpoint(ip_address(address), port, protocol) for address, port, protocol in data["endpoints"]),
        tuple(ip_address(text) for text in data["resolvers"]),
    )


def facts(profile: ExternalProfile) -> ProfileFacts:
    """What decisions may know of it. Its addresses are the other program's to give."""
    return ProfileFacts(profile.name, profile.endpoints, (), profile.resolvers, external=profile.external)
