"""The second step of a sign-in: the app's code where there is an app, otherwise one by SMS, which always remains a way.

The stages keep allauth's names and paths, so its clients know them; the codes are ours (codes.py): hashed, counted.
"""

from __future__ import annotations

from allauth.account.internal.flows.login import record_authentication, resume_login
from allauth.account.stages import LoginByCodeStage
from allauth.core.internal.httpkit import headed_redirect_response
from allauth.mfa.base.internal.flows import post_authentication
from allauth.mfa.stages import AuthenticateStage
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse

from portal.accounts.steps import codes, phones


class SmsStage(LoginByCodeStage):  # type: ignore[misc]
    """Waits for the code by SMS; who lost the phone types a recovery code instead."""

    def handle(self) -> tuple[HttpResponse | None, bool]:
        user = self.login.user
        number = phones.of(user) if user is not None else None
        if user is None or number is None:
            return None, True
        if phones.has_app(user) and not self.state.get("chosen"):
            return None, True
        self.send(number)
        return headed_redirect_response("account_confirm_login_code"), True

    def send(self, number: str | None = None) -> ValidationError | None:
        """What went wrong is kept as `problem`: the person sees it and may ask again."""
        user = self.login.user
        number = number or phones.of(user)
        self.state["problem"] = None
        try:
            if number is not None:
                codes.send(self.request, user, codes.Purpose.SIGNIN, number)
        except ValidationError as err:
            self.state["problem"] = err.code
            return err
        return None

    def verify(self, code: str) -> None:
        """Takes the code by SMS, a recovery code, or the app's. Raises ValidationError as codes.check."""
        user = self.login.user
        with codes.counted(self.request, user):
            authenticator = phones.by_authenticator(user, code)
            if authenticator is None:
                codes.check(user, codes.Purpose.SIGNIN, code)
                record_authentication(self.request, user, method="code")
            else:
                post_authentication(self.request, authenticator)
        self.state["passed"] = True


class AppStage(AuthenticateStage):  # type: ignore[misc]
    """Waits for the app's code, unless one by SMS was taken."""

    def _should_handle(self, request: HttpRequest) -> bool:
        sms = self.controller.get_stage(SmsStage.key)
        return not sms.state.get("passed") and bool(super()._should_handle(request))

    def by_sms(self) -> HttpResponse:
        """ "Use the code from SMS": back to that stage."""
        kept = self.login.state["stages"].setdefault(SmsStage.key, {})
        kept["handled"] = False
        kept.setdefault("data", {})["chosen"] = True
        response: HttpResponse = resume_login(self.request, self.login)
        return response
