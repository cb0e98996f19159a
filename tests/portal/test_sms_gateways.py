"""P5: how SMS leave: by a real SMTP server, by a real HTTP server, in development to the terminal."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from django.conf import settings
from pydantic import ValidationError

from portal import config
from portal.accounts.steps import gateways
from tests.portal.mailbox import Box, box

__all__ = ["box"]  # fixtures

NUMBER = "+4915123456789"
TEXT = '123456 is your code. {secret} & "quotes" é №\r\nBcc: x@example.org'


class Gateway(HTTPServer):
    """Keeps what came; answers `status`, or moves elsewhere."""

    def __init__(self) -> None:
        self.status, self.location = 200, ""
        self.came: list[tuple[str, str, Any, bytes]] = []
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/send?account=7"


class Handler(BaseHTTPRequestHandler):
    server: Gateway

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.came.append((self.command, self.path, dict(self.headers), body))
        self.send_response(self.server.status)
        if self.server.location:
            self.send_header("Location", self.server.location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_PUT = do_GET = do_POST

    def log_message(self, *_args: Any) -> None:
        pass


@pytest.fixture
def http(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    monkeypatch.setattr(gateways, "TIMEOUT", 60)  # both sides are threads of this process, which may stand still
    server = Gateway()
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def made(monkeypatch: pytest.MonkeyPatch, **given: Any) -> gateways.Gateway:
    """The gateway that these settings of a host make."""
    found = config.Config.model_validate({"debug": True, **given})
    monkeypatch.setattr(settings, "SMS", config.sms(found))
    gateway = gateways.gateway()
    assert gateway is not None
    return gateway


def by_http(monkeypatch: pytest.MonkeyPatch, http: Gateway, **given: Any) -> gateways.Gateway:
    body = {"messages": [{"to": "{number}", "from": "Portal"}], "text": "{text}", "flash": False, "parts": 1}
    return made(monkeypatch, **({"sms": "http", "sms_url": http.url, "sms_body": body} | given))


def test_mail_to_sms(monkeypatch: pytest.MonkeyPatch, box: Box) -> None:
    """The number is the address, the text the body; nothing in the text becomes a header."""
    made(monkeypatch, sms="mail", sms_mail_to="{digits}@sms.example.org").send(NUMBER, TEXT)
    ((recipients, content),) = box.mails
    assert recipients == ["4915123456789@sms.example.org"]
    head, _, body = content.partition(b"\r\n\r\n")
    assert b"Bcc" not in head
    assert body
    made(monkeypatch, sms="mail", sms_mail_to="key.{number}@sms.example.org").send(NUMBER, "123456")
    assert box.mails[1][0] == ["key.+4915123456789@sms.example.org"]


def test_mail_server_is_away(monkeypatch: pytest.MonkeyPatch, box: Box) -> None:
    gateway = made(monkeypatch, sms="mail", sms_mail_to="{digits}@sms.example.org")
    monkeypatch.setattr(settings, "EMAIL_PORT", 1)
    with pytest.raises(gateways.SmsError) as caught:
        gateway.send(NUMBER, TEXT)
    assert NUMBER not in str(caught.value) and "123456" not in str(caught.value)


def test_json(monkeypatch: pytest.MonkeyPatch, http: Gateway) -> None:
    """Each value stays a value; placeholders in the text are text; the address is as it is set."""
    headers = {"Authorization": "Bearer {secret}"}
    by_http(monkeypatch, http, sms_headers=headers, sms_secret="s3cret").send(NUMBER, TEXT)
    ((method, path, sent, body),) = http.came
    assert (method, path) == ("POST", "/send?account=7")
    assert sent["Authorization"] == "Bearer s3cret"
    assert json.loads(body) == {
        "messages": [{"to": NUMBER, "from": "Portal"}], "text": TEXT, "flash": False, "parts": 1,
    }  # fmt: skip


def test_form(monkeypatch: pytest.MonkeyPatch, http: Gateway) -> None:
    from urllib.parse import parse_qs

    body = {"to": "{digits}", "body": "{text}", "key": "{secret}"}
    given = {"sms_body": body, "sms_form": True, "sms_method": "PUT", "sms_secret": "a&b"}
    by_http(monkeypatch, http, **given).send(NUMBER, TEXT)
    ((method, path, sent, raw),) = http.came
    assert (method, path) == ("PUT", "/send?account=7")
    assert sent["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(raw.decode()) == {"to": ["4915123456789"], "body": [TEXT], "key": ["a&b"]}


@pytest.mark.parametrize("status", [301, 302, 307, 400, 401, 429, 500, 503])
def test_gateway_refuses(monkeypatch: pytest.MonkeyPatch, http: Gateway, status: int) -> None:
    """An error; and the secret follows no redirect."""
    http.status = status
    http.location = f"http://127.0.0.1:{http.server_port}/elsewhere" if status < 400 else ""
    with pytest.raises(gateways.SmsError, match=str(status)) as caught:
        by_http(monkeypatch, http, sms_secret="s3cret").send(NUMBER, TEXT)
    assert len(http.came) == 1
    assert not re.search("s3cret|123456|4915123", str(caught.value))


def test_gateway_is_away(monkeypatch: pytest.MonkeyPatch, http: Gateway) -> None:
    gateway = by_http(monkeypatch, http, sms_url="http://127.0.0.1:1/")
    with pytest.raises(gateways.SmsError):
        gateway.send(NUMBER, TEXT)


def test_secret_that_breaks_a_header(monkeypatch: pytest.MonkeyPatch, http: Gateway) -> None:
    gateway = by_http(monkeypatch, http, sms_headers={"X-Key": "{secret}"}, sms_secret="a\r\nHost: evil.example")
    with pytest.raises(gateways.SmsError):
        gateway.send(NUMBER, TEXT)
    assert http.came == []
    assert "evil" not in repr(gateway)


def test_console(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """In development without any setting."""
    made(monkeypatch).send(NUMBER, "123456")
    assert capsys.readouterr().err == f"SMS to {NUMBER}: 123456\n"


def test_none_in_production() -> None:
    found = config.Config(secret_key="x" * 50, hosts=["portal.example"])
    assert config.sms(found)["gateway"] == ""


BODY = {"to": "{number}", "text": "{text}"}


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"sms": "pigeon"}, "sms"),
        ({"sms": "mail"}, "sms_mail_to"),
        ({"sms": "mail", "sms_mail_to": "sms@{number}.example"}, "before the @"),
        ({"sms": "mail", "sms_mail_to": "{number}@a.example, {number}@b.example"}, "sms_mail_to"),
        ({"sms": "http", "sms_body": BODY}, "sms_url"),
        ({"sms": "http", "sms_body": BODY, "sms_url": "http://gateway.example/"}, "https"),
        ({"sms": "http", "sms_body": BODY, "sms_url": "file:///etc/passwd"}, "https"),
        ({"sms": "http", "sms_body": BODY, "sms_url": "https://gateway.example/{number}"}, "placeholders"),
        ({"sms": "http", "sms_body": {"to": "{number}"}, "sms_url": "https://gateway.example/"}, "{text}"),
        ({"sms": "http", "sms_body": {"text": "{text}"}, "sms_url": "https://gateway.example/"}, "{number}"),
        ({"sms": "http", "sms_body": BODY, "sms_url": "https://g.example/", "sms_method": "GET"}, "sms_method"),
        (
            {"sms": "http", "sms_body": {"a": ["{number}{text}"]}, "sms_form": True, "sms_url": "https://g.example/"},
            "texts only",
        ),
        ({"sms_prefixes": ["49"]}, "sms_prefixes"),
        ({"sms_per_hour": 0}, "sms_per_hour"),
    ],
)
def test_wrong_settings(given: Any, expected: str) -> None:
    """Which and why, at the start."""
    with pytest.raises(ValidationError) as caught:
        config.Config.model_validate({"debug": True} | given)
    assert expected in str(caught.value)


def test_console_is_for_development() -> None:
    with pytest.raises(ValidationError, match="debug = true"):
        config.Config(secret_key="x" * 50, hosts=["portal.example"], sms="console")


def test_settings_by_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Tables are JSON, lists have commas; the secret is a file."""
    (tmp_path / "key").write_text("s3cret\n")
    for name, value in {
        "CONFIG": "/dev/null", "DEBUG": "true", "SMS": "http", "SMS_URL": "https://gateway.example/",
        "SMS_BODY": '{"to": "{number}", "text": "{text}"}', "SMS_PREFIXES": "+49, +33",
        "SMS_SECRET_FILE": str(tmp_path / "key"),
    }.items():  # fmt: skip
        monkeypatch.setenv(f"PORTAL_{name}", value)
    found = config.load()
    assert (found.sms_body, found.sms_prefixes, found.sms_secret) == (BODY, ["+49", "+33"], "s3cret")
    monkeypatch.setenv("PORTAL_SMS_BODY", "{")
    with pytest.raises(config.ConfigError, match="PORTAL_SMS_BODY: JSON expected"):
        config.load()
