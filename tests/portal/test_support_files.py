"""P12: files that come with requests: what is taken, where it is kept, how it is given back."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from django.conf import settings
from django.core import mail
from django.core.exceptions import ValidationError
from django.core.files.base import ContentFile
from hypothesis import given
from hypothesis import strategies as st

from portal.accounts.models import User
from portal.support import attachments, tickets, words
from portal.support.models import Attachment, Ticket
from tests.portal.asking import ORIGIN, clean_store, done, file, send, staff, stored

__all__ = ["clean_store", "staff"]  # fixtures

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 50


def zipped() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("report.txt", "words")
    return made.getvalue()


@pytest.mark.parametrize(
    "name, content, code",
    [
        ("a.exe", b"MZ\x90", "attachment_type"),
        ("a.txt", b"MZ\x90\0\0", "attachment_type"),
        ("a.txt", b"\x7fELF\x02", "attachment_type"),
        ("a.log", b"#!/bin/sh\nrm -rf ~\n", "attachment_type"),
        ("a.txt", b"\xff\xfe\xff", "attachment_type"),
        ("a.txt", "tränen".encode("latin-1"), "attachment_type"),
        ("a.png", b"<html><script>alert(1)</script>", "attachment_type"),
        ("a.png", b"GIF89a", "attachment_type"),
        ("a.pdf", PNG, "attachment_type"),
        ("a.zip", b"PK\x03\x04 and nothing more", "attachment_type"),
        ("a.html", b"<html>", "attachment_type"),
        ("a.svg", b"<svg/>", "attachment_type"),
        ("a.png.exe", PNG, "attachment_type"),
        ("png", PNG, "attachment_type"),
        ("a.txt", b"", "attachment_empty"),
        ("a.txt", b"a" * 1_000_001, "attachment_too_large"),
    ],
)
def test_files_that_are_refused(
    door: Any, new_user: Callable[..., User], monkeypatch: Any, name: str, content: bytes, code: str
) -> None:
    """P12: judged by their content, not by their name alone; then nothing at all is kept."""
    monkeypatch.setattr(settings, "ATTACHMENT_MEGABYTES", 1)
    door.sign_in(new_user().email)
    data = {"subject": "a", "text": "b", "files": [file("good.txt"), file(name, content)]}
    status, said = send(door, data)
    if code == "attachment_empty" and said == "":
        # Django drops empty parts of forms itself.
        assert Attachment.objects.count() == 1
        return
    assert (status, said) == (400, code)
    assert (Ticket.objects.count(), Attachment.objects.count(), stored(), mail.outbox) == (0, 0, [], [])


@pytest.mark.parametrize(
    "name, content",
    [
        ("a.txt", "Größe ✓\n".encode()), ("a.LOG", b"\xef\xbb\xbfwith a mark"), ("a.txt", "wide".encode("utf-16")),
        ("a.log", b"\x1b[31mred\x1b[0m\r\n"), ("a.json", b"{}"), ("a.png", PNG), ("a.jpg", b"\xff\xd8\xff\xe0"),
        ("a.gif", b"GIF89a"), ("a.webp", b"RIFF\0\0\0\0WEBP"), ("a.pdf", b"%PDF-1.7"), ("a.zip", zipped()),
        ("a.gz", b"\x1f\x8b\x08\0"), ("a.pcapng", b"\n\r\r\n"),
    ],
)  # fmt: skip
def test_files_that_are_taken(new_user: Callable[..., User], name: str, content: bytes) -> None:
    tickets.open_ticket(new_user(), "a", "b", ORIGIN, files=[file(name, content)])
    with attachments.store().open(Attachment.objects.get().stored) as kept:
        assert kept.read() == content


def test_number_and_sum_of_files(door: Any, new_user: Callable[..., User], monkeypatch: Any) -> None:
    """P12: no more than the settings say; what is far too much is not even read to the end onto the disk."""
    monkeypatch.setattr(settings, "ATTACHMENT_MEGABYTES", 1)
    monkeypatch.setattr(settings, "ATTACHMENT_COUNT", 2)
    door.sign_in(new_user().email)
    data = {"subject": "a", "text": "b"}
    assert send(door, data | {"files": [file(f"{n}.txt") for n in range(3)]}) == (400, "attachment_too_many")
    huge = [file(f"{n}.txt", b"a" * 2_000_000) for n in range(4)]
    assert send(door, data | {"files": huge}) == (400, "attachment_too_large")
    assert send(door, data | {"files": [file(f"{n}.txt", b"a" * 1_000_000) for n in range(2)]}) == (done(door), "")


def test_strangers_send_no_files() -> None:
    """P12: Django would read a form with files before anybody is asked: nothing of them reaches the disk."""
    from django.test import Client

    client = Client(enforce_csrf_checks=True)
    client.get("/accounts/login/")  # with its cookie; without, the form is not even read
    for path in ("/accounts/login/", "/support/new/", "/staff/", "/help/devices/verdict/"):
        assert client.post(path, {"login": "x", "files": file("a.txt", b"a" * 100)}).status_code == 400


def test_where_files_are(web: Any, new_user: Callable[..., User]) -> None:
    """P12: random names, readable by the service alone, outside of the static files."""
    user = new_user()
    tickets.open_ticket(user, "a", "b", ORIGIN, files=[file("../../../passwd.txt"), file("..\\x\u202etxt.log")])
    one, other = Attachment.objects.all()
    assert (one.name, other.name) == ("passwd.txt", "xtxt.log")
    assert len(stored()) == 2
    for each in stored():
        assert "passwd" not in str(each) and len(each.parent.name + each.name) == 32
        assert each.stat().st_mode & 0o077 == 0 and each.parent.stat().st_mode & 0o077 == 0
        assert not each.is_relative_to(settings.STATIC_ROOT)


def test_downloads(door: Any, web: Any, new_user: Callable[..., User], staff: User) -> None:
    """P12: saved, never shown: whatever it is. Staff may, other staff without the right may not."""
    user = new_user()
    page = b"<script>alert(1)</script>"
    tickets.open_ticket(user, "a", "b", ORIGIN, files=[file('b"a\u00e4.txt', page)])
    number = Attachment.objects.get().pk
    door.sign_in(user.email)
    path = f"/api/v1/support/files/{number}" if door.name == "api" else f"/support/attachments/{number}/"
    response = door.call("get", path) if door.name == "api" else door.client.get(path)
    assert response.getvalue() == page
    assert response.headers["Content-Disposition"] == "attachment; filename*=utf-8''b%20a%C3%A4.txt"
    assert response.headers["Content-Type"] == "application/octet-stream"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "sandbox" in response.headers["Content-Security-Policy"]
    assert "no-store" in response.headers["Cache-Control"]
    web.client.force_login(staff)
    assert web.client.get(f"/support/attachments/{number}/").getvalue() == page
    staff.is_superuser = False
    staff.save()
    assert web.client.get(f"/support/attachments/{number}/").status_code == 404
    stored()[0].unlink()
    missing = door.call("get", path) if door.name == "api" else door.client.get(path)
    assert missing.status_code == 404


@given(st.text(max_size=300))
def test_names_of_files(name: str) -> None:
    """P12: whatever they are called, it names one file in one folder."""
    made = words.file_name(name)
    assert 1 <= len(made) <= 120
    assert not any(character in made for character in '/\\\0\n\r":<>|?*')
    assert made not in (".", "..")
    assert words.file_name(made) == made


@given(st.binary(max_size=200), st.sampled_from([*attachments.TYPES, "exe", ""]))
def test_any_bytes_are_judged(content: bytes, ending: str) -> None:
    """P12: taken or refused with a reason, never an error of ours."""
    try:
        attachments.judge(ContentFile(content), f"a.{ending}")
    except ValidationError as err:
        assert err.code in ("attachment_type", "attachment_empty")
