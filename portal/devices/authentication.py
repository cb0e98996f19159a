"""`Authorization: Bearer`: a device's credential, or the token of a device authorisation (RFC 8628)."""

from __future__ import annotations

import re
from typing import Any

from allauth.account.adapter import get_adapter
from allauth.idp.oidc.models import Token
from django.core.exceptions import ValidationError
from django.db.models import BigAutoField, CharField, DateTimeField, GenericIPAddressField
from django.http import HttpRequest
from django.utils import timezone
from django.utils.translation import gettext as _
from ninja.security.base import AuthBase

from portal.devices import places
from portal.devices.connecting import digest
from portal.devices.models import SEEN_EVERY, Credential, Device
from portal.prepared import Select, Slot, Update

SCOPE = "device"
FORM = re.compile(r"twd_[A-Za-z0-9_-]{43}")
_KEPT: Select[Credential] = Select(
    lambda: Credential.objects.order_by().select_related("device__user").filter(digest=Slot("digest", CharField()))
)
_SEEN = Update(
    lambda: Device.objects.filter(pk=Slot("pk", BigAutoField())),
    last_seen_at=Slot("now", DateTimeField()),
    address=Slot("address", GenericIPAddressField()),
    country=Slot("country", CharField()),
)


def bearer(request: HttpRequest) -> str:
    scheme, _space, secret = request.headers.get("Authorization", "").partition(" ")
    return secret.strip() if scheme.lower() == "bearer" else ""


def find(secret: str) -> Credential | None:
    """The credential of a device that is connected to an account that may sign in."""
    if not FORM.fullmatch(secret):
        return None
    kept = next(iter(_KEPT(digest=digest(secret))), None)
    return kept if kept is not None and kept.device.user.is_active else None


def seen(device: Device, request: HttpRequest) -> None:
    """Notes when and from where, unless that was a moment ago."""
    address = get_adapter(request).get_client_ip(request)
    now = timezone.now()
    if device.last_seen_at < now - SEEN_EVERY or device.address != address:
        _SEEN(pk=device.pk, now=now, address=address, country=places.country(request, address))


class BearerAuth(AuthBase):
    openapi_type = "http"
    openapi_scheme = "bearer"


class DeviceToken(BearerAuth):
    """A connected device. Its account becomes request.user."""

    def __call__(self, request: HttpRequest) -> Credential | None:
        secret = bearer(request)
        if not secret:
            return None
        found = find(secret)
        if found is None:
            raise ValidationError(_("This device is not connected any more: sign in again."), "device_unknown")
        request.user = found.device.user
        seen(found.device, request)
        return found


class FirstToken(DeviceToken):
    """The application that connected the device, not one that was invited later."""

    def __call__(self, request: HttpRequest) -> Credential | None:
        found = super().__call__(request)
        if found is not None and found.parent_id is not None:
            raise ValidationError(_("Only the application that connected the device can do this."), "not_first")
        return found


class AuthorisationToken(BearerAuth):
    """What a device authorisation gave; good for connecting the device, once, and nothing else."""

    def __call__(self, request: HttpRequest) -> Any:
        found = Token.objects.lookup(Token.Type.ACCESS_TOKEN, bearer(request))
        if found is None or found.user is None or not found.user.is_active or SCOPE not in found.get_scopes():
            return None
        request.user = found.user
        return found
