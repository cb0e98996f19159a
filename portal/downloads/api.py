"""`/api/v1/downloads`: for an application's session, and for a connected device, which may use the seat that it has."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Query, Router, Schema
from pydantic import Field

from portal.api.authentication import SessionToken
from portal.api.problems import Problem
from portal.devices.authentication import DeviceToken
from portal.devices.models import Credential
from portal.downloads import links, offers, visitor
from portal.downloads.models import Architecture, Package, Platform, Release
from portal.subscriptions.models import Product, Seat

router = Router(tags=["downloads"], auth=[SessionToken(), DeviceToken()])
REFUSALS = {401: Problem, 403: Problem, 404: Problem, 409: Problem}


class ReleaseOut(Schema):
    id: int
    product: str
    platform: str
    architecture: str
    package: str
    version: str
    channel: str
    language: str = Field(description="Empty: all")
    filename: str
    size: int = Field(description="Bytes; 0 in a store")
    sha256: str = Field(description="Hexadecimal; empty in a store")
    store: str = Field(description="Its address in a store; empty: a file")


class RefusedOut(Schema):
    release: ReleaseOut
    code: str = Field(description="region or by_support")
    detail: str


class OffersOut(Schema):
    default: list[ReleaseOut]
    other: list[ReleaseOut]
    refused: list[RefusedOut]


class LinkOut(Schema):
    url: str
    expires_at: datetime | None
    size: int
    sha256: str


class Recipient(Schema):
    email: str = Field("", max_length=254, description="Empty: the account's own")


class Mailed(Schema):
    email: str


def describe(release: Release) -> ReleaseOut:
    same = ("platform", "architecture", "package", "version", "channel", "language", "filename", "size", "sha256")
    fields = {name: getattr(release, name) for name in same}
    return ReleaseOut(id=release.pk, product=release.product.slug, store=release.store_url, **fields)


def _seat(request: HttpRequest) -> Seat | None:
    who = request.auth  # type: ignore[attr-defined]
    return who.device.seat if isinstance(who, Credential) else None


def _allowed(request: HttpRequest, number: int) -> Release:
    user: Any = request.user
    found = get_object_or_404(Release.objects.select_related("product"), pk=number, published=True)
    offers.check(user, found, _seat(request))
    return found


@router.get("/downloads/{product}", response={200: OffersOut, **REFUSALS}, summary="What can be downloaded")
def product_downloads(
    request: HttpRequest,
    product: str,
    platform: Platform | None = Query(None, description="Otherwise as the headers say"),  # noqa: B008
    architecture: Architecture | None = Query(None),  # noqa: B008
) -> Any:
    """`default`: for this platform; `other`: the rest; `refused`: each with its reason. As a whole it is refused
    with `not_holder`, `not_active` or `no_seat`."""
    user: Any = request.user
    found = get_object_or_404(Product, slug=product)
    offers.check_product(user, found, _seat(request))
    seen = visitor.of(request)
    if platform is not None:
        seen = visitor.Visitor((platform,), architecture)
    sorted_out = offers.of(user, found, seen)
    return OffersOut(
        default=[describe(each) for each in sorted_out.default],
        other=[describe(each) for each in sorted_out.other],
        refused=[
            RefusedOut(release=describe(each), code=str(err.code), detail=" ".join(err.messages))
            for each, err in sorted_out.refused
        ],
    )


@router.post("/downloads/releases/{int:number}/link", response={200: LinkOut, **REFUSALS}, summary="A signed link")
def link(request: HttpRequest, number: int) -> Any:
    """It works without signing in until it expires; ranges and If-Range resume it."""
    release = _allowed(request, number)
    user: Any = request.user
    if release.package == Package.STORE:
        return LinkOut(url=release.store_url, expires_at=None, size=0, sha256="")
    url, expires = links.make(request, user, release)
    return LinkOut(url=url, expires_at=expires, size=release.size, sha256=release.sha256)


@router.post(
    "/downloads/releases/{int:number}/mail",
    response={200: Mailed, 400: Problem, 422: Problem, 429: Problem, **REFUSALS},
    summary="The link by e-mail",
)
def mail(request: HttpRequest, number: int, body: Recipient) -> Any:
    user: Any = request.user
    return Mailed(email=links.mail(request, user, _allowed(request, number), body.email))
