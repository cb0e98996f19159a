"""What Django or ninja would answer as a page below /api/v1 is a problem document, too."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

from django.http import HttpRequest, HttpResponseBase

from portal.api.problems import problem

CODES = {400: "malformed", 404: "not_found", 405: "method_not_allowed", 500: "failed"}


def problems_only(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    def middleware(request: HttpRequest) -> HttpResponseBase:
        ours = request.path_info.startswith("/api/v1/")
        if ours and "\0" in request.path_info:
            return problem(404, "not_found", "There is no such address.")
        response = get_response(request)
        status = response.status_code
        if not ours or status < 400 or response.get("Content-Type", "").startswith("application/"):
            return response
        made = problem(status, CODES.get(status, "refused"), f"{HTTPStatus(status).phrase}.")
        for name in ("Allow", "Retry-After"):
            if response.has_header(name):
                made.headers[name] = response[name]
        return made

    return middleware
