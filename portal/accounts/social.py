"""Quick sign-in: which providers are offered where, and to which account one leads."""

from __future__ import annotations

from typing import Any, ClassVar, NoReturn

from allauth.account.models import EmailAddress
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.core.internal.httpkit import is_headless_request
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.providers.base.constants import AuthProcess
from django.conf import settings
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import Http404, HttpRequest
from django.shortcuts import redirect
from django.utils.translation import gettext_lazy as _

from portal.accounts.models import User
from portal.accounts.signup import preset

# Where a provider's page, and what that leads on to, is: Content-Security-Policy names it on pages with the buttons.
ORIGINS = {
    "apple": ("https://appleid.apple.com", "https://idmsa.apple.com"),
    "facebook": ("https://*.facebook.com",),
    "google": ("https://accounts.google.com",),
    "vk": ("https://id.vk.ru", "https://id.vk.com", "https://*.vk.ru", "https://*.vk.com"),
    "yandex": ("https://*.yandex.com", "https://*.yandex.ru"),
}
# Pages where links that exist already are shown and removed, also those of providers that are no longer offered.
MANAGING = {"socialaccount_connections", "manage_providers"}


def hidden_in(country: str) -> set[str]:
    """The providers that are not offered in a country."""
    return set(settings.SOCIAL_NOT_IN.get(country, ()))


def hidden(request: HttpRequest) -> set[str]:
    """The same for whoever asks: the account's country, otherwise what the browser's languages stand for."""
    user: Any = getattr(request, "user", None)
    country = user.country if user is not None and user.is_authenticated else preset(request)
    return hidden_in(country)


def form_actions() -> list[str]:
    """Origins to which the buttons lead."""
    return sorted(origin for name in settings.SOCIALACCOUNT_PROVIDERS for origin in ORIGINS[name])


class Adapter(DefaultSocialAccountAdapter):  # type: ignore[misc]
    error_messages: ClassVar[dict[str, Any]] = {
        **DefaultSocialAccountAdapter.error_messages,
        "email_taken": _("An account with this e-mail exists already. Sign in to it first, then connect %s there."),
        "provider_not_offered": _("This way to sign in is not offered in the country of the account."),
        "no_verified_email": _("The provider gave no confirmed e-mail. Create an account with a password instead."),
        "email_unconfirmed": _(
            "An account with this e-mail exists, but nobody confirmed the e-mail. "
            "Sign in with its password, or reset it, and confirm the e-mail first."
        ),
        "password_first": _("This account has no password yet. Set one first: ask for a reset by e-mail."),
        "email_differs": _("Only a provider's account with the same confirmed e-mail can be connected."),
    }

    def list_apps(self, request: HttpRequest, provider: str | None = None, client_id: str | None = None) -> list[Any]:
        # Credentials come from the host's settings, never from the database.
        apps = [app for app in super().list_apps(request, provider, client_id) if app.pk is None]
        match = getattr(request, "resolver_match", None)
        if match is not None and match.url_name in MANAGING and provider is not None:
            return apps
        not_offered = hidden(request)
        return [app for app in apps if app.provider not in not_offered]

    def get_app(self, request: HttpRequest, provider: str, client_id: str | None = None) -> Any:
        apps = self.list_apps(request, provider, client_id)
        if not apps:
            raise Http404
        return apps[0]

    def populate_user(self, request: HttpRequest, sociallogin: Any, data: dict[str, Any]) -> Any:
        # Of what the provider tells, only the e-mail is of use here; nothing else is kept.
        sociallogin.account.extra_data = {"email": data.get("email") or ""}
        return super().populate_user(request, sociallogin, {"email": data.get("email")})

    def authenticate_by_email(self, sociallogin: Any) -> tuple[User, str] | None:
        """Only an e-mail that both sides confirmed: otherwise who registers first with it would own the other's."""
        for email in confirmed(sociallogin):
            kept = EmailAddress.objects.filter(email=email, verified=True).select_related("user").first()
            if kept is not None:
                return kept.user, email
        return None

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        emails = confirmed(sociallogin)
        if sociallogin.is_existing and sociallogin.account.provider in hidden_in(sociallogin.user.country):
            self._refuse(request, sociallogin, "provider_not_offered")
        if sociallogin.is_existing and not sociallogin.user.has_usable_password():
            # allauth lets accounts without one do sensitive things unasked.
            self._refuse(request, sociallogin, "password_first")
        if sociallogin.state.get("process") == AuthProcess.CONNECT:
            own = EmailAddress.objects.filter(user_id=request.user.pk, email__in=emails, verified=True)
            if request.user.is_authenticated and not own.exists():
                self._refuse(request, sociallogin, "email_differs")
        elif not sociallogin.is_existing:
            if not emails:
                self._refuse(request, sociallogin, "no_verified_email")
            if User.objects.filter(email__in=emails).exists():
                self._refuse(request, sociallogin, "email_unconfirmed")

    def _refuse(self, request: HttpRequest, sociallogin: Any, code: str) -> NoReturn:
        if is_headless_request(request) or sociallogin.is_headless:
            raise ValidationError(self.error_messages[code], code)
        messages.error(request, self.error_messages[code])
        target = "socialaccount_connections" if request.user.is_authenticated else "account_login"
        raise ImmediateHttpResponse(redirect(target))

    def get_signup_form_initial_data(self, sociallogin: Any) -> dict[str, Any]:
        return {"email": next(iter(confirmed(sociallogin)), "")}

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> Any:
        with transaction.atomic():
            return super().save_user(request, sociallogin, form)


def confirmed(sociallogin: Any) -> list[str]:
    """The e-mails that the provider says are confirmed, in lower case as ours are kept."""
    return [each.email.lower() for each in sociallogin.email_addresses if each.verified]
