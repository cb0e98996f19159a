"""`/api/v1/account/two-steps`: what is on, and turning it off. The steps themselves: headless.py."""

from __future__ import annotations

from typing import Any

from allauth.account.internal.flows.reauthentication import is_reauthentication_required
from allauth.mfa.models import Authenticator
from django.core.exceptions import ValidationError
from django.http import HttpRequest
from django.utils.translation import gettext as _
from ninja import Router, Schema

from portal.accounts.steps import codes, phones
from portal.accounts.steps.views import turn_off_and_tell
from portal.api.problems import Problem

router = Router(tags=["two steps"])


class TwoSteps(Schema):
    offered: bool
    on: bool
    phone: str | None
    app: bool
    recovery_codes_left: int


def describe(user: Any) -> TwoSteps:
    number = phones.of(user)
    recovery = Authenticator.objects.filter(user=user, type=Authenticator.Type.RECOVERY_CODES).first()
    return TwoSteps(
        offered=codes.offered(),
        on=number is not None,
        phone=codes.masked(number) if number else None,
        app=phones.has_app(user),
        recovery_codes_left=len(recovery.wrap().get_unused_codes()) if recovery else 0,
    )


@router.get(
    "/account/two-steps",
    response={200: TwoSteps, 401: Problem},
    summary="Whether signing in takes two steps, and which",
)
def two_steps(request: HttpRequest) -> Any:
    return describe(request.user)


@router.delete("/account/two-steps", response={200: TwoSteps, 401: Problem}, summary="Turns two-step verification off")
def turn_off(request: HttpRequest) -> Any:
    """The number, the authenticator app and the recovery codes are removed."""
    if is_reauthentication_required(request, app="portal"):
        raise ValidationError(_("Confirm your password first."), "reauthentication_required")
    user: Any = request.user
    if phones.on(user):
        turn_off_and_tell(request, user)
    return describe(user)
