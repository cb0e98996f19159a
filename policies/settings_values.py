"""One value of a settings file -> what it stands for. A reader raises Wrong: what is wrong, and what is allowed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

from policies import portals
from policies.facts import Address, Endpoint
from policies.known_network import beacon_problem, bssid_problem, ssid_problem
from policies.profiles_values import is_profile_name
from policies.servers import CHOICES, is_choice
from policies.settings_errors import Wrong, quoted
from policies.settings_tables import RULE_ACTIONS, WifiAction

WIDEST = {4: 8, 6: 16}  # the shortest prefix of an excluded network: no default route, nor half of one

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


def boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    raise Wrong(f"{quoted(value)} is not a truth value", "true, false (without quotes)")


@dataclass(frozen=True, slots=True)
class Choice:
    """A reader: one of these words."""

    members: tuple[Enum, ...]

    def __call__(self, value: object) -> Enum:
        choices = {member.value: member for member in self.members}
        if isinstance(value, str) and value in choices:
            return choices[value]
        raise Wrong(f"{quoted(value)} is not one of the choices", ", ".join(choices))


def choice(*members: Enum) -> Choice:
    return Choice(members)


def rule_action(value: object) -> Enum:
    if value == WifiAction.DISCONNECT:
        raise Wrong('"disconnect" is only for [[known]] networks and [[links]]', ", ".join(RULE_ACTIONS))
    return choice(*RULE_ACTIONS)(value)


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
            raise Wrong(
                f"{quoted(value)} has no unit", f'{self.allowed}, such as "{self.shortest}"; units: ms, s, m, h'
            )
        seconds = _seconds(value)
        if seconds is None:
            raise Wrong(f"{quoted(value)} is not a time", f"{self.allowed}; units: ms, s, m, h")
        if not (_seconds(self.shortest) or 0.0) <= seconds <= (_seconds(self.longest) or 0.0):
            raise Wrong(f"{quoted(value)} is out of range", self.allowed)
        return seconds


def duration(shortest: str, longest: str) -> Duration:
    return Duration(shortest, longest)


def _seconds(value: object) -> float | None:
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)(ms|s|m|h)", value)):
        return float(match[1]) * {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}[match[2]]
    return None


UNITS = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
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
            raise Wrong(f"{quoted(value)} is not a size", f"{self.allowed}; units: {', '.join(UNITS)}")
        if not (_bytes(self.least) or 0) <= size <= (_bytes(self.most) or 0):
            raise Wrong(f"{quoted(value)} is out of range", self.allowed)
        return size


def _bytes(value: object) -> int | None:
    match = re.fullmatch(r"([0-9]{1,16})(?:\.([0-9]{1,3}))?([kKMGTi]{0,2}B)", value) if isinstance(value, str) else None
    if match is None or match[3] not in UNITS:
        return None
    return int(match[1] + (match[2] or "").ljust(3, "0")) * UNITS[match[3]] // 1000


def prometheus(value: object) -> str:
    allowed = 'an absolute path that ends in ".prom", without ".."'
    parts = value.split("/") if isinstance(value, str) else []
    named = bool(parts) and not parts[0] and all(re.fullmatch(r"[A-Za-z0-9._@+-]{1,64}", part) for part in parts[1:])
    if not isinstance(value, str) or not named or len(parts) < 3 or {".", ".."} & set(parts):
        raise Wrong(f"{quoted(value)} is not such a path", allowed)
    if not value.endswith(".prom"):
        raise Wrong(f"{quoted(value)} does not end in .prom", allowed)
    return value


def profile(value: object) -> str:
    if isinstance(value, str) and is_profile_name(value):
        return value
    raise Wrong(
        f"{quoted(value)} is not the name of a profile",
        "1 to 64 letters, digits, dots, underscores and dashes; a letter or digit first",
    )


def server(value: object) -> str:
    if isinstance(value, str) and is_choice(value):
        return value
    raise Wrong(f"{quoted(value)} is not a choice of a server", CHOICES)


def link_name(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"[A-Za-z0-9._@+*?-]{1,32}", value) and value not in (".", ".."):
        return value
    raise Wrong(f"{quoted(value)} is not a link name", "letters, digits and . _ - + @, with * and ? as wildcards")


def ssid(value: object) -> bytes:
    if not isinstance(value, str):
        raise Wrong(f"{quoted(value)} is not text", "the network's name in quotes")
    return _ssid_bytes(value.encode())


def pattern(value: object) -> bytes:
    if not isinstance(value, str):
        raise Wrong(f"{quoted(value)} is not text", 'a name in which * and ? match, such as "Corp-*"')
    return _ssid_bytes(value.encode())


def ssid_hex(value: object) -> bytes:
    if isinstance(value, str) and re.fullmatch(r"(?:[0-9A-Fa-f]{2})+", value):
        return _ssid_bytes(bytes.fromhex(value))
    raise Wrong(f"{quoted(value)} is not hexadecimal", 'two digits a byte, such as "486f6d65"')


def _ssid_bytes(ssid: bytes) -> bytes:
    if problem := ssid_problem(ssid):
        raise Wrong(problem, "1 to 32 bytes, none of them NUL")
    return ssid


def bssid(value: object) -> bytes:
    if isinstance(value, str) and re.fullmatch(r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5}", value):
        bssid = bytes.fromhex(value.replace(":", "").replace("-", ""))
        if not bssid_problem(bssid):
            return bssid
        raise Wrong(f"{quoted(value)}: {bssid_problem(bssid)}", 'such as "aa:bb:cc:dd:ee:ff"')
    raise Wrong(f"{quoted(value)} is not a hardware address", 'six bytes, such as "aa:bb:cc:dd:ee:ff"')


def endpoint(value: object) -> Endpoint:
    allowed = 'an address and a port, such as "192.0.2.1:443" or "[2001:db8::1]:443"; no name: it would be asked openly'
    match = re.fullmatch(r"(?:([0-9.]{7,15})|\[([0-9A-Fa-f:.]{2,45})\]):([1-9][0-9]{0,4})", str(value))
    try:
        endpoint = Endpoint(ip_address(match[1] or match[2]), int(match[3]), "tcp") if match else None
    except ValueError:
        endpoint = None
    if match is None or endpoint is None or not isinstance(value, str) or endpoint.port > 0xFFFF:
        raise Wrong(f"{quoted(value)} is not an address and a port", allowed)
    if endpoint.address.version != (4 if match[1] else 6):
        raise Wrong(f"{quoted(value)} is not an address and a port", allowed)
    if problem := beacon_problem(endpoint):
        raise Wrong(f"{quoted(value)}: {problem}", allowed)
    return endpoint


def endpoint_text(server: Endpoint) -> str:
    """`192.0.2.1:443` or `[2001:db8::1]:443`: what a settings file says."""
    return f"[{server.address}]:{server.port}" if server.address.version == 6 else f"{server.address}:{server.port}"


def sha256(value: object) -> bytes:
    digits = value.replace(":", "") if isinstance(value, str) and len(value) <= 95 else ""
    if re.fullmatch(r"[0-9A-Fa-f]{64}", digits):
        return bytes.fromhex(digits)
    raise Wrong(f"{quoted(value)} is not a SHA-256", "64 hexadecimal digits, with or without colons")


def probe(value: object) -> str:
    allowed = 'such as "http://network-test.debian.org/nm#NetworkManager%20is%20online"; without #: status 204'
    if not isinstance(value, str):
        raise Wrong(f"{quoted(value)} is not text", allowed)
    try:
        portals.probe(value)
    except ValueError as err:
        raise Wrong(f"{quoted(value)} is no portals.probe: {err}", allowed) from None
    return value


def resolver(value: object) -> Address:
    allowed = 'the address of a resolver that the tunnel leads to, such as "192.0.2.53"; port 53'
    try:
        address = ip_address(value) if isinstance(value, str) else None
    except ValueError:
        address = None
    if address is None:
        raise Wrong(f"{quoted(value)} is not an address", allowed)
    if address.is_loopback or address.is_multicast or address.is_unspecified or address.is_link_local:
        raise Wrong(f"{quoted(value)} is not reached through a tunnel", allowed)
    if address.version == 6 and (address.ipv4_mapped or address.scope_id):
        raise Wrong(f"{quoted(value)} is not a plain address", allowed)
    return address


def _network(value: object, allowed: str) -> IPv4Network | IPv6Network:
    # No scope and no netmask: the text is in our own spelling when it reaches the rules.
    if not isinstance(value, str) or not re.fullmatch(r"[0-9A-Fa-f.:]{2,45}(?:/[0-9]{1,3})?", value):
        raise Wrong(f"{quoted(value)} is not a network", allowed)
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise Wrong(f"{quoted(value)} is not a network", allowed) from None
    if str(network.network_address) != str(ip_address(value.partition("/")[0])) or "/" not in value:
        raise Wrong(f'{quoted(value)} is not a network, did you mean "{network}"?', allowed)
    return network


def excluded(value: object) -> IPv4Network | IPv6Network:
    allowed = f'a network of at least /{WIDEST[4]}, or /{WIDEST[6]} of IPv6, such as "203.0.113.0/24"'
    network = _network(value, allowed)
    if network.prefixlen < WIDEST[network.version]:
        raise Wrong(f"{quoted(value)} is too wide: the tunnel would be for little else", allowed)
    if network.is_multicast or network.is_loopback or network.is_link_local or network.is_unspecified:
        raise Wrong(f"{quoted(value)} never goes through a tunnel", allowed)
    if network.version == 6 and network.network_address.ipv4_mapped:
        raise Wrong(f"{quoted(value)} is IPv4 in the clothes of IPv6", allowed)
    return network


def subnet(value: object) -> IPv4Network | IPv6Network:
    network = _network(value, 'an address and a length, such as "100.64.0.0/10"')
    if not any(network.version == each.version and network.subnet_of(each) for each in PRIVATE):  # type: ignore[arg-type]
        private = ", ".join(str(each) for each in PRIVATE)
        raise Wrong(f"{quoted(value)} {_never_local(network)}", f"private networks: within {private}")
    return network


def _never_local(network: IPv4Network | IPv6Network) -> str:
    if network.is_multicast:
        return "is multicast, which is local by itself where it is"
    if network.is_loopback:
        return "is loopback, which always works"
    if network.is_link_local:
        return "is link-local, which is local by itself"
    return "reaches beyond private networks: public addresses never count as local"
