"""Requests to support: what was written, by whom, with which files, and what happened to them; verdicts on help."""

from __future__ import annotations

from typing import ClassVar

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.subscriptions.models import Product


class Status(models.TextChoices):
    OPEN = "open", _("Open")
    WAITING = "waiting", _("Waiting for you")
    ANSWERED = "answered", _("Answered")
    CLOSED = "closed", _("Closed")


class Platform(models.TextChoices):
    LINUX = "linux", "Linux"
    MACOS = "macos", "macOS"
    WINDOWS = "windows", "Windows"
    ANDROID = "android", "Android"
    IOS = "ios", "iOS"
    OTHER = "other", _("Other")


class Ticket(models.Model):
    """One request. Its number is for people; who may see it follows from the owner alone."""

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="tickets", verbose_name=_("account")
    )
    subject = models.CharField(_("subject"), max_length=120)
    product = models.ForeignKey(
        Product, models.SET_NULL, null=True, blank=True, related_name="+", verbose_name=_("product")
    )
    platform = models.CharField(_("platform"), max_length=16, choices=Platform.choices, blank=True)
    status = models.CharField(_("status"), max_length=16, choices=Status.choices, default=Status.OPEN)
    assignee = models.ForeignKey(
        settings.AUTH_USER_MODEL,
        models.SET_NULL,
        null=True,
        blank=True,
        related_name="+",
        limit_choices_to={"is_staff": True},
        verbose_name=_("assigned to"),
    )
    created_at = models.DateTimeField(_("created"), default=timezone.now)
    updated_at = models.DateTimeField(_("last change"), default=timezone.now)

    class Meta:
        verbose_name = _("request")
        verbose_name_plural = _("requests")
        ordering: ClassVar = ["-updated_at", "-pk"]
        indexes: ClassVar = [models.Index(fields=["owner", "created_at"])]

    def __str__(self) -> str:
        return f"#{self.pk} {self.subject}"


class Message(models.Model):
    """Something written, by the owner or by support."""

    ticket = models.ForeignKey(Ticket, models.CASCADE, related_name="messages")
    author = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    staff = models.BooleanField(default=False)  # said by support; which of its people is not shown
    text = models.TextField()
    at = models.DateTimeField(default=timezone.now)
    mail = models.CharField(max_length=64, null=True, unique=True)  # digest of the mail it came by: taken once

    class Meta:
        ordering: ClassVar = ["pk"]


class Attachment(models.Model):
    """A file of a message. `stored` is its random name in the store, `name` what its sender called it."""

    message = models.ForeignKey(Message, models.CASCADE, related_name="attachments")
    name = models.CharField(max_length=120)
    size = models.PositiveIntegerField()
    sha256 = models.CharField(max_length=64)
    stored = models.CharField(max_length=80, unique=True)

    class Meta:
        ordering: ClassVar = ["pk"]


class Happening(models.TextChoices):
    OPENED = "opened", _("Opened")
    REOPENED = "reopened", _("Reopened")
    WROTE = "wrote", _("Message from you")
    ANSWERED = "answered", _("Answer from support")
    ASKED = "asked", _("Question from support")
    CLOSED = "closed", _("Closed")
    ASSIGNED = "assigned", _("Assigned")


class Event(models.Model):
    """A line of a request's history."""

    ticket = models.ForeignKey(Ticket, models.CASCADE, related_name="events")
    what = models.CharField(max_length=16, choices=Happening.choices)
    by = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True, related_name="+")
    staff = models.BooleanField(default=False)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering: ClassVar = ["pk"]


class Verdict(models.Model):
    """Whether a help page helped. `voter` is an HMAC that differs from page to page: votes tell nothing of a person."""

    page = models.SlugField()
    language = models.CharField(max_length=16)
    helpful = models.BooleanField()
    comment = models.CharField(max_length=1000, blank=True)
    voter = models.CharField(max_length=64, unique=True)
    on = models.DateField(default=timezone.localdate)
