"""What every page knows: the name of the house and where its help is."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpRequest


def house(request: HttpRequest) -> dict[str, object]:
    return {
        "brand": settings.BRAND,
        "support_mail": settings.SUPPORT_MAIL,
        "development": settings.DEBUG,
        "languages": settings.LANGUAGES,
    }
