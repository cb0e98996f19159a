"""Statements in their versions and languages, and who accepted which."""

from __future__ import annotations

import hashlib
from typing import Any, ClassVar

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class Kind(models.TextChoices):
    PRIVACY = "privacy", _("Privacy policy")
    PORTAL = "portal", _("Portal statement")
    MARKETING = "marketing", _("Marketing statement")


class Statement(models.Model):
    """One text. Published texts never change: a change is a new version, and people are asked again."""

    kind = models.CharField(max_length=16, choices=Kind.choices)
    version = models.PositiveIntegerField()
    language = models.CharField(max_length=16, default="en")
    text = models.TextField()
    sha256 = models.CharField(max_length=64, editable=False)
    published_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["kind", "version", "language"], name="one_text_a_version_and_language")
        ]
        ordering: ClassVar = ["kind", "-version", "language"]

    def __str__(self) -> str:
        return f"{self.get_kind_display()} {self.version} ({self.language})"

    def save(self, *args: Any, **kwargs: Any) -> None:
        digest = hashlib.sha256(self.text.encode()).hexdigest()
        if self.pk is not None and digest != self.sha256:
            raise ValidationError(_("A published text cannot change: publish a new version."), "published")
        self.sha256 = digest
        super().save(*args, **kwargs)


class Consent(models.Model):
    """That an account accepted a statement: which text, in which language, when and from where."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="consents")
    statement = models.ForeignKey(Statement, models.PROTECT, related_name="+")
    given_at = models.DateTimeField(default=timezone.now)
    address = models.GenericIPAddressField(null=True)
    withdrawn_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar = ["-given_at", "-pk"]
