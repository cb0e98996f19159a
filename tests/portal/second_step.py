"""What the tests of the second step share: a gateway that keeps what was sent, and how both doors are used."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal import auth
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from django.conf import settings

from portal.accounts.models import Phone, User
from portal.accounts.steps import gateways

NUMBER = "+4915123456789"
OTHER = "+33612345678"
APP = "/_allauth/app/v1"
STEP = 60_000_000  # of half a minute
NewUser = Callable[..., User]


class Recorder:
    """A gateway that keeps what was sent; or fails."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str]] = []
        self.fails = False

    def send(self, number: str, text: str) -> None:
        if self.fails:
            raise gateways.SmsError("the SMS gateway answered 500")
        self.sent.append((number, text))

    def code(self) -> str:
        found = re.search(r"\b[0-9]{6}\b", self.sent[-1][1])
        assert found is not None, self.sent[-1]
        return found[0]


def wrong(code: str) -> str:
    return f"{(int(code) + 1) % 1_000_000:06}"


def said(door: Any, response: Any, field: str = "code") -> set[str]:
    """The codes of what a door refused."""
    if door.name == "api":
        return {each["code"] for each in response.json().get("errors", [])}
    if response.context is None or "form" not in response.context:
        return set()
    errors = response.context["form"].errors.as_data()
    return {each.code for found in errors.values() for each in found}


def give_number(door: Any, number: str) -> Any:
    if door.name == "api":
        return door.call("post", f"{APP}/account/phone", {"phone": number})
    return door.client.post("/accounts/phone/change/", {"phone": number})


def confirm_number(door: Any, code: str) -> Any:
    if door.name == "api":
        return door.call("post", f"{APP}/auth/phone/verify", {"code": code})
    return door.client.post("/accounts/phone/verify/", {"code": code})


def second(door: Any, code: str) -> Any:
    """Types a code where the code by SMS is awaited."""
    if door.name == "api":
        return door.call("post", f"{APP}/auth/code/confirm", {"code": code})
    return door.client.post("/accounts/login/code/confirm/", {"code": code})


def by_app(door: Any, code: str) -> Any:
    if door.name == "api":
        return door.call("post", f"{APP}/auth/2fa/authenticate", {"code": code})
    return door.client.post("/accounts/2fa/authenticate/", {"code": code})


def resend(door: Any) -> Any:
    if door.name == "api":
        return door.call("post", f"{APP}/auth/code/resend")
    return door.client.post("/accounts/login/code/confirm/", {"action": "resend"})


def use_sms(door: Any) -> None:
    if door.name == "api":
        door.call("post", f"{APP}/auth/code/resend")
    else:
        door.client.post("/accounts/2fa/authenticate/", {"action": "sms"})


def awaited(door: Any) -> str:
    """Which step the sign-in waits for; empty: none."""
    if door.name == "api":
        return ",".join(door.pending())
    for key, path in (
        ("login_by_code", "/accounts/login/code/confirm/"),
        ("mfa_authenticate", "/accounts/2fa/authenticate/"),
    ):
        if door.client.get(path).status_code == 200:
            return key
    return ""


def with_phone(user: User, number: str = NUMBER) -> User:
    from allauth.mfa.recovery_codes.internal.auth import RecoveryCodes

    Phone.objects.create(user=user, number=number)
    RecoveryCodes.activate(user)
    return user


def recovery(user: User) -> list[str]:
    found: list[str] = Authenticator.objects.get(user=user, type="recovery_codes").wrap().get_unused_codes()
    return found


def with_app(user: User) -> str:
    """The app's secret."""
    from allauth.mfa.totp.internal.auth import TOTP, generate_totp_secret

    secret: str = generate_totp_secret()
    TOTP.activate(user, secret)
    return secret


def shown(secret: str) -> str:
    """What the app shows while `stopped` holds."""
    code: str = format_hotp_value(hotp_value(secret, STEP))
    return code


def stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """The app's clock stands still, or a slow test would type a code that has just ended."""
    monkeypatch.setattr(auth, "yield_hotp_counters_from_time", lambda: iter([STEP]))
    monkeypatch.setattr(settings, "MFA_TOTP_PERIOD", 3600, raising=False)
