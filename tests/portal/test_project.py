"""The project: settings, production checks, migrations, demo data, and what comes in from outside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core import mail
from django.core.management import call_command
from django.test import Client

from portal import config
from portal.accounts.models import User
from tests.portal.browsing import STARTING, held_address, listens, until

TOP = Path(__file__).parent.parent.parent
SECRET = "x" * 50 + "a long one that is used in this test alone"


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "PORTAL_CONFIG": os.devnull} | environment
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "portal", *command],
        cwd=TOP, env=clean, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_production_checks_are_clean(tmp_path: Path) -> None:
    """`check --deploy`, with warnings as errors, on the settings that an administrator needs at least."""
    settings = {
        "PORTAL_SECRET_KEY": SECRET + "2fj93jf0wjf0!",
        "PORTAL_HOSTS": "portal.example",
        "PORTAL_STATE": str(tmp_path),
    }
    result = run("check", "--deploy", "--fail-level", "WARNING", **settings)
    assert (result.returncode, result.stderr) == (0, "System check identified no issues (0 silenced).\n") or (
        result.returncode == 0 and "no issues" in result.stdout
    ), result.stderr


@pytest.mark.parametrize(
    "file, environment, expected",
    [
        ("", {}, "secret_key (or secret_key_file) needs at least 50 characters"),
        (f'secret_key = "{SECRET}"', {}, "hosts must list the names"),
        ('secret_kay = "x"', {}, "secret_kay: Extra inputs are not permitted"),
        ("debug = true\nproxies = -1", {}, "proxies: Input should be greater than or equal to 0"),
        ("debug = true\ncaptcha_per_account = 0", {}, "captcha_per_account"),
        ("debug = ", {}, "Invalid value"),
        ("debug = true", {"PORTAL_MAIL_PORT": "99999"}, "mail_port"),
        ("debug = true", {"PORTAL_SECRET_KEY_FILE": "/nonexistent"}, "/nonexistent"),
    ],
)
def test_wrong_settings(
    file: str, environment: dict[str, str], expected: str, tmp_path: Path, monkeypatch: Any
) -> None:
    """Which, where and why; and never the secret itself."""
    (tmp_path / "portal.toml").write_text(file)
    monkeypatch.setenv("PORTAL_CONFIG", str(tmp_path / "portal.toml"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(config.ConfigError, match=re.escape(expected)) as caught:
        config.load()
    assert SECRET not in str(caught.value)
    assert "portal.toml" in str(caught.value) or "secret_key_file" in str(caught.value)


def test_environment_wins(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "key").write_text(SECRET + "\n")
    (tmp_path / "portal.toml").write_text(f'hosts = ["a.example"]\nsecret_key_file = "{tmp_path}/key"\nproxies = 1\n')
    monkeypatch.setenv("PORTAL_CONFIG", str(tmp_path / "portal.toml"))
    monkeypatch.setenv("PORTAL_HOSTS", "b.example, c.example")
    found = config.load()
    assert (found.hosts, found.secret_key, found.proxies) == (["b.example", "c.example"], SECRET, 1)


@pytest.mark.parametrize("url", ["mysql://x/y", "postgresql://host", "portal.sqlite3"])
def test_wrong_databases(url: str) -> None:
    with pytest.raises(config.ConfigError, match="postgresql://user:password@host:port/name"):
        config.database(config.Config(debug=True, database=url))


def test_databases_and_caches() -> None:
    """SQLite that survives many writers; PostgreSQL with a pool; a cache that all workers share, never one each."""
    sqlite = config.database(config.Config(debug=True))
    assert sqlite["OPTIONS"]["transaction_mode"] == "IMMEDIATE"  # type: ignore[index]
    found = config.database(config.Config(debug=True, database="postgresql://me:p%40ss@db.example:5433/portal"))
    assert (found["USER"], found["PASSWORD"], found["HOST"], found["PORT"]) == ("me", "p@ss", "db.example", "5433")
    for cache in ("", "redis://127.0.0.1:6379/1"):
        assert "locmem" not in str(config.cache(config.Config(debug=True, cache=cache)))
    with pytest.raises(config.ConfigError):
        config.cache(config.Config(debug=True, cache="memcached://x"))


def test_migrations_match_the_models() -> None:
    call_command("makemigrations", "--check", "--dry-run", stdout=StringIO())


@pytest.mark.skipif(shutil.which("xgettext") is None, reason="gettext is not installed: the catalogue is not compared")
def test_catalogue_is_complete(tmp_path: Path) -> None:
    """Every string of the pages, mails and errors is in the source catalogue, and nothing else is."""
    copy = tmp_path / "portal"
    left_out = shutil.ignore_patterns("__pycache__", "tmp*")  # catalogues that another process is making
    shutil.copytree(TOP / "portal", copy, ignore=left_out)
    catalogue = copy / "locale/en/LC_MESSAGES/django.po"

    def words() -> set[str]:
        text = re.sub(r"(?m)^#~.*$", "", catalogue.read_text())
        return set(re.findall(r'(?m)^msgid (".+"(?:\n".*")*|""(?:\n".+")+)', text))

    kept = words()
    environment = {"PATH": os.environ["PATH"], "PORTAL_DEBUG": "true", "PORTAL_STATE": str(tmp_path)}
    environment |= {"PORTAL_CONFIG": os.devnull, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-m", "portal", "makemessages", "--locale", "en", "--no-wrap", "--no-location"]
    subprocess.run(command, cwd=copy, env=environment, check=True, capture_output=True, timeout=120)
    assert len(kept) > 100
    assert words() == kept


@pytest.mark.skipif("PORTAL_TEST_POSTGRES" in os.environ, reason="on SQLite alone")
def test_wal(new_user: Callable[..., User]) -> None:
    from django.db import connection

    new_user()
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone() == ("wal",)


@pytest.mark.parametrize("host", ["evil.example", "testserver.evil.example", "testserver:80@evil.example", "", "a b"])
def test_host_header(host: str) -> None:
    """Links in mails are made from it: only names that the administrator listed."""
    client = Client(raise_request_exception=False)
    response = client.post("/accounts/password/reset/", {"email": "ann@example.org"}, headers={"Host": host})
    assert response.status_code == 400
    assert mail.outbox == []


def test_csrf(new_user: Callable[..., User]) -> None:
    """Every page that changes something refuses a form from elsewhere."""
    client = Client(enforce_csrf_checks=True)
    for path in ("/accounts/login/", "/accounts/signup/", "/accounts/password/reset/"):
        assert client.post(path, {}).status_code == 403
    client.force_login(new_user())
    for path in (
        "/subscriptions/",
        "/account/",
        "/account/delete/",
        "/account/consents/marketing/",
        "/accounts/logout/",
    ):
        assert client.post(path, {}).status_code == 403
    # The interface needs no such token, for it knows no cookie: a browser's session is worth nothing there.
    assert client.get("/api/v1/subscriptions").status_code == 401


@pytest.mark.parametrize(
    "target", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "http:///x"]
)
def test_open_redirects(web: Any, new_user: Callable[..., User], target: str) -> None:
    user = new_user()
    answer = web.sign_in(user.email, next=target)
    assert answer.raw.headers["Location"] == "/subscriptions/"
    other = web.client.post(f"/accounts/logout/?next={target}", {"next": target})
    assert "evil" not in other.headers["Location"] and "alert" not in other.headers["Location"]


def test_double_sign_up() -> None:
    """The same form eight times at once: one account, and each other answer says that the e-mail is used."""
    import json

    from django.db import connections

    body = {
        "email": "ann@example.org",
        "password": "Blue7kettle",
        "country": "FR",
        "privacy": True,
        "portal_statement": "1",
    }

    def once(_number: int) -> tuple[int, str]:
        try:
            path = "/_allauth/app/v1/auth/signup"
            response = Client().post(path, data=json.dumps(body), content_type="application/json")
            if response.status_code == 429:  # of a busy machine: the limit's lock was not free within its time
                return 429, "too_many_tries"
            return response.status_code, (response.json().get("errors") or [{"code": "made"}])[0]["code"]
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        said = list(pool.map(once, range(8)))
    assert said.count((200, "made")) == 1
    assert {code for status, code in said if status != 200} <= {"email_taken", "captcha_required", "too_many_tries"}
    assert all(status in (200, 400, 429) for status, _code in said)
    assert User.objects.count() == 1


@pytest.mark.parametrize(
    "body", ["", "{", "[]", "null", '"x"', "\x00", '{"code": 5}', '{"code": null}', '{"code": "' + "A" * 5000 + '"}']
)
def test_malformed_requests(app: Any, new_user: Callable[..., User], body: str) -> None:
    """A problem document with a code, and nothing done."""
    app.sign_in(new_user().email)
    headers = {"X-Session-Token": app.token}
    response = app.client.post("/api/v1/subscriptions/redeem", body, content_type="application/json", headers=headers)
    assert response.status_code in (400, 422)
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "malformed"


@pytest.mark.parametrize("token", ["x", "", "\u00e9", "a" * 5000, "../../etc/passwd"])
def test_wrong_tokens(app: Any, token: str) -> None:
    response = app.client.get("/api/v1/subscriptions", headers={"X-Session-Token": token})
    assert (response.status_code, response.json()["code"]) == (401, "not_signed_in")


def test_mail_box_is_for_development(web: Any) -> None:
    assert web.client.get("/development/mail/").status_code == 404
    result = run("demo", PORTAL_SECRET_KEY=SECRET, PORTAL_HOSTS="portal.example")
    assert result.returncode != 0 and "Unknown command: 'demo'" in result.stderr


def test_make_portal(tmp_path: Path) -> None:
    """What `make portal` runs: an administrator, products, codes, and a mail box that shows the activation mail."""
    command = [shutil.which("sh") or "/bin/sh", "portal/deploy/development", sys.executable]
    with held_address() as address, held_address() as events, (tmp_path / "out").open("w+") as out:
        environment = {"PATH": os.environ["PATH"], "PORTAL_STATE": str(tmp_path / "state"), "PORTAL_ADDRESS": address}
        environment["PORTAL_EVENTS_PORT"] = events.rpartition(":")[2]
        process = subprocess.Popen(command, cwd=TOP, env=environment, stdout=out, stderr=subprocess.STDOUT)
        try:
            page = ""
            end = time.monotonic() + STARTING
            while not page and time.monotonic() < end and process.poll() is None:
                try:
                    with urllib.request.urlopen(f"http://{address}/accounts/signup/", timeout=20) as response:
                        page = response.read().decode()
                        cookie = response.headers["Set-Cookie"].split(";")[0]
                except OSError:
                    time.sleep(0.2)
            out.seek(0)
            said = out.read()
            assert "Portal statement" in page, said
            assert re.search(r"administrator: admin@portal\.example  password: \S+", said)
            assert len(re.findall(r"code for .+: ([2-9A-Z]{5}-){3}[2-9A-Z]{5}", said)) == 6
            token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page)
            assert token is not None
            form = {"email": "ann@example.org", "password1": "Blue7kettle", "password2": "Blue7kettle", "country": "FR",
                    "privacy": "on", "portal_statement": "1", "csrfmiddlewaretoken": token[1]}  # fmt: skip
            data = urllib.parse.urlencode(form).encode()
            request = urllib.request.Request(f"http://{address}/accounts/signup/", data, {"Cookie": cookie})
            with urllib.request.urlopen(request, timeout=60):
                pass
            with urllib.request.urlopen(f"http://{address}/development/mail/", timeout=60) as response:
                box = response.read().decode()
            assert "ann@example.org" in box
            assert re.search(rf'<a href="http://{address}/accounts/confirm-email/[^"]+">', box)
            until(lambda: listens(events), process)  # it began when the pages did, and may be the slower one
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(f"http://{events}/api/v1/events", timeout=60)
            with refused.value as answered:
                assert (answered.code, b"not_signed_in" in answered.read()) == (401, True)
            settings = environment | {"PORTAL_DEBUG": "true", "PORTAL_CONFIG": os.devnull}
            demo = [sys.executable, "-m", "portal", "demo"]
            again = subprocess.run(demo, cwd=TOP, capture_output=True, text=True, check=True, timeout=120, env=settings)
            assert "the demo is here already" in again.stdout
        finally:
            process.terminate()
            process.wait(60)
