"""`/api/v1`: what applications do besides signing in, which is allauth's `/_allauth/app/v1`.

The OpenAPI document is at /api/v1/openapi.json.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.account.internal.flows.reauthentication import is_reauthentication_required
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.utils.translation import gettext as _
from ninja import Schema, Status
from pydantic import Field, StrictBool

from portal.accounts import captcha, deletion, export
from portal.accounts.steps import api as steps_api
from portal.api import limits, problems
from portal.api.authentication import SessionToken
from portal.api.document import Interface
from portal.api.parsing import Strict
from portal.consents import ledger
from portal.consents.models import Kind
from portal.consents.views import document
from portal.devices.api import router as devices
from portal.downloads.api import router as downloads
from portal.subscriptions import sharing
from portal.subscriptions.models import Share, Subscription
from portal.subscriptions.views import redeem_counted
from portal.support.api import router as support
from portal.vpn.api import router as vpn

api = Interface(
    title="tunwarden portal", version="1", urls_namespace="api", docs_url=None, auth=[SessionToken()], parser=Strict()
)
problems.install(api)
api.add_router("", steps_api.router)
api.add_router("", devices)
api.add_router("", support)
api.add_router("", vpn)
api.add_router("", downloads)


class Challenge(Schema):
    key: str
    image: str
    audio: str | None


class Statement(Schema):
    kind: str
    version: int
    language: str
    sha256: str
    text: str


class Consent(Schema):
    kind: str
    version: int
    language: str
    given_at: datetime
    withdrawn_at: datetime | None


class Switch(Schema):
    on: StrictBool


class Code(Schema):
    code: str = Field(max_length=100)


class ShareWith(Schema):
    email: str = Field(max_length=254)
    name: str = Field(max_length=80)


class Term(Schema):
    plan: str
    tier: str
    starts_at: datetime
    ends_at: datetime


class SharedWith(Schema):
    id: int
    email: str
    accepted: bool


class SubscriptionOut(Schema):
    id: int
    product: str
    shareable: bool
    own: bool
    state: str
    days_left: int
    ends_at: datetime | None
    seats: int
    seats_left: int
    terms: list[Term]
    shared_with: list[SharedWith]


class Redeemed(Schema):
    outcome: str
    subscription: SubscriptionOut


class Done(Schema):
    done: bool = True


def describe(subscription: Subscription, user: Any) -> SubscriptionOut:
    own = subscription.with_terms().owner_id == user.pk
    return SubscriptionOut(
        id=subscription.pk,
        product=subscription.product.slug,
        shareable=subscription.product.shareable,
        own=own,
        state=subscription.state().value,
        days_left=subscription.days_left(),
        ends_at=subscription.ends_at(),
        seats=subscription.seats(),
        seats_left=subscription.seats_left(),
        terms=[
            Term(plan=term.plan.slug, tier=term.plan.tier, starts_at=term.starts_at, ends_at=term.ends_at)
            for term in subscription.terms.all()
        ],
        # With whom else it is shared is the owner's business.
        shared_with=[
            SharedWith(id=share.pk, email=share.email, accepted=share.accepted_at is not None)
            for share in subscription.shares.all()
        ]
        if own
        else [],
    )


@api.post("/captcha", response=Challenge, auth=None)
def new_captcha(request: HttpRequest) -> Any:
    """A new image, for an answer with `captcha_required` or `captcha_wrong`."""
    limits.take("captcha", request, 600)
    return captcha.new()


@api.get("/statements/{kind}", response=Statement, auth=None)
def statement(request: HttpRequest, kind: Kind) -> Any:
    """A statement in its newest version."""
    return document(ledger.current(kind))


@api.get("/account/consents", response=list[Consent])
def consents(request: HttpRequest) -> Any:
    user: Any = request.user
    return [
        {
            "kind": each.statement.kind,
            "version": each.statement.version,
            "language": each.statement.language,
            "given_at": each.given_at,
            "withdrawn_at": each.withdrawn_at,
        }
        for each in user.consents.select_related("statement")
    ]


@api.put("/account/marketing", response=Switch)
def marketing(request: HttpRequest, body: Switch) -> Any:
    user: Any = request.user
    if body.on:
        ledger.give(user, ledger.current(Kind.MARKETING), get_adapter(request).get_client_ip(request))
    else:
        ledger.withdraw(user, Kind.MARKETING)
    return {"on": ledger.holds(user, Kind.MARKETING)}


@api.delete("/account/consents/{kind}", response=Done)
def withdraw(request: HttpRequest, kind: Kind) -> Any:
    """Takes a consent back; without a required one every session ends, this one too."""
    user: Any = request.user
    ledger.withdraw(user, kind)
    return Done()


def confirmed(request: HttpRequest) -> None:
    """Raises ValidationError reauthentication_required: POST /_allauth/app/v1/auth/reauthenticate comes first."""
    if is_reauthentication_required(request, app="portal"):
        raise ValidationError(_("Confirm your password first."), "reauthentication_required")


@api.get("/account/export")
def account_export(request: HttpRequest) -> Any:
    confirmed(request)
    user: Any = request.user
    return export.document(user)


@api.post("/account/deletion", response=Done)
def ask_deletion(request: HttpRequest) -> Any:
    """Mails the code."""
    confirmed(request)
    user: Any = request.user
    limits.take("deletion", request, 10, account=user.email)
    deletion.request_code(user)
    return Done()


@api.post("/account/deletion/confirm", response=Done)
def confirm_deletion(request: HttpRequest, body: Code) -> Any:
    confirmed(request)
    user: Any = request.user
    deletion.confirm(user, body.code)
    return Done()


@api.get("/subscriptions", response=list[SubscriptionOut])
def subscriptions(request: HttpRequest) -> Any:
    """Own ones, then those shared with this account."""
    user: Any = request.user
    own = list(user.subscriptions.select_related("product"))
    shared = [share.subscription for share in user.shares.select_related("subscription__product")]
    return [describe(each, user) for each in (*own, *shared)]


@api.post("/subscriptions/redeem", response=Redeemed)
def redeem(request: HttpRequest, body: Code) -> Any:
    user: Any = request.user
    subscription, outcome = redeem_counted(request, body.code)
    return Redeemed(outcome=outcome.value, subscription=describe(subscription, user))


@api.post("/subscriptions/{number}/shares", response={201: Done})
def share(request: HttpRequest, number: int, body: ShareWith) -> Any:
    subscription = get_object_or_404(Subscription, pk=number, owner=request.user)
    sharing.invite(subscription, body.email, sharing.sender(body.name), f"{request.scheme}://{request.get_host()}")
    return Status(201, Done())


@api.delete("/subscriptions/shares/{number}", response=Done)
def unshare(request: HttpRequest, number: int) -> Any:
    user: Any = request.user
    get_object_or_404(Share, pk=number, subscription__owner=user)
    try:
        sharing.revoke(user, number)
    except Share.DoesNotExist:  # twice at once
        raise Http404 from None
    return Done()
