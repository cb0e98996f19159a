"""What is ours in allauth.mfa: secrets sealed in the database, the app only after the phone, codes that stay."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from functools import cache
from typing import Any

from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.models import Authenticator
from allauth.mfa.signals import authenticator_removed
from cryptography.fernet import Fernet, MultiFernet
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from django.conf import settings
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.accounts.steps import phones


@cache
def _seal(secret_key: str, *former: str) -> MultiFernet:
    """From the portal's secret: a stolen copy of the database makes no codes."""
    keys = []
    for secret in (secret_key, *former):
        derived = HKDF(SHA256(), 32, salt=None, info=b"portal.mfa").derive(secret.encode())
        keys.append(Fernet(urlsafe_b64encode(derived)))
    return MultiFernet(keys)


class Adapter(DefaultMFAAdapter):  # type: ignore[misc]
    def encrypt(self, text: str) -> str:
        return _seal(settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS).encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        return _seal(settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS).decrypt(encrypted_text).decode()


def refuse_app_without_phone(user: User) -> None:
    """Raises ValidationError phone_first: the code by SMS is the way back when the app is lost."""
    if not phones.on(user):
        raise ValidationError(_("Confirm a mobile number first."), "phone_first")


def keep_recovery_codes(sender: type, user: User, authenticator: Authenticator, **kwargs: Any) -> None:
    """allauth drops the recovery codes with the app; they are the phone's too."""
    if authenticator.type == Authenticator.Type.RECOVERY_CODES and phones.on(user):
        Authenticator.objects.get_or_create(user=user, type=authenticator.type, defaults={"data": authenticator.data})


authenticator_removed.connect(keep_recovery_codes, dispatch_uid="portal.keep_recovery_codes")
