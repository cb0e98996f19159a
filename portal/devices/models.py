"""Devices, the credentials of the applications on them, tickets for a second application, and commands."""

from __future__ import annotations

import uuid
from datetime import timedelta
from typing import ClassVar

from django.conf import settings
from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from portal.subscriptions.models import Seat

MOST_DEVICES = 500  # of one account
QUEUED = timedelta(days=7)  # a device that was not reached by then is not told any more
SEEN_EVERY = timedelta(minutes=5)  # how exact "last seen" is, and how seldom it is written


class Platform(models.TextChoices):
    LINUX = "linux", "Linux"
    MACOS = "macos", "macOS"
    WINDOWS = "windows", "Windows"
    ANDROID = "android", "Android"
    IOS = "ios", "iOS"
    OTHER = "other", _("Other")


class Device(models.Model):
    """A computer that is connected to an account. Disconnecting it deletes the row and everything of it."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="devices")
    public_id = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)  # its name in addresses and tokens
    name = models.CharField(max_length=80)
    platform = models.CharField(max_length=16, choices=Platform.choices)
    version = models.CharField(max_length=40)
    machine = models.CharField(max_length=64)  # an HMAC of what the computer calls itself
    wireguard_key = models.CharField(max_length=44)  # public; base64 of 32 bytes
    seat = models.OneToOneField(Seat, models.SET_NULL, null=True, related_name="connected")
    connected_at = models.DateTimeField(default=timezone.now)
    last_seen_at = models.DateTimeField(default=timezone.now)
    address = models.GenericIPAddressField(null=True)
    country = models.CharField(max_length=2, blank=True)  # of the address, ISO 3166-1; empty: unknown

    class Meta:
        ordering: ClassVar = ["name"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["user", "name"], name="no_two_devices_look_alike"),
            models.UniqueConstraint(fields=["user", "machine"], name="a_computer_is_connected_once"),
        ]

    def __str__(self) -> str:
        return self.name

    @property
    def seen_just_now(self) -> bool:
        """Within the time that goes by before it is written again."""
        return timezone.now() - self.last_seen_at < SEEN_EVERY


class Credential(models.Model):
    """What an application on a device shows: 256 random bits, of which only the SHA-256 is here.

    The first one is the device's own. Others are derived from it, and go with it.
    """

    device = models.ForeignKey(Device, models.CASCADE, related_name="credentials")
    parent = models.ForeignKey("self", models.CASCADE, null=True, related_name="derived")
    digest = models.CharField(max_length=64, unique=True)
    application = models.SlugField(max_length=40)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        ordering: ClassVar = ["created_at"]
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["device", "application"], name="one_credential_an_application"),
            models.UniqueConstraint(
                fields=["device"], condition=models.Q(parent__isnull=True), name="one_first_credential_a_device"
            ),
        ]


class Ticket(models.Model):
    """Handed to a second application on the same computer, which turns it into its own credential; once."""

    parent = models.ForeignKey(Credential, models.CASCADE, related_name="tickets")
    application = models.SlugField(max_length=40)
    digest = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField()


class Verb(models.TextChoices):
    """All that can be asked of a device from afar. Nothing here opens: a lockdown ends at the device itself."""

    CONNECT = "connect", _("Connect the VPN")
    DISCONNECT = "disconnect", _("Disconnect the VPN")
    LOCKDOWN_ON = "lockdown-on", _("Turn lockdown on")
    REFRESH = "refresh", _("Update the server list")
    REPORT = "report", _("Ask for a report")


class Result(models.TextChoices):
    DONE = "done", _("Done")
    REFUSED = "refused", _("Refused by the device")
    FAILED = "failed", _("Failed")


class State(models.TextChoices):
    QUEUED = "queued", _("Waiting for the device")
    DELIVERED = "delivered", _("Delivered")
    EXPIRED = "expired", _("No answer within 7 days")
    DONE = Result.DONE.value, Result.DONE.label
    REFUSED = Result.REFUSED.value, Result.REFUSED.label
    FAILED = Result.FAILED.value, Result.FAILED.label


class Command(models.Model):
    """Something asked of a device. It is told again until the device acknowledges, or until it expires."""

    device = models.ForeignKey(Device, models.CASCADE, related_name="commands")
    jti = models.UUIDField(default=uuid.uuid4, unique=True, editable=False)
    verb = models.CharField(max_length=16, choices=Verb.choices)
    created_at = models.DateTimeField(default=timezone.now)
    expires_at = models.DateTimeField()
    delivered_at = models.DateTimeField(null=True)
    acknowledged_at = models.DateTimeField(null=True)
    result = models.CharField(max_length=16, choices=Result.choices, blank=True)
    message = models.TextField(blank=True)

    class Meta:
        ordering: ClassVar = ["-pk"]
        indexes: ClassVar = [models.Index(fields=["device", "acknowledged_at"])]

    def state(self) -> State:
        if self.result:
            return State(self.result)
        if self.expires_at <= timezone.now():
            return State.EXPIRED
        return State.DELIVERED if self.delivered_at else State.QUEUED
