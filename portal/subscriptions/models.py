"""Products, plans, activation codes, subscriptions with their terms, shares and seats."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import ClassVar, Self

from django.conf import settings
from django.core.validators import MinValueValidator
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class Product(models.Model):
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=80)
    shareable = models.BooleanField(default=True)  # the VPN is not: its holder alone uses it

    def __str__(self) -> str:
        return self.name


class Plan(models.Model):
    """What a code gives: a tier of a product for so many days and devices."""

    class Tier(models.TextChoices):
        FREE = "free", _("Free")
        PREMIUM = "premium", _("Premium")

    product = models.ForeignKey(Product, models.PROTECT, related_name="plans")
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=80)
    tier = models.CharField(max_length=16, choices=Tier.choices, default=Tier.PREMIUM)
    days = models.PositiveIntegerField(validators=[MinValueValidator(1)])
    seats = models.PositiveIntegerField(default=1, validators=[MinValueValidator(1)])

    def __str__(self) -> str:
        return f"{self.product}: {self.name}"


class State(models.TextChoices):
    ACTIVE = "active", _("Active")
    GRACE = "grace", _("Expired, in grace")
    EXPIRED = "expired", _("Expired")


class Subscription(models.Model):
    """An account's right to a product: terms, one after the other. The state follows from them and the clock."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="subscriptions")
    product = models.ForeignKey(Product, models.PROTECT, related_name="subscriptions")
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["owner", "product"], name="one_of_a_product_an_owner")]

    def __str__(self) -> str:
        return f"{self.product} ({self.owner})"

    def with_terms(self) -> Self:
        """Reads the terms once, for telling all that follows from them. Not for deciding: they may change."""
        models.prefetch_related_objects([self], models.Prefetch("terms", Term.objects.select_related("plan")))
        return self

    def _terms(self) -> list[Term]:
        read_once = "terms" in getattr(self, "_prefetched_objects_cache", ())
        return list(self.terms.all() if read_once else self.terms.select_related("plan"))

    def ends_at(self) -> datetime | None:
        """The end of the last term, reserve ones included."""
        return max((each.ends_at for each in self._terms()), default=None)

    def term(self, at: datetime | None = None) -> Term | None:
        """The term in force; within grace, the one that ended last."""
        at = at or timezone.now()
        grace = at - timedelta(days=settings.GRACE_DAYS)
        terms = self._terms()
        running = next((each for each in terms if each.starts_at <= at < each.ends_at), None)
        lapsed = (each for each in terms if grace < each.ends_at <= at)
        return running or max(lapsed, key=lambda each: each.ends_at, default=None)

    def state(self, at: datetime | None = None) -> State:
        at = at or timezone.now()
        term = self.term(at)
        if term is None:
            return State.EXPIRED
        return State.ACTIVE if term.ends_at > at else State.GRACE

    def paid(self) -> bool:
        """Whether a premium term runs, or waits in reserve."""
        return self.terms.filter(ends_at__gt=timezone.now(), plan__tier=Plan.Tier.PREMIUM).exists()

    def days_left(self, at: datetime | None = None) -> int:
        """Whole days until the last term ends, begun ones counted; 0 when it has ended."""
        end = self.ends_at()
        left = (end - (at or timezone.now())).total_seconds() if end else 0
        return max(0, -int(-left // 86_400))

    def reserves(self) -> models.QuerySet[Term]:
        """Terms that wait for the end of the one before them."""
        return self.terms.filter(starts_at__gt=timezone.now()).order_by("starts_at")

    def seats(self) -> int:
        term = self.term()
        return term.plan.seats if term else 0

    def seats_left(self) -> int:
        return max(0, self.seats() - self.taken.count())


class ActivationCode(models.Model):
    """A code, known to us only by its digest. Used once, by one account."""

    digest = models.CharField(max_length=64, unique=True)
    plan = models.ForeignKey(Plan, models.PROTECT, related_name="codes")
    batch = models.CharField(max_length=80, blank=True)  # for staff: which order or print run
    created_at = models.DateTimeField(default=timezone.now)
    redeemed_by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="redeemed_codes")
    redeemed_at = models.DateTimeField(null=True)


class Term(models.Model):
    """A paid span of time, from a code or from a payment. It never overlaps another one of its subscription."""

    subscription = models.ForeignKey(Subscription, models.CASCADE, related_name="terms")
    plan = models.ForeignKey(Plan, models.PROTECT, related_name="+")
    code = models.ForeignKey(ActivationCode, models.PROTECT, null=True, related_name="terms")
    payment = models.CharField(max_length=120, null=True, unique=True)  # the payment's reference: counted once
    starts_at = models.DateTimeField()
    ends_at = models.DateTimeField()

    class Meta:
        ordering: ClassVar = ["starts_at"]
        constraints: ClassVar = [
            models.CheckConstraint(condition=models.Q(ends_at__gt=models.F("starts_at")), name="a_term_has_a_length")
        ]


class Share(models.Model):
    """An invitation by e-mail to use a subscription; in force from its acceptance to its end."""

    subscription = models.ForeignKey(Subscription, models.CASCADE, related_name="shares")
    email = models.EmailField()
    sender_name = models.CharField(max_length=80)
    digest = models.CharField(max_length=64, unique=True)
    invited_at = models.DateTimeField(default=timezone.now)
    accepted_at = models.DateTimeField(null=True)
    recipient = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="shares")

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["subscription", "email"], name="one_invitation_an_e_mail")
        ]


class Seat(models.Model):
    """One device that uses a subscription."""

    subscription = models.ForeignKey(Subscription, models.CASCADE, related_name="taken")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="seats")
    device = models.CharField(max_length=80)
    taken_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["subscription", "user", "device"], name="one_seat_a_device")
        ]


class Move(models.Model):
    """Support moved a subscription to another account: who, when, why."""

    subscription = models.ForeignKey(Subscription, models.CASCADE, related_name="moves")
    from_email = models.EmailField()
    to_email = models.EmailField()
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    reason = models.TextField()
    at = models.DateTimeField(default=timezone.now)
