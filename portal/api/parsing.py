"""What comes in is text, or it is refused here: no database has to meet half a letter or a null byte.

JSON says each name once and is announced as JSON, so nobody else can have read it differently.
"""

from __future__ import annotations

import json
import re
from typing import Any

from django.http import HttpRequest
from django.utils.datastructures import MultiValueDict
from ninja.errors import HttpError
from ninja.parser import Parser

# PostgreSQL keeps no null bytes, and UTF-8 has no halves of surrogate pairs.
NOT_TEXT = re.compile(r"[\x00\ud800-\udfff]")


def check(value: Any) -> None:
    """Raises ValueError."""
    match value:
        case str():
            if NOT_TEXT.search(value):
                raise ValueError("not text")
        case dict():
            for key, each in value.items():
                check(key)
                check(each)
        case list():
            for each in value:
                check(each)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name comes twice")
    return found


def read(request: HttpRequest) -> Any:
    """The JSON of a request. Raises HttpError 400 or 415."""
    if request.content_type != "application/json":
        raise HttpError(415, "Send application/json.")
    try:
        found = json.loads(request.body.decode(), parse_constant=_no_number, object_pairs_hook=_once)
        check(found)
    except (ValueError, RecursionError) as err:
        raise HttpError(400, "Cannot parse request body") from err
    return found


class Strict(Parser):
    def parse_body(self, request: HttpRequest) -> Any:
        return read(request)

    def parse_querydict(self, data: MultiValueDict[Any, Any], list_fields: list[str], request: HttpRequest) -> Any:
        try:
            check([[key, *values] for key, values in data.lists()])
        except ValueError as err:
            raise HttpError(400, "The request has characters that are not text.") from err
        return super().parse_querydict(data, list_fields, request)
