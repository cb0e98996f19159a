"""Headers of every answer: nothing from elsewhere, no inline script or style, no frames."""

from __future__ import annotations

from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template.loader import render_to_string

from portal.accounts.social import ORIGINS, form_actions

CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "media-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
WITH_BUTTONS = {"account_login", "account_signup", "socialaccount_connections"} | {f"{name}_login" for name in ORIGINS}
PERMISSIONS_POLICY = "camera=(), microphone=(), geolocation=(), payment=(), usb=()"


def content_security_policy(request: HttpRequest) -> str:
    """On pages with buttons of quick sign-in, browsers check also where those lead on to."""
    match = request.resolver_match
    if match is None or match.url_name not in WITH_BUTTONS:
        return CONTENT_SECURITY_POLICY
    return CONTENT_SECURITY_POLICY.replace("form-action 'self'", " ".join(("form-action 'self'", *form_actions())))


def policy_headers(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        response = get_response(request)
        response.headers.setdefault("Content-Security-Policy", content_security_policy(request))
        response.headers.setdefault("Permissions-Policy", PERMISSIONS_POLICY)
        return response

    return middleware


METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


def _not_understood(status: int = 400) -> HttpResponse:
    headers = {"Allow": ", ".join(sorted(METHODS))} if status == 405 else None
    return HttpResponse(render_to_string("400.html"), status=status, headers=headers)


class Readable:
    """Pages take text. Where a form is no UTF-8, Django keeps a mark in place of what was meant: it is refused instead.

    And Django answers a method that a page does not know, and some bad requests, without a word.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request) if request.method in METHODS else _not_understood(405)
        if response.status_code in (400, 405) and isinstance(response, HttpResponse) and not response.content:
            response.content = render_to_string("400.html")
        # What is somebody's own is kept by no browser and by nothing on the way.
        if settings.SESSION_COOKIE_NAME in request.COOKIES or "X-Session-Token" in request.headers:
            response.headers.setdefault("Cache-Control", "no-store")
        return response

    def process_view(self, request: HttpRequest, *_arguments: object) -> HttpResponseBase | None:
        if request.method != "POST" or request.path_info.startswith(("/api/", "/_allauth/", "/staff/")):
            return None
        unread = any("\ufffd" in value for values in request.POST.lists() for value in (values[0], *values[1]))
        return _not_understood() if unread else None
