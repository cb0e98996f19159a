"""Connecting a device, a second application on it, and disconnecting. Pages and interface share these."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import secrets
import unicodedata
from dataclasses import dataclass
from datetime import timedelta

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import constant_time_compare, salted_hmac
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.devices.models import MOST_DEVICES, Credential, Device, Platform, Ticket
from portal.subscriptions import sharing
from portal.subscriptions.models import Seat, State, Subscription

PREFIX = "twd_"  # whoever finds one somewhere it should not be knows what it is
APPLICATION = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
PRODUCT = re.compile(r"[A-Za-z0-9_-]{1,50}")  # a slug
TICKET_LIFETIME = timedelta(minutes=2)


@dataclass(frozen=True)
class Computer:
    """What a device says of itself."""

    name: str
    platform: str
    version: str
    machine: str
    wireguard_key: str
    application: str = "vpn"


def _new(prefix: str) -> str:
    return prefix + secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is kept. 256 random bits need no salt and no slow hash."""
    return hashlib.sha256(secret.encode()).hexdigest()


def _machine(user: User, text: str) -> str:
    if not 8 <= len(text) <= 200:
        raise ValidationError(_("The computer's own identity needs 8 to 200 characters."), "machine_invalid")
    return salted_hmac("portal.devices.machine", f"{user.pk}:{text}", algorithm="sha256").hexdigest()


def clean_name(text: str) -> str:
    """A name as people write it. Raises ValidationError name_invalid."""
    name = unicodedata.normalize("NFC", " ".join(text.split()))
    # Characters that show nothing, or turn the direction of writing, make one name look like another.
    if not 1 <= len(name) <= 80 or any(unicodedata.category(char)[0] == "C" for char in name):
        raise ValidationError(_("A name has 1 to 80 visible characters."), "name_invalid")
    return name


def clean_key(text: str) -> str:
    """A WireGuard public key. Raises ValidationError key_invalid."""
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32 or not any(raw) or base64.b64encode(raw).decode() != text:
        raise ValidationError(_("A WireGuard public key is the base64 of 32 bytes."), "key_invalid")
    return text


def clean_version(text: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z.+~_-]{0,39}", text):
        raise ValidationError(_("A version has 1 to 40 letters, digits, dots and dashes."), "version_invalid")
    return text


def _application(text: str) -> str:
    if not APPLICATION.fullmatch(text):
        raise ValidationError(_("An application is named by small letters, digits and dashes."), "application_invalid")
    return text


def _free_name(user: User, name: str) -> str:
    """The name, or with a number behind it when another device of the account has it."""
    taken = set(user.devices.values_list("name", flat=True))
    number, found = 1, name
    while found in taken:
        number += 1
        end = f" ({number})"
        found = name[: 80 - len(end)] + end
    return found


def subscription_of(user: User, product: str) -> Subscription | None:
    """The one a device would use: an own one first, then a shared one; None: nothing runs, the free version."""
    if not PRODUCT.fullmatch(product):
        raise ValidationError(_("A product is named by letters, digits and dashes."), "product_invalid")
    own = list(user.subscriptions.filter(product__slug=product).select_related("product"))
    shares = user.shares.filter(subscription__product__slug=product).select_related("subscription__product")
    for found in (*own, *(each.subscription for each in shares)):
        if found.state() != State.EXPIRED and sharing.may_use(user, found):
            return found
    return None


def seat(device: Device, product: str) -> Seat | None:
    """The device's seat of this product, taken when it has none. Raises ValidationError no_seat."""
    held = device.seat
    if held is not None and held.subscription.product.slug == product and held.subscription.state() != State.EXPIRED:
        return held
    subscription = subscription_of(device.user, product)
    if subscription is None:
        return None
    with transaction.atomic():
        taken = sharing.take_seat(device.user, subscription, device.name)
        if held is not None:
            held.delete()
        device.seat = taken
        device.save(update_fields=["seat"])
    return taken


def connect(user: User, computer: Computer, product: str = "") -> tuple[Device, str]:
    """The device and its new credential, which is shown this once.

    A computer that was connected before stays one device: its former credentials are void.
    Raises ValidationError: a field that is not right, no_seat, or too_many_devices.
    """
    if computer.platform not in Platform.values:
        raise ValidationError(_("This platform is not known here."), "platform_invalid")
    name, machine = clean_name(computer.name), _machine(user, computer.machine)
    fields = {
        "platform": computer.platform,
        "version": clean_version(computer.version),
        "wireguard_key": clean_key(computer.wireguard_key),
        "last_seen_at": timezone.now(),
    }
    application = _application(computer.application)
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        device = user.devices.filter(machine=machine).first()
        if device is None:
            if user.devices.count() >= MOST_DEVICES:
                raise ValidationError(
                    _("There are %(most)d devices in this account: disconnect one first."),
                    "too_many_devices",
                    {"most": MOST_DEVICES},
                )
            device = user.devices.create(machine=machine, name=_free_name(user, name), **fields)
        else:
            # The name stays: its owner may have chosen it on the page.
            device.credentials.all().delete()
            for field, value in fields.items():
                setattr(device, field, value)
            device.save(update_fields=list(fields))
        if product:
            seat(device, product)
        token = _new(PREFIX)
        device.credentials.create(digest=digest(token), application=application)
    return device, token


def invite(credential: Credential, application: str) -> tuple[Ticket, str]:
    """A ticket for another application on the same computer. Raises ValidationError not_first, application_invalid."""
    if credential.parent_id is not None:
        raise ValidationError(_("Only the application that connected the device can invite another."), "not_first")
    _application(application)
    if application == credential.application:
        raise ValidationError(_("This application is signed in already."), "application_invalid")
    ticket = _new("twt_")
    Ticket.objects.filter(parent=credential, application=application).delete()
    expires = timezone.now() + TICKET_LIFETIME
    made = Ticket.objects.create(parent=credential, application=application, digest=digest(ticket), expires_at=expires)
    return made, ticket


def derive(ticket: str, application: str, machine: str) -> tuple[Credential, str]:
    """The second application's own credential. Raises ValidationError ticket_gone: used, expired, or not for this.

    A ticket that is shown for another application or on another computer is used up: somebody else has it.
    """
    gone = ValidationError(_("The invitation has been used, or has expired. Ask for another."), "ticket_gone")
    found = Ticket.objects.select_related("parent__device__user").filter(digest=digest(ticket)).first()
    # Whoever deletes the row has used it.
    if found is None or Ticket.objects.filter(pk=found.pk).delete()[0] != 1 or found.expires_at <= timezone.now():
        raise gone
    device = found.parent.device
    if found.application != application or not device.user.is_active:
        raise gone
    if not constant_time_compare(_machine(device.user, machine), device.machine):
        raise gone
    token = _new(PREFIX)
    with transaction.atomic():
        # The first one may have been revoked meanwhile; then there is nothing to derive from.
        parent = Credential.objects.select_for_update().filter(pk=found.parent_id).first()
        if parent is None:
            raise gone
        device.credentials.filter(application=application, parent=parent).delete()
        made = device.credentials.create(digest=digest(token), application=application, parent=parent)
    return made, token


def sign_out(credential: Credential) -> None:
    """A derived application leaves alone; the first one takes the device along."""
    if credential.parent_id is None:
        disconnect(credential.device)
    else:
        credential.delete()


def disconnect(device: Device) -> None:
    """Its credentials end at once, and its seat is free."""
    with transaction.atomic():
        # Looked at now: it may have taken a seat since it was read.
        now = Device.objects.select_for_update().filter(pk=device.pk).first()
        if now is not None and now.seat_id is not None:
            Seat.objects.filter(pk=now.seat_id).delete()
        Device.objects.filter(pk=device.pk).delete()


def disconnect_others(device: Device) -> int:
    """Every other device of the account; how many."""
    others = list(device.user.devices.exclude(pk=device.pk))
    for other in others:
        disconnect(other)
    return len(others)


def rename(device: Device, text: str) -> None:
    """Raises ValidationError name_invalid or name_taken."""
    name = clean_name(text)
    with transaction.atomic():
        User.objects.select_for_update().get(pk=device.user_id)
        if device.user.devices.filter(name=name).exclude(pk=device.pk).exists():
            raise ValidationError(_("Another of your devices has this name."), "name_taken")
        device.name = name
        device.save(update_fields=["name"])
        if device.seat_id is not None:
            Seat.objects.filter(pk=device.seat_id).update(device=name)
