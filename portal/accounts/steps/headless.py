"""The same steps for applications, at the paths of allauth's headless interface (`/_allauth/app/v1/…`).

These come before allauth's own, whose codes by SMS would lie readable in the session and be counted by it alone.
"""

from __future__ import annotations

from typing import Any, ClassVar

from allauth.account.internal.flows.reauthentication import raise_if_reauthentication_required
from allauth.account.internal.stagekit import get_pending_stage, stash_login
from allauth.headless.account.views import ResetPasswordView as StockResetPasswordView
from allauth.headless.base.response import AuthenticationResponse, ConflictResponse
from allauth.headless.base.views import APIView, AuthenticatedAPIView, AuthenticationStageAPIView
from allauth.headless.constants import Client
from allauth.headless.internal.restkit import inputs
from allauth.headless.internal.restkit.response import APIResponse, ErrorResponse
from allauth.headless.mfa import views as mfa
from allauth.headless.mfa.inputs import AuthenticateInput, ReauthenticateInput
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.urls import path

from portal.accounts.steps import codes, phones
from portal.accounts.steps.forms import Counted, PhoneForm
from portal.accounts.steps.mfa import refuse_app_without_phone
from portal.accounts.steps.reset import ResetInput
from portal.accounts.steps.stages import AppStage, SmsStage

STATUS = {"too_many_tries": 429, "too_many_messages": 429, "sms_not_sent": 503, "unverified_email": 409}
STATUS |= {"sms_unavailable": 409, "phone_first": 409}


def refused(request: HttpRequest, err: ValidationError) -> ErrorResponse:
    return ErrorResponse(request, exception=err, status=STATUS.get(err.code or "", 400))


class CodeInput(inputs.Input):  # type: ignore[misc]
    code = inputs.CharField(max_length=40)


class PhoneInput(PhoneForm, inputs.Input):  # type: ignore[misc]
    pass


class CountedInput(Counted):
    """`too_many_tries` is a 429, not one more wrong code."""

    code = inputs.CharField(max_length=40)


class AppInput(CountedInput, AuthenticateInput):  # type: ignore[misc]
    pass


class ReauthenticateAppInput(CountedInput, ReauthenticateInput):  # type: ignore[misc]
    pass


def _invalid(request: HttpRequest, given: Any) -> ErrorResponse:
    found = {each.code for each in given.errors.as_data().get("code", [])}
    return ErrorResponse(request, input=given, status=429 if "too_many_tries" in found else 400)


class SmsView(AuthenticationStageAPIView):  # type: ignore[misc]
    """`auth/code/confirm`: GET where the code went, POST it (or a recovery code)."""

    stage_class = SmsStage
    input_class: ClassVar = {"POST": CodeInput}

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        number = phones.of(self.stage.login.user)
        shown = {"phone": codes.masked(number or ""), "problem": self.stage.state.get("problem")}
        return APIResponse(request, data=shown)

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            self.stage.verify(self.input.cleaned_data["code"])
        except ValidationError as err:
            return refused(request, err)
        return AuthenticationResponse.from_response(request, self.stage.exit())


class ResendView(APIView):  # type: ignore[misc]
    """`auth/code/resend`: a new code; where the app's is awaited, "use the code from SMS"."""

    handle_json_input = False

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        stage = get_pending_stage(request)
        if isinstance(stage, SmsStage):
            err = stage.send()
            stash_login(request, stage.login)
            return refused(request, err) if err else APIResponse(request)
        if isinstance(stage, AppStage) and phones.on(stage.login.user):
            return AuthenticationResponse.from_response(request, stage.by_sms())
        return ConflictResponse(request)


class AppView(mfa.AuthenticateView):  # type: ignore[misc]
    input_class = AppInput
    stage_class = AppStage

    def handle_invalid_input(self, given: Any) -> ErrorResponse:
        return _invalid(self.request, given)


class ReauthenticateView(mfa.ReauthenticateView):  # type: ignore[misc]
    input_class = ReauthenticateAppInput

    def handle_invalid_input(self, given: Any) -> ErrorResponse:
        return _invalid(self.request, given)


class AppSettingsView(mfa.ManageTOTPView):  # type: ignore[misc]
    """`account/authenticators/totp`: only after the phone."""

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if request.user.is_authenticated and request.method in ("GET", "POST"):
            try:
                refuse_app_without_phone(request.user)
            except ValidationError as err:
                return refused(request, err)
        return super().dispatch(request, *args, **kwargs)


class RecoveryCodesView(mfa.ManageRecoveryCodesView):  # type: ignore[misc]
    """`account/authenticators/recovery-codes`: the phone is enough to have them."""

    handle_json_input = False
    input_class = None

    def handle(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        if request.method == "POST":
            try:
                refuse_app_without_phone(request.user)  # type: ignore[arg-type]
            except ValidationError as err:
                return refused(request, err)
        return super().handle(request, *args, **kwargs)


class PhoneView(AuthenticatedAPIView):  # type: ignore[misc]
    """`account/phone`: GET the confirmed number; POST one to confirm it."""

    input_class: ClassVar = {"POST": PhoneInput}

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        number = phones.of(request.user)  # type: ignore[arg-type]
        return APIResponse(request, data=[{"phone": number, "verified": True}] if number else [])

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        raise_if_reauthentication_required(request, app="portal")
        number = self.input.cleaned_data["phone"]
        try:
            phones.ask(request, request.user, number)  # type: ignore[arg-type]
        except ValidationError as err:
            return refused(request, err)
        return APIResponse(request, data=[{"phone": number, "verified": False}], status=202)


class VerifyPhoneView(AuthenticatedAPIView):  # type: ignore[misc]
    """`auth/phone/verify`: the code from the SMS."""

    input_class = CodeInput

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        try:
            phones.confirm(request, request.user, self.input.cleaned_data["code"])  # type: ignore[arg-type]
        except ValidationError as err:
            return refused(request, err)
        return AuthenticationResponse(request)


class ResendPhoneView(AuthenticatedAPIView):  # type: ignore[misc]
    """`auth/phone/verify/resend`."""

    handle_json_input = False

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        number = codes.waiting_number(request.user, codes.Purpose.PHONE)  # type: ignore[arg-type]
        if number is None:
            return ConflictResponse(request)
        try:
            phones.ask(request, request.user, number)  # type: ignore[arg-type]
        except ValidationError as err:
            return refused(request, err)
        return APIResponse(request)


class ResetPasswordView(StockResetPasswordView):  # type: ignore[misc]
    """`auth/password/reset`: also asks for the second step."""

    input_class = ResetInput


def _at(route: str, view: Any) -> Any:
    return path(route, view.as_api_view(client=Client.APP))


urlpatterns = [
    _at("auth/code/confirm", SmsView),
    _at("auth/code/resend", ResendView),
    _at("auth/2fa/authenticate", AppView),
    _at("auth/2fa/reauthenticate", ReauthenticateView),
    _at("auth/password/reset", ResetPasswordView),
    _at("auth/phone/verify", VerifyPhoneView),
    _at("auth/phone/verify/resend", ResendPhoneView),
    _at("account/phone", PhoneView),
    _at("account/authenticators/totp", AppSettingsView),
    _at("account/authenticators/recovery-codes", RecoveryCodesView),
]
