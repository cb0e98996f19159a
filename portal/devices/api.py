"""`/api/v1`: devices, for an application's session and for the device itself."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from allauth.idp.oidc.models import Token
from allauth.usersessions.models import UserSession
from django.contrib.sessions.models import Session
from django.core.exceptions import ValidationError
from django.db import transaction
from django.http import Http404, HttpRequest
from django.shortcuts import get_object_or_404
from django.urls import reverse
from django.utils.translation import gettext as _
from ninja import Query, Router, Status
from ninja.errors import AuthenticationError

from portal.accounts.models import User
from portal.api.authentication import SessionToken
from portal.api.problems import Problem, problem
from portal.devices import commands, connecting
from portal.devices.authentication import AuthorisationToken, DeviceToken, FirstToken
from portal.devices.models import Command, Credential, Device
from portal.devices.schemas import (
    Answer,
    Change,
    CommandOut,
    Computer,
    Connected,
    Count,
    DeviceOut,
    Invitation,
    Me,
    Name,
    Occupied,
    Redeem,
    Seat,
    Seated,
    TicketOut,
    Verb,
    Waiting,
    describe,
    told,
)

router = Router(tags=["devices"])
session, device_token, first_token = SessionToken(), DeviceToken(), FirstToken()
UNKNOWN = {401: Problem, 404: Problem}


def all_of(user: Any) -> list[Device]:
    found = user.devices.select_related("seat__subscription__product").prefetch_related("credentials")
    return list(found)


def own(request: HttpRequest, number: UUID) -> Device:
    return get_object_or_404(Device, public_id=number, user=request.user)


def use_up(request: HttpRequest) -> None:
    """The session or token that signed in is exchanged, and is good for nothing afterwards."""
    if isinstance(request.auth, User):  # type: ignore[attr-defined]
        key = request.session.session_key or ""
        gone = Session.objects.filter(session_key=key).delete()[0]
        UserSession.objects.filter(session_key=key).delete()
        request.session.flush()
    else:
        gone = Token.objects.filter(pk=request.auth.pk).delete()[0]  # type: ignore[attr-defined]
    if not gone:  # another request was faster
        raise AuthenticationError


@router.post(
    "/devices",
    response={201: Connected, 400: Problem, 401: Problem, 409: Occupied, 422: Problem},
    auth=[session, AuthorisationToken()],
    summary="Exchange a session, or the token of a device authorisation, for a device's credential",
)
def connect(request: HttpRequest, body: Computer) -> Any:
    user: Any = request.user
    values = body.dict()
    product = values.pop("product")
    try:
        with transaction.atomic():
            device, credential = connecting.connect(user, connecting.Computer(**values), product)
            use_up(request)
    except ValidationError as err:
        if err.code not in ("no_seat", "too_many_devices"):
            raise
        return occupied(request, user, product, err)
    device = next(each for each in all_of(user) if each.pk == device.pk)
    return Status(201, Connected(credential=credential, account=user.email, device=describe(device)))


def occupied(request: HttpRequest, user: Any, product: str, err: ValidationError) -> Any:
    """Over the limit: which devices there are, and the page where one is disconnected."""
    found = all_of(user)
    if err.code == "no_seat":
        found = [each for each in found if each.seat is not None and each.seat.subscription.product.slug == product]
    listed = [describe(each).model_dump(mode="json") for each in found]
    manage = request.build_absolute_uri(reverse("devices:limit"))
    return problem(409, str(err.code), " ".join(err.messages), devices=listed, manage=manage)


@router.get("/devices", response={200: list[DeviceOut], 401: Problem}, auth=[session], summary="Every device")
def devices(request: HttpRequest) -> Any:
    return [describe(each) for each in all_of(request.user)]


@router.post(
    "/devices/derived",
    response={201: Connected, 400: Problem, 410: Problem, 422: Problem},
    auth=None,
    summary="The invited application turns its ticket into a credential of its own",
)
def derive(request: HttpRequest, body: Redeem) -> Any:
    made, credential = connecting.derive(body.ticket, body.application, body.machine)
    device = Device.objects.get(pk=made.device_id)
    return Status(201, Connected(credential=credential, account=device.user.email, device=describe(device)))


@router.patch(
    "/devices/{number}",
    response={200: DeviceOut, 400: Problem, 409: Problem, 422: Problem, **UNKNOWN},
    auth=[session],
    summary="Rename a device",
)
def rename(request: HttpRequest, number: UUID, body: Name) -> Any:
    device = own(request, number)
    connecting.rename(device, body.name)
    return describe(device)


@router.delete(
    "/devices/{number}", response={200: Count, 422: Problem, **UNKNOWN}, auth=[session], summary="Disconnect a device"
)
def disconnect(request: HttpRequest, number: UUID) -> Any:
    connecting.disconnect(own(request, number))
    return Count(count=1)


@router.delete(
    "/devices/{number}/others",
    response={200: Count, 422: Problem, **UNKNOWN},
    auth=[session],
    summary="Disconnect every other device",
)
def disconnect_others(request: HttpRequest, number: UUID) -> Any:
    return Count(count=connecting.disconnect_others(own(request, number)))


@router.delete(
    "/devices/{number}/applications/{application}",
    response={200: Count, 422: Problem, **UNKNOWN},
    auth=[session],
    summary="Sign one application of a device out; the first one takes the device along",
)
def sign_application_out(request: HttpRequest, number: UUID, application: str) -> Any:
    device = own(request, number)
    if not connecting.APPLICATION.fullmatch(application):
        raise Http404
    connecting.sign_out(get_object_or_404(Credential, device=device, application=application))
    return Count(count=1)


@router.get(
    "/devices/{number}/commands",
    response={200: list[CommandOut], 422: Problem, **UNKNOWN},
    auth=[session],
    summary="What was asked of a device, newest first",
)
def history(request: HttpRequest, number: UUID) -> Any:
    return [told(each) for each in own(request, number).commands.all()[:100]]


@router.post(
    "/devices/{number}/commands",
    response={202: CommandOut, 400: Problem, 409: Problem, 422: Problem, **UNKNOWN},
    auth=[session],
    summary="Ask something of a device",
)
def command(request: HttpRequest, number: UUID, body: Verb) -> Any:
    return Status(202, told(commands.send(own(request, number), body.command)))


@router.get("/device", response={200: Me, 401: Problem}, auth=[device_token], summary="This device")
def me(request: HttpRequest) -> Any:
    credential: Credential = request.auth  # type: ignore[attr-defined]
    account = credential.device.user.email
    return Me(account=account, application=credential.application, device=describe(credential.device))


@router.patch(
    "/device",
    response={200: Me, 400: Problem, 401: Problem, 403: Problem, 422: Problem},
    auth=[first_token],
    summary="After an update, or with a new WireGuard key",
)
def change(request: HttpRequest, body: Change) -> Any:
    device = request.auth.device  # type: ignore[attr-defined]
    if body.version is not None:
        device.version = connecting.clean_version(body.version)
    if body.wireguard_key is not None:
        device.wireguard_key = connecting.clean_key(body.wireguard_key)
    device.save(update_fields=["version", "wireguard_key"])
    return me(request)


@router.post(
    "/device/seat",
    response={200: Seated, 401: Problem, 403: Problem, 409: Occupied, 422: Problem},
    auth=[first_token],
    summary="Take a seat of a product, after a subscription began",
)
def take_seat(request: HttpRequest, body: Seat) -> Any:
    device = request.auth.device  # type: ignore[attr-defined]
    try:
        taken = connecting.seat(device, body.product)
    except ValidationError as err:
        if err.code != "no_seat":
            raise
        return occupied(request, device.user, body.product, err)
    return Seated(product=body.product if taken is not None else "")


@router.delete(
    "/device",
    response={200: Count, 401: Problem},
    auth=[device_token],
    summary="Sign this application out; the first one disconnects the device",
)
def leave(request: HttpRequest) -> Any:
    connecting.sign_out(request.auth)  # type: ignore[attr-defined]
    return Count(count=1)


@router.post(
    "/device/tickets",
    response={201: TicketOut, 400: Problem, 401: Problem, 403: Problem, 422: Problem},
    auth=[device_token],
    summary="Invite another application on this computer; the ticket is good once, for two minutes",
)
def invite(request: HttpRequest, body: Invitation) -> Any:
    credential: Credential = request.auth  # type: ignore[attr-defined]
    made, ticket = connecting.invite(credential, body.application)
    account = credential.device.user.email
    return Status(201, TicketOut(ticket=ticket, expires_at=made.expires_at, account=account))


@router.get(
    "/commands",
    response={200: Waiting, 401: Problem, 403: Problem, 422: Problem, 503: Problem},
    auth=[first_token],
    summary="What is asked of this device, for who cannot hold a stream",
)
def pending(request: HttpRequest, wait: int = Query(0, ge=0, le=25, description="Seconds to wait for one")) -> Any:
    """The events process waits; any other answers at once."""
    device = request.auth.device  # type: ignore[attr-defined]
    found = list(commands.waiting().filter(device=device))
    said = [commands.signed(each, device.public_id) for each in found]
    commands.delivered(each.pk for each in found)
    return Waiting(commands=said)


@router.post(
    "/commands/{number}",
    response={200: CommandOut, 400: Problem, 403: Problem, 409: Problem, 422: Problem, **UNKNOWN},
    auth=[first_token],
    summary="Acknowledge a command, by its jti",
)
def acknowledge(request: HttpRequest, number: UUID, body: Answer) -> Any:
    device = request.auth.device  # type: ignore[attr-defined]
    try:
        return told(commands.acknowledge(device, number, body.result, body.message))
    except Command.DoesNotExist:
        return problem(404, "not_found", _("There is no such thing in this account."))


@router.get(
    "/events",
    response={200: str, 401: Problem, 403: Problem, 421: Problem, 503: Problem},
    auth=[first_token],
    summary="What is asked of this device, as server-sent events",
    openapi_extra={"responses": {200: {"description": "A stream", "content": {"text/event-stream": {}}}}},
)
def events(request: HttpRequest) -> Any:
    """`event: command`, `data:` a JWS of type vpn-cmd+jwt, `id:` for Last-Event-ID; `event: disconnected` ends it.

    The events process answers here. Whoever reads this refusal has a proxy that does not know the way to it.
    """
    return problem(421, "events_elsewhere", "The proxy must send /api/v1/events to the events process.")
