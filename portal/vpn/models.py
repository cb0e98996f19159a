"""Servers as staff enters them, and the serial of the list that they make."""

from __future__ import annotations

import ipaddress
import re
import time
from typing import Any, ClassVar

from django.core.exceptions import ValidationError
from django.core.validators import MaxValueValidator, MinValueValidator, RegexValidator
from django.db import models, transaction
from django.db.models import F
from django.db.models.functions import Greatest
from django.db.models.signals import post_delete
from django.dispatch import receiver
from django.utils.translation import gettext_lazy as _

from portal.accounts import countries
from portal.devices import connecting
from portal.subscriptions.models import Plan

# What daemons accept: a list that one of them refuses would reach nobody.
NAME = RegexValidator(
    r"\A(?!(?:fastest|random|favourites)\Z)[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z",
    _("Use up to 64 Latin letters, digits, dots, dashes and underscores. Some words have a meaning of their own."),
    "invalid_name",
)
TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}")
MOST_TAGS = 8


def check_key(text: str) -> None:
    """Raises ValidationError key_invalid."""
    connecting.clean_key(text)


def check_country(code: str) -> None:
    if code not in countries.codes():
        raise ValidationError(_("Write the two capital letters of ISO 3166-1, such as SE."), "invalid_country")


def check_city(text: str) -> None:
    if not text.isprintable() or text != text.strip():
        raise ValidationError(_("Only printable characters, and no space at the ends."), "invalid_city")


def check_tags(text: str) -> None:
    found = text.split()
    if len(found) > MOST_TAGS or len(set(found)) < len(found) or not all(TAG.fullmatch(each) for each in found):
        raise ValidationError(
            _("Up to eight different tags, separated by spaces: Latin letters, digits, dots, dashes, underscores."),
            "invalid_tags",
        )


def check_host(text: str) -> None:
    """An address, not a name: behind the kill switch nothing can be looked up."""
    try:
        found = ipaddress.ip_address(text)
        usable = not (found.is_unspecified or found.is_multicast or found.is_loopback or found.is_link_local)
    except ValueError:
        usable = False
    if not usable or text == "255.255.255.255":
        raise ValidationError(_("Write an IPv4 or IPv6 address that devices can reach."), "invalid_host")


class Server(models.Model):
    """One VPN server. Its changes raise the list's serial."""

    class Protocol(models.TextChoices):
        WIREGUARD = "wireguard", "WireGuard"

    name = models.CharField(_("name"), max_length=64, unique=True, validators=[NAME])
    country = models.CharField(_("country"), max_length=2, validators=[check_country])
    city = models.CharField(_("city"), max_length=64, validators=[check_city])
    tags = models.CharField(_("tags"), max_length=300, blank=True, validators=[check_tags])
    host = models.GenericIPAddressField(_("address"), validators=[check_host])
    port = models.PositiveIntegerField(
        _("port"), default=51820, validators=[MinValueValidator(1), MaxValueValidator(65535)]
    )
    public_key = models.CharField(_("WireGuard public key"), max_length=44, validators=[check_key])
    protocol = models.CharField(_("protocol"), max_length=16, choices=Protocol.choices, default=Protocol.WIREGUARD)
    tier = models.CharField(_("plan"), max_length=16, choices=Plan.Tier.choices, default=Plan.Tier.PREMIUM)
    active = models.BooleanField(_("in the list"), default=True)

    class Meta:
        ordering: ClassVar = ["name"]
        verbose_name = _("server")
        verbose_name_plural = _("servers")
        constraints: ClassVar = [models.UniqueConstraint(fields=["host", "port"], name="one_server_an_endpoint")]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        with transaction.atomic():  # no list ever has the new servers and the old serial
            super().save(*args, **kwargs)
            raise_serial()


class Serial(models.Model):
    """One row: the number of the list. A daemon refuses a list with a smaller one than it has seen."""

    number = models.PositiveBigIntegerField(default=1)


def raise_serial() -> None:
    """One more, or the second of now if that is more: it also rises above lists made after the backup in use."""
    Serial.objects.get_or_create(pk=1)
    Serial.objects.filter(pk=1).update(number=Greatest(F("number") + 1, int(time.time())))


@receiver(post_delete, sender=Server)
def _deleted(sender: object, **kwargs: object) -> None:
    raise_serial()
