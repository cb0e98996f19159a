"""A signed-in person's own choice of language wins over what the browser asks for."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponseBase
from django.middleware.locale import LocaleMiddleware
from django.utils import translation
from django.utils.cache import patch_vary_headers
from django.views.decorators.http import require_POST
from django.views.i18n import set_language

SHIPPED = frozenset(code for code, _ in settings.LANGUAGES)


class RequestLanguage(LocaleMiddleware):
    """Django's, which looks for a language in each address, twice: here none has one."""

    def process_request(self, request: HttpRequest) -> None:
        translation.activate(translation.get_language_from_request(request))
        request.LANGUAGE_CODE = translation.get_language()

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        patch_vary_headers(response, ("Accept-Language",))
        response.headers.setdefault("Content-Language", translation.get_language())
        return response


def account_language(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        # Without the cookie nobody is signed in, and the session need not be read.
        if settings.SESSION_COOKIE_NAME in request.COOKIES and request.user.is_authenticated:
            chosen = request.user.language
            if chosen in SHIPPED:
                translation.activate(chosen)
                request.LANGUAGE_CODE = chosen
        return get_response(request)

    return middleware


@require_POST
def choose(request: HttpRequest) -> HttpResponseBase:
    """From the foot of any page: kept in the browser and, of who is signed in, in the account, also for mails."""
    code = request.POST.get("language", "")
    if request.user.is_authenticated and code in SHIPPED:
        request.user.language = code
        request.user.save(update_fields=["language"])
    return set_language(request)
