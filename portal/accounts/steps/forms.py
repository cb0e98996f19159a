"""Forms of the second step. allauth's own ones get our counter: its own is off, and would not hold across workers."""

from __future__ import annotations

from typing import Any

from allauth.core import context
from allauth.mfa.base.forms import AuthenticateForm as StockAuthenticateForm
from allauth.mfa.base.forms import ReauthenticateForm as StockReauthenticateForm
from django import forms
from django.utils.translation import gettext_lazy as _

from portal.accounts.steps import codes, phones


def code_field(label: Any) -> forms.CharField:
    attributes = {"autocomplete": "one-time-code", "inputmode": "numeric", "spellcheck": "false", "class": "code"}
    return forms.CharField(label=label, max_length=40, widget=forms.TextInput(attrs=attributes))


class CodeForm(forms.Form):
    code = code_field(_("Code"))


class PhoneForm(forms.Form):
    phone = phones.NumberField(label=_("Mobile number"))

    def clean_phone(self) -> str:
        return phones.allowed(self.cleaned_data["phone"])


class Counted:
    """Each try is counted before it is judged."""

    user: Any

    def clean_code(self) -> str:
        with codes.counted(context.request, self.user):
            code: str = super().clean_code()  # type: ignore[misc]
        return code


class AuthenticateForm(Counted, StockAuthenticateForm):  # type: ignore[misc]
    code = code_field(_("Code"))


class ReauthenticateForm(Counted, StockReauthenticateForm):  # type: ignore[misc]
    code = code_field(_("Code"))
