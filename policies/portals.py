"""Captive portals: what a probe asks and expects, and what may count as the address of a login. Pure.

A probe is written as `http://HOST/PATH#TEXT`: the answer is right if its body begins with TEXT, with `%20` for a space.
Without a fragment, which is never sent, it is right if it has status 204 and no body.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import unquote_to_bytes, urlsplit

from policies.facts import Address

# Of the systems whose users come here, and each of another house: what one of them tells a stranger's network, most
# laptops tell it. http://network-test.debian.org/nm is Debian's NetworkManager, the second GNOME's, the last Firefox.
PROBES = (
    "http://network-test.debian.org/nm#NetworkManager%20is%20online",
    "http://nmcheck.gnome.org/check_network_status.txt#NetworkManager%20is%20online",
    "http://detectportal.firefox.com/success.txt#success",
)
MOST_PROBES = 8
LONGEST_URL = 2000  # characters
UNRESTRICTED = "urn:ietf:params:capport:unrestricted"  # RFC 8910, 2: the network says that it has no portal

_HOST = r"(?:(?:[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?\.)*[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.?)"
_PROBE = re.compile(rf"http://({_HOST})(?::80)?(/[!-~]*)?")
_URL = re.compile(rf"(https?)://({_HOST}|\[[0-9A-Fa-f:.]{{2,45}}\])(?::([0-9]{{1,5}}))?(?:[/?#][!-~]*)?")


@dataclass(frozen=True, slots=True)
class Probe:
    """A GET over port 80 whose right answer is known: its body begins with `body`; None: status 204 without one."""

    host: str
    path: str
    body: bytes | None


def probe(text: str) -> Probe:
    """Read a probe as it is written in the settings. Raises ValueError, which says what is wrong."""
    url, _, fragment = text.partition("#")
    if len(text) > LONGEST_URL:
        raise ValueError(f"longer than {LONGEST_URL} characters")
    if url.startswith("https:"):
        raise ValueError("no portal can redirect https: a probe is asked over http")
    match = _PROBE.fullmatch(url)
    if match is None or len(match[1]) > 253 or not all(" " < char <= "~" for char in fragment):
        raise ValueError("not http://HOST/PATH, on port 80, with the expected text behind #")
    if "#" in text and not fragment:
        raise ValueError("nothing is expected behind #")
    return Probe(match[1].rstrip("."), match[2] or "/", unquote_to_bytes(fragment) if fragment else None)


@dataclass(frozen=True, slots=True)
class Site:
    """Where a URL leads: what a connection needs to know."""

    secure: bool  # https
    host: str  # a name, or an address without brackets
    port: int
    path: str  # with the query


def site(url: str) -> Site | None:
    """Where a URL of a stranger leads; None if it is not a plain http or https URL that `portal_url` takes."""
    if (match := _URL.fullmatch(url)) is None or len(url) > LONGEST_URL:
        return None
    port = int(match[3]) if match[3] else 443 if match[1] == "https" else 80
    if not 0 < port < 65536 or len(match[2]) > 253:
        return None
    if match[2].startswith("[") and address(match[2][1:-1]) is None:
        return None
    parts = urlsplit(url)
    query = f"?{parts.query}" if parts.query else ""
    return Site(match[1] == "https", match[2].strip("[]"), port, (parts.path or "/") + query)


def portal_url(text: object) -> str:
    """Where people log in, as a stranger says it: http or https, printable ASCII, at most 2,000 characters; else empty.

    No user name before the host, which only ever misleads.
    """
    return text if isinstance(text, str) and site(text) is not None else ""


def address(text: str) -> Address | None:
    """The address that stands for a host, where it is one; an address that leads nowhere outside is none."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return found if can_serve(found) else None


def can_serve(found: Address) -> bool:
    """Whether a server on another machine can have this address. Private ones can: most portals do."""
    mapped = found.version == 6 and (found.ipv4_mapped is not None or found.scope_id is not None)
    unusable = found.is_loopback or found.is_multicast or found.is_unspecified or mapped
    return not (unusable or found.is_link_local or (found.version == 4 and int(found) >> 28 == 0xF))
