"""Errors as application/problem+json (RFC 9457), each with a stable code."""

from __future__ import annotations

from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, JsonResponse
from ninja import NinjaAPI
from ninja.errors import AuthenticationError, HttpError
from ninja.errors import ValidationError as InputError

STATUS = {
    "too_many_tries": 429,
    "not_holder": 403,
    "has_active_subscription": 409,
    "no_seat": 409,
    "reauthentication_required": 401,
}


def problem(status: int, code: str, detail: str, **more: object) -> JsonResponse:
    body = {"type": "about:blank", "status": status, "code": code, "detail": detail, **more}
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

    @api.exception_handler(HttpError)
    def other(request: HttpRequest, err: HttpError) -> JsonResponse:
        return problem(err.status_code, "malformed" if err.status_code == 400 else "refused", str(err))
