"""How often something failed lately, by account and by network address.

A try is counted before it is made and given back when it did not fail: so many simultaneous tries cannot pass under the
threshold together, whichever worker serves them.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac

from portal.accounts.models import Failure

HOPELESS = 20  # times a limit: machines read captchas too


@dataclass(frozen=True)
class Limit:
    """So many failures of one key within the window; then something more is asked for."""

    key: str
    count: int


@dataclass
class Try:
    """A counted try. `exceeded`: it is over a threshold. `hopeless`: so far over that no captcha helps."""

    rows: list[int]
    exceeded: bool
    hopeless: bool

    def give_back(self) -> None:
        """It did not fail."""
        Failure.objects.filter(pk__in=self.rows).delete()


def _key(*parts: str) -> str:
    return salted_hmac("portal.attempts", "\0".join(parts), algorithm="sha256").hexdigest()


def network(address: str) -> str:
    """What counts as one address: IPv4 as it is, IPv6 by its /64, for a house has all of that."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped:
            return str(parsed.ipv4_mapped)
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)


def limits(purpose: str, address: str, account: str = "") -> list[Limit]:
    found = [Limit(_key(purpose, "address", network(address)), settings.CAPTCHA_PER_ADDRESS)]
    if account:
        found.append(Limit(_key(purpose, "account", account.strip().lower()), settings.CAPTCHA_PER_ACCOUNT))
    return found


def exceeded(of: list[Limit], times: int = 1) -> bool:
    """Whether the next try needs more: as many failures as the limit, or so many times it. Counts nothing."""
    since = timezone.now() - timedelta(seconds=settings.CAPTCHA_WINDOW_SECONDS)
    return any(Failure.objects.filter(key=each.key, at__gt=since).count() >= each.count * times for each in of)


def begin(of: list[Limit]) -> Try:
    """Counts a try."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            # SQLite's transactions are IMMEDIATE: one writer. Here the keys are locked, always in the same order.
            with connection.cursor() as cursor:
                for each in sorted(of, key=lambda limit: limit.key):
                    number = int.from_bytes(hashlib.sha256(each.key.encode()).digest()[:8], "big", signed=True)
                    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
        over = exceeded(of)
        hopeless = over and exceeded(of, HOPELESS)
        # What is refused anyway is not counted, or a flood would fill the table.
        rows = [] if hopeless else [Failure.objects.create(key=each.key).pk for each in of]
    return Try(rows, over, hopeless)


def forget(purpose: str, account: str) -> None:
    """A success: the account's failures no longer count. Those of the address do, or one account would reset them."""
    Failure.objects.filter(key=_key(purpose, "account", account.strip().lower())).delete()


def expire() -> int:
    """Removes what is older than the window; how many."""
    since = timezone.now() - timedelta(seconds=settings.CAPTCHA_WINDOW_SECONDS)
    return Failure.objects.filter(at__lte=since).delete()[0]
