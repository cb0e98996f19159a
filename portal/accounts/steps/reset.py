"""A password reset by the mailed link asks for the second step too: who reads the mail alone changes nothing."""

from __future__ import annotations

from typing import Any

from allauth.account.forms import ResetPasswordKeyForm
from allauth.core import context
from allauth.headless.account.inputs import ResetPasswordInput
from allauth.headless.internal.restkit import inputs
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from portal.accounts.models import User
from portal.accounts.steps import codes, phones
from portal.accounts.steps.forms import code_field


class SecondStep:
    """The first answer without a code sends one by SMS (not where there is an app) and says `code_required`."""

    user: User | None
    cleaned_data: dict[str, Any]
    errors: Any
    add_error: Any

    def clean(self) -> Any:
        cleaned = super().clean()  # type: ignore[misc]
        if self.user is not None and not self.errors and (number := phones.of(self.user)):
            try:
                self._judge(self.user, number, self.cleaned_data.get("code") or "")
            except ValidationError as err:
                self.add_error("code", err)
        return cleaned

    def _judge(self, user: User, number: str, code: str) -> None:
        if not code:
            if phones.has_app(user):
                said = _("Type the code from your authenticator app, and the password again.")
            else:
                codes.send(context.request, user, codes.Purpose.RESET, number)
                said = _("We sent you a code by SMS. Type it here, and the password again.")
            raise ValidationError(said, "code_required")
        with codes.counted(context.request, user):
            if phones.by_authenticator(user, code) is None:
                codes.check(user, codes.Purpose.RESET, code)


class ResetForm(SecondStep, ResetPasswordKeyForm):  # type: ignore[misc]
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.user is not None and phones.on(self.user):
            field = self.fields["code"] = code_field(gettext_lazy("Code"))
            field.required = False
            field.help_text = gettext_lazy(
                "From your app, or empty: then we send one by SMS. A recovery code works too."
            )


class ResetInput(SecondStep, ResetPasswordInput):  # type: ignore[misc]
    code = inputs.CharField(required=False, max_length=40)
