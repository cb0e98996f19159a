"""Pages: the number, its confirmation, the second step, the settings. Paths and names are allauth's."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.decorators import reauthentication_required
from allauth.account.internal.decorators import login_stage_required
from allauth.account.internal.stagekit import stash_login
from allauth.mfa.base.views import AuthenticateView
from allauth.mfa.models import Authenticator
from allauth.mfa.recovery_codes.internal.flows import generate_recovery_codes
from allauth.mfa.totp.views import activate_totp as stock_activate_app
from django.conf import settings
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.accounts.steps import codes, phones
from portal.accounts.steps.forms import CodeForm, PhoneForm
from portal.accounts.steps.mfa import refuse_app_without_phone
from portal.accounts.steps.stages import SmsStage


@login_required
@never_cache
@require_safe
def overview(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    number = phones.of(user)
    recovery = Authenticator.objects.filter(user=user, type=Authenticator.Type.RECOVERY_CODES).first()
    context = {
        "offered": codes.offered(),
        "number": codes.masked(number) if number else None,
        "app": phones.has_app(user),
        "codes_left": len(recovery.wrap().get_unused_codes()) if recovery else 0,
    }
    return render(request, "mfa/index.html", context)


@login_required
@reauthentication_required  # type: ignore[untyped-decorator]
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def phone(request: HttpRequest) -> HttpResponse:
    """The number; a code is sent to it."""
    user: Any = request.user
    form = PhoneForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            phones.ask(request, user, form.cleaned_data["phone"])
            return redirect("account_verify_phone")
        except ValidationError as err:
            form.add_error(None, err)
    number = phones.of(user)
    context = {"form": form, "number": codes.masked(number) if number else None, "offered": codes.offered()}
    return render(request, "account/phone_change.html", context)


@login_required
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def verify_phone(request: HttpRequest) -> HttpResponse:
    """The code from the SMS."""
    user: Any = request.user
    number = codes.waiting_number(user, codes.Purpose.PHONE)
    if number is None:
        return redirect("account_change_phone")
    resend = request.POST.get("action") == "resend"
    form = CodeForm(request.POST if request.method == "POST" and not resend else None)
    if resend:
        try:
            phones.ask(request, user, number)
            messages.success(request, _("A new code is on its way."))
        except ValidationError as err:
            messages.error(request, " ".join(err.messages))
        return redirect("account_verify_phone")
    if form.is_valid():
        try:
            made = phones.confirm(request, user, form.cleaned_data["code"])
            messages.success(request, _("The number is confirmed. Signing in now takes two steps."))
            return redirect("mfa_view_recovery_codes" if made else "mfa_index")
        except ValidationError as err:
            form.add_error("code", err)
    context = {"form": form, "number": codes.masked(number)}
    return render(request, "account/confirm_phone_verification_code.html", context)


@login_stage_required(stage=SmsStage.key, redirect_urlname="account_login")  # type: ignore[untyped-decorator]
@require_http_methods(["GET", "HEAD", "POST"])
def confirm_sms(request: HttpRequest) -> HttpResponse:
    """The second step at sign-in."""
    stage: SmsStage = request._login_stage  # type: ignore[attr-defined]
    action = request.POST.get("action")
    if action == "cancel":
        cancelled: HttpResponse = stage.abort()
        return cancelled
    if action == "resend":
        err = stage.send()
        stash_login(request, stage.login)
        if err is None:
            messages.success(request, _("A new code is on its way."))
        else:
            messages.error(request, " ".join(err.messages))
        return redirect("account_confirm_login_code")
    form = CodeForm(request.POST if request.method == "POST" else None)
    if form.is_valid():
        try:
            stage.verify(form.cleaned_data["code"])
            done: HttpResponse = stage.exit()
            return done
        except ValidationError as err:
            form.add_error("code", err)
    context = {
        "form": form,
        "number": codes.masked(phones.of(stage.login.user) or ""),
        "problem": stage.state.get("problem"),
        "app": phones.has_app(stage.login.user),
    }
    return render(request, "account/confirm_login_code.html", context)


class AppView(AuthenticateView):  # type: ignore[misc]
    """The app's code; "Use the code from SMS" remains."""

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if request.POST.get("action") == "sms":
            switched: HttpResponse = self.stage.by_sms()
            return switched
        if request.POST.get("action") == "cancel":
            cancelled: HttpResponse = self.stage.abort()
            return cancelled
        answered: HttpResponse = super().post(request, *args, **kwargs)
        return answered

    def _build_forms(self) -> Any:
        # Another button than the code's: no form of allauth's is meant.
        if self.request.method == "POST" and "code" not in self.request.POST:
            self.auth_form, self.webauthn_form = self.get_form_class()(user=self.stage.login.user), None
            return self.get_form_class()(user=self.stage.login.user, data={})
        return super()._build_forms()

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        context: dict[str, Any] = super().get_context_data(**kwargs)
        return context | {"sms": codes.offered() and phones.on(self.stage.login.user)}


@login_required
def activate_app(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    try:
        refuse_app_without_phone(user)
    except ValidationError as err:
        messages.error(request, " ".join(err.messages))
        return redirect("mfa_index")
    response: HttpResponse = stock_activate_app(request)
    return response


@login_required
@reauthentication_required  # type: ignore[untyped-decorator]
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def turn_off(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    if not phones.on(user):
        return redirect("mfa_index")
    if request.method == "POST":
        turn_off_and_tell(request, user)
        messages.success(request, _("Two-step verification is off."))
        return redirect("mfa_index")
    return render(request, "mfa/turn_off.html")


def turn_off_and_tell(request: HttpRequest, user: Any) -> None:
    phones.turn_off(user)
    get_adapter(request).send_notification_mail("account/email/two_steps_off", user, {"brand": settings.BRAND})


@login_required
@reauthentication_required  # type: ignore[untyped-decorator]
@require_POST
def new_recovery_codes(request: HttpRequest) -> HttpResponse:
    """The former ones are void."""
    user: Any = request.user
    if not phones.on(user):
        return redirect("mfa_index")
    generate_recovery_codes(request)
    return redirect("mfa_view_recovery_codes")
