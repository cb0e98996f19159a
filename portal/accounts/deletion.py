"""Deleting an account: a code by e-mail, then everything is gone. The page and the interface share these two steps."""

from __future__ import annotations

import secrets
from datetime import timedelta

from allauth.account.adapter import get_adapter
from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.translation import gettext as _

from portal.accounts.models import DeletionCode, User
from portal.consents import ledger
from portal.subscriptions.models import Subscription

LIFETIME = timedelta(minutes=30)
TRIES = 5
ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"


def _digest(user: User, code: str) -> str:
    return salted_hmac("portal.deletion", f"{user.pk}:{code.strip().upper()}", algorithm="sha256").hexdigest()


def refuse_while_paid(user: User) -> None:
    """Raises ValidationError has_active_subscription: it would be lost with the account."""
    paid = [each for each in Subscription.objects.filter(owner=user) if each.paid()]
    if paid:
        names = ", ".join(each.product.name for each in paid)
        raise ValidationError(
            _("A paid subscription is active in this account: %(names)s. Wait for its end, or write to support."),
            "has_active_subscription",
            {"names": names},
        )


def request_code(user: User) -> None:
    """Mails a new code; an older one is void. Raises ValidationError has_active_subscription."""
    refuse_while_paid(user)
    code = "".join(secrets.choice(ALPHABET) for _ in range(8))
    DeletionCode.objects.update_or_create(
        user=user, defaults={"digest": _digest(user, code), "expires_at": timezone.now() + LIFETIME, "tries": 0}
    )
    minutes = int(LIFETIME.total_seconds() // 60)
    context = {"code": code, "brand": settings.BRAND, "minutes": minutes, "email": user.email}
    get_adapter().render_mail("account/email/deletion_code", user.email, context).send()


def confirm(user: User, code: str) -> None:
    """Deletes the account. Raises ValidationError code_wrong, code_expired or has_active_subscription."""
    refuse_while_paid(user)
    with transaction.atomic():
        kept = DeletionCode.objects.select_for_update().filter(user=user).first()
        expired = kept is None or kept.expires_at <= timezone.now() or kept.tries >= TRIES
        right = kept is not None and constant_time_compare(kept.digest, _digest(user, code))
        if kept is not None and not expired and not right:
            kept.tries += 1
            kept.save(update_fields=["tries"])
        if right and not expired:
            email = user.email
            ledger.end_sessions(user)
            user.delete()
    if expired:
        raise ValidationError(_("The code has expired, or was tried too often. Ask for a new one."), "code_expired")
    if not right:
        raise ValidationError(_("That is not the code in the mail."), "code_wrong")
    get_adapter().render_mail("account/email/deleted", email, {"brand": settings.BRAND, "email": email}).send()
