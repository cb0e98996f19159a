"""A code becomes a term. Of any number of simultaneous tries of one code, one wins."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.subscriptions import codes, payments
from portal.subscriptions.models import ActivationCode, Plan, Subscription, Term


class Outcome(StrEnum):
    ACTIVATED = "activated"  # the term runs from now
    RESERVED = "reserved"  # it starts by itself when the one before it ends
    RENEWED = "renewed"  # the code was yours already; paid renewals that had not arrived were added
    UNCHANGED = "unchanged"  # the code was yours already, and nothing was missing


def make(plan: Plan, count: int, batch: str) -> list[str]:
    """New codes, shown this once: only their digests are kept."""
    made = [codes.new() for _ in range(count)]
    ActivationCode.objects.bulk_create(
        [ActivationCode(digest=codes.digest(code), plan=plan, batch=batch) for code in made], batch_size=500
    )
    return made


def redeem(user: User, text: str) -> tuple[Subscription, Outcome]:
    """Adds the code's term to the account. Raises ValidationError code_malformed, code_unknown or code_used."""
    try:
        code = codes.parse(text)
    except codes.MalformedCode as err:
        raise ValidationError(_("That is not an activation code: check each character."), "code_malformed") from err
    kept = ActivationCode.objects.select_related("plan__product").filter(digest=codes.digest(code)).first()
    if kept is None:
        raise ValidationError(_("This code is not known here."), "code_unknown")
    with transaction.atomic():
        # The condition is part of the update: whoever changes the row has won, and nobody else can.
        won = ActivationCode.objects.filter(pk=kept.pk, redeemed_at__isnull=True).update(
            redeemed_by=user, redeemed_at=timezone.now()
        )
        if won:
            term = append(user, kept.plan, code=kept)
            outcome = Outcome.ACTIVATED if term.starts_at <= timezone.now() else Outcome.RESERVED
            return term.subscription, outcome
    return _again(user, kept)


def _again(user: User, kept: ActivationCode) -> tuple[Subscription, Outcome]:
    """A code that was redeemed before: its own account may add it again when a renewal did not arrive."""
    kept.refresh_from_db()
    term = kept.terms.select_related("subscription__owner").first()
    if kept.redeemed_by_id != user.pk or term is None or term.subscription.owner_id != user.pk:
        raise ValidationError(
            _("This code has been used. If it is yours, it was probably added to another account: write to support."),
            "code_used",
        )
    paid = payments.shop().renewals(kept.digest)  # outside of any transaction: a shop may be slow
    added = 0
    for renewal in paid:
        with transaction.atomic():
            _locked(user, kept.plan)
            if not Term.objects.filter(payment=renewal.reference).exists():
                append(user, Plan.objects.get(slug=renewal.plan), payment=renewal.reference)
                added += 1
    return term.subscription, Outcome.RENEWED if added else Outcome.UNCHANGED


def _locked(user: User, plan: Plan) -> Subscription:
    found, _made = Subscription.objects.get_or_create(owner=user, product=plan.product)
    locked = Subscription.objects.select_for_update().get(pk=found.pk)
    locked.product = plan.product
    return locked


def append(user: User, plan: Plan, *, code: ActivationCode | None = None, payment: str | None = None) -> Term:
    """A term from now, or from the end of the last one. Call it inside a transaction."""
    subscription = _locked(user, plan)
    end = subscription.ends_at()
    now = timezone.now()
    starts = end if end is not None and end > now else now
    return Term.objects.create(
        subscription=subscription,
        plan=plan,
        code=code,
        payment=payment,
        starts_at=starts,
        ends_at=starts + timedelta(days=plan.days),
    )
