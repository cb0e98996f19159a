"""How often something failed lately, by account and by network address.

A try is counted before it is made and given back when it did not fail: so many simultaneous tries cannot pass under the
threshold together, whichever worker serves them.
"""

from __future__ import annotations

import hashlib
import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.db import connection, transaction
from django.db.models import Q
from django.utils import timezone
from django.utils.crypto import salted_hmac

from portal.accounts.models import Failure

HOPELESS = 20  # times a limit: machines read captchas too
HOUR = 3600


@dataclass(frozen=True)
class Limit:
    """So many failures of one key within so many seconds (0: the captcha's window); then more is asked for."""

    key: str
    count: int
    seconds: int = 0

    def since(self) -> datetime:
        return timezone.now() - timedelta(seconds=self.seconds or settings.CAPTCHA_WINDOW_SECONDS)


@dataclass
class Try:
    """A counted try. `exceeded`: it is over a threshold. `hopeless`: so far over that no captcha helps."""

    rows: list[int]
    exceeded: bool
    hopeless: bool

    def give_back(self) -> None:
        """It did not fail."""
        Failure.objects.filter(pk__in=self.rows).delete()

    def succeeded(self, purpose: str, account: str) -> None:
        """The account's failures no longer count either. Those of the address do, or one account would reset them."""
        Failure.objects.filter(Q(pk__in=self.rows) | Q(key=_account(purpose, account).key)).delete()


def _account(purpose: str, account: str) -> Limit:
    return Limit(_key(purpose, "account", account.strip().lower()), settings.CAPTCHA_PER_ACCOUNT)


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
        found.append(_account(purpose, account))
    return found


def exceeded(of: list[Limit], times: int = 1) -> bool:
    """Whether the next try needs more: as many failures as the limit, or so many times it. Counts nothing."""
    return any(Failure.objects.filter(key=each.key, at__gt=each.since()).count() >= each.count * times for each in of)


def hourly(purpose: str, **counts: tuple[str, int]) -> list[Limit]:
    """Limits within an hour: `hourly("sms", account=("7", 5), address=("192.0.2.1", 20))`."""
    return [Limit(_key(purpose, what, value), count, HOUR) for what, (value, count) in counts.items()]


def begin(of: list[Limit], times: int = HOPELESS) -> Try:
    """Counts a try. It is hopeless at so many `times` a limit."""
    with transaction.atomic():
        if connection.vendor == "postgresql":
            # SQLite's transactions are IMMEDIATE: one writer. Here the keys are locked, always in the same order.
            with connection.cursor() as cursor:
                for each in sorted(of, key=lambda limit: limit.key):
                    number = int.from_bytes(hashlib.sha256(each.key.encode()).digest()[:8], "big", signed=True)
                    cursor.execute("SELECT pg_advisory_xact_lock(%s)", [number])
        over = exceeded(of)
        hopeless = over and exceeded(of, times)
        # What is refused anyway is not counted, or a flood would fill the table.
        made = [] if hopeless else Failure.objects.bulk_create([Failure(key=each.key) for each in of])
    return Try([each.pk for each in made], over, hopeless)


def expire() -> int:
    """Removes what is older than any window; how many."""
    since = timezone.now() - timedelta(seconds=max(settings.CAPTCHA_WINDOW_SECONDS, HOUR))
    return Failure.objects.filter(at__lte=since).delete()[0]
