"""Creating an account after a provider vouched for the e-mail: the same rules as without (signup.py), and a password.

The password is what sensitive actions ask for; without one a stolen session could do them all.
"""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.fields import PasswordField, SetPasswordField
from allauth.headless.internal.restkit import inputs
from allauth.headless.socialaccount.inputs import ProviderTokenInput
from allauth.socialaccount.forms import SignupForm
from django.core.exceptions import ValidationError
from django.http import Http404
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy
from requests import RequestException

from portal.accounts.models import User
from portal.accounts.social import hidden_in


class Vouched(SignupForm):  # type: ignore[misc]
    """The e-mail is the provider's, whatever is sent."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["email"].disabled = True
        self.fields["email"].help_text = _("As the provider confirmed it.")

    def clean_country(self) -> str:
        country: str = super().clean_country()
        if self.sociallogin.account.provider in hidden_in(country):
            raise ValidationError(_("This way to sign in is not offered in this country."), "provider_not_offered")
        return country

    def judged(self, password: str) -> str:
        """Also by its similarity to the e-mail."""
        judged: str = get_adapter().clean_password(password, user=User(email=self.initial["email"]))
        return judged


class SocialSignupForm(Vouched):
    password1 = SetPasswordField(label=gettext_lazy("Password"))
    password2 = PasswordField(label=gettext_lazy("Password (again)"), autocomplete="new-password")

    def clean_password1(self) -> str:
        return self.judged(self.cleaned_data["password1"])

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        if cleaned.get("password1") and cleaned["password1"] != cleaned.get("password2"):
            self.add_error("password2", ValidationError(_("The two passwords differ."), "password_mismatch"))
        return cleaned


class SocialSignupInput(Vouched, inputs.Input):  # type: ignore[misc]
    password = inputs.CharField()

    def clean_password(self) -> str:
        return self.judged(self.cleaned_data["password"])


class TokenInput(ProviderTokenInput):  # type: ignore[misc]
    """What a stranger may send as a provider's token: whatever cannot be read is `invalid_token`."""

    def clean(self) -> Any:
        try:
            return super().clean()
        except Http404:
            self.add_error("provider", ValidationError(_("This provider is not offered."), "unknown_provider"))
        except (KeyError, TypeError, ValueError, AttributeError, RequestException):
            self.add_error("token", ValidationError(_("The provider's token is not valid."), "invalid_token"))
        return self.cleaned_data
