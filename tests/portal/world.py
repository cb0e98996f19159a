"""What the tests of bad input share: accounts with something of everything, and every form and endpoint they see."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from allauth.account.models import EmailAddress
from django.core import mail
from django.db import connection, transaction
from django.forms import BaseForm
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from portal.accounts.models import User
from portal.accounts.passwords import Hasher
from portal.consents import ledger
from portal.consents.models import Consent
from portal.downloads.models import Release
from portal.subscriptions import redemption, sharing
from portal.subscriptions.models import Plan, Product
from portal.support import tickets
from tests.portal import laptop, postgres
from tests.portal.conftest import DATABASE, GOOD, SOCKET, App, Web
from tests.portal.second_step import with_app, with_phone

ORIGIN = "http://testserver"
# What is written whatever becomes of a request: counted tries, sessions, images with characters, the cache.
NOTES = {"accounts_failure", "django_session", "captcha_captchastore", "cache", "usersessions_usersession"}
SEEN = re.compile(r"last_seen|last_login|^tries$")

# A right value for each field that anything asks for.
RIGHT: dict[str, Any] = {
    "email": "zoe@example.org", "login": "ann@example.org", "password": "Blue7kettle", "password1": "Green8kettle",
    "password2": "Green8kettle", "oldpassword": "Blue7kettle", "country": "FR", "privacy": "on", "language": "fr",
    "portal_statement": "1", "phone": "+33612345678", "code": "123456", "name": "Ann", "subject": "Trains",
    "text": "It is slow.", "comment": "Good.", "helpful": "yes", "command": "refresh", "action": "", "next": "/",
    "accept": "1", "statement": "1", "captcha_key": "x", "captcha_answer": "x", "kind": "marketing",
}  # fmt: skip


APPLICATION = {
    "platform": "linux", "version": "1.4.0", "machine": "0123456789abcdef", "application": "suite", "product": "suite",
    "wireguard_key": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=", "message": "Done.", "result": "done", "on": True,
    "public_key": "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFBQUE=", "ticket": "x", "helpful": True,
}  # fmt: skip


@dataclass
class Form:
    """A form of a page, and who saw it where."""

    who: str
    page: str
    action: str
    fields: dict[str, str] = field(default_factory=dict)  # name: its type
    values: dict[str, str] = field(default_factory=dict)

    def right(self) -> dict[str, Any]:
        found = {name: self.values.get(name) or RIGHT.get(name, "x") for name in self.fields}
        return {name: value for name, value in found.items() if self.fields[name] != "file"}


class Forms(HTMLParser):
    """The forms of a page that post."""

    def __init__(self, who: str, page: str, text: str) -> None:
        super().__init__()
        self.who, self.page = who, page
        self.found: list[Form] = []
        self.now: Form | None = None
        self.select = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        if tag == "form":
            post = has.get("method", "").lower() == "post"
            self.now = Form(self.who, self.page, has.get("action") or self.page) if post else None
            if self.now is not None:
                self.found.append(self.now)
        name = has.get("name", "")
        if self.now is None or (not name and tag != "option") or name == "csrfmiddlewaretoken":
            return
        if tag in ("input", "textarea", "select", "button"):
            self.now.fields[name] = has.get("type", "text") if tag == "input" else tag
            self.select = name if tag == "select" else ""
            if has.get("value"):
                self.now.values.setdefault(name, has["value"])
        elif tag == "option" and self.select and has.get("value"):
            self.now.values.setdefault(self.select, has["value"])

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self.now = None


PARAMETER = re.compile(r"<(?:\w+:)?(\w+)>|\(\?P<(\w+)>[^)]*\)")


def bare(route: str) -> str:
    return route.replace("^", "").replace("$", "")


def routes(patterns: Any = None, before: str = "") -> Iterator[tuple[str, Any]]:
    """(the address as the resolver has it, the view) of everything but the staff's side."""
    for each in get_resolver().url_patterns if patterns is None else patterns:
        at = before + str(each.pattern)
        if isinstance(each, URLResolver):
            if each.app_name != "admin":
                yield from routes(each.url_patterns, at)
        elif isinstance(each, URLPattern):
            yield at, each.callback


def account(email: str) -> User:
    user = User.objects.create_user(email, GOOD, country="FR")
    EmailAddress.objects.create(user=user, email=email, primary=True, verified=True)
    for statement in ledger.missing(user):
        ledger.give(user, statement, "192.0.2.1")
    return user


def browser(email: str = "", confirm: bool = False) -> Any:
    web = Web(Client(raise_request_exception=False))
    if email:
        web.sign_in(email)
    if confirm:
        web.confirm_password()
    return web.client


def mailed(pattern: str) -> str:
    """What the last mail has of it."""
    said = [str(each.body) for each in mail.outbox]  # type: ignore[attr-defined]
    return next(found for text in reversed(said) for found in re.findall(pattern, text))


class World:
    """Ann has something of everything. Others wait at a step of signing in, or at a link."""

    def __init__(self) -> None:
        ann = self.ann = account("ann@example.org")
        laptop.subscribe(ann, seats=5)
        suite = Product.objects.create(slug="suite", name="Suite")
        plan = self.plan = Plan.objects.create(product=suite, slug="suite-year", name="One year", days=365, seats=9)
        self.suite, _outcome = redemption.redeem(ann, redemption.make(plan, 1, "")[0])
        self.code, self.other_code = redemption.make(plan, 2, "")
        self.share = sharing.invite(self.suite, "carl@example.org", "Ann", ORIGIN)
        self.seat = sharing.take_seat(ann, self.suite, "phone")
        store = {"platform": "ios", "package": "store", "store_url": "https://store.example/"}
        self.release = Release.objects.create(product=suite, version="3.1", published=True, **store)
        self.ticket = tickets.open_ticket(ann, "Trains", "It is slow.", ORIGIN)
        self.credential, self.device = laptop.connect(account, ann.email)
        laptop.connect(account, ann.email)
        laptop.call(self.credential, "get", "/api/v1/device")  # seen just now: that is noted every five minutes
        theirs, _outcome = redemption.redeem(account("dora@example.org"), redemption.make(plan, 1, "")[0])
        sharing.invite(theirs, ann.email, "Dora", ORIGIN)
        self.invitation = mailed(r"/subscriptions/invitations/([\w-]+)/")
        # Who sees pages, and which ones; none: all of them.
        self.clients: dict[str, tuple[Any, list[str]]] = {
            "stranger": (browser(), []),
            "ann": (browser(ann.email, confirm=True), ["/identity/o/device?code=" + self._device_code()]),
        }
        with_phone(account("ben@example.org"))
        self.clients["ben"] = browser("ben@example.org"), ["/accounts/login/code/confirm/"]
        with_app(with_phone(account("eve@example.org"), "+4915100000001"))
        self.clients["eve"] = browser("eve@example.org"), ["/accounts/2fa/authenticate/"]
        Consent.objects.filter(user=account("fred@example.org")).delete()
        self.clients["fred"] = browser("fred@example.org"), ["/accounts/statement/"]
        gina = account("gina@example.org")
        settled = browser(gina.email, confirm=True)
        with_phone(gina)
        settled.post("/accounts/phone/change/", {"phone": "+4915100000003"})
        steps = ("", "off/", "totp/activate/", "reauthenticate/")
        self.clients["gina"] = settled, ["/accounts/phone/verify/", *(f"/accounts/2fa/{each}" for each in steps)]
        forgetful = browser()
        forgetful.post("/accounts/password/reset/", {"email": "dora@example.org"})
        link = forgetful.get(mailed(r"http://testserver(/accounts/password/reset/key/\S+)"))
        self.clients["dora"] = forgetful, [link.headers["Location"]]
        deleting = browser(account("hans@example.org").email, confirm=True)
        deleting.post("/account/delete/")
        self.clients["hans"] = deleting, ["/account/delete/"]
        self.app = App(Client(raise_request_exception=False))
        self.app.sign_in(ann.email)
        self.app.confirm_password()
        self.half = App(Client(raise_request_exception=False))
        self.half.sign_in("ben@example.org")
        self.found = self._forms()

    def _device_code(self) -> str:
        given = "client_id=tunwarden&scope=device"
        kind = "application/x-www-form-urlencoded"
        return str(Client().post("/identity/o/api/device/code", given, content_type=kind).json()["user_code"])

    def filled(self, route: str) -> str:
        """The address with Ann's own things in it."""
        numbers = {
            "subscriptions/shares": self.share.pk, "subscriptions/seats": self.seat.pk, "subscriptions": self.suite.pk,
            "downloads": self.release.pk, "device": self.device.public_id, "commands": self.device.public_id,
        }  # fmt: skip
        number = str(next((value for key, value in numbers.items() if key in route), 1))
        values = {
            "pk": number, "number": number, "token": self.invitation, "product": "suite", "kind": "marketing",
            "slug": "suite" if "downloads" in route else "connect", "key": "x", "application": "vpn",
            "code": "BCDF-GHJK", "uidb36": "1",
        }  # fmt: skip
        return "/" + re.sub(PARAMETER, lambda found: values[found[1] or found[2]], bare(route))

    def pages(self) -> list[str]:
        """Everything that is not the interface's."""
        found = {self.filled(route) for route, _view in routes() if not route.startswith(("api/", "_allauth/"))}
        return sorted(found)

    def _forms(self) -> list[Form]:
        """Every form of every page, once for each action and set of fields."""
        found: dict[tuple[str, str], Form] = {}
        every = self.pages()
        for who, (client, pages) in self.clients.items():
            for page in pages + (every if who in ("stranger", "ann") else []):
                with undone(client):
                    response = client.get(page)
                    text = "" if response.streaming else response.content.decode()
                if response.status_code == 200 and "html" in response.headers["Content-Type"]:
                    for form in Forms(who, page, text).found:
                        form.action = urlsplit(form.action).path
                        found.setdefault((form.action, ",".join(sorted(form.fields))), form)
        return list(found.values())


@contextmanager
def undone(client: Any = None) -> Iterator[None]:
    """Whatever is done inside is as if it never was: in the database and in the browser."""
    cookies = deepcopy(client.cookies) if client is not None else None
    with transaction.atomic():
        yield
        transaction.set_rollback(True)
    if client is not None:
        client.cookies = cookies


def contents(every: bool = False) -> dict[str, list[Any]]:
    """What the database has, without what is noted anyway."""
    with connection.cursor() as cursor:
        tables = sorted(set(connection.introspection.table_names(cursor)) - (set() if every else NOTES))
        found = {}
        for table in tables:
            cursor.execute(f'SELECT * FROM "{table}"')
            keep = [at for at, each in enumerate(cursor.description) if not SEEN.search(each[0])]
            found[table] = sorted(repr([row[at] for at in keep]) for row in cursor.fetchall())
    return found


def difference(before: dict[str, list[Any]], after: dict[str, list[Any]]) -> dict[str, list[Any]]:
    return {
        table: [each for each in rows if each not in before[table]] or ["fewer"]
        for table, rows in after.items()
        if rows != before[table]
    }


def refused(response: Any) -> bool:
    """By its status, or by a form that is shown again with what is wrong."""
    if response.status_code >= 400:
        return True
    layers = [layer if isinstance(layer, dict) else layer.flatten() for layer in response.context or []]
    shown = [value for layer in layers for value in layer.values()]
    return any(isinstance(each, BaseForm) and each.is_bound and each.errors for each in shown)


@pytest.fixture(scope="module")
def frozen(template: Path) -> Iterator[Any]:
    """The world, made once; each test begins with a copy of it."""
    from django.db import connections

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hasher, "memory_cost", 8)  # passwords are not what is tested
        from portal.accounts.steps import gateways
        from tests.portal.second_step import Recorder

        patch.setattr(gateways, "gateway", Recorder)
        database = template.with_name("portal.sqlite3")
        if SOCKET:
            postgres.replace(SOCKET, DATABASE, f"{DATABASE}_template")
        else:
            for leftover in database.parent.glob("portal.sqlite3*"):
                leftover.unlink()
            shutil.copy(template, database)
        made = World()
        connections.close_all()
        kept = database.with_name("world.sqlite3")
        if SOCKET:
            postgres.replace(SOCKET, f"{DATABASE}_world", DATABASE)
        else:
            shutil.copy(database, kept)
        yield made


@pytest.fixture
def world(frozen: World, portal: None, template: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    from django.conf import settings
    from django.db import connections

    # Its people signed in when it was made, and on a busy machine that is long ago.
    monkeypatch.setattr(settings, "ACCOUNT_REAUTHENTICATION_TIMEOUT", 86400)
    connections.close_all()
    database = template.with_name("portal.sqlite3")
    if SOCKET:
        postgres.replace(SOCKET, DATABASE, f"{DATABASE}_world")
    else:
        for leftover in database.parent.glob("portal.sqlite3*"):
            leftover.unlink()
        shutil.copy(database.with_name("world.sqlite3"), database)
    cookies = {who: deepcopy(client.cookies) for who, (client, _pages) in frozen.clients.items()}
    yield frozen
    for who, (client, _pages) in frozen.clients.items():
        client.cookies = cookies[who]
