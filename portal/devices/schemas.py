"""What `/api/v1` says and hears of devices."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from ninja import Schema
from pydantic import Field

from portal.api.problems import Problem
from portal.devices import commands
from portal.devices.models import Command, Device

TEXT = Field(max_length=200)


class Computer(Schema):
    """`machine`: whatever the computer calls itself, opaque here. `product`: take a seat of this one."""

    name: str = TEXT
    platform: str = Field(max_length=16)
    version: str = Field(max_length=40)
    machine: str = TEXT
    wireguard_key: str = Field(max_length=44, description="The public key: base64 of 32 bytes")
    application: str = Field("vpn", max_length=40)
    product: str = Field("", max_length=50)


class Application(Schema):
    name: str
    first: bool
    since: datetime


class DeviceOut(Schema):
    id: UUID
    name: str
    platform: str
    version: str
    last_seen: datetime
    country: str = Field(description="Of its address, ISO 3166-1; empty: unknown")
    seat: str = Field(description="The product a seat of which it has; empty: none")
    applications: list[Application]


class Connected(Schema):
    credential: str = Field(description="Shown this once: Authorization: Bearer")
    account: str
    device: DeviceOut


class Occupied(Problem):
    """Who takes the place, and where a person can decide which device to disconnect."""

    devices: list[DeviceOut]
    manage: str


class Me(Schema):
    account: str
    application: str
    device: DeviceOut


class Name(Schema):
    name: str = TEXT


class Change(Schema):
    version: str | None = Field(None, max_length=40)
    wireguard_key: str | None = Field(None, max_length=44)


class Seat(Schema):
    product: str = Field(max_length=50)


class Seated(Schema):
    product: str = Field(description="Empty: nothing runs, the free version")


class Invitation(Schema):
    application: str = Field(max_length=40)


class TicketOut(Schema):
    ticket: str
    expires_at: datetime
    account: str = Field(description="For the question: Continue as …")


class Redeem(Schema):
    ticket: str = Field(max_length=100)
    application: str = Field(max_length=40)
    machine: str = TEXT


class Verb(Schema):
    command: str = Field(max_length=16, description="connect, disconnect, lockdown-on, refresh or report")


class CommandOut(Schema):
    id: UUID
    command: str
    state: str
    created_at: datetime
    expires_at: datetime
    message: str


class Waiting(Schema):
    commands: list[str] = Field(description="Signed: JWS of type vpn-cmd+jwt, oldest first")


class Answer(Schema):
    result: str = Field(max_length=16, description="done, refused or failed")
    message: str = Field("", max_length=commands.MOST_MESSAGE)


class Count(Schema):
    count: int


def describe(device: Device) -> DeviceOut:
    held = device.seat
    return DeviceOut(
        id=device.public_id,
        name=device.name,
        platform=device.platform,
        version=device.version,
        last_seen=device.last_seen_at,
        country=device.country,
        seat=held.subscription.product.slug if held is not None else "",
        applications=[
            Application(name=each.application, first=each.parent_id is None, since=each.created_at)
            for each in device.credentials.all()
        ],
    )


def told(command: Command) -> CommandOut:
    return CommandOut(
        id=command.jti,
        command=command.verb,
        state=command.state().value,
        created_at=command.created_at,
        expires_at=command.expires_at,
        message=command.message,
    )
