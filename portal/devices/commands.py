"""What is asked of a device from afar: queued, signed when it is told, acknowledged.

A command is signed anew each time it is told, with a short life: what somebody recorded is worthless soon, and the
device knows by its `jti` what it has done already.
"""

from __future__ import annotations

import time
import unicodedata
from collections.abc import Iterable
from datetime import timedelta
from uuid import UUID

from django.core.exceptions import ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.utils import timezone
from django.utils.translation import gettext as _

from portal import signing
from portal.devices.models import QUEUED, Command, Device, Result, Verb

TYP = "vpn-cmd+jwt"
LIFETIME = 300  # seconds; laptops' clocks are not exact
MOST_QUEUED = 20
MOST_MESSAGE = 4000
HISTORY = timedelta(days=90)


def waiting() -> QuerySet[Command]:
    """Commands that are still to be told, oldest first."""
    return Command.objects.filter(acknowledged_at__isnull=True, expires_at__gt=timezone.now()).order_by("pk")


def send(device: Device, verb: str) -> Command:
    """Queues it. The same one that waits already is not queued twice. Raises ValidationError.

    command_unknown: it is not on the list, and lifting a lockdown never will be. too_many_commands: too many wait.
    """
    if verb not in Verb.values:
        raise ValidationError(_("There is no such command."), "command_unknown")
    with transaction.atomic():
        Device.objects.select_for_update().get(pk=device.pk)
        queued = list(waiting().filter(device=device))
        if queued and queued[-1].verb == verb:
            return queued[-1]
        if len(queued) >= MOST_QUEUED:
            raise ValidationError(_("Too many commands wait for this device already."), "too_many_commands")
        return Command.objects.create(device=device, verb=verb, expires_at=timezone.now() + QUEUED)


def signed(command: Command, audience: UUID) -> str:
    """The token a daemon verifies: what, for whom, which one, until when. Raises signing.SigningError."""
    payload: dict[str, object] = {
        "aud": str(audience),
        "jti": str(command.jti),
        "cmd": command.verb,
        "exp": int(time.time()) + LIFETIME,
    }
    return signing.sign(payload, TYP)


def delivered(commands: Iterable[int]) -> None:
    """Notes that these were told, the first time."""
    Command.objects.filter(pk__in=list(commands), delivered_at__isnull=True).update(delivered_at=timezone.now())


def acknowledge(device: Device, jti: UUID, result: str, message: str) -> Command:
    """The device's answer; the first one counts, another changes nothing. Raises ValidationError, Command.DoesNotExist.

    result_unknown, message_invalid; command_gone: it was too late, or another answer was given before.
    """
    if result not in Result.values:
        raise ValidationError(_("A result is done, refused or failed."), "result_unknown")
    controls = any(unicodedata.category(each) in ("Cc", "Cs") and each != "\n" for each in message)
    if len(message) > MOST_MESSAGE or controls:
        raise ValidationError(
            _("A message has at most %(most)d characters, none of them control characters."),
            "message_invalid",
            {"most": MOST_MESSAGE},
        )
    command = device.commands.get(jti=jti)
    won = waiting().filter(pk=command.pk).update(acknowledged_at=timezone.now(), result=result, message=message)
    command.refresh_from_db()
    if not won and command.result != result:
        raise ValidationError(_("It is too late for this answer."), "command_gone")
    return command


def expire() -> int:
    """Removes what is too old for the history; how many."""
    return Command.objects.filter(created_at__lt=timezone.now() - HISTORY).delete()[0]
