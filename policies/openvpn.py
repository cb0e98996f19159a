"""OpenVPN profiles: typed fields -> what the daemon's own openvpn is given, and JSON. openvpn_reader.py makes them.

The types check themselves (E1, E2): no field can hold a newline, a quote or a directive, so `render` can write fields
between quotes and nothing else. Errors and representations never show a key or a password.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from typing import Any, ClassVar, Literal

from policies.facts import Address, Endpoint, ProfileFacts
from policies.profiles_errors import ProfileError
from policies.profiles_values import check_name, is_host, is_within, plain_address

DEFAULT_PORT = 1194
MOST_REMOTES = 256
LONGEST_LOGIN = 128  # bytes of a user name or a password (USER_PASS_LEN of openvpn)
STATIC_KEY = 256  # bytes
CIPHER = r"AES-(?:128|192|256)-(?:GCM|CBC)|CHACHA20-POLY1305|CAMELLIA-(?:128|192|256)-CBC"
DATA_CIPHERS = ("AES-256-GCM", "AES-128-GCM", "CHACHA20-POLY1305")  # openvpn 2.6's own
_SECONDS = r"[0-9]{1,9}"
_HASH = r"[0-9A-Fa-f]{2}(?::[0-9A-Fa-f]{2}){31}"

# The directives that stay directives, and their words, joined by single spaces.
OPTIONS: dict[str, re.Pattern[str]] = {
    name: re.compile(words)
    for name, words in {
        "remote-cert-tls": r"server",
        "ns-cert-type": r"server",
        "remote-cert-ku": r"[0-9A-Fa-f]{1,4}(?: [0-9A-Fa-f]{1,4}){0,15}",
        "remote-cert-eku": r"[A-Za-z0-9. -]{1,100}",
        "verify-x509-name": r"[^\"\\]{1,200}?(?: (?:subject|name|name-prefix))?",
        "verify-hash": rf"{_HASH}(?: SHA256)?|[0-9A-Fa-f]{{2}}(?::[0-9A-Fa-f]{{2}}){{19}}(?: SHA1)?",
        "auth": r"SHA(?:1|224|256|384|512)|SHA3-(?:224|256|384|512)|BLAKE2[bs](?:512|256)",
        "data-ciphers": rf"(?:{CIPHER})(?::(?:{CIPHER})){{0,15}}",
        "data-ciphers-fallback": CIPHER,
        "tls-cipher": r"TLS-[A-Z0-9-]+(?::TLS-[A-Z0-9-]+)*",
        "tls-ciphersuites": r"TLS_[A-Z0-9_]+(?::TLS_[A-Z0-9_]+)*",
        "tls-groups": r"[A-Za-z0-9-]+(?::[A-Za-z0-9-]+)*",
        "tls-version-min": r"1\.[23]",
        "tls-cert-profile": r"legacy|preferred|suiteb",
        "ping": _SECONDS,
        "ping-restart": _SECONDS,
        "reneg-sec": rf"{_SECONDS}(?: {_SECONDS})?",
        "reneg-bytes": r"[0-9]{1,15}",
        "reneg-pkts": r"[0-9]{1,15}",
        "replay-window": r"[0-9]{1,5}(?: [0-9]{1,3})?",
        "tun-mtu": r"[0-9]{3,5}",
        "mssfix": r"(?:[0-9]{1,5}(?: (?:mtu|fixed))?)?",
        "fragment": r"[0-9]{2,5}(?: mtu)?",
        "comp-lzo": r"no",
        "compress": r"(?:stub|stub-v2|migrate)?",
    }.items()
}
WRAPS = ("tls-auth", "tls-crypt", "tls-crypt-v2")
KEYS = ("PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY")
V2_KEY = "OpenVPN tls-crypt-v2 client key"


@dataclass(frozen=True, slots=True)
class Remote:
    """A server. Raises ProfileError."""

    host: str  # as written: an address or a name
    port: int = DEFAULT_PORT
    protocol: str = "udp"  # "udp" or "tcp"
    family: int = 0  # 4 or 6 where the profile insists on one
    addresses: tuple[Address, ...] = ()  # what `host` resolved to at import; an address stands for itself

    def __post_init__(self) -> None:
        if not (is_host(self.host) and is_within(self.port, 1, 65535)):
            raise ProfileError(0, "remote", "is not a host and a port", "write it like vpn.example.net 1194 udp")
        if self.protocol not in ("udp", "tcp") or self.family not in (0, 4, 6):
            raise ProfileError(0, "proto", "is not known", "write udp or tcp")

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """IPv4 first, for more networks have it."""
        fitting = (one for one in self.addresses if self.family in (0, one.version))
        return tuple(Endpoint(one, self.port, self.protocol) for one in sorted(fitting, key=lambda one: one.version))


@dataclass(frozen=True, slots=True)
class OpenVPNProfile:
    """A tunnel with its keys. Raises ProfileError where a field could not stand in a configuration."""

    kind: ClassVar[Literal["openvpn"]] = "openvpn"
    name: str
    remotes: tuple[Remote, ...]
    ca: tuple[bytes, ...] = ()  # DER
    certificates: tuple[bytes, ...] = ()  # DER: ours, then what leads to its authority
    key_label: str = ""  # of the PEM that the key stood in
    key: bytes | None = field(default=None, repr=False)  # DER
    crl: tuple[bytes, ...] = ()  # DER
    fingerprints: tuple[str, ...] = ()  # SHA-256 of the server's certificate
    wrap: str = ""  # one of WRAPS
    wrap_key: bytes | None = field(default=None, repr=False)
    key_direction: int | None = None  # with tls-auth
    login: bool = False  # the server wants a user name and a password
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    resolvers: tuple[Address, ...] = ()
    options: tuple[tuple[str, ...], ...] = ()  # directives with their words, each once: OPTIONS

    def __post_init__(self) -> None:
        check_name(self.name)
        if not 1 <= len(self.remotes) <= MOST_REMOTES:
            raise ProfileError(0, "remote", "is missing" if not self.remotes else "stands too often", "name the server")
        names = [words[0] for words in self.options]
        for words in self.options:
            check_option(0, words)
        if len(set(names)) != len(names):
            raise ProfileError(0, "options", "hold one directive twice", "keep one")
        if not all(re.fullmatch(_HASH, each) for each in self.fingerprints):
            raise ProfileError(0, "peer-fingerprint", "is no SHA-256", "write 32 bytes as AA:BB:...")
        if not self.ca and not self.fingerprints:
            raise ProfileError(0, "ca", "is missing", "add the block <ca> of the server's authority")
        if (self.key is None) != (not self.certificates) or (self.key is not None and self.key_label not in KEYS):
            raise ProfileError(0, "key", "needs <cert> as well, and <cert> needs <key>", "add both, or neither")
        if self.key is None and not self.login:
            raise ProfileError(0, "cert", "is missing, and so is auth-user-pass", "add <cert> and <key>, or the login")
        _check_wrap(self.wrap, self.wrap_key, self.key_direction)
        for text in (self.user, self.password):
            if text is not None:
                check_login(text)
        for data in (*self.ca, *self.certificates, *self.crl, *([] if self.key is None else [self.key])):
            if not is_der(data):
                raise ProfileError(0, "block", "holds something that is no certificate and no key", "copy it whole")


def check_option(line: int, words: tuple[str, ...]) -> None:
    """Raises ProfileError."""
    name, *rest = words
    plain = all(re.fullmatch(r"[ -~]*", word) and '"' not in word and "\\" not in word for word in rest)
    if name not in OPTIONS or not plain or not OPTIONS[name].fullmatch(" ".join(rest)):
        raise ProfileError(line, name, _WHY.get(name, "has a value that is not taken"), "see docs/profiles.md")


_WHY = {
    "comp-lzo": "compresses, and what is compressed can be guessed (VORACLE)",
    "compress": "compresses, and what is compressed can be guessed (VORACLE)",
    "remote-cert-tls": "must say server",
    "auth": "names a digest that is not known, or broken",
    "data-ciphers": "names no sound cipher",
    "data-ciphers-fallback": "names a cipher that is not known, or broken",
}


def check_login(text: str) -> None:
    """A user name or a password. Raises ProfileError."""
    if not text or len(text.encode("utf-8", "surrogatepass")) > LONGEST_LOGIN or not text.isprintable():
        raise ProfileError(0, "auth-user-pass", "is empty, too long or not printable", f"1 to {LONGEST_LOGIN} bytes")


def _check_wrap(wrap: str, key: bytes | None, direction: int | None) -> None:
    if (wrap == "") != (key is None) or wrap not in ("", *WRAPS) or direction not in (None, 0, 1):
        raise ProfileError(0, "tls-auth", "is not whole", "add the key as a block")
    if key is not None and wrap != "tls-crypt-v2" and len(key) != STATIC_KEY:
        raise ProfileError(0, wrap, "is no static key", f"it needs {STATIC_KEY} bytes")
    if wrap == "tls-crypt-v2" and key is not None and not STATIC_KEY < len(key) <= 4096:
        raise ProfileError(0, wrap, "is no client key", "copy it whole")


def is_der(data: bytes) -> bool:
    """Whether this is one ASN.1 sequence of just this length (X.690, 8.1.3): no more is said of it here."""
    if len(data) < 4 or data[0] != 0x30:
        return False
    if data[1] < 0x80:
        return len(data) == 2 + data[1]
    count = data[1] & 0x7F
    return 1 <= count <= 3 and len(data) == 2 + count + int.from_bytes(data[2 : 2 + count])


# --- profile -> what openvpn is given ---------------------------------------------------------------------------------


def render(profile: OpenVPNProfile) -> Iterator[str]:
    """The lines that come of the profile's fields; where it leads and how it is run, the driver adds."""
    ciphers = next((words[1] for words in profile.options if words[0] == "data-ciphers"), ":".join(DATA_CIPHERS))
    fallback = next((words[1] for words in profile.options if words[0] == "data-ciphers-fallback"), "")
    wanted = dict.fromkeys([*ciphers.split(":"), *([fallback] if fallback else [])])
    yield _line("data-ciphers", ":".join(wanted))
    for words in profile.options:
        if words[0] != "data-ciphers":
            yield _line(*words)
    if profile.login:
        yield "auth-user-pass"
    if profile.wrap == "tls-auth" and profile.key_direction is not None:
        yield _line("key-direction", str(profile.key_direction))
    yield from _rendered_block("ca", _pem("CERTIFICATE", profile.ca))
    yield from _rendered_block("cert", _pem("CERTIFICATE", profile.certificates[:1]))
    yield from _rendered_block("extra-certs", _pem("CERTIFICATE", profile.certificates[1:]))
    yield from _rendered_block("crl-verify", _pem("X509 CRL", profile.crl))
    yield from _rendered_block("peer-fingerprint", profile.fingerprints)
    if profile.key is not None:
        yield from _rendered_block("key", _pem(profile.key_label, [profile.key]))
    if profile.wrap_key is not None:
        if profile.wrap == "tls-crypt-v2":
            lines = list(_pem(V2_KEY, [profile.wrap_key]))
        else:
            digits = [profile.wrap_key[at : at + 16].hex() for at in range(0, STATIC_KEY, 16)]
            lines = ["-----BEGIN OpenVPN Static key V1-----", *digits, "-----END OpenVPN Static key V1-----"]
        yield from _rendered_block(profile.wrap, lines)


def _line(name: str, *words: str) -> str:
    return " ".join([name, *(f'"{word}"' for word in words)])


def _rendered_block(name: str, lines: Iterable[str]) -> Iterator[str]:
    lines = list(lines)
    if lines:
        yield from (f"<{name}>", *lines, f"</{name}>")


def _pem(label: str, parts: Iterable[bytes]) -> Iterator[str]:
    for data in parts:
        text = base64.b64encode(data).decode("ascii")
        yield f"-----BEGIN {label}-----"
        yield from (text[at : at + 64] for at in range(0, len(text), 64))
        yield f"-----END {label}-----"


# --- kept, told -------------------------------------------------------------------------------------------------------


def to_data(profile: OpenVPNProfile) -> dict[str, Any]:
    """As `policies.profiles.to_json` keeps it, keys included."""
    return {
        "kind": profile.kind,
        "name": profile.name,
        "remotes": [
            {
                "host": one.host,
                "port": one.port,
                "protocol": one.protocol,
                "family": one.family,
                "addresses": [str(address) for address in one.addresses],
            }
            for one in profile.remotes
        ],
        "ca": _texts(profile.ca),
        "certificates": _texts(profile.certificates),
        "key_label": profile.key_label,
        "key": None if profile.key is None else _texts([profile.key])[0],
        "crl": _texts(profile.crl),
        "fingerprints": list(profile.fingerprints),
        "wrap": profile.wrap,
        "wrap_key": None if profile.wrap_key is None else _texts([profile.wrap_key])[0],
        "key_direction": profile.key_direction,
        "login": profile.login,
        "user": profile.user,
        "password": profile.password,
        "resolvers": [str(address) for address in profile.resolvers],
        "options": [list(words) for words in profile.options],
    }


def from_data(data: Any) -> OpenVPNProfile:
    """What `to_data` gave. Raises ProfileError, ValueError, TypeError, LookupError, AttributeError."""
    return OpenVPNProfile(
        name=data["name"],
        remotes=tuple(
            Remote(
                one["host"],
                one["port"],
                one["protocol"],
                one["family"],
                tuple(ip_address(text) for text in one["addresses"]),
            )
            for one in data["remotes"]
        ),
        ca=_bytes(data["ca"]),
        certificates=_bytes(data["certificates"]),
        key_label=data["key_label"],
        key=None if data["key"] is None else _bytes([data["key"]])[0],
        crl=_bytes(data["crl"]),
        fingerprints=tuple(data["fingerprints"]),
        wrap=data["wrap"],
        wrap_key=None if data["wrap_key"] is None else _bytes([data["wrap_key"]])[0],
        key_direction=data["key_direction"],
        login=data["login"],
        user=data["user"],
        password=data["password"],
        resolvers=tuple(ip_address(text) for text in data["resolvers"]),
        options=tuple(tuple(words) for words in data["options"]),
    )


def _texts(parts: Iterable[bytes]) -> list[str]:
    return [base64.b64encode(data).decode("ascii") for data in parts]


def _bytes(texts: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(base64.b64decode(text, validate=True) for text in texts)


def facts(profile: OpenVPNProfile) -> ProfileFacts:
    """What decisions may know of the profile. Its addresses are the server's to give."""
    endpoints = tuple(dict.fromkeys(endpoint for one in profile.remotes for endpoint in one.endpoints))
    return ProfileFacts(profile.name, endpoints, (), profile.resolvers, one_at_a_time=True)


def with_addresses(profile: OpenVPNProfile, resolved: Mapping[str, tuple[Address, ...]]) -> OpenVPNProfile:
    """The profile with what its servers' names resolved to; what `resolved` does not name stays as it is."""
    remotes = (
        replace(one, addresses=tuple(resolved[one.host]))
        if one.host in resolved and plain_address(one.host) is None
        else one
        for one in profile.remotes
    )
    return replace(profile, remotes=tuple(remotes))


def with_login(profile: OpenVPNProfile, user: str, password: str) -> OpenVPNProfile:
    """Raises ProfileError."""
    if not profile.login:
        raise ProfileError(0, "auth-user-pass", "is not in this profile: no user name is asked for", "leave it so")
    return replace(profile, user=user, password=password)


def only(profile: OpenVPNProfile, server: Endpoint) -> OpenVPNProfile:
    """The same profile with this one server."""
    remote = Remote(str(server.address), server.port, server.protocol, server.address.version, (server.address,))
    return replace(profile, remotes=(remote,))
