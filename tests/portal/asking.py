"""What the tests of support share: both doors to a request, and the files in the store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile

from portal.accounts.models import User

ORIGIN = "https://portal.example"


def file(name: str, content: bytes = b"words\n") -> SimpleUploadedFile:
    return SimpleUploadedFile(name, content)


def stored() -> list[Path]:
    return [each for each in (Path(settings.CONFIG.state) / "attachments").rglob("*") if each.is_file()]


@pytest.fixture(autouse=True)
def clean_store() -> None:
    for each in stored():
        each.unlink()


@pytest.fixture
def staff() -> User:
    return User.objects.create_superuser("staff@example.org", "Blue7kettle")


def send(door: Any, data: dict[str, Any], number: int | None = None) -> tuple[int, str]:
    """A new request, or a message of one: the status, and the code of what is wrong."""
    if door.name == "api":
        path = "/api/v1/support/requests" + (f"/{number}/messages" if number else "")
        response = door.client.post(path, data, headers={"X-Session-Token": door.token})
        return response.status_code, response.json().get("code", "")
    response = door.client.post(f"/support/{number}/" if number else "/support/new/", data)
    error = response.context.get("error") if response.context else None
    if error is None and response.status_code == 400:
        return 400, "malformed"  # by Django's form: what is no choice, or no text at all
    return response.status_code, error.error_list[0].code if error else ""


def done(door: Any) -> int:
    return 201 if door.name == "api" else 302
