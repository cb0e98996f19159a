"""What daemons fetch: keys to pin, entitlements, server lists."""

from __future__ import annotations

import time
from typing import Any

from allauth.account.adapter import get_adapter
from django.conf import settings
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.utils.cache import get_conditional_response
from django.utils.translation import gettext as _
from ninja import Router, Schema
from pydantic import Field

from portal import signing
from portal.accounts import attempts
from portal.api.problems import Problem
from portal.devices.authentication import DeviceToken
from portal.subscriptions.models import Plan
from portal.vpn import entitlement, servers

router = Router(tags=["vpn"])
KEYS_TYPE = "vpn-keys+jwt"


class Jwk(Schema):
    kty: str
    crv: str
    x: str
    kid: str
    alg: str
    use: str


class Keys(Schema):
    keys: list[Jwk]
    token: str


class Entitlement(Schema):
    token: str
    refresh_at: int
    expires_at: int


class Anonymous(Schema):
    public_key: str = Field(min_length=44, max_length=44, description="The device's WireGuard public key, in base64.")


@router.get("/keys", response={200: Keys, 503: Problem}, auth=None, summary="The two keys to pin")
def keys(request: HttpRequest) -> Any:
    """The current key, then the next one. The token holds both, signed by the current one: a daemon that had pinned
    it as its next key learns the one after it."""
    found = signing.public_keys()
    expires = int(time.time()) + settings.ENTITLEMENT_HOURS * 3600
    return {"keys": found, "token": signing.sign({"keys": found, "exp": expires}, KEYS_TYPE)}


@router.post(
    "/entitlement/anonymous",
    response={200: Entitlement, 400: Problem, 422: Problem, 429: Problem, 503: Problem},
    auth=None,
    summary="The free plan, without sign-in",
)
def anonymous(request: HttpRequest, body: Anonymous) -> Any:
    """For a device that nobody signed in on. Limited by address (`too_many_tries`)."""
    address = get_adapter(request).get_client_ip(request)
    limits = attempts.hourly("anonymous", address=(attempts.network(address), settings.ANONYMOUS_PER_ADDRESS))
    if attempts.begin(limits).exceeded:
        raise ValidationError(_("Too many devices asked from your address. Try again later."), "too_many_tries")
    return _told(entitlement.anonymous(body.public_key))


@router.get(
    "/entitlement",
    response={200: Entitlement, 401: Problem, 503: Problem},
    auth=DeviceToken(),
    summary="What this device may use",
)
def device_entitlement(request: HttpRequest) -> Any:
    """A signed token: the plan, a day's quota and the choice of servers (docs/portal.md has the claims)."""
    return _told(entitlement.of(request.auth.device))  # type: ignore[attr-defined]


def _told(made: tuple[str, int, int]) -> dict[str, object]:
    return dict(zip(("token", "refresh_at", "expires_at"), made, strict=True))


def _sent(request: HttpRequest, tier: str) -> HttpResponse:
    """The bytes that are signed; 304 when the asker has them."""
    found = servers.published(tier)
    response = HttpResponse(found.body, content_type="application/json")
    response["ETag"] = found.etag
    response["X-Key-Id"] = found.kid
    response["X-Signature-Ed25519"] = found.signature
    response["Cache-Control"] = "private, no-cache"
    answer = get_conditional_response(request, etag=found.etag, response=response)
    return answer if isinstance(answer, HttpResponse) else response


@router.get("/servers/free", auth=None, summary="The servers of the free plan", response={200: dict, 503: Problem})
def free_servers(request: HttpRequest) -> HttpResponse:
    """Signed: `X-Signature-Ed25519` (base64url) by the key `X-Key-Id` covers the body's bytes. Send its ETag in
    If-None-Match; 304 means that nothing changed."""
    return _sent(request, Plan.Tier.FREE)


@router.get(
    "/servers", auth=DeviceToken(), summary="The servers of this device's plan", response={200: dict, 401: Problem}
)
def plan_servers(request: HttpRequest) -> HttpResponse:
    """Signed as the free list is."""
    return _sent(request, entitlement.right_of(request.auth.device).plan)  # type: ignore[attr-defined]
