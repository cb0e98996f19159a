"""Lists of servers: the text that is imported, TOML or JSON, -> ServerList; what the store keeps of it.

docs/servers.md has the layout. No error carries a value of a key.
"""

from __future__ import annotations

import base64
import json
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import replace
from ipaddress import ip_interface
from typing import Any

from policies.facts import Address, Endpoint, Interface
from policies.profiles_errors import ProfileError
from policies.profiles_values import is_host, is_usable, plain_address
from policies.servers import MOST_ADDRESSES, MOST_ENDPOINTS, MOST_TAGS, TAG, Server, ServerList
from policies.settings_values import endpoint_text

VERSION = 1  # of the layout
MOST_SERVERS = 1000  # of one profile
MAX_DOTS = 64  # on a line: tomllib takes minutes for a key of 100,000 parts

_KEY = re.compile(r"[A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=")  # 32 bytes in base64


def parse_servers(text: str) -> ServerList:
    """A list as TOML, or as JSON with the same keys. Raises ProfileError for the first thing that is refused."""
    return ServerList(_servers(_document(text)))


def _document(text: str) -> Any:
    if text.lstrip()[:1] == "{":
        try:
            return json.loads(text)
        except json.JSONDecodeError as err:
            line = err.lineno
        except RecursionError:
            line = 1
        raise _wrong("", "is not JSON", "correct it", line)  # outside: the cause would hold the text, keys included
    for number, one in enumerate(text.split("\n"), 1):
        if one.count(".") > MAX_DOTS:
            raise _wrong("", f"has more than {MAX_DOTS} dots on a line", "break the line", number)
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as err:
        place = re.search(r"at line ([0-9]+), column [0-9]+\)$", str(err))
        line = int(place[1]) if place else len(text.rstrip("\n").split("\n"))
    raise _wrong("", "is neither TOML nor JSON", "see docs/servers.md for the layout", line)


def _servers(document: Any) -> tuple[Server, ...]:
    if not isinstance(document, dict):
        raise _wrong("", "is not a table", "see docs/servers.md for the layout")
    _known_keys(document, {"version", "servers"}, "")
    if document.get("version") != VERSION or isinstance(document["version"], bool):
        raise _wrong("version", "is not one that this program knows", f"write version = {VERSION}")
    entries = document.get("servers")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MOST_SERVERS:
        raise _wrong("servers", "are missing or too many", f"give 1 to {MOST_SERVERS} tables [[servers]]")
    servers: list[Server] = []
    names: set[str] = set()
    places: dict[Endpoint, str] = {}
    for number, entry in enumerate(entries, 1):
        server = _server(entry, f"servers, number {number}")
        if server.name in names:
            raise _wrong(f"servers, number {number}: name", "is an earlier server's too", "give each a name of its own")
        names.add(server.name)
        for endpoint in server.endpoints:
            if endpoint in places:
                where = f"servers, number {number}: endpoints"
                raise _wrong(where, f"are those of {places[endpoint]} too", "leave them to one of the two")
            places[endpoint] = server.name
        servers.append(server)
    return tuple(servers)


_KEYS = frozenset(
    {"name", "country", "city", "tags", "public_key", "endpoints", "addresses", "resolvers", "preshared_key"}
)


def _server(entry: Any, where: str) -> Server:
    if not isinstance(entry, dict):
        raise _wrong(where, "is not a table", "write [[servers]] above each server")
    _known_keys(entry, _KEYS, where)
    for key in ("name", "public_key", "endpoints"):
        if key not in entry:
            raise _wrong(f"{where}: {key}", "is missing", "add it")
    try:
        return Server(
            name=_text(entry, "name"),
            country=_text(entry, "country"),
            city=_text(entry, "city"),
            tags=tuple(_tag(text) for text in _texts(entry, "tags", MOST_TAGS)),
            public_key=_key(entry, "public_key") or b"",
            preshared_key=_key(entry, "preshared_key"),
            endpoints=_unlike(_endpoint(text) for text in _texts(entry, "endpoints", MOST_ENDPOINTS)),
            addresses=_unlike(_own_address(text) for text in _texts(entry, "addresses", MOST_ADDRESSES)),
            resolvers=_unlike(_resolver(text) for text in _texts(entry, "resolvers", MOST_ADDRESSES)),
        )
    except ProfileError as err:
        refused = err
    raise _wrong(f"{where}: {refused.directive}", refused.problem, refused.remedy)


def _wrong(where: str, problem: str, remedy: str, line: int = 0) -> ProfileError:
    return ProfileError(line, where or "the list", problem, remedy)


def _known_keys(table: Mapping[str, Any], known: Iterable[str], where: str) -> None:
    for key in table:
        if key not in known:
            shown = "".join(char for char in key if char.isprintable())[:32]
            raise _wrong(
                f"{where}: {shown}" if where else shown, "is no key of a list", f"use {', '.join(sorted(known))}"
            )


def _text(entry: Mapping[str, Any], key: str) -> str:
    value = entry.get(key, "")
    if not isinstance(value, str):
        raise _wrong(key, "is not a text", "put it between quotes")
    return value


def _texts(entry: Mapping[str, Any], key: str, most: int) -> list[str]:
    values = entry.get(key, [])
    if not isinstance(values, list) or len(values) > most or not all(isinstance(each, str) for each in values):
        raise _wrong(key, "is not a list of texts", f"write up to {most} of them between brackets, each in quotes")
    return values


def _key(entry: Mapping[str, Any], key: str) -> bytes | None:
    if key not in entry:
        return None
    text = entry[key]
    if not isinstance(text, str) or not _KEY.fullmatch(text):
        raise _wrong(key, "is not a key", "copy all 44 characters of base64, the last one is =")
    value = base64.b64decode(text)
    if not any(value):
        raise _wrong(key, "is a key of zeros", "put the real key in its place, or leave it out")
    return value


def _endpoint(text: str) -> Endpoint:
    match = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+)):([0-9]{1,5})", text)
    host = (match[1] or match[2]) if match else ""
    address = plain_address(host) if host else None
    if match is None or address is None or not is_host(host) or not 1 <= int(match[3]) <= 65535:
        remedy = 'write an address and a port, "192.0.2.1:51820" or "[2001:db8::1]:51820"; names are not looked up'
        raise _wrong("endpoints", "hold something that is no address and port", remedy)
    if (match[1] is not None) != (address.version == 6) or not is_usable(address):
        raise _wrong(
            "endpoints", "hold something that is no server's", 'write "192.0.2.1:51820" or "[2001:db8::1]:51820"'
        )
    return Endpoint(address, int(match[3]))


def _own_address(text: str) -> Interface:
    address: Interface | None = None
    if re.fullmatch(r"[0-9A-Fa-f:.]+(?:/[0-9]{1,3})?", text):
        try:
            address = ip_interface(text)
        except ValueError:
            address = None
    if address is None or not is_usable(address.ip):
        raise _wrong("addresses", "hold something that is no address of this computer", "write them like 10.2.0.2/32")
    return address


def _resolver(text: str) -> Address:
    address = plain_address(text)
    if address is None or not is_usable(address):
        raise _wrong("resolvers", "hold something that the tunnel could not reach", "write addresses like 10.2.0.1")
    return address


def _tag(text: str) -> str:
    if not TAG.fullmatch(text):
        raise _wrong("tags", "hold something that is no tag", "use 1 to 32 letters, digits, '_', '.' and '-'")
    return text


def _unlike(values: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(dict.fromkeys(values))


# --- the store --------------------------------------------------------------------------------------------------------


def to_json(servers: ServerList) -> str:
    """The list as the store keeps it, preshared keys included, on one line."""
    return json.dumps(
        {
            "version": VERSION,
            "favourites": list(servers.favourites),
            "servers": [_to_data(each) for each in servers.servers],
        },
        ensure_ascii=False,
    )


def _to_data(server: Server) -> dict[str, Any]:
    values: dict[str, Any] = {
        "name": server.name,
        "country": server.country,
        "city": server.city,
        "tags": list(server.tags),
        "public_key": base64.b64encode(server.public_key).decode(),
        "endpoints": [endpoint_text(each) for each in server.endpoints],
        "addresses": [str(each) for each in server.addresses],
        "resolvers": [str(each) for each in server.resolvers],
        "preshared_key": server.preshared_key and base64.b64encode(server.preshared_key).decode(),
    }
    return {key: value for key, value in values.items() if value}


def from_json(text: str) -> ServerList:
    """What `to_json` wrote, and nothing else. Raises ProfileError."""
    stored = None
    try:
        document = json.loads(text)
        found = ServerList(_servers({"version": document["version"], "servers": document["servers"]}))
        found = replace(found, favourites=tuple(document["favourites"]))
        if to_json(found) == text:
            stored = found
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        pass
    if stored is None:  # outside: the cause may hold the text, keys included
        raise ProfileError(0, "stored list of servers", "is damaged", "import the list again")
    return stored
