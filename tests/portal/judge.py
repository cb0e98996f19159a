"""Who judges what bad input does: asks each address, and looks at the answer and at the whole database."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from django.db import connection

from portal.api.interface import api
from tests.portal.world import (
    APPLICATION,
    RIGHT,
    World,
    contents,
    difference,
    refused,
    routes,
    undone,
)

FORM, JSON = "application/x-www-form-urlencoded", "application/json"


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


# The interface

DOCUMENT: Any = api.get_openapi_schema()


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
