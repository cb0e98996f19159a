"""P5: turning two-step verification on, changing the number, turning it off; at both doors."""

from __future__ import annotations

from typing import Any

import pytest
from allauth.mfa.models import Authenticator
from django.core import mail

from portal.accounts.models import SmsCode
from portal.accounts.steps import gateways, phones
from tests.portal.second_step import (
    NUMBER,
    OTHER,
    NewUser,
    Recorder,
    awaited,
    by_app,
    confirm_number,
    give_number,
    recovery,
    said,
    second,
    with_app,
    with_phone,
    wrong,
)

pytestmark = pytest.mark.usefixtures("sms")


def test_phone_first(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: password, number, code by SMS; then the next sign-in asks for one; the owner is mailed."""
    user = new_user()
    door.sign_in(user.email)
    door.confirm_password()
    give_number(door, "+49 (151) 2345-6789")
    assert [number for number, _text in sms.sent] == [NUMBER]
    assert not phones.on(user)
    assert said(door, confirm_number(door, wrong(sms.code()))) == {"incorrect_code"}
    confirm_number(door, sms.code())
    assert phones.of(user) == NUMBER
    assert len(recovery(user)) == 10
    assert mail.outbox[-1].subject == "tunwarden portal: two-step verification is on"
    assert NUMBER not in mail.outbox[-1].body
    door.sign_out()
    door.sign_in(user.email)
    assert not door.signed_in()
    assert awaited(door) == "login_by_code"
    second(door, sms.code())
    assert door.signed_in()


def test_number_needs_the_password(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: even seconds after signing in."""
    user = new_user()
    door.sign_in(user.email)
    answer = give_number(door, NUMBER)
    assert (
        answer.status_code == 401
        if door.name == "api"
        else answer.headers["Location"].startswith("/accounts/reauthenticate/")
    )
    assert sms.sent == []


def test_email_before_the_number(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: who registered with somebody else's e-mail cannot lock its owner out."""
    user = new_user(verified=False)
    door.sign_in(user.email)
    door.confirm_password()
    answer = give_number(door, NUMBER)
    assert said(door, answer) == {"unverified_email"}
    assert sms.sent == []


@pytest.mark.parametrize(
    "number",
    [
        "", "0151 23456789", "+49", "+0151234567", "+4915123456789012", "+49151abc", "+49151234\r\nBcc: x@y.example",
        "+49151{text}", "+49151&to=1", "\x00+4915123456789", "+" * 500,
    ],
)  # fmt: skip
def test_what_is_no_number(door: Any, new_user: NewUser, sms: Recorder, number: str) -> None:
    """Bad input: a clear message, nothing sent, nothing kept."""
    user = new_user()
    door.sign_in(user.email)
    door.confirm_password()
    answer = give_number(door, number)
    assert said(door, answer) & {"invalid_phone", "required", "max_length", "null_characters_not_allowed", "malformed"}
    assert answer.status_code in (200, 400)
    assert sms.sent == []
    assert not SmsCode.objects.exists()


@pytest.mark.parametrize(
    "written", ["0049 151 23456789", "+49-151/2345.6789", "٠٠٤٩١٥١٢٣٤٥٦٧٨٩", "\u202a+4915123456789\u202c"]
)
def test_how_people_write_numbers(written: str) -> None:
    assert phones.NumberField().clean(written) == NUMBER


def test_only_where_sms_are_sent(door: Any, new_user: NewUser, sms: Recorder, settings_of: Any) -> None:
    """P5: not in all regions."""
    from django.conf import settings

    user = new_user()
    door.sign_in(user.email)
    door.confirm_password()
    with settings_of(settings, "SMS_PREFIXES", ["+33"]):
        assert said(door, give_number(door, NUMBER)) == {"phone_not_allowed"}
        give_number(door, OTHER)
    assert [number for number, _text in sms.sent] == [OTHER]


def test_no_gateway(door: Any, new_user: NewUser, monkeypatch: pytest.MonkeyPatch) -> None:
    """P5: then it is not offered, and refused."""
    monkeypatch.setattr(gateways, "gateway", lambda: None)
    user = new_user()
    door.sign_in(user.email)
    door.confirm_password()
    assert said(door, give_number(door, NUMBER)) == {"sms_unavailable"}
    if door.name == "web":
        assert "not offered" in door.client.get("/accounts/2fa/").content.decode()


def test_changing_the_number(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: the former stays until the new one is confirmed; then its codes open nothing; the owner is mailed."""
    user = with_phone(new_user())
    door.sign_in(user.email)
    second(door, sms.code())
    door.confirm_password()
    give_number(door, OTHER)
    assert phones.of(user) == NUMBER
    confirm_number(door, sms.code())
    assert phones.of(user) == OTHER
    assert "number was changed" in mail.outbox[-1].subject
    assert not SmsCode.objects.exists()


def test_turning_it_off(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: needs the password; then everything of it is gone, and the owner is mailed."""
    user = with_phone(new_user())
    with_app(user)
    other = with_phone(new_user("bob@example.org"))

    def off() -> Any:
        if door.name == "api":
            return door.call("delete", "/api/v1/account/two-steps")
        return door.client.post("/accounts/2fa/off/")

    door.sign_in(user.email)
    by_app(door, recovery(user)[0])
    assert door.signed_in()
    assert off().status_code in (401, 302)
    assert phones.on(user)
    door.confirm_password()
    off()
    assert not phones.on(user)
    assert not Authenticator.objects.filter(user=user).exists()
    assert "two-step verification is off" in mail.outbox[-1].subject
    assert phones.on(other) and len(recovery(other)) == 10
    door.sign_out()
    door.sign_in(user.email)
    assert door.signed_in()


def test_export_and_expiry(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P14: the export has the number and no secret; codes that have expired are removed daily."""
    from datetime import timedelta

    from allauth.socialaccount.models import SocialAccount
    from django.core.management import call_command
    from django.utils import timezone

    from portal.accounts import export

    user = with_phone(new_user())
    SocialAccount.objects.create(user=user, provider="vk", uid="77", extra_data={"email": user.email})
    found = export.document(user)
    assert found["phone"] == NUMBER
    assert [(each["provider"], each["id"]) for each in found["quick_sign_in"]] == [("vk", "77")]
    assert not any(code in str(found) for code in recovery(user))
    door.sign_in(user.email)
    call_command("expire_accounts", verbosity=0)
    assert SmsCode.objects.count() == 1
    SmsCode.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    call_command("expire_accounts", verbosity=0)
    assert SmsCode.objects.count() == 0
