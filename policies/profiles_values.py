"""What the fields of profiles of every kind may hold: names, numbers, addresses, hosts."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, ip_address

from policies.facts import Address
from policies.profiles_errors import ProfileError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?")


def is_profile_name(name: str) -> bool:
    """Whether a profile may be called that: 1 to 64 letters, digits, `_`, `.` and `-`, a letter or digit first."""
    return _NAME.fullmatch(name) is not None


def check_name(name: str) -> None:
    """Raises ProfileError."""
    if not is_profile_name(name):
        remedy = "use 1 to 64 letters, digits, '_', '.' and '-', a letter or digit first"
        raise ProfileError(0, "name", "cannot name a profile", remedy)


def is_within(number: int, low: int, high: int) -> bool:
    return type(number) is int and low <= number <= high  # JSON's true is no port


def number(text: str, low: int, high: int) -> int | None:
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) and low <= int(text) <= high else None


def plain_address(text: str) -> Address | None:
    """An address without a zone."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None


_BROADCAST = IPv4Address("255.255.255.255")


def is_usable(address: Address) -> bool:
    return not (address.is_unspecified or address.is_multicast or address.is_loopback or address == _BROADCAST)


def is_domain(text: str) -> bool:
    return len(text) <= 253 and _DOMAIN.fullmatch(text) is not None


def is_host(text: str) -> bool:
    """An address that one can send to, or a name that no resolver takes for an address ("10.1" is 10.0.0.1 to some)."""
    if (address := plain_address(text)) is not None:
        return not (address.is_unspecified or address.is_multicast or address == _BROADCAST)
    last = text.rstrip(".").rpartition(".")[2].lower()
    return is_domain(text) and not re.fullmatch(r"[0-9]+|0x[0-9a-f]*", last)
