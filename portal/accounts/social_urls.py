"""Before allauth's own of the same paths: a provider that answers nonsense is an error page, never a crash."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from allauth.headless.constants import Client
from allauth.headless.socialaccount.views import ProviderSignupView, ProviderTokenView
from allauth.socialaccount.adapter import get_adapter
from allauth.socialaccount.helpers import render_authentication_error
from allauth.socialaccount.providers.apple import views as apple
from allauth.socialaccount.providers.facebook import views as facebook
from allauth.socialaccount.providers.google import views as google
from allauth.socialaccount.providers.vk import views as vk
from allauth.socialaccount.providers.yandex import views as yandex
from django.contrib.auth.decorators import login_not_required
from django.core.exceptions import ImproperlyConfigured
from django.http import Http404, HttpRequest, HttpResponse, QueryDict
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods

from portal.accounts.social_forms import SocialSignupInput, TokenInput

View = Callable[..., HttpResponse]
PROVIDERS = {"apple": apple, "facebook": facebook, "google": google, "vk": vk, "yandex": yandex}


def start(view: View) -> View:
    """The way to the provider takes `process` and `next` alone: allauth would also take scopes and parameters."""

    @login_not_required
    @require_http_methods(["GET", "POST"])
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        query = QueryDict(mutable=True)
        for name in ("process", "next"):
            if name in request.GET:
                query[name] = request.GET[name]
        request.GET = query  # type: ignore[assignment]
        return view(request)

    return guarded


def answer(view: View, provider: str) -> View:
    """The way back."""

    @login_not_required
    @wraps(view)
    def guarded(request: HttpRequest) -> HttpResponse:
        try:
            return view(request)
        except (KeyError, TypeError, ValueError, AttributeError, ImproperlyConfigured) as err:
            found = get_adapter(request).get_provider(request, provider)
            failed: HttpResponse = render_authentication_error(request, found, exception=err)
            return failed

    return guarded


@csrf_exempt
@login_not_required
def apple_answer(request: HttpRequest) -> HttpResponse:
    """Apple posts its answer through the browser; of that only the code is of use, for Apple itself is asked with it.

    allauth would take over everything in `user`, which the browser's owner can write: also an e-mail, called confirmed.
    """
    post = QueryDict(mutable=True)
    for name in ("code", "state", "error"):
        if name in request.POST:
            post[name] = request.POST[name]
    if post.get("error") == "user_cancelled_authorize":
        post["error"] = "access_denied"  # everybody else's word for it
    request.GET, request.POST = QueryDict(), post  # type: ignore[assignment]
    response: HttpResponse = apple.oauth2_callback(request)
    return response


@login_not_required
def no_such_door(request: HttpRequest) -> HttpResponse:
    """allauth's pages for the providers' own scripts, which no page here has."""
    raise Http404


urlpatterns: list[Any] = [
    path("google/login/token/", no_such_door, name="google_login_by_token"),
    path("facebook/login/token/", no_such_door, name="facebook_login_by_token"),
    path("apple/login/callback/finish/", answer(apple.oauth2_finish_login, "apple"), name="apple_finish_callback"),
    path("apple/login/callback/", apple_answer, name="apple_callback"),
]
for name, views in PROVIDERS.items():
    urlpatterns.append(path(f"{name}/login/", start(views.oauth2_login), name=f"{name}_login"))
    if name != "apple":
        back = answer(views.oauth2_callback, name)
        urlpatterns.append(path(f"{name}/login/callback/", back, name=f"{name}_callback"))


class SignupView(ProviderSignupView):  # type: ignore[misc]
    input_class = SocialSignupInput


class TokenView(ProviderTokenView):  # type: ignore[misc]
    input_class = TokenInput


headless = [
    path("auth/provider/signup", SignupView.as_api_view(client=Client.APP)),
    path("auth/provider/token", TokenView.as_api_view(client=Client.APP)),
]
