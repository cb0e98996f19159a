"""A profile's servers: which of them a choice means, and who is tried first. server_lists.py reads and keeps them.

Like a profile's, the types check themselves, and no error carries a value of a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from policies.facts import Address, Endpoint, Interface
from policies.profiles_errors import ProfileError
from policies.profiles_values import is_profile_name
from policies.wireguard import WireGuardPeer, WireGuardProfile

MOST_ENDPOINTS, MOST_ADDRESSES, MOST_TAGS = 4, 4, 8  # of one server
MOST_TRIED = 8  # servers that are tried in turn

_COUNTRY = re.compile(r"[A-Z]{2}")
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")


class How(StrEnum):
    """What a choice goes by."""

    LISTED = ""  # in the order of the list
    NAME = "name"
    COUNTRY = "country"
    CITY = "city"
    TAG = "tag"
    FASTEST = "fastest"
    RANDOM = "random"
    FAVOURITES = "favourites"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which servers of a list are meant. `of`: the name, country, city or tag; of the last three a country, or ""."""

    how: How
    of: str = ""


CHOICES = "a server's name, country:SE, city:Malmo, tag:NAME, fastest, random, favourites; also fastest:SE, random:SE"


def parse_choice(text: str) -> Choice:
    """Raises ValueError. An empty text: as listed."""
    how, colon, of = text.partition(":")
    if not text:
        return Choice(How.LISTED)
    if how in (How.FASTEST, How.RANDOM, How.FAVOURITES) and (not colon or is_country(of)):
        return Choice(How(how), of)
    if how == How.COUNTRY and is_country(of):
        return Choice(How.COUNTRY, of)
    if how == How.CITY and _is_city(of):
        return Choice(How.CITY, of)
    if how == How.TAG and TAG.fullmatch(of):
        return Choice(How.TAG, of)
    if not colon and _is_server_name(text):
        return Choice(How.NAME, text)
    raise ValueError("not a choice of a server")


def is_choice(text: str) -> bool:
    """Whether `parse_choice` takes it; the empty text is none that somebody would write."""
    try:
        return bool(text) and parse_choice(text) is not None
    except ValueError:
        return False


def is_country(text: str) -> bool:
    """Whether it has the form of a code of ISO 3166-1 alpha-2."""
    return _COUNTRY.fullmatch(text) is not None


def _is_server_name(text: str) -> bool:
    return is_profile_name(text) and text not in (How.FASTEST, How.RANDOM, How.FAVOURITES)


def _is_city(text: str) -> bool:
    return 1 <= len(text) <= 64 and text.isprintable() and text == text.strip()


def _at_most(key: str, values: Sequence[object], most: int) -> None:
    if len(values) > most:
        raise ProfileError(0, key, "are too many", f"give up to {most}")


@dataclass(frozen=True, slots=True)
class Server:
    """One server of a list. Raises ProfileError where a field could not stand in a configuration."""

    name: str
    public_key: bytes  # 32 bytes
    endpoints: tuple[Endpoint, ...]
    country: str = ""  # ISO 3166-1 alpha-2; "": not said
    city: str = ""
    tags: tuple[str, ...] = ()
    addresses: tuple[Interface, ...] = ()  # of this computer in its tunnel; none: the profile's
    resolvers: tuple[Address, ...] = ()  # likewise
    preshared_key: bytes | None = field(default=None, repr=False)  # 32 bytes

    def __post_init__(self) -> None:
        if not _is_server_name(self.name):
            remedy = "use 1 to 64 letters, digits, '_', '.' and '-'; not fastest, random or favourites"
            raise ProfileError(0, "name", "cannot name a server", remedy)
        if not isinstance(self.public_key, bytes) or len(self.public_key) != 32 or not any(self.public_key):
            raise ProfileError(0, "public_key", "is not a key", "copy all 44 characters of base64")
        if self.preshared_key is not None and len(self.preshared_key) != 32:
            raise ProfileError(0, "preshared_key", "is not a key", "copy all 44 characters of base64")
        if self.country and not is_country(self.country):
            raise ProfileError(0, "country", "is no country code", "write two capital letters, SE")
        if self.city and not _is_city(self.city):
            raise ProfileError(0, "city", "is no name of a city", "write up to 64 printable characters")
        if not 1 <= len(self.endpoints) <= MOST_ENDPOINTS:
            raise ProfileError(0, "endpoints", "are too few or too many", f"give 1 to {MOST_ENDPOINTS}")
        _at_most("tags", self.tags, MOST_TAGS)
        _at_most("addresses", self.addresses, MOST_ADDRESSES)
        _at_most("resolvers", self.resolvers, MOST_ADDRESSES)


@dataclass(frozen=True, slots=True)
class ServerList:
    """What the store keeps beside a profile."""

    servers: tuple[Server, ...]
    favourites: tuple[str, ...] = ()  # names of servers, sorted; each is in the list

    def find(self, name: str) -> Server | None:
        return next((each for each in self.servers if each.name == name), None)

    def at(self, endpoint: Endpoint) -> Server | None:
        """The server there: no two of a list have an endpoint in common."""
        return next((each for each in self.servers if endpoint in each.endpoints), None)

    def favour(self, name: str, on: bool) -> ServerList:
        """With this favourite, or without it."""
        kept = {*self.favourites, name} if on else {*self.favourites} - {name}
        return replace(self, favourites=tuple(sorted(kept)))


@dataclass(frozen=True, slots=True)
class Measured:
    """What marked handshakes with a server have told."""

    latency: float | None  # seconds from an initiation to its answer, the quickest of all; None: no answer
    sent: int
    answered: int
    at: float  # seconds since 1970, when it ended

    @property
    def loss(self) -> float:
        return 1.0 - self.answered / self.sent if self.sent else 1.0

    @property
    def cost(self) -> float:
        """Seconds until an answer may be expected: what is lost has to be sent again."""
        return float("inf") if self.latency is None or not self.answered else self.latency / (1.0 - self.loss)


# --- choosing ---------------------------------------------------------------------------------------------------------


def meant(servers: ServerList, choice: Choice) -> tuple[Server, ...]:
    """All servers that a choice means, in the order of the list; none: nothing fits, and nothing else is taken."""
    match choice.how:
        case How.NAME:
            return tuple(each for each in servers.servers if each.name == choice.of)
        case How.CITY:
            return tuple(each for each in servers.servers if each.city.casefold() == choice.of.casefold())
        case How.TAG:
            return tuple(each for each in servers.servers if choice.of in each.tags)
    there = tuple(each for each in servers.servers if choice.of in ("", each.country))
    if choice.how is How.FAVOURITES:
        return tuple(each for each in there if each.name in servers.favourites)
    return there


def by_speed(servers: Iterable[Server], measured: Mapping[str, Measured]) -> tuple[Server, ...]:
    """The fastest first, by name; those that did not answer, or were not asked, come last as they were."""
    never = float("inf")
    return tuple(sorted(servers, key=lambda each: measured[each.name].cost if each.name in measured else never))


def batches(servers: Iterable[Server], size: int) -> tuple[tuple[Server, ...], ...]:
    """Who is asked together: no two with one key, for a WireGuard link tells its peers apart by that alone."""
    made: list[list[Server]] = []
    for server in servers:
        for batch in made:
            if len(batch) < size and all(each.public_key != server.public_key for each in batch):
                batch.append(server)
                break
        else:
            made.append([server])
    return tuple(tuple(batch) for batch in made)


def endpoints_of(servers: Sequence[Server]) -> tuple[tuple[Endpoint, str], ...]:
    """The endpoints of the first servers, in the order in which they are tried, each with its server's name.

    The first endpoint of every server comes before the second of any: another server is likelier to answer.
    """
    tried = servers[:MOST_TRIED]
    turns = max((len(each.endpoints) for each in tried), default=0)
    return tuple(
        (each.endpoints[turn], each.name) for turn in range(turns) for each in tried if turn < len(each.endpoints)
    )


def why_no_list(profile: object) -> str:
    """Why this profile cannot have a list; "": it can."""
    if not isinstance(profile, WireGuardProfile):
        return "only a WireGuard profile can have a list of servers"
    return "" if len(profile.peers) == 1 else "a profile with several [Peer] sections cannot have a list of servers"


def with_server(profile: WireGuardProfile, server: Server, endpoint: Endpoint) -> WireGuardProfile:
    """The profile for an attempt at one endpoint of one server: what the server does not say is the profile's."""
    return replace(
        profile,
        addresses=server.addresses or profile.addresses,
        resolvers=server.resolvers or profile.resolvers,
        peers=(peer_of(profile, server, endpoint),),
    )


def peer_of(profile: WireGuardProfile, server: Server, endpoint: Endpoint) -> WireGuardPeer:
    """The server as the profile's peer. The profile's own preshared key is its own server's, and not taken."""
    return replace(
        profile.peers[0],
        public_key=server.public_key,
        host=str(endpoint.address),
        port=endpoint.port,
        addresses=(endpoint.address,),
        preshared_key=server.preshared_key,
    )
