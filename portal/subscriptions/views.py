"""The panel of subscriptions, own and shared; codes, sharing and seats."""

from __future__ import annotations

from typing import Any

from allauth.account.adapter import get_adapter
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts import attempts
from portal.subscriptions import redemption, sharing
from portal.subscriptions.models import Seat, Share, Subscription


def told(outcome: redemption.Outcome) -> str:
    match outcome:
        case redemption.Outcome.ACTIVATED:
            return _("The code is active from now.")
        case redemption.Outcome.RESERVED:
            return _("The code is kept in reserve: it starts by itself when the present term ends.")
        case redemption.Outcome.RENEWED:
            return _("Your renewal has arrived.")
        case redemption.Outcome.UNCHANGED:
            return _("This code is in your account already, and no renewal is missing.")


def redeem_counted(request: HttpRequest, text: str) -> tuple[Subscription, redemption.Outcome]:
    """Redeems; guessing is limited by account and address. Raises ValidationError."""
    user: Any = request.user
    counted = attempts.begin(attempts.limits("code", get_adapter(request).get_client_ip(request), user.email))
    if counted.exceeded:
        raise ValidationError(_("Too many wrong codes. Try again in a quarter of an hour."), "too_many_tries")
    result = redemption.redeem(user, text)
    counted.give_back()
    return result


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def panel(request: HttpRequest) -> HttpResponse:
    user: Any = request.user
    error: ValidationError | None = None
    if request.method == "POST":
        try:
            _subscription, outcome = redeem_counted(request, request.POST.get("code", "")[:100])
        except ValidationError as err:
            error = err
        else:
            messages.success(request, told(outcome))
            return redirect("subscriptions:panel")
    context = {
        "own": user.subscriptions.select_related("product").order_by("product__name"),
        "shared": user.shares.select_related("subscription__product", "subscription__owner"),
        "error": error,
    }
    return render(request, "subscriptions/panel.html", context, status=400 if error else 200)


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def detail(request: HttpRequest, pk: int) -> HttpResponse:
    """One own subscription: terms, seats and with whom it is shared. POST invites."""
    subscription = get_object_or_404(Subscription.objects.select_related("product"), pk=pk, owner=request.user)
    error: ValidationError | None = None
    if request.method == "POST":
        origin = f"{request.scheme}://{request.get_host()}"
        try:
            name = sharing.sender(request.POST.get("name", ""))
            sharing.invite(subscription, request.POST.get("email", ""), name, origin)
        except ValidationError as err:
            error = err
        else:
            messages.success(request, _("The invitation is on its way."))
            return redirect("subscriptions:detail", pk=pk)
    return render(
        request,
        "subscriptions/detail.html",
        {"subscription": subscription, "error": error},
        status=400 if error else 200,
    )


@login_required
@require_POST
def revoke(request: HttpRequest, pk: int) -> HttpResponse:
    share = get_object_or_404(Share, pk=pk, subscription__owner=request.user)
    user: Any = request.user
    try:
        sharing.revoke(user, share.pk)
    except Share.DoesNotExist:  # the same button, pressed twice at once
        raise Http404 from None
    messages.success(request, _("No longer shared with %(email)s.") % {"email": share.email})
    return redirect("subscriptions:detail", pk=share.subscription_id)


@login_required
@require_POST
def release(request: HttpRequest, pk: int) -> HttpResponse:
    user: Any = request.user
    try:
        sharing.release_seat(user, pk)
    except Seat.DoesNotExist:
        raise Http404 from None
    messages.success(request, _("The seat is free."))
    return redirect("subscriptions:panel")


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def accept(request: HttpRequest, token: str) -> HttpResponse:
    """What an invitation's link opens. Accepting is a button: mail scanners follow links."""
    user: Any = request.user
    error: ValidationError | None = None
    share: Share | None = None
    try:
        share = sharing.find(token)
        if request.method == "POST":
            sharing.accept(user, token)
            messages.success(request, _("It is in your subscriptions now."))
            return redirect("subscriptions:panel")
    except ValidationError as err:
        error = err
    return render(request, "subscriptions/accept.html", {"share": share, "error": error}, status=400 if error else 200)
