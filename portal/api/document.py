"""The OpenAPI document: ninja's, completed. Each operation has a short name, and its refusals with an example."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from ninja import NinjaAPI
from ninja.openapi.schema import OpenAPISchema
from ninja.operation import Operation

from portal.api import codes

PROBLEM = {
    "title": "Problem",
    "description": "RFC 9457. `code` never changes its meaning; docs/portal-api.md lists all of them.",
    "type": "object",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string", "description": "The words of the status"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string", "description": "For a person, in the language of Accept-Language"},
        "fields": {
            "type": "array",
            "description": "With `malformed`: where, and what is wrong there",
            "items": {
                "type": "object",
                "required": ["at", "message"],
                "properties": {"at": {"type": "string"}, "message": {"type": "string"}},
            },
        },
    },
}
SCHEMES = {
    "X-Session-Token": "An application's session, from `/_allauth/app/v1` (sign-in with every step).",
    "Authorization": "What a connected device got from `POST /devices`, as `Bearer …`.",
}
# What a request looks like. Other operations' requests need no more than their schema.
EXAMPLES: dict[str, Any] = {
    "redeem": {"code": "K7Q2M-9XHTR-4WPBN-C3DEF"},
    "share": {"email": "bob@example.org", "name": "Ann"},
    "marketing": {"on": False},
    "confirm_deletion": {"code": "7GK2M9QX"},
    "support_open_request": {"subject": "It does not connect in a train", "text": "Since this morning."},
    "support_write": {"text": "It is the slow train."},
    "support_help_verdict": {"helpful": True, "comment": ""},
}

# Refusals that follow from an operation's own rules, where its router does not say them.
MORE: dict[str, set[int]] = {
    "new_captcha": {429},
    "ask_deletion": {409, 429},
    "confirm_deletion": {409},
    "share": {403},
    "accounts_turn_off": {400},
    "vpn_plan_servers": {503},
}


def example(status: int) -> dict[str, Any]:
    code = next((each.code for each in codes.TABLE if each.status == status), "refused")
    meaning = next((each.meaning for each in codes.TABLE if each.code == code), "")
    return {
        "type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "code": code, "detail": meaning
    }  # fmt: skip


def refusal(status: int) -> dict[str, Any]:
    return {
        "description": f"{HTTPStatus(status).phrase}: `code` says why",
        "content": {
            "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example(status)}
        },
    }


class Interface(NinjaAPI):
    def get_openapi_operation_id(self, operation: Operation) -> str:
        """`redeem`, `support_open_request`: the app, unless it is this one, and the function."""
        function = operation.view_func
        app = function.__module__.split(".")[1]
        return function.__name__ if app in ("api", function.__name__.split("_")[0]) else f"{app}_{function.__name__}"

    def get_openapi_schema(self, *, path_prefix: str | None = None, path_params: Any = None) -> OpenAPISchema:
        document = super().get_openapi_schema(path_prefix=path_prefix, path_params=path_params)
        document["info"]["description"] = (
            "Signing up and in is django-allauth's headless interface at `/_allauth/app/v1`; this is the rest. "
            "Refusals are application/problem+json with a stable `code`."
        )
        document["components"]["schemas"]["Problem"] = PROBLEM
        for name, scheme in document["components"].get("securitySchemes", {}).items():
            if scheme["type"] == "apiKey":
                scheme.setdefault("in", "header")  # ninja forgets it
            scheme["description"] = SCHEMES.get(scheme.get("name", name)) or SCHEMES.get(
                "Authorization" if scheme.get("scheme") == "bearer" else name, name
            )
        for path, operations in document["paths"].items():
            for operation in operations.values():
                complete(path, operation)
        return document


def complete(path: str, operation: dict[str, Any]) -> None:
    responses: dict[Any, Any] = operation["responses"]
    statuses = {400, 429} if "requestBody" in operation else set()
    if operation.get("parameters"):
        statuses |= {400, 422}
    if "requestBody" in operation:
        statuses |= {422}
    if "application/json" in operation.get("requestBody", {}).get("content", {}):
        statuses |= {415}
    if "{" in path:
        statuses |= {404}
    if "security" in operation:
        statuses |= {401}
    statuses |= MORE.get(operation["operationId"], set())
    for status in statuses:
        if str(status) not in responses and status not in responses:
            responses[status] = refusal(status)
    for status, response in responses.items():
        if str(status)[0] in "45" and "application/json" in response.get("content", {}):
            content = response["content"]
            content["application/problem+json"] = content.pop("application/json")
            content["application/problem+json"].setdefault("example", example(int(status)))
            if response.get("description", "OK") in ("OK", HTTPStatus(int(status)).phrase):
                response["description"] = refusal(int(status))["description"]
    given = EXAMPLES.get(operation["operationId"])
    for media in operation.get("requestBody", {}).get("content", {}).values():
        if given is not None:
            media.setdefault("example", given)
