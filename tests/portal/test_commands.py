"""P11: remote commands: a closed list, answers, limits and history; how they are told is in test_events.py."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from portal.accounts.models import User
from portal.devices import commands
from portal.devices.models import Command, Device
from tests.portal.laptop import acknowledge, ask, connect


@pytest.fixture
def laptop(new_user: Callable[..., User]) -> Callable[..., tuple[str, Device]]:
    return lambda email="ann@example.org", **fields: connect(new_user, email, **fields)


def test_nothing_opens_from_afar(door: Any, laptop: Any) -> None:
    """The list is closed: lifting a lockdown is not on it, whatever it is called."""
    _token, device = laptop()
    door.sign_in(device.user.email)
    for verb in ("lockdown-off", "unlock", "LOCKDOWN-ON", "connect ", "", "lockdown-on\n", "\x00", "x" * 5000):
        assert ask(door, device, verb) in (400, 422)
    assert not Command.objects.exists()


def test_answers(laptop: Any) -> None:
    """By the device itself, once, of a bounded size; the same answer again changes nothing."""
    token, device = laptop()
    other, _device = laptop("bob@example.org")
    command = commands.send(device, "report")
    assert acknowledge(other, command.jti).json()["code"] == "not_found"
    assert acknowledge(token, uuid.uuid4()).status_code == 404
    assert acknowledge(token, "x").status_code == 422
    assert acknowledge(token, command.jti, "opened").json()["code"] == "result_unknown"
    assert acknowledge(token, command.jti, "done", "x" * 4001).json()["code"] == "malformed"
    assert acknowledge(token, command.jti, "done", "\x1b[2J").json()["code"] == "message_invalid"
    assert acknowledge(token, command.jti, "refused", "<b>no</b>").status_code == 200
    assert acknowledge(token, command.jti, "refused", "again").json()["message"] == "<b>no</b>"
    assert acknowledge(token, command.jti, "done").json()["code"] == "command_gone"
    client = Client()
    client.force_login(device.user)
    page = client.get(f"/devices/{device.public_id}/").content.decode()
    assert "&lt;b&gt;no&lt;/b&gt;" in page and "<b>no</b>" not in page


def test_how_many_wait(laptop: Any) -> None:
    """The same command twice is one; and no more than so many wait for a device."""
    from django.core.exceptions import ValidationError

    _token, device = laptop()
    assert commands.send(device, "connect") == commands.send(device, "connect")
    for number in range(commands.MOST_QUEUED - 1):
        commands.send(device, ("refresh", "report")[number % 2])
    with pytest.raises(ValidationError) as caught:
        commands.send(device, "connect")
    assert caught.value.code == "too_many_commands"
    assert device.commands.count() == commands.MOST_QUEUED


def test_history_ends(laptop: Any) -> None:
    """After 90 days."""
    from io import StringIO

    from django.core.management import call_command

    _token, device = laptop()
    commands.send(device, "connect")
    old = commands.send(device, "report")
    Command.objects.filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=91))
    call_command("expire_devices", stdout=StringIO())
    assert [each.verb for each in device.commands.all()] == ["connect"]
