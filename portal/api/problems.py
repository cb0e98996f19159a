"""Errors as application/problem+json (RFC 9457), each with a stable code."""

from __future__ import annotations

import logging
from http import HTTPStatus

from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, JsonResponse
from ninja import NinjaAPI, Schema
from ninja.errors import AuthenticationError, HttpError
from ninja.errors import ValidationError as InputError

from portal.signing import SigningError

log = logging.getLogger(__name__)

STATUS = {
    "too_many_tries": 429,
    "not_holder": 403,
    "has_active_subscription": 409,
    "no_seat": 409,
    "reauthentication_required": 401,
    "device_unknown": 401,
    "not_first": 403,
    "too_many_devices": 409,
    "too_many_commands": 409,
    "name_taken": 409,
    "command_gone": 409,
    "ticket_gone": 410,
    "not_active": 403,
    "region": 403,
    "by_support": 403,
    "link_expired": 410,
}


class Problem(Schema):
    """RFC 9457, with a stable code."""

    type: str
    title: str
    status: int
    code: str
    detail: str


def problem(status: int, code: str, detail: str, **more: object) -> JsonResponse:
    title = HTTPStatus(status).phrase  # RFC 9457 on about:blank
    body = {"type": "about:blank", "title": title, "status": status, "code": code, "detail": detail, **more}
    return JsonResponse(body, status=status, content_type="application/problem+json")


def refused(request: HttpRequest, err: ValidationError) -> JsonResponse:
    first = err.error_list[0] if hasattr(err, "error_list") else err
    code = first.code or "invalid"
    return problem(STATUS.get(code, 400), code, " ".join(err.messages))


def install(api: NinjaAPI) -> None:
    api.exception_handler(ValidationError)(refused)

    @api.exception_handler(InputError)
    def malformed(request: HttpRequest, err: InputError) -> JsonResponse:
        fields = [{"at": ".".join(str(part) for part in each["loc"]), "message": each["msg"]} for each in err.errors]
        return problem(422, "malformed", "The request does not have the expected form.", fields=fields)

    @api.exception_handler(AuthenticationError)
    def unauthenticated(request: HttpRequest, err: AuthenticationError) -> JsonResponse:
        return problem(401, "not_signed_in", "Sign in first: X-Session-Token is missing or not valid.")

    @api.exception_handler(Http404)
    def missing(request: HttpRequest, err: Http404) -> JsonResponse:
        return problem(404, "not_found", "There is no such thing in this account.")

    @api.exception_handler(SigningError)
    def not_ready(request: HttpRequest, err: SigningError) -> JsonResponse:
        log.error("%s", err)  # a matter of the administrator's: paths are nobody else's business
        return problem(503, "not_ready", "The portal has no signing keys. Try again later.")

    @api.exception_handler(HttpError)
    def other(request: HttpRequest, err: HttpError) -> JsonResponse:
        # ninja makes a 400 of whatever is wrong with a body.
        if isinstance(err.__cause__, HttpError):
            err = err.__cause__
        code = {400: "malformed", 415: "not_json"}.get(err.status_code, "refused")
        return problem(err.status_code, code, str(err))
