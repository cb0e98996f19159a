"""The portal on SQLite in a temporary folder, a fresh copy of the database for each test, and two doors to it.

PORTAL_TEST_POSTGRES, the folder of a server's socket, puts the same tests on PostgreSQL: test_postgres.py does.

Without Django (`pip install -r requirements-portal.lock`) every test here is skipped, and the reason is printed.
"""

from __future__ import annotations

import importlib.util
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.portal import postgres

TOP = Path(__file__).parent.parent.parent
NEEDED = ("django", "allauth", "ninja", "captcha", "argon2", "whitenoise", "babel")
MISSING = [name for name in NEEDED if importlib.util.find_spec(name) is None]
GOOD = "Blue7kettle"
FOLDER = Path(tempfile.mkdtemp(prefix="tunwarden-portal-")) if not MISSING else None
SOCKET = os.environ.get("PORTAL_TEST_POSTGRES", "")
DATABASE = f"portal_{os.getpid()}"

if FOLDER is not None:
    sys.path.insert(0, str(TOP))
    os.environ |= {
        "DJANGO_SETTINGS_MODULE": "portal.settings",
        "PORTAL_CONFIG": str(FOLDER / "portal.toml"),
        "PORTAL_STATE": str(FOLDER),
    }
    if SOCKET:
        os.environ["PORTAL_DATABASE"] = postgres.url(SOCKET, DATABASE)
    key = "the tests' own key, good for nothing else and longer than fifty characters"
    (FOLDER / "portal.toml").write_text(f'secret_key = "{key}"\nhosts = ["testserver"]\nhttps = false\n')
    (FOLDER / "static").mkdir()
    import django

    zone, level, handlers = os.environ.get("TZ"), logging.root.level, logging.root.handlers[:]
    django.setup()
    from django.conf import settings

    # How long one of a test's threads waits for the others is the machine's business, not what is tested.
    if SOCKET:  # a pool of four would leave half of them waiting, and give up after 30 s
        settings.DATABASES["default"]["OPTIONS"]["pool"] = {"min_size": 1, "max_size": 16, "timeout": 240}
    else:
        settings.DATABASES["default"]["OPTIONS"]["timeout"] = 240
    # The other tests of this process keep their time zone and their log.
    if zone is None:
        os.environ.pop("TZ", None)
        time.tzset()
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


class Skipped(pytest.Module):
    def collect(self) -> Iterator[pytest.Item]:
        pytest.skip(f"the portal needs {', '.join(MISSING)}: pip install -r requirements-portal.lock")


def pytest_pycollect_makemodule(module_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    return Skipped.from_parent(parent, path=module_path) if MISSING else None  # type: ignore[no-any-return]


def pytest_unconfigure() -> None:
    if FOLDER is not None:
        shutil.rmtree(FOLDER, ignore_errors=True)


@pytest.fixture(scope="session")
def template() -> Path:
    """The database after `migrate`."""
    from django.conf import settings
    from django.core.management import call_command
    from django.db import connections
    from django.test.utils import setup_test_environment

    # Static files are not collected here, so their names have no hashes.
    settings.STORAGES["staticfiles"]["BACKEND"] = "django.contrib.staticfiles.storage.StaticFilesStorage"
    setup_test_environment()
    call_command("compile_translations", verbosity=0)
    if SOCKET:
        postgres.run(SOCKET, f"CREATE DATABASE {DATABASE}")
    call_command("migrate", verbosity=0)
    call_command("signing_keys", "make", stdout=io.StringIO())
    connections.close_all()
    assert FOLDER is not None
    if SOCKET:
        postgres.replace(SOCKET, f"{DATABASE}_template", DATABASE)
        return FOLDER / "none"
    return Path(shutil.copy(FOLDER / "portal.sqlite3", FOLDER / "template.sqlite3"))


@pytest.fixture(autouse=True)
def portal(template: Path) -> Iterator[None]:
    """Each test has the database as `migrate` left it, with real commits, and an empty mail box."""
    from django.core import mail
    from django.core.cache import cache
    from django.db import connections
    from django.utils import translation

    database = template.with_name("portal.sqlite3")
    if SOCKET:
        postgres.replace(SOCKET, DATABASE, f"{DATABASE}_template")
    else:
        for leftover in database.parent.glob("portal.sqlite3*"):
            leftover.unlink()
        shutil.copy(template, database)
    mail.outbox = []  # type: ignore[attr-defined]
    translation.activate("en")
    yield
    cache.close()
    connections.close_all()


@dataclass
class Answer:
    """What a door said: the status, the codes of errors by field, and all of it."""

    status: int
    codes: dict[str, set[str]]
    raw: Any

    def every(self) -> set[str]:
        return set().union(*self.codes.values()) if self.codes else set()


@dataclass
class Web:
    """The pages, as a browser without scripts uses them."""

    client: Any
    name: str = "web"
    headers: dict[str, str] = field(default_factory=dict)

    def _answer(self, response: Any) -> Answer:
        codes: dict[str, set[str]] = {}
        form = response.context["form"] if response.context is not None and "form" in response.context else None
        if form is not None and form.is_bound:
            for name, errors in form.errors.as_data().items():
                codes[{"password1": "password", "login": "email"}.get(name, name)] = {each.code for each in errors}
        return Answer(response.status_code, codes, response)

    def sign_up(self, email: str, password: str = GOOD, **fields: Any) -> Answer:
        data = {"email": email, "password1": password, "password2": password, "country": "FR", "privacy": "on"}
        data |= {"portal_statement": "1"} | fields
        sent = {name: value for name, value in data.items() if value not in (None, False)}
        return self._answer(self.client.post("/accounts/signup/", sent, headers=self.headers))

    def sign_in(self, email: str, password: str = GOOD, **fields: Any) -> Answer:
        data = {"login": email, "password": password} | fields
        return self._answer(self.client.post("/accounts/login/", data, headers=self.headers))

    def signed_in(self) -> bool:
        return bool(self.client.get("/account/").status_code == 200)

    def confirm_password(self, password: str = GOOD) -> None:
        self.client.post("/accounts/reauthenticate/", {"password": password})

    def sign_out(self) -> None:
        self.client.post("/accounts/logout/")

    def captcha(self, key: str, answer: str) -> dict[str, Any]:
        return {"captcha_key": key, "captcha_answer": answer}


@dataclass
class App:
    """The headless interface, as an application uses it."""

    client: Any
    name: str = "api"
    headers: dict[str, str] = field(default_factory=dict)
    token: str = ""

    def call(self, method: str, path: str, body: Any = None) -> Any:
        headers = self.headers | ({"X-Session-Token": self.token} if self.token else {})
        data = {} if body is None else {"data": json.dumps(body), "content_type": "application/json"}
        response = getattr(self.client, method)(path, headers=headers, **data)
        content = response.json() if "json" in response.get("Content-Type", "") else {}
        meta = content.get("meta") if isinstance(content, dict) else None
        if isinstance(meta, dict) and meta.get("session_token"):
            self.token = meta["session_token"]
        return response

    def _answer(self, response: Any) -> Answer:
        codes: dict[str, set[str]] = {}
        for error in response.json().get("errors", []):
            codes.setdefault(error.get("param", "__all__"), set()).add(error["code"])
        return Answer(response.status_code, codes, response)

    def sign_up(self, email: str, password: str = GOOD, **fields: Any) -> Answer:
        body = {"email": email, "password": password, "country": "FR", "privacy": True, "portal_statement": "1"}
        body |= fields
        sent = {name: value for name, value in body.items() if value is not None}
        return self._answer(self.call("post", "/_allauth/app/v1/auth/signup", sent))

    def sign_in(self, email: str, password: str = GOOD, **fields: Any) -> Answer:
        body = {"email": email, "password": password} | fields
        return self._answer(self.call("post", "/_allauth/app/v1/auth/login", body))

    def signed_in(self) -> bool:
        return bool(self.call("get", "/_allauth/app/v1/auth/session").status_code == 200)

    def pending(self) -> list[str]:
        flows = self.call("get", "/_allauth/app/v1/auth/session").json()["data"].get("flows", [])
        return [flow["id"] for flow in flows if flow.get("is_pending")]

    def confirm_password(self, password: str = GOOD) -> None:
        self.call("post", "/_allauth/app/v1/auth/reauthenticate", {"password": password})

    def sign_out(self) -> None:
        self.call("delete", "/_allauth/app/v1/auth/session")
        self.token = ""

    def captcha(self, key: str, answer: str) -> dict[str, Any]:
        return {"captcha": {"key": key, "answer": answer}}


@pytest.fixture
def web() -> Web:
    from django.test import Client

    return Web(Client())


@pytest.fixture
def app() -> App:
    from django.test import Client

    return App(Client())


@pytest.fixture(params=["web", "api"])
def door(request: pytest.FixtureRequest, web: Web, app: App) -> Web | App:
    """Each rule holds at both."""
    return web if request.param == "web" else app


@pytest.fixture
def new_user() -> Callable[..., Any]:
    """Makes an account with a confirmed e-mail and every consent that is required."""
    from allauth.account.models import EmailAddress

    from portal.accounts.models import User
    from portal.consents import ledger

    def make(email: str = "ann@example.org", password: str = GOOD, verified: bool = True, **fields: Any) -> User:
        user = User.objects.create_user(email, password, **({"country": "FR"} | fields))
        EmailAddress.objects.create(user=user, email=user.email, primary=True, verified=verified)
        for statement in ledger.missing(user):
            ledger.give(user, statement, "192.0.2.1")
        return user

    return make


@pytest.fixture
def solved() -> Callable[[], tuple[str, str]]:
    """A new captcha and its answer, which only the database knows."""
    from captcha.models import CaptchaStore

    from portal.accounts import captcha

    def make() -> tuple[str, str]:
        key = captcha.new().key
        return key, CaptchaStore.objects.get(hashkey=key).response

    return make


@pytest.fixture
def settings_of(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`with settings_of(thing, name, value)`: changed inside, restored after."""
    from contextlib import contextmanager

    @contextmanager
    def changed(thing: Any, name: str, value: Any) -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(thing, name, value)
            yield

    return changed


@pytest.fixture
def sms(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The SMS that were sent, to nobody."""
    from portal.accounts.steps import gateways
    from tests.portal.second_step import Recorder

    recorder = Recorder()
    monkeypatch.setattr(gateways, "gateway", lambda: recorder)
    return recorder


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The providers of quick sign-in, played on loopback."""
    from tests.portal.quick import configured

    return configured(monkeypatch)
