"""In which country an address is: by a database on this machine, or as a trusted proxy says; otherwise unknown."""

from __future__ import annotations

import ipaddress
from array import array
from bisect import bisect_right
from functools import lru_cache
from pathlib import Path

from django.conf import settings
from django.http import HttpRequest


class Table:
    """The text files of Debian's tor-geoipdb: `first,last,CC` a line, sorted; addresses as numbers or as IPv6.

    IPv6 addresses are compared by their first 64 bits, so that one costs eight bytes.
    """

    def __init__(self, file: Path, bits: int) -> None:
        self.first, self.last, self.codes = array("Q"), array("Q"), bytearray()
        self.bits = bits
        for line in file.read_text(encoding="ascii").splitlines():
            if not line or line.startswith("#"):
                continue
            first, last, code = line.split(",")
            if code.isalpha() and len(code) == 2:
                self.first.append(self._number(first))
                self.last.append(self._number(last))
                self.codes += code.upper().encode()

    def _number(self, text: str) -> int:
        return int(text) if self.bits == 32 else int(ipaddress.IPv6Address(text)) >> 64

    def country(self, number: int) -> str:
        at = bisect_right(self.first, number) - 1
        if at < 0 or self.last[at] < number:
            return ""
        return self.codes[2 * at : 2 * at + 2].decode()


@lru_cache(maxsize=2)
def _table(file: Path, bits: int, _stamp: int) -> Table:
    return Table(file, bits)


def _local(address: str) -> str:
    parsed: ipaddress.IPv4Address | ipaddress.IPv6Address = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped:
        parsed = parsed.ipv4_mapped
    wide = isinstance(parsed, ipaddress.IPv6Address)
    file = Path(settings.GEOIP or "", "geoip6" if wide else "geoip")
    try:
        table = _table(file, 64 if wide else 32, file.stat().st_mtime_ns)
    except (OSError, ValueError):
        return ""  # `check` says it (checks.py); nobody is kept out for it
    return table.country(int(parsed) >> 64 if wide else int(parsed))


def country(request: HttpRequest, address: str) -> str:
    """ISO 3166-1, or an empty text."""
    if settings.GEOIP:
        return _local(address)
    # Without a proxy in front anybody could write this header.
    if settings.COUNTRY_HEADER and settings.ALLAUTH_TRUSTED_PROXY_COUNT:
        code = request.headers.get(settings.COUNTRY_HEADER, "").upper()
        if len(code) == 2 and code.isascii() and code.isalpha() and code != "XX":
            return code
    return ""
