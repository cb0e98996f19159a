"""Sharing a subscription by e-mail, and the seats that devices take."""

from __future__ import annotations

import hashlib
import secrets

from allauth.account.adapter import get_adapter
from allauth.account.models import EmailAddress
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import transaction
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.subscriptions.models import Move, Seat, Share, State, Subscription
from portal.support import words

SENDER = 80  # characters of the name in an invitation
MOST_SHARES = 50  # people at once; more is not a household


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def sender(name: str) -> str:
    """What somebody calls himself in an invitation; may be empty. Raises ValidationError text_…."""
    return words.line(name, SENDER) if name.strip() else ""


def invite(subscription: Subscription, email: str, sender_name: str, origin: str) -> Share:
    """Mails an invitation.

    Raises ValidationError not_shareable, not_active, invalid, own_email, already_shared or too_many.
    """
    email = email.strip()
    if not subscription.product.shareable:
        raise ValidationError(_("%(name)s is for its holder alone."), "not_shareable", {"name": subscription.product})
    if subscription.state() == State.EXPIRED:
        raise ValidationError(_("The subscription has expired: renew it first."), "not_active")
    validate_email(email)
    if not email.isascii():
        raise ValidationError(_("Write the e-mail address in Latin letters."), "invalid")
    email = email.lower()
    if email == subscription.owner.email:
        raise ValidationError(_("That is your own e-mail."), "own_email")
    token = secrets.token_urlsafe(32)
    with transaction.atomic():
        Subscription.objects.select_for_update().get(pk=subscription.pk)
        if subscription.shares.filter(email=email).exists():
            raise ValidationError(_("It is shared with this e-mail already."), "already_shared")
        if subscription.shares.count() >= MOST_SHARES:
            raise ValidationError(_("It is shared with %(most)d people already."), "too_many", {"most": MOST_SHARES})
        share = subscription.shares.create(email=email, sender_name=sender_name[:SENDER], digest=_digest(token))
    context = {
        "brand": settings.BRAND,
        "sender": share.sender_name,
        "product": subscription.product.name,
        "link": origin.rstrip("/") + reverse("subscriptions:accept", args=[token]),
        "email": email,
    }
    get_adapter().render_mail("account/email/share_invitation", email, context).send()
    return share


def find(token: str) -> Share:
    """The invitation of a link. Raises ValidationError invitation_gone."""
    share = Share.objects.select_related("subscription__product").filter(digest=_digest(token)).first()
    if share is None:
        raise ValidationError(_("This invitation was withdrawn, or never existed."), "invitation_gone")
    return share


def accept(user: User, token: str) -> Share:
    """Raises ValidationError invitation_gone, invitation_other or email_unconfirmed."""
    with transaction.atomic():
        found = find(token)
        share = Share.objects.select_for_update().select_related("subscription").filter(pk=found.pk).first()
        if share is None:
            raise ValidationError(_("This invitation was withdrawn, or never existed."), "invitation_gone")
        if share.recipient_id is not None:
            if share.recipient_id == user.pk:
                return share
            raise ValidationError(_("Somebody else has accepted this invitation."), "invitation_other")
        # The link alone proves nothing: mails are forwarded. The account must own the invited e-mail.
        if not EmailAddress.objects.filter(user=user, email=share.email, verified=True).exists():
            if user.email == share.email:
                raise ValidationError(_("Confirm your e-mail first."), "email_unconfirmed")
            raise ValidationError(
                _("This invitation is for %(email)s. Sign in with that e-mail."),
                "invitation_other",
                {"email": share.email},
            )
        share.recipient, share.accepted_at = user, timezone.now()
        share.save(update_fields=["recipient", "accepted_at"])
    return share


def revoke(owner: User, share_id: int) -> None:
    """Cancels an invitation, or ends a share and frees its seats. Raises Share.DoesNotExist."""
    with transaction.atomic():
        share = Share.objects.select_for_update().get(pk=share_id, subscription__owner=owner)
        if share.recipient_id is not None:
            Seat.objects.filter(subscription=share.subscription, user=share.recipient).delete()
        share.delete()


def may_use(user: User, subscription: Subscription) -> bool:
    """The holder, and whoever accepted a share of a product that can be shared."""
    if subscription.owner_id == user.pk:
        return True
    return subscription.product.shareable and subscription.shares.filter(recipient=user).exists()


def take_seat(user: User, subscription: Subscription, device: str) -> Seat:
    """A seat for a device; the one it has already when it asks again.

    Raises ValidationError not_holder, not_active or no_seat.
    """
    with transaction.atomic():
        locked = Subscription.objects.select_for_update().select_related("product").get(pk=subscription.pk)
        if not may_use(user, locked):
            raise ValidationError(_("This subscription belongs to somebody else."), "not_holder")
        if locked.state() == State.EXPIRED:
            raise ValidationError(_("The subscription has expired."), "not_active")
        held = locked.taken.filter(user=user, device=device).first()
        if held is not None:
            return held
        if locked.taken.count() >= locked.seats():
            raise ValidationError(_("Every seat is taken: disconnect a device first."), "no_seat")
        return locked.taken.create(user=user, device=device)


def release_seat(user: User, seat_id: int) -> None:
    """By the device's user or by the subscription's owner. Raises Seat.DoesNotExist."""
    seat = Seat.objects.select_related("subscription").get(pk=seat_id)
    if user.pk not in (seat.user_id, seat.subscription.owner_id):
        raise Seat.DoesNotExist
    seat.delete()


def move(subscription: Subscription, to: User, by: User, reason: str) -> Move:
    """Support puts a subscription into the account it should be in.

    Raises ValidationError has_product or reason_missing.
    """
    if not reason.strip():
        raise ValidationError(_("Say why it is moved."), "reason_missing")
    with transaction.atomic():
        locked = Subscription.objects.select_for_update().select_related("owner").get(pk=subscription.pk)
        if Subscription.objects.filter(owner=to, product=locked.product).exists():
            raise ValidationError(_("%(email)s has this product already."), "has_product", {"email": to.email})
        entry = locked.moves.create(from_email=locked.owner.email, to_email=to.email, by=by, reason=reason.strip())
        for term in locked.terms.filter(code__isnull=False).select_related("code"):
            if term.code is not None:
                term.code.redeemed_by = to
                term.code.save(update_fields=["redeemed_by"])
        # Whoever used it under the wrong account starts anew.
        locked.taken.all().delete()
        locked.shares.all().delete()
        locked.owner = to
        locked.save(update_fields=["owner"])
    return entry
