"""The pages of devices: the list, one of them, and where to choose when there are too many."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from portal.accounts import countries
from portal.devices import commands, connecting
from portal.devices.models import MOST_DEVICES, Credential, Device, Verb

SHOWN = 30  # of the history


def _own(request: HttpRequest, number: UUID) -> Device:
    found = Device.objects.select_related("seat__subscription__product")
    return get_object_or_404(found, public_id=number, user=request.user)


def _with_countries(devices: list[Device]) -> list[Device]:
    names = dict(countries.choices())
    for each in devices:
        each.country_name = names.get(each.country, "")  # type: ignore[attr-defined]
    return devices


def _all(request: HttpRequest) -> list[Device]:
    user: Any = request.user
    found = user.devices.select_related("seat__subscription__product").prefetch_related("credentials")
    return _with_countries(list(found))


@login_required
@require_safe
def panel(request: HttpRequest) -> HttpResponse:
    return render(request, "devices/panel.html", {"devices": _all(request)})


@login_required
@require_safe
def limit(request: HttpRequest) -> HttpResponse:
    """Where an application sends a person when every seat is taken: which device goes?"""
    devices = _all(request)
    subscriptions = []
    for subscription in request.user.subscriptions.select_related("product"):  # type: ignore[union-attr]
        seated = [each for each in devices if each.seat and each.seat.subscription_id == subscription.pk]
        if seated:
            others = subscription.taken.exclude(connected__in=seated).count()
            subscriptions.append({"subscription": subscription, "devices": seated, "others": others})
    context = {"subscriptions": subscriptions, "devices": devices, "full": len(devices) >= MOST_DEVICES}
    return render(request, "devices/limit.html", context | {"most": MOST_DEVICES})


def _detail(request: HttpRequest, device: Device, error: ValidationError | None = None) -> HttpResponse:
    context = {
        "device": _with_countries([device])[0],
        "applications": device.credentials.all(),
        "commands": device.commands.all()[:SHOWN],
        "verbs": Verb.choices,
        "others": device.user.devices.count() - 1,
        "error": error,
    }
    return render(request, "devices/detail.html", context, status=400 if error else 200)


@login_required
@require_safe
def detail(request: HttpRequest, number: UUID) -> HttpResponse:
    return _detail(request, _own(request, number))


@login_required
@require_POST
def rename(request: HttpRequest, number: UUID) -> HttpResponse:
    device = _own(request, number)
    try:
        connecting.rename(device, request.POST.get("name", ""))
    except ValidationError as err:
        return _detail(request, _own(request, number), err)
    messages.success(request, _("Saved."))
    return redirect("devices:detail", number=number)


@login_required
@require_POST
def command(request: HttpRequest, number: UUID) -> HttpResponse:
    device = _own(request, number)
    try:
        commands.send(device, request.POST.get("command", ""))
    except ValidationError as err:
        return _detail(request, device, err)
    messages.success(request, _("The device is told as soon as it is online, within the next 7 days."))
    return redirect("devices:detail", number=number)


@login_required
@require_POST
def disconnect(request: HttpRequest, number: UUID) -> HttpResponse:
    device, back = _own(request, number), request.POST.get("from")
    connecting.disconnect(device)
    messages.success(request, _("%(name)s is disconnected.") % {"name": device.name})
    return redirect("devices:limit" if back == "limit" else "devices:panel")


@login_required
@require_POST
def disconnect_others(request: HttpRequest, number: UUID) -> HttpResponse:
    connecting.disconnect_others(_own(request, number))
    messages.success(request, _("Every other device is disconnected."))
    return redirect("devices:panel")


@login_required
@require_POST
def sign_out(request: HttpRequest, number: UUID, application: str) -> HttpResponse:
    """One application of the device; the first one takes the device along."""
    credential = get_object_or_404(Credential, device=_own(request, number), application=application)
    connecting.sign_out(credential)
    messages.success(request, _("%(name)s is signed out.") % {"name": application})
    if credential.parent_id is None:
        return redirect("devices:panel")
    return redirect("devices:detail", number=number)
