"""Bad input at every form and endpoint, found by walking the pages, the resolver and the OpenAPI document.

Never a 500; refused with the right status, and then nothing at all is done; what was taken holds none of it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.db import connection
from django.test import Client
from django.test.client import encode_multipart
from django.utils.http import urlencode

from portal.accounts.models import User
from portal.accounts.passwords import Hasher
from portal.api.interface import api
from portal.subscriptions.models import Share
from tests.portal import postgres
from tests.portal.conftest import DATABASE, GOOD, SOCKET
from tests.portal.world import (
    APPLICATION,
    PARAMETER,
    RIGHT,
    Form,
    World,
    bare,
    browser,
    contents,
    difference,
    refused,
    routes,
    undone,
)  # fmt: skip

LONG = "a" * 100_000
FORM, JSON = "application/x-www-form-urlencoded", "application/json"


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


class Writes:
    """Whether anything was written at all: only then the whole database is looked at."""

    any = False

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        self.any |= not sql.lstrip().upper().startswith(("SELECT", "SAVEPOINT", "RELEASE"))
        return execute(sql, params, many, context)


class Judge:
    """Asks, and collects what is wrong with the answers."""

    def __init__(self, bad: tuple[str, ...] = ()) -> None:
        self.before = contents()
        self.bad = bad  # what must not be kept
        self.wrong: list[str] = []
        self.asked = 0

    def ask(self, what: str, client: Any, method: str, path: str, **more: Any) -> Any:
        self.asked += 1
        wrote = Writes()
        with undone(client), connection.execute_wrapper(wrote):
            response = client.generic(method, path, **more)
            changed = difference(self.before, contents()) if wrote.any else {}
        if response.status_code >= 500 and response.status_code != 503:
            self.wrong.append(f"{what}: {method} {path}: {response.status_code} {_why(response)}")
        elif response.status_code >= 400 and not response.content and method != "HEAD" and "/captcha/" not in path:
            self.wrong.append(f"{what}: {method} {path}: {response.status_code} without a word")
        elif refused(response) and changed:
            self.wrong.append(f"{what}: {method} {path}: refused ({response.status_code}), yet {changed}")
        else:
            kept = [(table, row) for table, rows in changed.items() for row in rows]
            kept = [each for each in kept if any(bad in each[1] for bad in self.bad)]
            if kept:
                self.wrong.append(f"{what}: {method} {path}: {response.status_code}, kept {str(kept)[:300]}")
        if (
            response.status_code in (301, 302)
            and not path.startswith("/downloads/releases/")
            and re.match(r"(?i)[a-z]+:|//|/\\", response.headers["Location"])
        ):
            self.wrong.append(f"{what}: {method} {path}: to {response.headers['Location']}")
        return response

    def done(self, least: int) -> None:
        assert not self.wrong, f"{len(self.wrong)} of {self.asked}:\n" + "\n".join(self.wrong)
        assert self.asked >= least


def _why(response: Any) -> str:
    info = getattr(response, "exc_info", None)
    if not info:
        return str(response.content[:200])
    trace = info[2]
    while trace.tb_next:
        trace = trace.tb_next
    code = trace.tb_frame.f_code
    return f"{info[0].__name__}: {str(info[1])[:120]} ({code.co_filename.rpartition('site-packages/')[2]}:{trace.tb_lineno})"  # noqa: E501


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


# The interface

DOCUMENT: Any = api.get_openapi_schema()
NESTED = b'{"a":' * 10_000 + b"1" + b"}" * 10_000


def operations() -> Iterator[tuple[str, str, dict[str, Any], str, bool]]:
    """(method, path, the schemas of its fields, content type, is it a device's)."""
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            for kind, media in operation.get("requestBody", {}).get("content", {}).items():
                schema = media["schema"]
                if "$ref" in schema:
                    schema = DOCUMENT["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
                ways = {name for way in operation.get("security", []) for name in way}
                fields = schema.get("properties", {})
                yield method.upper(), path, fields, kind, bool({"DeviceToken", "FirstToken"} & ways)


def headless() -> Iterator[tuple[str, str, list[str]]]:
    """(method, path, fields) of allauth's interface, and ours at its addresses."""
    seen = set()
    for route, view in routes():
        if not route.startswith("_allauth/") or route in seen:
            continue
        seen.add(route)
        given = getattr(view.view_class, "input_class", None) or {}
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            if hasattr(view.view_class, method.lower()):
                form = given.get(method) if isinstance(given, dict) else given
                yield method, "/" + route, sorted(form.base_fields) if form else []


def token(world: World, device: bool) -> dict[str, str]:
    return {"Authorization": f"Bearer {world.credential}"} if device else {"X-Session-Token": world.app.token}


def right(fields: Any, world: World) -> dict[str, Any]:
    own = {"code": world.code, "privacy": True, "captcha": {}} | APPLICATION
    return {name: own.get(name, RIGHT.get(name, "x")) for name in fields}


VALUES: dict[str, tuple[str, tuple[str, ...]]] = {
    "null byte": ('"a\\u0000b"', ("\\x00",)),
    "control characters": ('"a\\u001b[31mb\\u0007"', ("\\x1b", "\\x07")),
    "half a pair": ('"a\\ud800b"', ("\\ud800",)),
    "too long": (f'"{LONG}"', (LONG[:30_000],)),
    "a list": ('["x"]', ()),
    "an object": ('{"x": {}}', ()),
    "a number": ("5", ()),
    "a fraction": ("0.1", ()),
    "a number without end": ("9" * 5000, ("9" * 4000,)),
    "a giant": ("1e400", ()),
    "no number": ("NaN", ()),
    "true": ("true", ()),
    "null": ("null", ()),
    "empty": ('""', ()),
    "another direction": ('"a\\u202eb"', ()),
    "twice": ('"first", "{name}": "second"', ("first", "second")),
}


@pytest.mark.parametrize("kind", VALUES)
def test_values(world: World, kind: str) -> None:
    """Each value of each JSON body in its turn."""
    raw, bad = VALUES[kind]
    judge = Judge(bad)
    asked = [(method, path, fields, token(world, device)) for method, path, fields, type_, device in operations()
             if type_ == JSON]  # fmt: skip
    asked += [(method, path, dict.fromkeys(fields), token(world, False)) for method, path, fields in headless()]
    for method, path, fields, headers in asked:
        path = world.filled(path.replace("{", "<").replace("}", ">")[1:])
        given = right(fields, world)
        for name in fields:
            rest = "".join(f", {json.dumps(key)}: {json.dumps(given[key])}" for key in given if key != name)
            body = f'{{"{name}": {raw.replace("{name}", name)}{rest}}}'
            what = f"{kind} in {name}"
            found = judge.ask(what, world.app.client, method, path, data=body, content_type=JSON, headers=headers)
            if kind == "twice" and found.status_code < 400:
                judge.wrong.append(f"{what}: {method} {path}: {found.status_code}")
    judge.done(70)


BODIES = {
    "nothing": b"",
    "half": b'{"code": "a',
    "a list": b"[]",
    "null": b"null",
    "a word": b'"x"',
    "levels": NESTED,
    "brackets": b"[" * 100_000,
    "no UTF-8": b'{"code": "\xff\xfe", "email": "\xff"}',
    "Latin-1": '{"code": "André", "email": "André"}'.encode("latin-1"),
    "UTF-16": '{"code": "André"}'.encode("utf-16"),
    "a mark before it": b'\xef\xbb\xbf{"code": "x"}',
    "null bytes": bytes(100),
    "unknown names": b'{"is_staff": true, "user": 1, "pk": 1, "owner": 1, "__proto__": {}}',
    "a name without end": b'{"' + b"a" * 100_000 + b'": 1}',
}


@pytest.mark.parametrize("kind", BODIES)
def test_bodies(world: World, kind: str) -> None:
    """Whole bodies that are none; the same at the second step of signing in, and for who is not signed in."""
    judge = Judge()
    asked = [(method, path, token(world, device)) for method, path, _fields, _type, device in operations()]
    asked += [(method, path, token(world, False)) for method, path, _fields in headless()]
    if kind in ("levels", "no UTF-8", "unknown names"):
        asked += [(method, path, {"X-Session-Token": world.half.token}) for method, path, _fields in headless()]
        asked += [(method, path, {}) for method, path, _fields in headless()]
    for method, path, headers in asked:
        path = world.filled(path.replace("{", "<").replace("}", ">")[1:])
        body = BODIES[kind]
        judge.ask(kind, world.app.client, method, path, data=body, content_type=JSON, headers=headers)
    judge.done(40)


@pytest.mark.parametrize("content_type", ["text/plain", FORM, "application/xml", "", "x", "application/json5"])
def test_content_type_of_the_interface(world: World, content_type: str) -> None:
    """415: a form of another site cannot pretend to be JSON."""
    judge = Judge()
    for method, path, fields, kind, device in operations():
        path = world.filled(path.replace("{", "<").replace("}", ">")[1:])
        if kind == JSON:
            found = judge.ask(content_type, world.app.client, method, path, data=json.dumps(right(fields, world)),
                              content_type=content_type, headers=token(world, device))  # fmt: skip
            assert found.status_code == 415, (method, path, found.status_code, found.content)
    for method, path, names in headless():
        if names:
            found = judge.ask(content_type, world.app.client, method, path, data=json.dumps(right(names, world)),
                              content_type=content_type, headers=token(world, False))  # fmt: skip
            assert found.status_code == 415, (method, path, found.status_code, found.content)
    judge.done(30)


# Addresses, methods, hosts

PARTS = ["%00", "%FF%FE", "%ED%A0%80", "a" * 5000, "9" * 30, "9" * 5000, "-1", "0", "%D0%B0", "..%2F..", "%0d%0aX:y",
         "9223372036854775808", "%E2%80%AE"]  # fmt: skip

QUERIES = PARTS[:6]


@pytest.mark.parametrize("part", PARTS, ids=range(len(PARTS)))
def test_addresses(world: World, part: str) -> None:
    """What stands in an address; the same in the query of each page and operation."""
    judge = Judge()
    for route, _view in routes():
        signed = {"headers": token(world, "/device" in route)} if route.startswith(("api", "_allauth")) else {}
        for client in (world.clients["ann"][0], world.clients["stranger"][0]):
            if re.search(PARAMETER, route):
                path = "/" + re.sub(PARAMETER, lambda _found: part, bare(route))
                for method in ("GET", "POST"):
                    judge.ask("address", client, method, path, data=b"{}", content_type=JSON, **signed)
            names = ("next", "code", "q", "email", "page", "locale", "key", "wait", "process")
            asked = "&".join(f"{name}={part}" for name in names)
            if part in QUERIES:
                judge.ask("query", client, "GET", world.filled(route) + "?" + asked, **signed)
    judge.done(100)


def test_methods(world: World) -> None:
    """Those that an address does not know: 405 or a refusal before it, and nothing done."""
    judge = Judge()
    for route, _view in routes():
        path = world.filled(route)
        headers = token(world, "/device" in path) if route.startswith(("api/", "_allauth/")) else {}
        for method in ("OPTIONS", "HEAD", "BREW"):
            judge.ask("method", world.clients["ann"][0], method, path, headers=headers)
        found = judge.ask("method", Client(raise_request_exception=False), "TRACE", path, headers=headers)
        if found.status_code != 405:
            judge.wrong.append(f"TRACE {path}: {found.status_code}")
    judge.done(500)


@pytest.mark.parametrize("host", ["evil.example", "testserver@evil.example"])
def test_hosts(world: World, host: str) -> None:
    """Another host: 400 at each address, with whatever method, also for who is signed in."""
    judge = Judge()
    for route, _view in routes():
        for method in ("GET", "POST"):
            found = judge.ask("host", world.clients["ann"][0], method, world.filled(route), headers={"Host": host})
            assert found.status_code in (400, 404, 405), (route, found.status_code)
            assert host.encode() not in found.content
    judge.done(200)


# From elsewhere

# No cookie counts there: a token in a header does, or a code in the body. logout ends a session and asks before.
EXEMPT = re.compile(
    r"api/v1/|_allauth/|identity/o/(api/.+|authorize|logout)$|accounts/(apple/login/callback|google/login/token)/$"
)


def test_csrf(world: World) -> None:
    """Every address that takes POST refuses one without the page's own token."""
    signed = Client(enforce_csrf_checks=True, raise_request_exception=False)
    signed.cookies = deepcopy(world.clients["ann"][0].cookies)
    judge = Judge()
    refused_at, exempt = set(), set()
    for route, view in routes():
        path = world.filled(route)
        if path in refused_at | exempt:
            continue
        if getattr(view, "csrf_exempt", False):
            assert EXEMPT.fullmatch(bare(route)) or EXEMPT.match(route), route
            exempt.add(path)
            continue
        for method in ("POST", "PUT", "PATCH", "DELETE"):
            found = judge.ask("csrf", signed, method, path, data=urlencode(RIGHT), content_type=FORM)
            assert found.status_code == 403, (method, path, found.status_code)
        refused_at.add(path)
    judge.done(300)
    for form in world.found:
        if form.action not in refused_at | exempt:
            assert judge.ask("csrf", signed, "POST", form.action).status_code == 403, form


def test_a_browsers_session_is_nothing_to_the_interface(world: World) -> None:
    """So nothing there needs a form's token."""
    judge = Judge()
    client = Client(raise_request_exception=False)
    client.cookies = deepcopy(world.clients["ann"][0].cookies)
    for path, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            if "security" in operation:
                path = world.filled(path.replace("{", "<").replace("}", ">")[1:])
                assert judge.ask("cookie", client, method.upper(), path).status_code == 401, (method, path)
    judge.done(30)


TARGETS = [
    "https://evil.example/", "//evil.example/", "///evil.example", "/\\evil.example", "\\\\evil.example",
    "javascript:alert(1)", "data:text/html,x", "http:evil.example", "https:///evil.example", "http://testserver@evil.example/",
    "http://testserver.evil.example/", "/%09/evil.example", "\t//evil.example", "//evil%E3%80%82example", "http://[::1",
]  # fmt: skip
NAMES = ("next", "redirect", "url", "return", "continue", "callback_url", "post_logout_redirect_uri", "redirect_uri")


@pytest.mark.parametrize("target", TARGETS)
def test_redirects(world: World, target: str) -> None:
    """Nobody is led elsewhere, by whatever address or form. The judge looks at each Location."""
    judge = Judge()
    more = urlencode(dict.fromkeys(NAMES, target))
    for page in world.pages():
        if target != TARGETS[0] and not page.startswith(("/accounts/", "/identity/", "/language")):
            continue  # the first one shows that nothing else takes it
        for who in ("stranger", "ann"):
            joined = page + ("&" if "?" in page else "?") + more
            found = judge.ask("redirect", world.clients[who][0], "GET", joined, headers={"Referer": target})
            if found.status_code == 200 and "html" in found.headers["Content-Type"]:
                links = re.findall(r'(?:href|action|src)="([^"]*evil[^"]*)"', found.content.decode())
                assert not [each for each in links if not each.startswith(("?", "/")) or each[1:2] in "/\\"], (
                    page,
                    links,
                )
    for form in world.found:
        data = urlencode(form.right() | dict.fromkeys(NAMES, target))
        client = world.clients[form.who][0]
        judge.ask("redirect", client, "POST", form.action + "?" + more, data=data, content_type=FORM,
                  headers={"Referer": target})  # fmt: skip
    judge.done(100)


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


# Sessions, tokens and links: replayed, forged, expired


def test_session_changes_at_sign_in(world: World) -> None:
    """A cookie that was planted before is not the one of after; scripts do not read it, other sites do not send it."""
    client = browser()
    client.post("/help/connect/verdict/", {"helpful": "yes"})
    before = client.cookies["sessionid"].value
    client.post("/accounts/login/", {"login": "ann@example.org", "password": GOOD})
    cookie = client.cookies["sessionid"]
    assert cookie.value != before and cookie["httponly"] and cookie["samesite"] == "Lax"
    old = Client()
    old.cookies["sessionid"] = before
    assert old.get("/account/").status_code == 302


def test_ended_sessions_stay_ended(world: World) -> None:
    """A cookie or a token that was kept from before signing out opens nothing."""
    client = world.clients["ann"][0]
    kept = client.cookies["sessionid"].value
    assert client.get("/account/").status_code == 200
    client.post("/accounts/logout/")
    client.cookies["sessionid"] = kept
    assert client.get("/account/").status_code == 302
    held = world.app.token
    assert world.app.call("get", "/api/v1/subscriptions").status_code == 200
    world.app.sign_out()
    world.app.token = held
    answer = world.app.call("get", "/api/v1/subscriptions")
    world.app.token = held
    assert answer.status_code == 401


def test_links_work_once(world: World) -> None:
    """The confirming link, the resetting link, the code of deletion and the invitation: the second time, nothing."""
    from allauth.account.models import EmailAddress, EmailConfirmationHMAC

    ann = EmailAddress.objects.get(email="ann@example.org")
    EmailAddress.objects.filter(pk=ann.pk).update(verified=False)
    key = EmailConfirmationHMAC(EmailAddress.objects.get(pk=ann.pk)).key
    stranger = browser()
    stranger.post(f"/accounts/confirm-email/{key}/")
    assert EmailAddress.objects.get(pk=ann.pk).verified
    before = contents()
    stranger.post(f"/accounts/confirm-email/{key}/")
    assert difference(before, contents()) == {}
    forgetful, pages = world.clients["dora"]
    new = {"password1": "Green8kettle", "password2": "Green8kettle"}
    assert forgetful.post(pages[0], new).status_code == 302
    before = contents()
    assert forgetful.post(pages[0], {"password1": "White9kettle", "password2": "White9kettle"}).status_code < 500
    assert difference(before, contents()) == {}
    invited = world.clients["ann"][0]
    path = f"/subscriptions/invitations/{world.invitation}/"
    assert invited.post(path).status_code == 302
    before = contents()
    assert world.clients["hans"][0].post(path).status_code == 400
    assert difference(before, contents()) == {}


def test_codes_that_expired(world: World) -> None:
    """The code of deletion after half an hour, and the links of mails after their time: refused, nothing done."""
    from datetime import timedelta

    from allauth.account.forms import default_token_generator
    from django.utils import timezone

    from portal.accounts import deletion
    from portal.accounts.models import DeletionCode

    hans = User.objects.get(email="hans@example.org")
    kept = DeletionCode.objects.get(user=hans)
    kept.digest, kept.expires_at = deletion._digest(hans, "ABCD2345"), timezone.now() - timedelta(seconds=1)
    kept.save()
    refusal = world.clients["hans"][0].post("/account/delete/", {"code": "ABCD2345"})
    assert refusal.status_code == 400 and User.objects.filter(pk=hans.pk).exists()
    token = default_token_generator._make_token_with_timestamp(hans, 1, default_token_generator.secret)
    assert not default_token_generator.check_token(hans, token)


def test_forged_signatures(world: World) -> None:
    """One character changed, cut off, or signed with another key: worth nothing, never a 500."""
    from allauth.account.models import EmailAddress, EmailConfirmationHMAC
    from django.core import signing

    from portal.downloads import links

    key = EmailConfirmationHMAC(EmailAddress.objects.get(email="ann@example.org")).key
    download = links._signer().sign(f"{world.release.pk}-{world.ann.pk}")
    other = signing.TimestampSigner(key="another", salt="portal.downloads.link").sign(
        f"{world.release.pk}-{world.ann.pk}"
    )

    def changed(text: str) -> list[str]:
        return [text[:-1] + ("A" if text[-1] != "A" else "B"), text[:-5], text + "=", "x" + text[1:], text[::-1]]

    judge = Judge()
    for each in [*changed(download), other]:
        found = judge.ask("link", world.clients["ann"][0], "GET", f"/downloads/get/{each}/")
        assert found.status_code in (400, 403, 404), found.status_code
    for each in changed(key):
        judge.ask("confirmation", world.clients["stranger"][0], "POST", f"/accounts/confirm-email/{each}/")
    for each in changed(world.credential):
        headers = {"Authorization": f"Bearer {each}"}
        assert judge.ask("device", Client(), "GET", "/api/v1/device", headers=headers).status_code == 401
    for each in changed(world.app.token):
        headers = {"X-Session-Token": each}
        assert judge.ask("token", Client(), "GET", "/api/v1/devices", headers=headers).status_code == 401
    for each in changed(world.clients["ann"][0].cookies["sessionid"].value):
        forged = Client()
        forged.cookies["sessionid"] = each
        assert judge.ask("session", forged, "GET", "/account/").status_code == 302
    judge.done(25)


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


# Headers of every answer


def test_answers_have_their_headers(world: World) -> None:
    """A type with its charset, no guessing, no frames, no referrer; nothing for other origins."""
    for route, _view in routes():
        answer = world.clients["ann"][0].get(world.filled(route), headers={"Origin": "https://evil.example"})
        kind = answer.headers.get("Content-Type", "")
        assert kind or not answer.content, route
        assert not kind.startswith("text/") or "charset=utf-8" in kind, route
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"], route
        assert answer.headers["Referrer-Policy"] == "same-origin", route
        if not route.startswith(".well-known/"):  # what everybody may read
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")], route


def test_permissions_policy(world: World) -> None:
    answer = world.clients["ann"][0].get("/account/")
    for each in ("camera", "microphone", "geolocation"):
        assert f"{each}=()" in answer.headers["Permissions-Policy"]


def test_private_pages_are_not_cached(world: World) -> None:
    """Of who is signed in, by page and interface: so the back button shows nothing after signing out."""
    for page in world.pages():
        answer = world.clients["ann"][0].get(page)
        if answer.status_code == 200 and not page.startswith("/.well-known"):
            assert re.search(r"no-store|private", answer.headers.get("Cache-Control", "")), page
    for path in ("subscriptions", "devices", "account/consents", "support/requests"):
        assert "no-store" in world.app.call("get", f"/api/v1/{path}").headers["Cache-Control"], path
