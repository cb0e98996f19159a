"""Characters from an image, or spoken: asked for after repeated failures, each good for one answer."""

from __future__ import annotations

import hmac
import json
import secrets
from dataclasses import dataclass

from captcha.models import CaptchaStore
from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

ALPHABET = "ACDEFHJKLMNPRTUVWXY3479"  # no two look alike when drawn askew
ERRORS = ("captcha_required", "captcha_wrong")


@dataclass(frozen=True)
class Challenge:
    """A new image, where it is drawn, and where it is spoken (None: this server cannot speak)."""

    key: str
    image: str
    audio: str | None


def challenge() -> tuple[str, str]:
    """What django-simple-captcha draws, and the answer it keeps."""
    text = "".join(secrets.choice(ALPHABET) for _ in range(settings.CAPTCHA_LENGTH))
    return text, text.lower()


def new() -> Challenge:
    CaptchaStore.remove_expired()
    key = CaptchaStore.generate_key()
    audio = reverse("captcha-audio", args=[key]) if settings.CAPTCHA_FLITE_PATH else None
    return Challenge(key, reverse("captcha-image", args=[key]), audio)


def answer(request: HttpRequest) -> tuple[str, str]:
    """(key, answer) of a page's form or of `{"captcha": {"key": …, "answer": …}}`; two empty texts: none."""
    if request.content_type == "application/json":
        try:
            given = json.loads(request.body).get("captcha")
        except (ValueError, AttributeError):
            given = None
        if not isinstance(given, dict):
            return "", ""
        key, text = given.get("key"), given.get("answer")
    else:
        key, text = request.POST.get("captcha_key"), request.POST.get("captcha_answer")
    return (key, text) if isinstance(key, str) and isinstance(text, str) else ("", "")


def check(request: HttpRequest) -> None:
    """Raises ValidationError captcha_required (no answer) or captcha_wrong. Right or wrong, the image is used up."""
    key, text = answer(request)
    if not key or not text:
        raise ValidationError(_("Type the characters from the image."), "captcha_required")
    kept = CaptchaStore.objects.filter(hashkey=key, expiration__gt=timezone.now()).first()
    # Whoever deletes the row has used it: of two simultaneous answers one counts.
    used = kept is not None and CaptchaStore.objects.filter(pk=kept.pk).delete()[0] == 1
    if kept is None or not used or not hmac.compare_digest(kept.response.encode(), text.strip().lower().encode()):
        raise ValidationError(_("Those were not the characters. Here is a new image."), "captcha_wrong")
