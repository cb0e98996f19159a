"""An account made while buying: it has no password yet, and its owner gets a link to set one."""

from __future__ import annotations

from allauth.account.adapter import get_adapter
from allauth.account.forms import default_token_generator
from allauth.account.models import EmailAddress
from allauth.account.utils import user_pk_to_url_str
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.urls import reverse

from portal.accounts.models import User


def account_for(email: str, country: str, origin: str) -> tuple[User, bool]:
    """The account of this e-mail; made, and mailed a link at `origin` (https://host), when there is none.

    Returns (account, whether it was made). Consents are asked for at the first sign-in. Raises ValidationError.
    """
    email = email.strip().lower()
    validate_email(email)
    if not email.isascii():
        raise ValidationError("Write the e-mail address in Latin letters.", "invalid")
    with transaction.atomic():
        user = User.objects.filter(email=email).first()
        if user is not None:
            return user, False
        user = User.objects.create_user(email, country=country)
        EmailAddress.objects.create(user=user, email=email, primary=True, verified=False)
    key = f"{user_pk_to_url_str(user)}-{default_token_generator.make_token(user)}"
    uidb36, _, token = key.partition("-")
    link = origin.rstrip("/") + reverse("account_reset_password_from_key", args=[uidb36, token])
    mail = get_adapter().render_mail(
        "account/email/set_password", email, {"link": link, "brand": settings.BRAND, "email": email}
    )
    mail.send()
    return user, True
