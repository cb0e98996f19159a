"""The user, the phone of the second step, former passwords, counted failures and codes."""

from __future__ import annotations

from typing import Any, ClassVar

from django.contrib.auth.models import AbstractBaseUser, BaseUserManager, PermissionsMixin
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _


class UserManager(BaseUserManager["User"]):
    def create_user(self, email: str, password: str | None = None, **fields: Any) -> User:
        """An account whose consents are still to be asked for. Without a password nobody can sign in."""
        if not email:
            raise ValueError("an account needs an e-mail")
        user: User = self.model(email=email.strip().lower(), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> User:
        return self.create_user(email, password, is_staff=True, is_superuser=True, **fields)

    def get_by_natural_key(self, username: str | None) -> User:
        return self.get(email=(username or "").lower())


class User(AbstractBaseUser, PermissionsMixin):
    """An account. The e-mail, in lower case, is its name."""

    email = models.EmailField(_("e-mail"), unique=True)
    country = models.CharField(_("country"), max_length=2, blank=True)  # ISO 3166-1; only support changes it
    language = models.CharField(_("language"), max_length=16, blank=True)  # empty: as the browser asks
    is_staff = models.BooleanField(default=False)
    is_active = models.BooleanField(default=True)
    date_joined = models.DateTimeField(default=timezone.now)

    objects: ClassVar[UserManager] = UserManager()
    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []

    class Meta:
        verbose_name = _("account")
        verbose_name_plural = _("accounts")

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.email = self.email.strip().lower()
        super().save(*args, **kwargs)


class FormerPassword(models.Model):
    """A password's hash, kept so that it is not taken again."""

    user = models.ForeignKey(User, models.CASCADE, related_name="former_passwords")
    encoded = models.CharField(max_length=256)
    at = models.DateTimeField(default=timezone.now)


class Failure(models.Model):
    """One failed try. The key is an HMAC of the purpose and the e-mail or address: neither can be read here."""

    key = models.CharField(max_length=64)
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        indexes: ClassVar = [models.Index(fields=["key", "at"])]


class DeletionCode(models.Model):
    """A mailed code that deletes the account; one at a time, and only its digest."""

    user = models.OneToOneField(User, models.CASCADE, related_name="deletion_code")
    digest = models.CharField(max_length=64)
    expires_at = models.DateTimeField()
    tries = models.PositiveSmallIntegerField(default=0)


class Phone(models.Model):
    """A confirmed number. Who has one signs in in two steps."""

    user = models.OneToOneField(User, models.CASCADE, related_name="phone")
    number = models.CharField(max_length=16)  # E.164: + and at most 15 digits
    confirmed_at = models.DateTimeField(default=timezone.now)


class SmsCode(models.Model):
    """A code that was sent, one at a time for each purpose, and only its digest."""

    class Purpose(models.TextChoices):
        PHONE = "phone"  # confirms a number
        SIGNIN = "signin"
        RESET = "reset"  # of the password

    user = models.ForeignKey(User, models.CASCADE, related_name="sms_codes")
    purpose = models.CharField(max_length=8, choices=Purpose.choices)
    number = models.CharField(max_length=16)
    digest = models.CharField(max_length=64)
    expires_at = models.DateTimeField()
    tries = models.PositiveSmallIntegerField(default=0)

    class Meta:
        constraints: ClassVar = [models.UniqueConstraint(fields=["user", "purpose"], name="one_sms_code_a_purpose")]
