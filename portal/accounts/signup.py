"""The part of sign-up that is ours: page and headless interface share it, so both refuse with the same codes.

It must not import `allauth.account.forms`, which derives its own forms from this one.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.core import context
from django import forms
from django.contrib.auth import password_validation
from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.forms.utils import ErrorDict
from django.http import HttpRequest
from django.utils.translation import get_language, gettext_lazy
from django.utils.translation import gettext as _

from portal.accounts import attempts, captcha, countries
from portal.accounts.models import User
from portal.consents import ledger
from portal.consents.models import Kind, Statement

# What counts as a failure that leads to the captcha; a forgotten box does not.
COUNTED = {
    "email": {"email_taken", "invalid"},
    "password": {"password_too_common"},
    "password1": {"password_too_common"},
}


def offered_countries() -> list[tuple[str, str]]:
    """None first: where the browser says no country, nobody gets the alphabet's first one by not looking."""
    return [("", "—"), *countries.choices()]


class SignupForm(forms.Form):
    """Country, privacy policy, marketing and the portal statement."""

    country = forms.ChoiceField(
        label=gettext_lazy("Country"),
        choices=offered_countries,
        required=False,  # an application may send its locale instead
        widget=forms.Select(attrs={"required": True}),
    )
    locale = forms.CharField(required=False, max_length=35, widget=forms.HiddenInput)
    privacy = forms.BooleanField(label=gettext_lazy("I have read and accept the privacy policy."))
    marketing = forms.BooleanField(
        label=gettext_lazy("Send me personal offers by e-mail. I can take this back at any time."), required=False
    )
    portal_statement = forms.CharField(max_length=10, widget=forms.HiddenInput)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not self.is_bound:
            self.initial.setdefault("country", preset(context.request))

    @cached_property
    def statement(self) -> Statement:
        """What the dialog after Create shows."""
        return ledger.current(Kind.PORTAL)

    def full_clean(self) -> None:
        if not self.is_bound:
            super().full_clean()
            return
        request = context.request
        email = self.data.get("email") or self.initial.get("email", "")
        address = get_adapter(request).get_client_ip(request)
        counted = attempts.begin(attempts.limits("signup", address, email if isinstance(email, str) else ""))
        if counted.exceeded:
            try:
                if counted.hopeless:
                    raise get_adapter(request).validation_error("rate_limited")
                captcha.check(request)
            except ValidationError as err:
                # Nothing else is judged: without the characters nobody learns which e-mails are used.
                self._errors = ErrorDict()
                self.cleaned_data = {}
                self.add_error(NON_FIELD_ERRORS, err)
                return
        super().full_clean()
        codes = {name: {each.code for each in errors} for name, errors in self.errors.as_data().items()}
        if not any(COUNTED.get(name, set()) & found for name, found in codes.items()):
            counted.give_back()

    def clean_country(self) -> str:
        """As chosen; an application may send its locale instead."""
        chosen: str = self.cleaned_data.get("country", "")
        locale = self.data.get("locale", "")
        found = chosen or countries.of_locale(locale if isinstance(locale, str) else "") or preset(context.request)
        if not found:
            raise ValidationError(_("Choose your country."), "required")
        return found

    def clean_portal_statement(self) -> str:
        given: str = self.cleaned_data["portal_statement"]
        if given != str(self.statement.version):
            raise ValidationError(_("The portal statement has changed. Please read it again."), "statement_changed")
        return given

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or self.cleaned_data
        # The headless interface judges a password without knowing whose it is: its similarity to the e-mail is skipped.
        if (password := cleaned.get("password")) and (email := cleaned.get("email")):
            try:
                password_validation.validate_password(password, User(email=email))
            except ValidationError as err:
                self.add_error("password", err)
        return cleaned

    def signup(self, request: HttpRequest, user: User) -> None:
        """allauth calls this with the saved user."""
        user.country = self.cleaned_data["country"]
        user.language = get_language() or ""
        user.save(update_fields=["country", "language"])
        address = get_adapter(request).get_client_ip(request)
        ledger.give(user, ledger.current(Kind.PRIVACY), address)
        ledger.give(user, self.statement, address)
        if self.cleaned_data["marketing"]:
            ledger.give(user, ledger.current(Kind.MARKETING), address)


def preset(request: HttpRequest | None) -> str:
    """The country that the browser's or the application's languages stand for; empty when they say none."""
    return countries.of_header(request.headers.get("Accept-Language", "")) if request else ""
