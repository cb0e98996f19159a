"""P10, D2, D3: signed links, by mail and as QR codes, and who they are good for."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.core import mail
from django.test import Client

from portal.accounts.models import User
from portal.downloads import links
from portal.subscriptions.models import Product
from tests.portal.releases import DATA, ann, body, files, later, link_of, own, release, suite

__all__ = ["ann", "files", "suite"]  # fixtures


def test_links(web: Any, app: Any, ann: User) -> None:
    """P10, D2: signed; they work without signing in, for the account they were made for."""
    found = release(Product.objects.get())
    web.sign_in(ann.email)
    app.sign_in(ann.email)
    path = link_of(web, found)
    assert body(Client().get(path)) == DATA
    said = app.call("post", f"/api/v1/downloads/releases/{found.pk}/link").json()
    assert body(Client().get(urlsplit(said["url"]).path)) == DATA
    assert (said["size"], said["sha256"]) == (len(DATA), hashlib.sha256(DATA).hexdigest())


def test_wrong_links(web: Any, ann: User, monkeypatch: Any) -> None:
    """P10: changed, of another use, expired: each with its reason, nothing sent."""
    found, other = release(Product.objects.get()), release(Product.objects.get(), package="rpm")
    web.sign_in(ann.email)
    path = link_of(web, found)
    token = path.split("/")[-2]

    def said(token: str) -> tuple[int, str]:
        answer = Client().get(f"/downloads/get/{token}/")
        return answer.status_code, str(answer.context["error"].code)

    invalid = (403, "link_invalid")
    rest = token.partition(":")[2]
    assert said(f"{other.pk}-{ann.pk}:{rest}") == invalid
    assert said(f"{found.pk}-{ann.pk + 1}:{rest}") == invalid
    assert said(token[:-1] + ("A" if token[-1] != "A" else "B")) == invalid
    assert said("x") == said("x:y:z") == said("%00") == invalid
    from django.core.signing import TimestampSigner

    assert said(TimestampSigner(salt="another use").sign(f"{found.pk}-{ann.pk}")) == invalid
    for value in ("x", "1-x", "-1-1", f"{found.pk}", f"{found.pk}-{ann.pk}-1", "9" * 19 + "-1", "999-999", "٣-٣"):
        assert said(TimestampSigner(salt="portal.downloads.link").sign(value)) == invalid
    release(Product.objects.get(), version="3.2")
    assert said(token) == (403, "by_support")  # looked at again when it is opened
    monkeypatch.setattr(settings, "DOWNLOAD_LINK_HOURS", 0)
    assert said(token) == (410, "link_expired")


def test_links_are_bound_to_their_account(web: Any, ann: User, new_user: Callable[..., User]) -> None:
    """P10: another account's session does not fit; the rights of its own are looked at when it is opened."""
    found = release(Product.objects.get())
    web.sign_in(ann.email)
    path = link_of(web, found)
    stranger = Client()
    stranger.force_login(new_user("eve@example.org"))
    answer = stranger.get(path)
    assert (answer.status_code, answer.context["error"].code) == (403, "not_holder")
    later(own(ann), timedelta(days=400))
    assert Client().get(path).context["error"].code == "not_active"
    later(own(ann), timedelta(days=-400))
    assert body(Client().get(path)) == DATA
    User.objects.filter(pk=ann.pk).update(is_active=False)
    assert Client().get(path).context["error"].code == "link_invalid"
    ann.delete()
    assert Client().get(path).context["error"].code == "link_invalid"


def test_link_by_mail(door: Any, ann: User) -> None:
    """P10, D2: to the account's e-mail, or to the one that is typed."""
    found = release(Product.objects.get())
    door.sign_in(ann.email)

    def send(to: str) -> int:
        if door.name == "api":
            path = f"/api/v1/downloads/releases/{found.pk}/mail"
            return int(door.call("post", path, {"email": to}).status_code)
        return int(door.client.post(f"/downloads/releases/{found.pk}/", {"email": to}).status_code)

    good = 200 if door.name == "api" else 302
    assert [send(each) for each in ("", "Tablet@Example.org")] == [good, good]
    assert [each.to for each in mail.outbox] == [[ann.email], ["tablet@example.org"]]
    assert [send(each) for each in ("no e-mail", "a@b.example\nBcc: c@d.example", "ö@example.org")] == [400, 400, 400]
    assert len(mail.outbox) == 2
    link = re.findall(r"https?://\S+/downloads/get/\S+", mail.outbox[-1].body)[0]
    assert hashlib.sha256(DATA).hexdigest() in mail.outbox[-1].body
    assert body(Client().get(urlsplit(link).path)) == DATA


def test_mails_are_limited(door: Any, ann: User, monkeypatch: Any) -> None:
    """P10: by account, also when the account's e-mail never was confirmed: then there is none."""
    monkeypatch.setattr(links, "PER_ACCOUNT", 2)
    found = release(Product.objects.get())
    door.sign_in(ann.email)

    def send() -> tuple[int, str]:
        if door.name == "api":
            answer = door.call("post", f"/api/v1/downloads/releases/{found.pk}/mail", {"email": "x@example.org"})
            return answer.status_code, answer.json().get("code", "")
        answer = door.client.post(f"/downloads/releases/{found.pk}/", {"email": "x@example.org"})
        return answer.status_code, answer.context["error"].code if answer.status_code != 302 else ""

    assert [send()[1] for _try in range(3)] == ["", "", "too_many_tries"]
    assert send()[0] == 429
    assert len(mail.outbox) == 2
    ann.emailaddress_set.update(verified=False)  # type: ignore[attr-defined]
    assert send() == (400, "email_unconfirmed")


@pytest.mark.skipif(shutil.which("zbarimg") is None or shutil.which("rsvg-convert") is None, reason="zbar-tools")
def test_qr_code_is_read(web: Any, ann: User, tmp_path: Path) -> None:
    """P10, D2: a camera reads the link to the file."""
    found = release(Product.objects.get())
    web.sign_in(ann.email)
    page = web.client.get(f"/downloads/releases/{found.pk}/").content.decode()
    svg = re.findall(r"<svg.*?</svg>", page, re.DOTALL)[0]
    (tmp_path / "code.svg").write_text(svg)
    picture = tmp_path / "code.png"
    subprocess.run(
        ["rsvg-convert", "--background-color=white", "-w", "600", "-o", picture, tmp_path / "code.svg"],
        check=True, timeout=60,
    )  # fmt: skip
    read = subprocess.run(["zbarimg", "--quiet", "--raw", picture], capture_output=True, text=True, timeout=60)
    assert body(Client().get(urlsplit(read.stdout.strip()).path)) == DATA


def test_stores(web: Any, app: Any, ann: User) -> None:
    """P10, D3: the button, the QR code and the link of a store's release lead to the store."""
    found = release(Product.objects.get(), "ios", "store")
    web.sign_in(ann.email)
    app.sign_in(ann.email)
    assert web.client.get(f"/downloads/releases/{found.pk}/start/")["Location"] == "https://store.example/app"
    assert "<svg" in web.client.get(f"/downloads/releases/{found.pk}/").content.decode()
    said = app.call("post", f"/api/v1/downloads/releases/{found.pk}/link").json()
    assert said == {"url": "https://store.example/app", "expires_at": None, "size": 0, "sha256": ""}
