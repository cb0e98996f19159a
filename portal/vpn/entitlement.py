"""What a device may use: the plan of its account's subscription, or the free one; as a signed token.

docs/portal.md lists the claims. The daemon verifies it offline.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import BigAutoField, CharField, DateTimeField
from django.utils import timezone

from portal import signing
from portal.devices import connecting
from portal.devices.models import Device
from portal.prepared import Select, Slot
from portal.subscriptions.models import Plan, Term
from portal.vpn.models import check_key

TYPE = "vpn-ent+jwt"
AUDIENCE = "vpn"
LEAST = 300  # seconds: a plan that ends sooner is still told, or the device would ask again at once

_TERMS: Select[tuple[datetime, datetime, str]] = Select(
    lambda: (
        Term.objects.order_by()
        .filter(
            subscription__taken=Slot("seat", BigAutoField()),
            subscription__product__slug=Slot("product", CharField()),
            ends_at__gt=Slot("since", DateTimeField()),
        )
        .values_list("starts_at", "ends_at", "plan__tier")
    )
)


class Why(StrEnum):
    """Why it is this plan."""

    ACTIVE = "active"
    GRACE = "grace"
    EXPIRED = "expired"
    NO_SEAT = "no_seat"
    NONE = "none"  # no subscription
    ANONYMOUS = "anonymous"


@dataclass(frozen=True)
class Right:
    """The plan of a device. `quota_mb`: a day, None without a limit. `until`: the end of the plan, grace included."""

    plan: str
    why: Why
    quota_mb: int | None
    until: datetime | None = None

    @property
    def servers(self) -> str:
        return "choose" if self.plan == Plan.Tier.PREMIUM else "auto"


def _free(why: Why) -> Right:
    return Right(Plan.Tier.FREE, why, settings.QUOTA_MB if why is Why.ANONYMOUS else settings.QUOTA_MB_SIGNED_IN)


def _in_force(seat: int | None, now: datetime) -> tuple[datetime, str, datetime] | None:
    """The term in force of this seat of the VPN, in grace the last one: its end, its tier, when it stops to count."""
    if seat is None:
        return None
    grace = timedelta(days=settings.GRACE_DAYS)
    terms = sorted(_TERMS(seat=seat, product=settings.VPN_PRODUCT, since=now - grace))
    begun = [each for each in terms if each[0] <= now]
    if not begun:
        return None
    _starts, ends, tier = begun[-1]
    other = next((starts for starts, _ends, its in terms if starts > now and its != tier), None)
    return ends, tier, other or terms[-1][1] + grace


def right_of(device: Device) -> Right:
    """What the account's VPN subscription gives this device, which takes a seat of it when it has none."""
    now = timezone.now()
    try:
        found = _in_force(device.seat_id, now)
        if found is None:  # no seat yet, one of another product, or expired: perhaps another subscription runs
            seat = connecting.seat(device, settings.VPN_PRODUCT)
            found = _in_force(seat.pk, now) if seat is not None else None
    except ValidationError as err:
        return _free(Why.NO_SEAT if err.code == "no_seat" else Why.EXPIRED)
    if found is None:
        had = device.user.subscriptions.filter(product__slug=settings.VPN_PRODUCT).exists()
        return _free(Why.EXPIRED if had else Why.NONE)
    ends, tier, until = found
    why = Why.ACTIVE if ends > now else Why.GRACE
    if tier != Plan.Tier.PREMIUM:
        return _free(why)
    return Right(Plan.Tier.PREMIUM, why, None, until)


def token(right: Right, device: str, public_key: str) -> tuple[str, int, int]:
    """(token, when to ask again, when it expires), in seconds since 1970. Raises SigningError."""
    now = int(time.time())
    expires = now + settings.ENTITLEMENT_HOURS * 3600
    if right.until is not None:
        expires = max(now + LEAST, min(expires, int(right.until.timestamp())))
    refresh = min(now + settings.ENTITLEMENT_REFRESH_HOURS * 3600, expires)
    claims: dict[str, object] = {
        "aud": AUDIENCE,
        "dev": device,
        "wg": public_key,
        "plan": right.plan,
        "why": right.why.value,
        "quota_mb_day": right.quota_mb,
        "servers": right.servers,
        "refresh": refresh,
        "iat": now,
        "exp": expires,
    }
    return signing.sign(claims, TYPE), refresh, expires


def of(device: Device) -> tuple[str, int, int]:
    """As `token`. Raises SigningError."""
    return token(right_of(device), str(device.public_id), device.wireguard_key)


def anonymous(public_key: str) -> tuple[str, int, int]:
    """For a device that nobody signed in on; its key is its name. Raises ValidationError, SigningError."""
    check_key(public_key)
    device = "anonymous-" + hashlib.sha256(public_key.encode()).hexdigest()[:32]
    return token(_free(Why.ANONYMOUS), device, public_key)
