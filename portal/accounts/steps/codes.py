"""Codes by SMS: made, sent, tried. What is limited is counted in the database, whichever worker serves it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from allauth.account.adapter import get_adapter
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db.models import F
from django.http import HttpRequest
from django.utils import timezone, translation
from django.utils.crypto import salted_hmac
from django.utils.translation import gettext as _

from portal.accounts import attempts
from portal.accounts.models import SmsCode, User
from portal.accounts.steps import gateways

LIFETIME = timedelta(minutes=10)
TRIES = 5  # of one code
# Of all second steps of one account in an hour: 240 guesses a day of a million.
TRIES_PER_ACCOUNT = 10
TRIES_PER_ADDRESS = 30
Purpose = SmsCode.Purpose
log = logging.getLogger(__name__)


def _digest(user: User, purpose: str, number: str, code: str) -> str:
    return salted_hmac("portal.sms", f"{user.pk}:{purpose}:{number}:{code}", algorithm="sha256").hexdigest()


def offered() -> bool:
    """Whether this portal sends SMS at all."""
    return gateways.gateway() is not None


def send(request: HttpRequest, user: User, purpose: Purpose, number: str) -> None:
    """Sends a new code; an older one for this purpose is void.

    Raises ValidationError sms_unavailable, too_many_messages or sms_not_sent.
    """
    gateway = gateways.gateway()
    if gateway is None:
        raise ValidationError(_("This portal sends no SMS."), "sms_unavailable")
    # Numbers are counted by purpose: who asks to confirm a stranger's number must not use up that stranger's sign-ins.
    counted = attempts.begin(
        attempts.hourly(
            f"sms-{purpose.value}",
            number=(number, settings.SMS_PER_HOUR),
            account=(str(user.pk), settings.SMS_PER_HOUR),
        )
        + attempts.hourly("sms", address=(_network(request), settings.SMS_PER_ADDRESS)),
        times=1,
    )
    if counted.hopeless:
        raise ValidationError(_("Too many messages were sent. Try again in an hour."), "too_many_messages")
    code = f"{secrets.randbelow(1_000_000):06}"
    fresh = {"number": number, "digest": _digest(user, purpose, number, code), "tries": 0}
    SmsCode.objects.update_or_create(
        user=user, purpose=purpose, defaults={**fresh, "expires_at": timezone.now() + LIFETIME}
    )
    minutes = int(LIFETIME.total_seconds() // 60)
    with translation.override(user.language or translation.get_language()):
        text = _("%(code)s is your code for %(brand)s. It is valid for %(minutes)s minutes. Tell it to nobody.") % {
            "code": code,
            "brand": settings.BRAND,
            "minutes": minutes,
        }
    try:
        gateway.send(number, text)
    except gateways.SmsError as err:
        log.warning("no SMS was sent: %s", err)
        SmsCode.objects.filter(user=user, purpose=purpose).delete()
        counted.give_back()
        raise ValidationError(_("The SMS could not be sent. Try again later."), "sms_not_sent") from err


def check(user: User, purpose: Purpose, code: str) -> str:
    """The number that the code was sent to; the code is used up.

    Raises ValidationError incorrect_code or code_expired. Each try is counted before it is judged.
    """
    now = timezone.now()
    waiting = SmsCode.objects.filter(user=user, purpose=purpose, expires_at__gt=now)
    if not waiting.filter(tries__lt=TRIES).update(tries=F("tries") + 1):
        raise ValidationError(_("The code has expired, or was tried too often. Ask for a new one."), "code_expired")
    digits = "".join(character for character in code[:40] if character in "0123456789")
    kept = waiting.first()
    # Whoever deletes the row has used the code: of two simultaneous tries one counts.
    if kept is None or not waiting.filter(digest=_digest(user, purpose, kept.number, digits)).delete()[0]:
        raise ValidationError(_("That is not the code."), "incorrect_code")
    return kept.number


@contextmanager
def counted(request: HttpRequest, user: User) -> Iterator[None]:
    """Around one try of a second step, of whatever kind. Raises ValidationError too_many_tries."""
    account = str(user.pk)
    limits = attempts.hourly(
        "second-step", account=(account, TRIES_PER_ACCOUNT), address=(_network(request), TRIES_PER_ADDRESS)
    )
    tried = attempts.begin(limits, times=1)
    if tried.hopeless:
        raise ValidationError(_("Too many wrong codes. Try again in an hour."), "too_many_tries")
    yield
    tried.succeeded("second-step", account)


def waiting_number(user: User, purpose: Purpose) -> str | None:
    """Where a code that still works was sent."""
    kept = SmsCode.objects.filter(user=user, purpose=purpose, expires_at__gt=timezone.now()).first()
    return kept.number if kept else None


def masked(number: str) -> str:
    """Enough to know one's own number, not enough to learn somebody else's."""
    return f"{number[:3]}{'•' * (len(number) - 5)}{number[-2:]}"


def _network(request: HttpRequest) -> str:
    return attempts.network(get_adapter(request).get_client_ip(request))
