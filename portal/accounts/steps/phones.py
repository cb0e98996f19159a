"""The confirmed number of an account: two-step verification is on while there is one."""

from __future__ import annotations

import re
import unicodedata
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.fields import PhoneField
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import RegexValidator
from django.db import transaction
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.accounts.models import Phone, SmsCode, User
from portal.accounts.steps import codes

NUMBER = re.compile(r"\+[1-9][0-9]{6,14}")


class NumberField(PhoneField):  # type: ignore[misc]
    """A number as people write it: spaces, dashes, brackets, 00 for +, digits of any script. Kept as E.164."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        message = gettext_lazy("Write the number with its country code, such as +49 151 23456789.")
        kwargs["validators"] = [RegexValidator(re.compile(rf"\A{NUMBER.pattern}\Z"), message, "invalid_phone")]
        super().__init__(*args, max_length=40, **kwargs)

    def to_python(self, value: Any) -> str:
        text: str = super().to_python(value)
        plain = "".join(str(unicodedata.decimal(character, character)) for character in text)
        plain = re.sub(r"[\s().\-/\u2010-\u2015\u200e\u200f\u202a-\u202e\u2066-\u2069]", "", plain)
        return "+" + plain[2:] if plain.startswith("00") else plain


def allowed(number: str) -> str:
    """Raises ValidationError phone_not_allowed where the host sends no SMS."""
    prefixes: list[str] = settings.SMS_PREFIXES
    if prefixes and not number.startswith(tuple(prefixes)):
        raise ValidationError(_("No SMS are sent to this country."), "phone_not_allowed")
    return number


def of(user: User) -> str | None:
    kept = Phone.objects.filter(user=user).first()
    return kept.number if kept else None


def on(user: User) -> bool:
    return Phone.objects.filter(user=user).exists()


def has_app(user: User) -> bool:
    return bool(Authenticator.objects.filter(user=user, type=Authenticator.Type.TOTP).exists())


def ask(request: HttpRequest, user: User, number: str) -> None:
    """Sends the code that confirms a number. Raises ValidationError unverified_email, and as codes.send."""
    if not EmailAddress.objects.filter(user=user, email=user.email, verified=True).exists():
        # Who registered with somebody else's e-mail could otherwise lock its owner out.
        raise ValidationError(_("Confirm your e-mail first: follow the link that we mailed."), "unverified_email")
    codes.send(request, user, codes.Purpose.PHONE, number)


def confirm(request: HttpRequest, user: User, code: str) -> bool:
    """The number is the account's. True: recovery codes were made. Raises ValidationError as codes.check."""
    with codes.counted(request, user):
        number = codes.check(user, codes.Purpose.PHONE, code)
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        kept = Phone.objects.filter(user=user).first()
        Phone.objects.update_or_create(user=user, defaults={"number": number, "confirmed_at": timezone.now()})
        made = not Authenticator.objects.filter(user=user, type=Authenticator.Type.RECOVERY_CODES).exists()
        RecoveryCodes.activate(user)
        # A code that was sent to the former number opens nothing any more.
        SmsCode.objects.filter(user=user).delete()
    context = {"phone": codes.masked(number), "brand": settings.BRAND}
    template = "phone_changed" if kept else "two_steps_on"
    get_adapter(request).send_notification_mail(f"account/email/{template}", user, context)
    return made


def by_authenticator(user: User, code: str) -> Authenticator | None:
    """Which of the app and the recovery codes it is of; it is used up."""
    for authenticator in Authenticator.objects.filter(user=user).exclude(type=Authenticator.Type.WEBAUTHN):
        if authenticator.wrap().validate_code(code):
            return authenticator
    return None


def turn_off(user: User) -> None:
    """Removes the number, the authenticator app and the recovery codes."""
    with transaction.atomic():
        Phone.objects.filter(user=user).delete()
        SmsCode.objects.filter(user=user).delete()
        Authenticator.objects.filter(user=user).delete()
