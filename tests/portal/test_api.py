"""The interface: its document is complete and true, its codes are documented, its limits hold across workers."""

from __future__ import annotations

import ast
import base64
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from django.conf import settings
from django.core.management import call_command
from hypothesis import HealthCheck, Phase
from hypothesis import settings as bounds
from schemathesis.specs.openapi.checks import missing_required_header, positive_data_acceptance

from portal.accounts.models import User
from portal.api import codes, problems
from portal.wsgi import application
from tests.portal import postgres

TOP = Path(__file__).parent.parent.parent


def addressed(environ: dict[str, Any], start: Any) -> Any:
    """As behind a server, which tells the client's address."""
    return application(environ | {"REMOTE_ADDR": "192.0.2.1", "HTTP_HOST": "testserver"}, start)


schema = schemathesis.openapi.from_wsgi("/api/v1/openapi.json", addressed)
DOCUMENT: dict[str, Any] = schema.raw_schema
OPERATIONS = [
    (method, path, operation) for path, methods in DOCUMENT["paths"].items() for method, operation in methods.items()
]
# The same examples each time, and as many as fit into a minute.
FEW = {"derandomize": True, "database": None, "deadline": None, "suppress_health_check": list(HealthCheck)}
FEW |= {"phases": [Phase.explicit, Phase.generate]}


def named(each: tuple[str, str, dict[str, Any]]) -> str:
    return str(each[2]["operationId"])


@pytest.mark.parametrize("each", OPERATIONS, ids=named)
def test_document(each: tuple[str, str, dict[str, Any]]) -> None:
    """Each operation: a name, a summary, who may call it, what it answers, and how it refuses, with an example."""
    method, path, operation = each
    assert re.fullmatch(r"[a-z][a-z0-9_]*", operation["operationId"])
    assert [named(other) for other in OPERATIONS].count(operation["operationId"]) == 1
    assert operation.get("summary")
    statuses = {str(status) for status in operation["responses"]}
    assert any(status.startswith(("2", "3")) for status in statuses), statuses
    schemes = DOCUMENT["components"]["securitySchemes"]
    if "security" in operation:
        assert "401" in statuses
        assert all(name in schemes for wanted in operation["security"] for name in wanted)
    assert ("404" in statuses) or "{" not in path
    assert ("422" in statuses) or not (operation.get("requestBody") or operation.get("parameters"))
    for status, response in operation["responses"].items():
        if str(status)[0] in "45":
            content = response["content"]["application/problem+json"]
            assert content["schema"] and content["example"]["status"] == int(status), (method, path, status)
            assert set(content["example"]) >= {"type", "title", "status", "code", "detail"}


def test_security_schemes() -> None:
    """Both ways to say who calls, each explained."""
    schemes = DOCUMENT["components"]["securitySchemes"].values()
    assert {"X-Session-Token"} <= {each.get("name") for each in schemes}
    assert all(len(each["description"]) > 20 for each in schemes)


def used_codes() -> set[str]:
    """Every code that is written down in the portal's sources."""
    found = set()
    for file in (TOP / "portal").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in ("ValidationError", "problem") and len(node.args) > 1 and isinstance(node.args[1], ast.Constant):
                found.add(str(node.args[1].value))
    return found


# Refusals of the staff's pages and of mails: no application meets them.
INTERNAL = {
    "published", "reason_missing", "has_product", "mail_taken", "store_address", "too_large", "invalid_city",
    "invalid_country", "invalid_host", "invalid_key", "invalid_tags",
}  # fmt: skip


def test_codes_are_documented() -> None:
    """One table; each code that is used is in it, and the document is made from it."""
    known = {each.code for each in codes.TABLE}
    assert used_codes() - INTERNAL <= known, "write their meaning into portal/api/codes.py"
    assert set(problems.STATUS) <= known
    text = (TOP / "docs/portal-api.md").read_text(encoding="utf-8")
    assert codes.markdown() in text, "python -m portal api_codes --write docs/portal-api.md"


def test_codes_command(tmp_path: Path, capsys: Any) -> None:
    call_command("api_codes")
    assert "| `captcha_required` | 400 |" in capsys.readouterr().out
    copy = tmp_path / "copy.md"
    copy.write_text((TOP / "docs/portal-api.md").read_text(encoding="utf-8"), encoding="utf-8")
    call_command("api_codes", "--write", str(copy))
    assert copy.read_text(encoding="utf-8") == (TOP / "docs/portal-api.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "method, path, body, status, code",
    [
        ("get", "nothing", None, 404, "not_found"),
        ("get", "help/%00", None, 404, "not_found"),
        ("post", "help", None, 405, "method_not_allowed"),
        ("get", "help?q=%00", None, 400, "malformed"),
        ("get", "help?q=" + "a" * 101, None, 422, "malformed"),
        ("put", "account/marketing", b'{"on": tru', 400, "malformed"),
        ("put", "account/marketing", b'{"on": NaN}', 400, "malformed"),
        ("put", "account/marketing", b"[" * 100_000, 400, "malformed"),
        ("post", "subscriptions/redeem", b'{"code": "\\ud800"}', 400, "malformed"),
        ("post", "subscriptions/redeem", b'{"code": "\\u0000"}', 400, "malformed"),
        ("post", "subscriptions/redeem", b'{"code": "' + b"a" * 1_100_000 + b'"}', 400, "malformed"),
        ("post", "subscriptions/redeem", b"\xff\xfe", 400, "malformed"),
    ],
)
def test_everything_is_a_problem(
    app: Any, new_user: Callable[..., User], method: str, path: str, body: bytes | None, status: int, code: str
) -> None:
    """Also what Django answers by itself: no page of HTML below /api/v1."""
    app.sign_in(new_user().email)
    more = {} if body is None else {"data": body, "content_type": "application/json"}
    headers = {"X-Session-Token": app.token}
    response = getattr(app.client, method)(f"/api/v1/{path}", headers=headers, **more)
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")
    found = response.json()
    assert (found["status"], found["code"]) == (status, code)
    assert found["title"] and found["detail"]
    assert status != 405 or response.headers["Allow"]


# Breaking it by its own description


@pytest.fixture
def signed_in(app: Any, new_user: Callable[..., User]) -> dict[str, str]:
    app.sign_in(new_user().email)
    return {"X-Session-Token": app.token}


@pytest.fixture
def device(app: Any, signed_in: dict[str, str]) -> dict[str, str]:
    key = base64.b64encode(bytes(31) + b"x").decode()
    computer = {
        "name": "Laptop",
        "platform": "linux",
        "version": "1.0",
        "machine": "a machine of its own",
        "wireguard_key": key,
    }
    made = app.call("post", "/api/v1/devices", computer)
    assert made.status_code == 201, made.content
    return {"Authorization": f"Bearer {made.json()['credential']}"}


# What a schema allows may be refused all the same, such as a code that was used. And a session's token is not missing
# where a device shows its own: the tool leaves out one of several ways to say who calls, and expects a refusal.
EXCLUDED = [positive_data_acceptance, missing_required_header]


def judge(case: Any, headers: dict[str, str]) -> None:
    """Every check of schemathesis but two."""
    response = case.call(headers=headers)
    case.validate_response(response, headers=headers, excluded_checks=EXCLUDED)
    if response.status_code >= 400:
        assert response.headers["content-type"][0] == "application/problem+json"
        assert json.loads(response.content)["code"] in {each.code for each in codes.TABLE}


@schema.parametrize()
@bounds(max_examples=3, **FEW)
def test_as_signed_in(case: Any, signed_in: dict[str, str]) -> None:
    judge(case, signed_in)


@schema.parametrize()
@bounds(max_examples=3, **FEW | {"phases": [Phase.generate]})
def test_as_anybody(case: Any) -> None:
    """Never more than the operations that are for anybody."""
    judge(case, {})


FOR_DEVICES = [
    named(each)
    for each in OPERATIONS
    if any({"DeviceToken", "FirstToken"} & set(way) for way in each[2].get("security", []))
]


@schema.include(operation_id=FOR_DEVICES).parametrize()
@bounds(max_examples=3, **FEW | {"phases": [Phase.generate]})
def test_as_device(case: Any, device: dict[str, str]) -> None:
    judge(case, device)


# Limits across workers

CLIENTS = 40


class Site:
    """gunicorn with four workers. `call` sends JSON, a form (text) or nothing, and says (status, code)."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.token = ""

    def call(self, method: str, path: str, body: Any) -> tuple[int, str]:
        connection = http.client.HTTPConnection(self.address, timeout=120)
        headers = {"Content-Type": "application/json", "Host": "testserver"}
        headers |= {"X-Session-Token": self.token} if self.token else {}
        if isinstance(body, str):
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        try:
            # No body where none is read: closing a connection with something unread resets it.
            sent = body if isinstance(body, str | None) else json.dumps(body)
            connection.request(method, path, sent, headers)
            response = connection.getresponse()
            found = json.loads(response.read())
        finally:
            connection.close()
        if token := (found.get("meta") or {}).get("session_token"):
            self.token = token
        return response.status, (found.get("errors") or [found])[0].get("code", "")

    def together(self, count: int, *request: Any) -> Counter[tuple[int, str]]:
        with ThreadPoolExecutor(CLIENTS) as pool:
            return Counter(pool.map(lambda _number: self.call(*request), range(count)))


@pytest.fixture(params=["sqlite", "postgresql"])
def site(request: pytest.FixtureRequest, template: Path, tmp_path: Path) -> Iterator[Site]:
    cluster = None
    environment = os.environ | {"PORTAL_STATE": str(tmp_path), "PYTHONPATH": str(TOP)}
    if request.param == "postgresql":
        if postgres.MISSING:
            pytest.skip(postgres.MISSING)
        cluster = postgres.Cluster()
        postgres.run(str(cluster.socket), "CREATE DATABASE portal")
        environment["PORTAL_DATABASE"] = postgres.url(str(cluster.socket), "portal")
    try:
        (tmp_path / "static").mkdir()
        for command in (["migrate", "--verbosity", "0"], ["shell", "--verbosity", "0", "--command", MAKE_ANN]):
            made = [sys.executable, "-m", "portal", *command]
            subprocess.run(made, cwd=TOP, env=environment, check=True, capture_output=True, timeout=240)
        listening = socket.create_server(("127.0.0.1", 0), backlog=200)
        port = listening.getsockname()[1]
        serve = [sys.executable, "-m", "gunicorn", "--workers", "4", "--bind", f"fd://{listening.fileno()}"]
        # A worker that waits for the processor and the database for 30 s is not dead yet.
        serve += ["--timeout", "120"]
        serve += ["--access-logfile", str(tmp_path / "workers"), "--access-logformat", "%(p)s", "portal.wsgi"]
        process = subprocess.Popen(
            serve, cwd=TOP, env=environment, pass_fds=[listening.fileno()],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        listening.close()

        def answered() -> list[str]:
            return (tmp_path / "workers").read_text().split()

        try:
            found = Site(f"127.0.0.1:{port}")
            end = time.monotonic() + 120
            found.call("GET", "/api/v1/nothing", None)  # it waits in the backlog until one is there
            # A worker may load for seconds longer than another, and would come when all is over.
            while len(set(answered())) < 4:
                assert time.monotonic() < end, "four workers"
                found.together(CLIENTS, "GET", "/api/v1/nothing", None)
            before = len(answered())
            yield found
            assert len(set(answered()[before:])) > 1, "several workers have answered"
        finally:
            process.terminate()
            process.wait(60)
    finally:
        if cluster is not None:
            cluster.stop()


MAKE_ANN = """
from allauth.account.models import EmailAddress
from portal.accounts.models import User
from portal.consents import ledger
user = User.objects.create_user("ann@example.org", "Blue7kettle", country="FR")
EmailAddress.objects.create(user=user, email=user.email, primary=True, verified=True)
[ledger.give(user, each, None) for each in ledger.missing(user)]
"""


def test_limits_hold_across_workers(site: Site) -> None:
    """P3, P12: four workers, forty clients at once, and exactly as many pass as the limit says."""
    right = {"email": "ann@example.org", "password": "Blue7kettle"}
    assert site.call("POST", "/_allauth/app/v1/auth/login", right)[0] == 200 and site.token
    token, site.token = site.token, ""
    wrong = {"email": "bob@example.org", "password": "Red7kettle"}
    said = site.together(CLIENTS, "POST", "/_allauth/app/v1/auth/login", wrong)
    assert said == {(400, "email_password_mismatch"): 3, (400, "captcha_required"): CLIENTS - 3}
    site.token = token
    said = site.together(CLIENTS, "POST", "/api/v1/support/requests", "subject=a&text=b")
    assert said == {(201, ""): settings.TICKETS_PER_HOUR, (429, "too_many_tries"): CLIENTS - settings.TICKETS_PER_HOUR}
    said = site.together(2 * CLIENTS, "PUT", "/api/v1/help/connect/verdict", {"helpful": True})
    assert said == {(200, ""): 60, (429, "too_many_tries"): 2 * CLIENTS - 60}
