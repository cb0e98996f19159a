"""What openvpn says over its management socket (doc/management-notes.txt of OpenVPN 2.6) -> what it means. Pure.

A server has its hand in much of it: names in its certificate, what it pushes, why it refuses. Nothing is taken but
addresses and numbers, each checked here once more.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address

from policies.facts import Address, Interface
from policies.profiles_values import is_usable
from policies.states import Cause

MOST_RESOLVERS = 8
MTU_LEAST, MTU_MOST = 576, 65535  # bytes, RFC 791
_FOREIGN = re.compile(r"foreign_option_[0-9]{1,3}")
_DNS = re.compile(r"dhcp-option DNS6? ([0-9A-Fa-f:.]{2,45})")
# OpenSSL's words, and openvpn's own for them: whose certificate it was is in the text that goes with it.
_CERTIFICATE = re.compile(
    r"VERIFY ERROR|VERIFY (?:X509NAME|KU|EKU|nsCertType|CRL)\w* ERROR|certificate verify failed"
    r"|alert (?:bad certificate|certificate (?:expired|revoked|unknown|required)|unsupported certificate|unknown ca)"
    r"|Your certificate (?:has expired|is not yet valid)|private key password|key values mismatch"
    r"|Cannot load (?:certificate|private key|inline certificate)",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Given:
    """What the server gave the tunnel: its addresses, its resolvers and its MTU in bytes."""

    addresses: tuple[Interface, ...]
    resolvers: tuple[Address, ...]
    mtu: int


@dataclass(slots=True)
class Said:
    """`hear` every line; the rest says what has been heard."""

    connected: bool = False
    rejected: bool = False  # the user name and password
    certificate: str = ""  # why one was refused
    trouble: str = ""  # the last error
    reason: str = ""  # why it ends, in one word of openvpn's
    secure: bool = False  # the server has answered
    given: Given | None = None
    wants_hold_released: bool = False
    wants_login: bool = False
    _environment: dict[str, str] | None = None

    def hear(self, line: str) -> None:
        """One line without its end. Never raises, whatever it is."""
        kind, _, rest = line.partition(":")
        match kind:
            case ">HOLD":
                self.wants_hold_released = True
            case ">STATE":
                self._state(rest.split(","))
            case ">PASSWORD":
                self.wants_login |= rest.startswith("Need 'Auth'")
                self.rejected |= rest.startswith("Verification Failed: 'Auth'")
            case ">UPDOWN":
                self._updown(rest)
            case ">LOG":
                self._log(rest.split(",", 2))
            case ">FATAL":
                self.trouble = _readable(rest)

    def _state(self, fields: list[str]) -> None:
        name, description = [*fields, "", "", ""][1:3]
        self.secure |= name in ("AUTH", "GET_CONFIG")
        self.connected |= name == "CONNECTED" and description == "SUCCESS"
        if name in ("EXITING", "RECONNECTING"):
            self.connected = False
            self.reason = _readable(description)

    def _updown(self, rest: str) -> None:
        if rest == "UP":
            self._environment = {}
        elif rest == "ENV,END" and self._environment is not None:
            self.given, self._environment = given(self._environment), None
        elif rest.startswith("ENV,") and self._environment is not None:
            name, _, value = rest.removeprefix("ENV,").partition("=")
            if name in _TAKEN or _FOREIGN.fullmatch(name):
                self._environment[name] = value

    def _log(self, fields: list[str]) -> None:
        if len(fields) < 3:
            return
        if _CERTIFICATE.search(fields[2]) and not self.certificate:
            self.certificate = _readable(fields[2])
        if set(fields[1]) & {"N", "F"}:
            self.trouble = _readable(fields[2])

    @property
    def cause(self) -> Cause:
        """Why there is no tunnel, as far as was heard."""
        if self.rejected:
            return Cause.CREDENTIALS_REFUSED
        if self.certificate:
            return Cause.CERTIFICATE_REFUSED
        if self.reason == "tls-error":
            return Cause.TLS_FAILED if self.secure else Cause.SERVER_UNREACHABLE
        if self.reason in _LOST or not self.reason:
            return Cause.SERVER_UNREACHABLE if not self.secure else Cause.TUNNEL_FAILED
        return Cause.TUNNEL_FAILED

    @property
    def why(self) -> str:
        """For people."""
        return self.certificate or self.trouble or self.reason


_LOST = frozenset(
    {"connection-reset", "ping-restart", "ping-exit", "connection-failed", "init_instance", "tcp-connect"}
)
_TAKEN = frozenset({"ifconfig_local", "ifconfig_netmask", "ifconfig_ipv6_local", "ifconfig_ipv6_netbits", "tun_mtu"})


def given(environment: dict[str, str]) -> Given | None:
    """The tunnel of these variables; None when they make none."""
    addresses: list[Interface] = []
    try:
        if local := environment.get("ifconfig_local"):
            addresses.append(IPv4Interface(f"{IPv4Address(local)}/{environment.get('ifconfig_netmask', '32')}"))
        if local := environment.get("ifconfig_ipv6_local"):
            addresses.append(IPv6Interface(f"{IPv6Address(local)}/{environment.get('ifconfig_ipv6_netbits', '128')}"))
        mtu = int(environment.get("tun_mtu", "1500"))
    except ValueError:
        return None
    if (
        not addresses
        or not all(is_usable(each.ip) and "%" not in str(each) for each in addresses)
        or not MTU_LEAST <= mtu <= MTU_MOST
    ):
        return None
    resolvers: dict[Address, None] = {}
    for name in sorted(environment, key=lambda name: (len(name), name)):
        found = _DNS.fullmatch(environment[name]) if _FOREIGN.fullmatch(name) else None
        address = _address(found[1]) if found else None
        if address is not None and is_usable(address):
            resolvers[address] = None
    return Given(tuple(addresses), tuple(resolvers)[:MOST_RESOLVERS], mtu)


def _address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None


def _readable(text: str) -> str:
    """One line of printable text."""
    return "".join(character for character in text if character.isprintable())[:200]
