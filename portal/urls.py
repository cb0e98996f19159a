"""Every address of the portal."""

from __future__ import annotations

from allauth.account.decorators import secure_admin_login
from allauth.headless.constants import Client
from django.conf import settings
from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.urls import include, path
from django.views.decorators.http import require_safe

from portal.accounts import views as accounts
from portal.accounts.language import choose
from portal.accounts.social_urls import headless
from portal.api.interface import api
from portal.consents.views import RequiredView
from portal.devices import authorisation


@require_safe
def home(request: HttpRequest) -> HttpResponse:
    return redirect("subscriptions:panel" if request.user.is_authenticated else "account_login")


# Staff signs in like everybody, with captcha, statements and second step: Django's own form has none of them.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]

# First what is asked most often: each address is compared in turn.
addresses, application, namespace = api.urls
addresses.sort(key=lambda each: str(each.pattern) != "entitlement")

urlpatterns = [
    path("api/v1/auth/statements", RequiredView.as_api_view(client=Client.APP), name="api-statements"),
    path("api/v1/", (addresses, application, namespace)),
    path("", home, name="home"),
    path("", include("portal.consents.urls")),
    path("captcha/<slug:key>/image/", accounts.captcha_image, name="captcha-image"),
    path("captcha/<slug:key>/audio/", accounts.captcha_audio, name="captcha-audio"),
    path("accounts/", include("portal.accounts.steps.urls")),
    path("accounts/", include("portal.accounts.social_urls")),
    path("accounts/", include("allauth.urls")),
    path("account/", include("portal.accounts.urls")),
    path("language/", choose, name="language"),
    path("subscriptions/", include("portal.subscriptions.urls")),
    path("downloads/", include("portal.downloads.urls")),
    path("", include("portal.support.urls")),
    path("devices/", include("portal.devices.urls")),
    # Before allauth's own: ours count wrong codes and say expired_token.
    path("identity/o/device", authorisation.page),
    path("identity/o/api/device/code", authorisation.begin),
    path("identity/o/api/token", authorisation.token),
    path("", include("allauth.idp.urls")),
    path("_allauth/app/v1/", include("portal.accounts.steps.headless")),
    path("_allauth/app/v1/", include(headless)),
    path("_allauth/", include("allauth.headless.urls")),
    path("staff/", admin.site.urls),
]
if settings.DEBUG:
    urlpatterns.append(path("development/", include("portal.development.urls")))
