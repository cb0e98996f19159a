"""Where allauth asks us: counted sign-ins, the captcha, double sign-ups, and the step for statements."""

from __future__ import annotations

from typing import Any, ClassVar

from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.core.internal.httpkit import is_headless_request
from allauth.headless.internal.restkit.response import APIResponse
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.shortcuts import redirect
from django.utils.translation import gettext_lazy as _

from portal.accounts import attempts, captcha
from portal.accounts.models import User

STATEMENTS = "portal.consents.stage.ConsentStage"
STAGES = {
    "allauth.account.stages.LoginByCodeStage": "portal.accounts.steps.stages.SmsStage",
    "allauth.mfa.stages.AuthenticateStage": "portal.accounts.steps.stages.AppStage",
}


class Adapter(DefaultAccountAdapter):  # type: ignore[misc]
    error_messages: ClassVar[dict[str, Any]] = {
        **DefaultAccountAdapter.error_messages,
        "email_taken": _("An account with this e-mail exists already. Sign in, or reset its password."),
        # Which of the two is wrong is not said.
        "email_password_mismatch": _("The e-mail or the password is wrong."),
    }

    def authenticate(self, request: HttpRequest, **credentials: Any) -> User | None:
        """Web, headless and re-authentication all pass here. Raises ValidationError."""
        email = str(credentials.get("email", ""))
        counted = attempts.begin(attempts.limits("signin", self.get_client_ip(request), email))
        if counted.hopeless:
            raise self.validation_error("too_many_login_attempts")
        if counted.exceeded:
            captcha.check(request)
        user: User | None = super().authenticate(request, **credentials)
        if user is not None:
            counted.succeeded("signin", email)
        return user

    def is_safe_url(self, url: str) -> bool:
        try:
            return bool(super().is_safe_url(url))
        except ValueError:  # "http://[": no address at all
            return False

    def clean_email(self, email: str) -> str:
        # Letters that only look Latin would make two accounts that nobody can tell apart.
        if not email.isascii():
            raise ValidationError(_("Write the e-mail address in Latin letters."), "invalid")
        return str(super().clean_email(email))

    def save_user(self, request: HttpRequest, user: User, form: Any, commit: bool = True) -> User:
        try:
            with transaction.atomic():
                saved: User = super().save_user(request, user, form, commit)
        except IntegrityError as err:
            # The same form sent twice at once: both found the e-mail free, one took it.
            error = self.validation_error("email_taken")
            if is_headless_request(request):
                body = [{"message": str(error.message), "code": "email_taken", "param": "email"}]
                raise ImmediateHttpResponse(APIResponse(request, errors=body, status=400)) from err
            messages.error(request, error.message)
            raise ImmediateHttpResponse(redirect("account_login")) from err
        return saved

    def get_login_stages(self) -> list[str]:
        # First: whoever declines has not even got a code by SMS.
        return [STATEMENTS, *(STAGES.get(stage, stage) for stage in super().get_login_stages())]
