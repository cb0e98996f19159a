"""The directives of an OpenVPN configuration -> the typed fields of a profile.

`openvpn_conf.py` has read the lines and left out what is ignored; values get their meaning here, and the profile checks
itself.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from policies.facts import Address
from policies.openvpn import (
    CIPHER,
    DEFAULT_PORT,
    KEYS,
    MOST_REMOTES,
    OPTIONS,
    STATIC_KEY,
    V2_KEY,
    WRAPS,
    OpenVPNProfile,
    Remote,
    check_option,
    is_der,
)
from policies.openvpn_conf import Directive, lines_of, read
from policies.profiles_errors import Notice, ProfileError
from policies.profiles_values import is_host, is_usable, number, plain_address

_PROTO = {
    "udp": ("udp", 0), "udp4": ("udp", 4), "udp6": ("udp", 6),
    "tcp": ("tcp", 0), "tcp4": ("tcp", 4), "tcp6": ("tcp", 6),
    "tcp-client": ("tcp", 0), "tcp4-client": ("tcp", 4), "tcp6-client": ("tcp", 6),
}  # fmt: skip
_PEM = re.compile(r"-----BEGIN ([A-Za-z0-9 .-]{1,50})-----[ \t]*\n(.*?)-----END \1-----", re.DOTALL)


def parse(name: str, text: str) -> tuple[OpenVPNProfile, tuple[Notice, ...]]:
    """The profile in `text`, in the syntax of openvpn(8), and what was ignored or is worth knowing.

    Raises ProfileError for the first thing that is refused. Nothing is resolved, nothing is run.
    """
    directives, ignored = read(text)
    reader = _Reader()
    for each in directives:
        reader.take(each)
    profile = reader.profile(name)
    return profile, tuple(sorted((*ignored, *reader.notices), key=lambda one: one.line)) + _consequences(profile)


class _Reader:
    """Collects the fields in the order of the lines."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        self._remotes: list[tuple[Directive, str, int | None, str]] = []  # line, host, port, proto ("": not said)
        self._options: dict[str, tuple[str, ...]] = {}
        self._seen: dict[str, int] = {}  # lines of what may stand once
        self._fields: dict[str, Any] = {}
        self._proto, self._port, self._direction = "udp", DEFAULT_PORT, ""
        self._cipher: str | None = None
        self._resolvers: dict[Address, None] = {}

    def take(self, each: Directive) -> None:
        name = each.name
        if each.block is not None:
            self._once(each)
            self._block(each)
        elif name in ("ca", "cert", "key", "extra-certs", "crl-verify", "tls-crypt", "tls-crypt-v2", "tls-auth"):
            self._file(each)
        elif name == "peer-fingerprint":
            self._once(each)
            self._fields["fingerprints"] = tuple(word.upper() for word in each.words)
        elif name in ("remote", "proto", "port", "rport"):
            self._server(each)
        elif name in OPTIONS or name in _RENAMED:
            self._option(each)
        elif special := _SPECIAL.get(name):
            special(self, each)
        # All else is how tunwarden runs openvpn anyhow.

    def profile(self, name: str) -> OpenVPNProfile:
        remotes = []
        for each, host, port, proto in self._remotes:
            protocol, family = _PROTO[proto or self._proto]
            address = plain_address(host)
            if not is_host(host):
                _refuse(each, "is not a host and a port", "write it like vpn.example.net 1194 udp")
            if address is not None and family not in (0, address.version):
                _refuse(each, "has an address of another family than its protocol", "write udp or tcp")
            addresses = () if address is None else (address,)
            remotes.append(Remote(host, port or self._port, protocol, family, addresses))
        fields = self._fields
        if fields.get("wrap") == "tls-auth" and self._direction:
            fields["key_direction"] = int(self._direction)
        return OpenVPNProfile(
            name=name,
            remotes=tuple(dict.fromkeys(remotes)),
            resolvers=tuple(self._resolvers),
            options=tuple(self._options.values()),
            **_with_chain(fields),
        )

    # -- single directives

    def _once(self, each: Directive) -> None:
        if each.name != "connection":
            if each.name in self._seen:
                _refuse(each, f"already stands on line {self._seen[each.name]}", "keep one")
            self._seen[each.name] = each.line

    def _server(self, each: Directive) -> None:
        if each.name == "proto":
            self._proto = _proto(each, each.words[0] if len(each.words) == 1 else "")
        elif each.name != "remote":
            self._port = _port(each, each.words[0] if len(each.words) == 1 else "")
        else:
            if not 1 <= len(each.words) <= 3:
                _refuse(each, "is not a host and a port", "write it like vpn.example.net 1194 udp")
            host, *rest = each.words
            port = _port(each, rest[0]) if rest else None
            self._add_remote(each, host, port, _proto(each, rest[1]) if len(rest) > 1 else "")

    def _add_remote(self, each: Directive, host: str, port: int | None, proto: str) -> None:
        if len(self._remotes) >= MOST_REMOTES:
            _refuse(each, f"stands more than {MOST_REMOTES} times", "keep the servers that are used")
        self._remotes.append((each, host, port, proto))

    def _option(self, each: Directive) -> None:
        name, words = each.name, each.words
        if name in ("data-ciphers", "ncp-ciphers"):
            words = (self._sound_ciphers(each),)
        if name == "tls-version-min":
            words = tuple(word for word in words if word != "or-highest")
            if words in (("1.0",), ("1.1",)):
                self.notices.append(Notice(each.line, name, "ignored: 1.2 is the lowest that is spoken"))
                return
        if name in ("auth", "tls-version-min"):
            words = tuple(word.upper() if word[:3].upper() == "SHA" else word for word in words)
        name = _RENAMED.get(name, name)
        option = (name, *words)
        check_option(each.line, option)
        if self._options.get(name, option) != option:
            _refuse(each, "stands twice, with different values", "keep one")
        self._options[name] = option

    def _sound_ciphers(self, each: Directive) -> str:
        asked = each.words[0].split(":") if len(each.words) == 1 else []
        sound = [one.removeprefix("?").upper() for one in asked if re.fullmatch(CIPHER, one.removeprefix("?").upper())]
        if sound and len(sound) < len(asked):
            self.notices.append(Notice(each.line, each.name, "ignored in part: ciphers that are broken or not known"))
        return ":".join(sound)

    def _take_cipher(self, each: Directive) -> None:
        """Old servers have one cipher; newer ones negotiate, and take this one for a wish more."""
        cipher = each.words[0].upper() if len(each.words) == 1 else ""
        check_option(each.line, ("data-ciphers-fallback", cipher))
        if "data-ciphers-fallback" not in self._options:
            self._options["data-ciphers-fallback"] = ("data-ciphers-fallback", cipher)
        self._cipher = cipher

    def _take_keepalive(self, each: Directive) -> None:
        if len(each.words) != 2:
            _refuse(each, "needs two numbers", "write it like keepalive 10 60")
        for name, seconds in zip(("ping", "ping-restart"), each.words, strict=True):
            self._option(Directive(each.line, name, (seconds,)))

    def _take_device(self, each: Directive) -> None:
        if not each.words or not re.fullmatch(r"tun[a-z0-9_-]{0,12}", each.words[0]) or len(each.words) > 1:
            _refuse(each, "is not tun", "tunwarden makes tunnels of packets (tun), not of Ethernet frames (tap)")

    def _take_direction(self, each: Directive) -> None:
        if each.words not in (("0",), ("1",)):
            _refuse(each, "is not 0 or 1", "copy it from the provider's file")
        self._direction = each.words[0]

    def _take_dhcp(self, each: Directive) -> None:
        kind = each.words[0].upper() if each.words else ""
        if kind not in ("DNS", "DNS6"):
            self.notices.append(Notice(each.line, each.name, "ignored: only DNS and DNS6 are taken"))
            return
        address = plain_address(each.words[1]) if len(each.words) == 2 else None
        if address is None or not is_usable(address):
            _refuse(each, "is not a resolver that the tunnel could reach", "write an address like 10.8.0.1")
        self._resolvers[address] = None

    def _take_login(self, each: Directive) -> None:
        if each.words:
            _refuse(each, "names a file", "write auth-user-pass alone; then `tunwarden profiles login NAME`")
        self._fields["login"] = True

    # -- blocks

    def _file(self, each: Directive) -> None:
        """With [inline] the content comes as a block."""
        if not each.words or each.words[0] != "[inline]":
            _refuse(each, "names a file", f"put what is in it between <{each.name}> and </{each.name}>")
        if each.name == "tls-auth" and len(each.words) > 1:
            self._take_direction(Directive(each.line, each.name, each.words[1:]))

    def _block(self, each: Directive) -> None:
        fields, name, content = self._fields, each.name, each.block or ""
        if name == "connection":
            self._connection(each)
        elif name in ("ca", "cert", "extra-certs"):
            fields[name] = tuple(data for _, data in _pems(each, ("CERTIFICATE",)))
        elif name == "crl-verify":
            fields["crl"] = tuple(data for _, data in _pems(each, ("X509 CRL",)))
        elif name == "key":
            if "ENCRYPTED" in content:
                _refuse(each, "is encrypted", "decrypt it (openssl pkey -in FILE); it will be kept for root alone")
            fields["key_label"], fields["key"] = _pems(each, KEYS)[0]
        elif name in WRAPS:
            if "wrap" in fields:
                _refuse(each, f"stands beside {fields['wrap']}", "keep the one that the server has")
            fields["wrap"] = name
            fields["wrap_key"] = _pems(each, (V2_KEY,))[0][1] if name == "tls-crypt-v2" else _static_key(each)
        elif name == "peer-fingerprint":
            fields["fingerprints"] = tuple(content.upper().split())
        else:
            lines = [line.strip() for line in content.split("\n") if line.strip()]
            if len(lines) != 2:
                _refuse(each, "needs two lines", "the user name, then the password")
            fields["login"] = True
            fields["user"], fields["password"] = lines

    def _connection(self, block: Directive) -> None:
        host, port, proto = "", None, ""
        for each in lines_of(block):
            match each.name:
                case "remote" if not host and 1 <= len(each.words) <= 3:
                    host = each.words[0]
                    port = _port(each, each.words[1]) if len(each.words) > 1 else port
                    proto = _proto(each, each.words[2]) if len(each.words) > 2 else proto
                case "proto":
                    proto = _proto(each, each.words[0] if each.words else "")
                case "port" | "rport":
                    port = _port(each, each.words[0] if each.words else "")
                case "nobind":
                    pass
                case _:
                    _refuse(each, "does not belong in <connection> here", "move it out of the block")
        if not host:
            _refuse(block, "names no server", "add remote")
        self._add_remote(block, host, port, proto)


_RENAMED = {"ncp-ciphers": "data-ciphers", "ping-exit": "ping-restart"}
_SPECIAL = {
    "cipher": _Reader._take_cipher,
    "keepalive": _Reader._take_keepalive,
    "dev": _Reader._take_device,
    "dev-type": _Reader._take_device,
    "key-direction": _Reader._take_direction,
    "dhcp-option": _Reader._take_dhcp,
    "auth-user-pass": _Reader._take_login,
}


def _refuse(each: Directive, problem: str, remedy: str) -> NoReturn:
    raise ProfileError(each.line, each.name, problem, remedy)


def _proto(each: Directive, word: str) -> str:
    if word not in _PROTO:
        _refuse(each, "names a protocol that is not known", "write udp or tcp, with 4 or 6 behind it or not")
    return word


def _port(each: Directive, word: str) -> int:
    port = number(word, 1, 65535)
    if port is None:
        _refuse(each, "has no port", "write 1 to 65535")
    return port


def _pems(block: Directive, labels: Sequence[str]) -> list[tuple[str, bytes]]:
    """The PEM parts with these labels; text around them (openssl writes it) is left out. Raises ProfileError."""
    found = []
    for label, body in _PEM.findall(block.block or ""):
        if label not in labels:
            continue
        try:
            data = base64.b64decode("".join(body.split()), validate=True)
        except ValueError:
            data = b""
        if not data or (label != V2_KEY and not is_der(data)):
            _refuse(block, "is damaged", "copy it whole, with its first and last line")
        found.append((label, data))
    if not found:
        _refuse(block, "holds nothing of its kind", f"it needs -----BEGIN {labels[0]}-----")
    return found


def _static_key(block: Directive) -> bytes:
    found = re.search(
        r"-----BEGIN OpenVPN Static key V1-----\s(.*?)-----END OpenVPN Static key V1-----", block.block or "", re.DOTALL
    )
    digits = "".join(found[1].split()) if found else ""
    if not re.fullmatch(rf"[0-9A-Fa-f]{{{2 * STATIC_KEY}}}", digits):
        _refuse(block, "is no static key", "copy it whole, with its first and last line")
    return bytes.fromhex(digits)


def _with_chain(fields: dict[str, Any]) -> dict[str, Any]:
    own = fields.pop("cert", ()) + fields.pop("extra-certs", ())
    return fields | ({"certificates": own} if own else {})


def _consequences(profile: OpenVPNProfile) -> tuple[Notice, ...]:
    notices = []
    proofs = {"remote-cert-tls", "ns-cert-type", "verify-x509-name", "remote-cert-eku", "verify-hash"}
    if not profile.fingerprints and not proofs & {words[0] for words in profile.options}:
        reason = "missing: whoever has any certificate of this authority could pass as the server"
        notices.append(Notice(0, "remote-cert-tls", reason))
    if profile.login and profile.password is None:
        reason = f"a user name and a password are needed: tunwarden profiles login {profile.name}"
        notices.append(Notice(0, "auth-user-pass", reason))
    return tuple(notices)
