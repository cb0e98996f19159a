"""Bad input at every endpoint and address, found by walking the resolver and the OpenAPI document.

Never a 500; refused with the right status, and then nothing at all is done; what was taken holds none of it.
"""

from __future__ import annotations

import json
import re

import pytest
from django.test import Client

from tests.portal.judge import FORM, JSON, Judge, headless, operations, right, token
from tests.portal.world import (
    PARAMETER,
    World,
    bare,
    frozen,
    routes,
    world,
)

__all__ = ["frozen", "world"]  # fixtures

LONG = "a" * 100_000
NESTED = b'{"a":' * 10_000 + b"1" + b"}" * 10_000


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
