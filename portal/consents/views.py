"""The texts, the step at sign-in, and the history."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.internal.decorators import login_stage_required
from allauth.headless.base.response import AuthenticationResponse
from allauth.headless.base.views import AuthenticationStageAPIView
from allauth.headless.internal.restkit.response import APIResponse
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from portal.consents import ledger
from portal.consents.models import Kind, Statement
from portal.consents.stage import ConsentStage


def accepted(shown: list[Statement], given: object) -> bool:
    """Whether each text that must be accepted was, in the version that is in force."""
    return isinstance(given, dict) and all(str(given.get(each.kind)) == str(each.version) for each in shown)


@require_safe
def text(request: HttpRequest, kind: str) -> HttpResponse:
    """A statement for everybody to read."""
    if kind not in Kind.values:
        raise Http404
    return render(request, "consents/text.html", {"statement": ledger.current(Kind(kind))})


@login_stage_required(stage=ConsentStage.key, redirect_urlname="account_login")  # type: ignore[untyped-decorator]
@require_http_methods(["GET", "HEAD", "POST"])
def required(request: HttpRequest) -> HttpResponse:
    """The dialog after sign-in: Accept goes on, Decline signs nobody in. Only Accept stores anything."""
    stage = request._login_stage  # type: ignore[attr-defined]
    shown = ledger.missing(stage.login.user)
    if request.method == "POST":
        if "decline" in request.POST:
            messages.info(request, _("You are not signed in: the statement was declined."))
            declined: HttpResponse = stage.abort()
            return declined
        if accepted(shown, {each.kind: request.POST.get(each.kind) for each in shown}):
            address = get_adapter(request).get_client_ip(request)
            for each in shown:
                ledger.give(stage.login.user, each, address)
            done: HttpResponse = stage.exit()
            return done
        messages.error(request, _("The text has changed since you opened it. Please read it again."))
    return render(request, "consents/required.html", {"statements": shown})


class RequiredView(AuthenticationStageAPIView):  # type: ignore[misc]
    """The same step for applications: GET the texts, POST `{"accept": {"portal": 1, …}}`, or DELETE to decline."""

    stage_class = ConsentStage

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return APIResponse(request, data=[document(each) for each in ledger.missing(self.stage.login.user)])

    def post(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        shown = ledger.missing(self.stage.login.user)
        if not accepted(shown, (self.data or {}).get("accept")):
            error = {"message": _("Accept each text in its newest version."), "code": "statement_changed"}
            return APIResponse(request, errors=[{**error, "param": "accept"}], status=400)
        address = get_adapter(request).get_client_ip(request)
        for each in shown:
            ledger.give(self.stage.login.user, each, address)
        return AuthenticationResponse.from_response(request, self.stage.exit())

    def delete(self, request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        self.stage.abort()
        return AuthenticationResponse(request)


def document(statement: Statement) -> dict[str, object]:
    """A statement as an application reads it."""
    return {
        "kind": statement.kind,
        "version": statement.version,
        "language": statement.language,
        "sha256": statement.sha256,
        "text": statement.text,
    }


@login_required
@require_safe
def history(request: HttpRequest) -> HttpResponse:
    consents = request.user.consents.select_related("statement")  # type: ignore[union-attr]
    context = {"consents": consents, "marketing": ledger.holds(request.user, Kind.MARKETING)}  # type: ignore[arg-type]
    return render(request, "consents/history.html", context)


@login_required
@require_POST
def marketing(request: HttpRequest) -> HttpResponse:
    """On or off, as often as wanted."""
    user: Any = request.user
    if request.POST.get("marketing") == "on":
        ledger.give(user, ledger.current(Kind.MARKETING), get_adapter(request).get_client_ip(request))
        messages.success(request, _("You get offers by e-mail."))
    else:
        ledger.withdraw(user, Kind.MARKETING)
        messages.success(request, _("You get no offers by e-mail."))
    return redirect("consents:history")


@login_required
@require_POST
def withdraw(request: HttpRequest) -> HttpResponse:
    """Takes a required consent back: signed out everywhere, and asked again at the next sign-in."""
    kind = request.POST.get("kind", "")
    if kind not in Kind.values:
        raise Http404
    user: Any = request.user
    ledger.withdraw(user, Kind(kind))
    if Kind(kind) in ledger.REQUIRED:
        get_adapter(request).logout(request)
        messages.info(request, _("Withdrawn. You are signed out everywhere."))
        return redirect("account_login")
    return redirect("consents:history")
