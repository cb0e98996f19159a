"""Signed links to a release, for the account they were made for; they work without signing in, until they expire."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from allauth.account.adapter import get_adapter
from allauth.account.models import EmailAddress
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.signing import BadSignature, SignatureExpired, TimestampSigner
from django.core.validators import validate_email
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts import attempts
from portal.accounts.models import User
from portal.downloads.models import Release

PER_ACCOUNT, PER_ADDRESS = 10, 30  # mails an hour


def _signer() -> TimestampSigner:
    return TimestampSigner(salt="portal.downloads.link")


def lifetime() -> timedelta:
    return timedelta(hours=settings.DOWNLOAD_LINK_HOURS)


def make(request: HttpRequest, user: User, release: Release) -> tuple[str, datetime]:
    """(address, when it expires). Who may have it is checked before, and again when it is opened."""
    token = _signer().sign(f"{release.pk}-{user.pk}")
    return request.build_absolute_uri(reverse("downloads:signed_link", args=[token])), timezone.now() + lifetime()


def find(token: str) -> tuple[Release, User]:
    """Raises ValidationError link_expired or link_invalid."""
    invalid = ValidationError(_("This link is not complete, or the download is no more."), "link_invalid")
    try:
        value = _signer().unsign(token, max_age=lifetime())
    except SignatureExpired:
        raise ValidationError(_("This link has expired: ask for another."), "link_expired") from None
    except BadSignature:
        raise invalid from None
    found = re.fullmatch(r"([0-9]{1,18})-([0-9]{1,18})", value)
    if found is None:
        raise invalid
    release = Release.objects.select_related("product").filter(pk=int(found[1]), published=True).first()
    user = User.objects.filter(pk=int(found[2]), is_active=True).first()
    if release is None or user is None:
        raise invalid
    return release, user


def mail(request: HttpRequest, user: User, release: Release, to: str) -> str:
    """Mails a link: to the account's own e-mail when `to` is empty. Returns where it went.

    Raises ValidationError email_unconfirmed, invalid or too_many_tries.
    """
    if not EmailAddress.objects.filter(user=user, email=user.email, verified=True).exists():
        raise ValidationError(_("Confirm the e-mail of your account first."), "email_unconfirmed")
    to = to.strip() or user.email
    validate_email(to)
    if not to.isascii():
        raise ValidationError(_("Write the e-mail address in Latin letters."), "invalid")
    to = to.lower()
    address = attempts.network(get_adapter(request).get_client_ip(request))
    limits = attempts.hourly("download-mail", account=(str(user.pk), PER_ACCOUNT), address=(address, PER_ADDRESS))
    if attempts.begin(limits).exceeded:
        raise ValidationError(_("Too many links were mailed lately. Try again in an hour."), "too_many_tries")
    link, _expires = make(request, user, release)
    context = {
        "brand": settings.BRAND,
        "product": release.product.name,
        "version": release.version,
        "platform": release.get_platform_display(),
        "hours": settings.DOWNLOAD_LINK_HOURS,
        "sha256": release.sha256,
        "link": link,
        "email": to,
    }
    get_adapter().render_mail("account/email/download_link", to, context).send()
    return to
