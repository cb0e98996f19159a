"""Who calls: an application's session. A connected device shows its own credential (devices/authentication.py)."""

from __future__ import annotations

from typing import Any

from allauth.headless.contrib.ninja.security import x_session_token_auth
from allauth.headless.internal.sessionkit import authenticate_by_x_session_token
from django.http import HttpRequest


class SessionToken(type(x_session_token_auth)):  # type: ignore[misc]
    """The token of an application's session; its account becomes request.user."""

    openapi_name = "X-Session-Token"

    def __call__(self, request: HttpRequest) -> Any:
        token = self.get_session_token(request)
        found = authenticate_by_x_session_token(token) if token else None
        if found is None:
            return None
        request.user, request.session = found
        return found[0]
