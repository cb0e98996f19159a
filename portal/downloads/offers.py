"""Which releases an account gets here, and why not the others."""

from __future__ import annotations

from dataclasses import dataclass

from django.core.exceptions import ValidationError
from django.utils.translation import get_language
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.downloads.models import Architecture, Channel, Grant, Package, Platform, Release
from portal.downloads.visitor import Visitor
from portal.subscriptions import sharing
from portal.subscriptions.models import Product, Seat, State, Subscription


@dataclass(frozen=True)
class Offers:
    """`default`: for this visitor. `other`: the rest. `refused`: with the reason for each."""

    default: list[Release]
    other: list[Release]
    refused: list[tuple[Release, ValidationError]]


def subscriptions(user: User) -> list[Subscription]:
    """Own ones, then those shared with the account."""
    own = list(user.subscriptions.select_related("product"))
    shares = user.shares.select_related("subscription__product")
    return own + [each.subscription for each in shares]


def check_product(user: User, product: Product, seat: Seat | None = None) -> None:
    """Raises ValidationError not_holder, not_active or no_seat. A device that has a seat needs no other one."""
    found = [each for each in subscriptions(user) if each.product_id == product.pk and sharing.may_use(user, each)]
    if not found:
        raise ValidationError(
            _("%(name)s is not in your account. It may be under another e-mail of yours: write to support."),
            "not_holder",
            {"name": product.name},
        )
    running = [each for each in found if each.state() != State.EXPIRED]
    if not running:
        raise ValidationError(
            _("Your subscription to %(name)s is not active. Renew it, or add its activation code again."),
            "not_active",
            {"name": product.name},
        )
    if seat is not None and any(each.pk == seat.subscription_id for each in running):
        return
    if not any(each.seats_left() for each in running):
        raise ValidationError(
            _("Every seat of %(name)s is taken. Disconnect a device first."), "no_seat", {"name": product.name}
        )


def newest(product: Product) -> dict[tuple[str, ...], Release]:
    """The newest published version of each package."""
    found: dict[tuple[str, ...], Release] = {}
    for release in Release.objects.filter(product=product, published=True).select_related("product"):
        kept = found.get(release.slot())
        if kept is None or release.order() > kept.order():
            found[release.slot()] = release
    return found


def check_release(user: User, release: Release, latest: dict[tuple[str, ...], Release] | None = None) -> None:
    """Raises ValidationError region or by_support. The product is checked apart."""
    if not release.in_country(user.country):
        raise ValidationError(_("This package is not available in your country."), "region")
    latest = newest(release.product) if latest is None else latest
    replaced = latest.get(release.slot(), release).pk != release.pk
    if replaced and not Grant.objects.filter(release=release, user=user).exists():
        raise ValidationError(_("There is a newer version. Only support gives you this one."), "by_support")


def check(user: User, release: Release, seat: Seat | None = None) -> None:
    """Whether this account may have this release now. Raises ValidationError with the first reason against it."""
    check_product(user, release.product, seat)
    check_release(user, release)


def _language(release: Release) -> int:
    """How well its language fits: the page's own, then all languages, then English, then another."""
    wanted = get_language() or "en"
    order = [wanted, wanted.split("-")[0], "", "en"]
    return order.index(release.language) if release.language in order else len(order)


def _fits(release: Release, visitor: Visitor) -> bool:
    return visitor.architecture is None or release.architecture in (visitor.architecture, Architecture.ANY)


def _default(found: list[Release], platform: Platform, visitor: Visitor) -> list[Release]:
    """One package of the platform; several only where nobody can tell: the processor, or which Linux it is."""
    fitting = [
        each for each in found if each.platform == platform and each.channel == Channel.STABLE and _fits(each, visitor)
    ]
    if visitor.architecture is None and any(each.architecture == Architecture.ANY for each in fitting):
        fitting = [each for each in fitting if each.architecture == Architecture.ANY]
    if platform != Platform.LINUX and fitting:
        first = min(list(Package.values).index(each.package) for each in fitting)
        fitting = [each for each in fitting if each.package == Package.values[first]]
    if visitor.architecture is not None and any(each.architecture == visitor.architecture for each in fitting):
        fitting = [each for each in fitting if each.architecture == visitor.architecture]
    best = min((_language(each) for each in fitting), default=0)
    return [each for each in fitting if _language(each) == best]


def of(user: User, product: Product, visitor: Visitor) -> Offers:
    """Everything published of the product, sorted out for this account and visitor."""
    latest = newest(product)
    good, refused = [], []
    for release in Release.objects.filter(product=product, published=True).select_related("product"):
        try:
            check_release(user, release, latest)
        except ValidationError as err:
            refused.append((release, err))
        else:
            good.append(release)
    current = [each for each in good if latest[each.slot()].pk == each.pk]
    default = [each for platform in visitor.platforms for each in _default(current, platform, visitor)]
    return Offers(default, [each for each in good if each not in default], refused)
