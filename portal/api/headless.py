"""allauth's interface (`/_allauth/`) reads JSON by the same rules as ours, and refuses in words.

Its own reading fails with a 500 on ten thousand levels, on a number of five thousand digits, and on halves of letters.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from allauth.headless.internal.restkit.views import RESTView
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from ninja.errors import HttpError

from portal.api import parsing

CODES = {400: "malformed", 405: "method_not_allowed", 415: "not_json"}


def refusal(status: int, detail: str) -> JsonResponse:
    """As allauth writes them."""
    error = {"message": detail, "code": CODES.get(status, "refused")}
    return JsonResponse({"status": status, "errors": [error]}, status=status)


class Readable:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponseBase]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponseBase:
        response = self.get_response(request)
        status = response.status_code
        if not request.path_info.startswith("/_allauth/") or status not in CODES or "json" in response["Content-Type"]:
            return response
        made = refusal(status, f"{HTTPStatus(status).phrase}.")
        if response.has_header("Allow"):
            made.headers["Allow"] = response["Allow"]
        return made

    def process_view(self, request: HttpRequest, view: Any, *_arguments: Any) -> HttpResponseBase | None:
        shown = getattr(view, "view_class", None)
        reads = shown is not None and issubclass(shown, RESTView) and shown.handle_json_input
        if not reads or request.method == "GET" or not request.body:
            return None
        try:
            parsing.read(request)
        except HttpError as err:
            return refusal(err.status_code, str(err))
        return None
