"""Bad input at every form, found by walking the pages; e-mails that look like others; the same form many times at once.

Never a 500; refused with the right status, and then nothing at all is done; what was taken holds none of it.
"""

from __future__ import annotations

import json

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.test.client import encode_multipart
from django.utils.http import urlencode

from portal.accounts.models import User
from portal.subscriptions.models import Share
from tests.portal.conftest import GOOD
from tests.portal.judge import FORM, Judge
from tests.portal.world import (
    Form,
    World,
    contents,
    frozen,
    refused,
    undone,
    world,
)

__all__ = ["frozen", "world"]  # fixtures

LONG = "a" * 100_000


def encoded(form: Form, name: str, raw: str) -> bytes:
    """The form as a browser sends it, and one field as it is written here, percent-encoded already."""
    given = {key: value for key, value in form.right().items() if key != name}
    return f"{urlencode(given)}&{name}={raw}".lstrip("&").encode()


# What a field gets; what of it must not be kept.
TEXTS = {
    "null byte": ("a%00b", ("\\x00", "a\x00b")),
    "control characters": ("a%1B%5B31mb%07", ("\\x1b", "\\x07", "\x1b", "\x07")),
    "no UTF-8": ("a%FF%FEb", ("\ufffd", "\\ufffd")),
    "Latin-1": ("Andr%E9", ("\ufffd", "\\ufffd")),
    "half a pair": ("a%ED%A0%80b", ("\ufffd", "\\ufffd", "\\ud800")),
    "too long": (LONG, (LONG[:30_000],)),
    "a number without end": ("9" * 5000, ()),
    "negative": ("-1", ()),
    "empty": ("", ()),
    "another direction": ("a%E2%80%AEb", ()),
    "twice": ("first&{name}=second", ("first",)),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_fields(world: World, kind: str) -> None:
    """Each field of each form in its turn, the others as they should be."""
    raw, bad = TEXTS[kind]
    judge = Judge(bad)
    for form in world.found:
        for name in form.fields or {"nothing": ""}:
            body = encoded(form, name, raw.replace("{name}", name))
            client = world.clients[form.who][0]
            judge.ask(f"{kind} in {name}", client, "POST", form.action, data=body, content_type=FORM)
    judge.done(70)


def test_files_and_absence(world: World) -> None:
    """A file where text belongs, text where a file belongs, nothing at all, and a body that is cut off."""
    judge = Judge()
    for form in world.found:
        client = world.clients[form.who][0]
        files = {name: SimpleUploadedFile("a.txt", b"words") for name in form.fields}
        boundary = "multipart/form-data; boundary=x"
        judge.ask("files", client, "POST", form.action, data=encode_multipart("x", files), content_type=boundary)
        text = encode_multipart("x", form.right() | {"files": "words"})
        if "files" not in form.fields:
            judge.ask("cut off", client, "POST", form.action, data=text[: len(text) // 2], content_type=boundary)
        judge.ask("no boundary", client, "POST", form.action, data=text, content_type="multipart/form-data")
        judge.ask("nothing", client, "POST", form.action, data=b"", content_type=FORM)
        fields = urlencode({f"f{each}": "x" for each in range(1001)})
        judge.ask("too many fields", client, "POST", form.action, data=fields, content_type=FORM)
    judge.done(180)


@pytest.mark.parametrize(
    "content_type", ["application/json", "text/plain", "application/xml", "", "x", "a/b; charset=nonsense"]
)
def test_content_type_of_forms(world: World, content_type: str) -> None:
    """What is no form has no fields."""
    judge = Judge()
    for form in world.found:
        if not form.fields:
            continue
        body = json.dumps(form.right())
        client = world.clients[form.who][0]
        judge.ask(content_type, client, "POST", form.action, data=body, content_type=content_type)
    judge.done(25)


def test_charset_of_forms(world: World) -> None:
    """Django reads UTF-8 alone, whatever is announced; what is no UTF-8 is refused."""
    judge = Judge(("\ufffd",))
    for form in world.found:
        for charset in ("utf-16", "utf-7", "idna", "zlib_codec", "nonsense"):
            body = urlencode(form.right()).encode()
            client = world.clients[form.who][0]
            judge.ask(charset, client, "POST", form.action, data=body, content_type=f"{FORM}; charset={charset}")
    judge.done(150)


# E-mails that look like others

TRICKS = {
    "Cyrillic": "аnn@example.org",
    "Cyrillic domain": "ann@exаmple.org",
    "full width": "ａnn@example.org",
    "full width at": "ann＠example.org",
    "no width": "an\u200bn@example.org",
    "another direction": "ann\u202e@example.org",
    "combining": "ann\u0301@example.org",
    "dotless": "ann@example.org".replace("n", "ı"),
    "line end": "ann@example.org\nBcc: all@example.org",
    "line end in the middle": "ann\r\n@example.org",
    "comment": "ann(x)@example.org",
    "two": "ann@example.org,bob@example.org",
    "name": "Ann <ann@example.org>",
    "percent": "ann%40example.org",
}
WHERE = {
    "sign-up": ("stranger", "/accounts/signup/", "email"),
    "another e-mail": ("ann", "/accounts/email/", "email"),
    "share": ("ann", "/subscriptions/{}/", "email"),
    "download": ("ann", "/downloads/releases/1/", "email"),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("trick", TRICKS)
def test_tricks_in_emails(world: World, where: str, trick: str) -> None:
    """Refused wherever an e-mail is taken; no mail goes anywhere."""
    from django.core import mail

    who, path, name = WHERE[where]
    path = path.format(world.suite.pk)
    form = next(form for form in world.found if form.action == path and name in form.fields)
    judge = Judge()
    data = urlencode(form.right() | {name: TRICKS[trick], "email2": TRICKS[trick]})
    found = judge.ask(trick, world.clients[who][0], "POST", path, data=data, content_type=FORM)
    judge.done(1)
    assert refused(found) and found.status_code in (200, 400) and mail.outbox == []  # type: ignore[attr-defined]


def test_case_is_no_other_email(world: World) -> None:
    """One account, however it is written; shared with once."""
    users, shares = User.objects.count(), Share.objects.count()
    client = Client()
    form = {"email": " ANN@Example.ORG ", "password1": GOOD, "password2": GOOD, "country": "FR", "privacy": "on"}
    client.post("/accounts/signup/", form | {"portal_statement": "1"})
    assert User.objects.count() == users
    world.clients["ann"][0].post(f"/subscriptions/{world.suite.pk}/", {"email": "CARL@example.org", "name": "Ann"})
    assert Share.objects.count() == shares


# Twice at once

TWICE = {
    "share": (lambda w: f"/subscriptions/{w.suite.pk}/", {"email": "zoe@example.org", "name": "Ann"}, "subscriptions_share"),  # noqa: E501
    "code": (lambda w: "/subscriptions/", None, "subscriptions_term"),
    "invitation": (lambda w: f"/subscriptions/invitations/{w.invitation}/", {}, "subscriptions_share"),
    "e-mail": (lambda w: "/accounts/email/", {"email": "zoe@example.org", "action_add": ""}, "account_emailaddress"),
    "marketing": (lambda w: "/account/consents/marketing/", {"marketing": "on"}, "consents_consent"),
    "phone": (lambda w: "/accounts/phone/change/", {"phone": "+33612345678"}, "accounts_smscode"),
    "deletion": (lambda w: "/account/delete/", {}, "accounts_deletioncode"),
    "command": (lambda w: f"/devices/{w.device.public_id}/command/", {"command": "refresh"}, "devices_command"),
    "disconnect": (lambda w: f"/devices/{w.device.public_id}/disconnect/", {}, "devices_device"),
    "revoke": (lambda w: f"/subscriptions/shares/{w.share.pk}/revoke/", {}, "subscriptions_share"),
    "verdict": (lambda w: "/help/connect/verdict/", {"helpful": "yes"}, "support_verdict"),
    "close": (lambda w: f"/support/{w.ticket.pk}/close/", {}, "support_event"),
}  # fmt: skip


@pytest.mark.parametrize("name", TWICE)
def test_submitted_twice_at_once(world: World, name: str) -> None:
    """Six times the same form: as if it was sent once, and each gets an answer."""
    from concurrent.futures import ThreadPoolExecutor

    from django.db import connections

    where, data, table = TWICE[name]
    path, given = where(world), {"code": world.code} if data is None else data
    client = world.clients["hans" if name == "deletion" else "ann"][0]
    before = len(contents()[table])
    with undone(client):
        assert client.post(path, given).status_code in (200, 302)
        once = len(contents()[table])

    def submit(_number: int) -> int:
        try:
            one = Client(raise_request_exception=False)
            one.cookies["sessionid"] = client.cookies["sessionid"].value
            return int(one.post(path, given).status_code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(submit, range(6)))
    assert set(said) <= {200, 302, 400, 404, 409, 429} and ({200, 302} & set(said)), said
    assert len(contents()[table]) == once, (before, once, said)
