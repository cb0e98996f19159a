"""P5, A8: the code by SMS at sign-in; at both doors, however many try at once."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from portal.accounts.models import SmsCode
from tests.portal.second_step import (
    APP,
    NUMBER,
    OTHER,
    NewUser,
    Recorder,
    give_number,
    resend,
    said,
    second,
    with_phone,
    wrong,
)

pytestmark = pytest.mark.usefixtures("sms")


def test_only_a_digest_is_kept(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: neither the table nor the session has the code."""
    from django.contrib.sessions.models import Session

    user = with_phone(new_user())
    door.sign_in(user.email)
    code = sms.code()
    kept = SmsCode.objects.get()
    assert code not in (kept.digest, kept.number) and len(kept.digest) == 64
    assert all(code not in json.dumps(each.get_decoded()) for each in Session.objects.all())
    assert re.fullmatch(r"[0-9]{6}", code)


def test_wrong_codes(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: five tries of one code, then even the right one is void; a new one works."""
    user = with_phone(new_user())
    door.sign_in(user.email)
    code = sms.code()
    for _try in range(5):
        assert said(door, second(door, wrong(code))) == {"incorrect_code"}
    assert said(door, second(door, code)) == {"code_expired"}
    assert not door.signed_in()
    resend(door)
    assert sms.code() != code or len(sms.sent) == 2
    second(door, sms.code())
    assert door.signed_in()


def test_codes_expire(door: Any, new_user: NewUser, sms: Recorder) -> None:
    user = with_phone(new_user())
    door.sign_in(user.email)
    SmsCode.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert said(door, second(door, sms.code())) == {"code_expired"}
    assert not door.signed_in()


def test_an_older_code_is_void(door: Any, new_user: NewUser, sms: Recorder) -> None:
    user = with_phone(new_user())
    door.sign_in(user.email)
    first = sms.code()
    while resend(door) and sms.code() == first:
        SmsCode.objects.update(tries=0)
    assert said(door, second(door, first)) == {"incorrect_code"}


def test_codes_work_once(door: Any, web: Any, new_user: NewUser, sms: Recorder) -> None:
    user = with_phone(new_user())
    door.sign_in(user.email)
    code = sms.code()
    second(door, code)
    assert door.signed_in()
    door.sign_out()
    sms.fails = True  # no newer code takes its place
    door.sign_in(user.email)
    assert said(door, second(door, code)) == {"code_expired"}


def test_codes_are_of_one_account_and_purpose(new_user: NewUser, sms: Recorder, app: Any) -> None:
    """P5: the code that confirms a number signs nobody in, nor does another account's."""
    ann, bob = with_phone(new_user()), with_phone(new_user("bob@example.org"))
    app.sign_in(bob.email)
    bobs = sms.code()
    app.token = ""
    app.sign_in(ann.email)
    anns = sms.code()
    if bobs != anns:
        assert said(app, second(app, bobs)) == {"incorrect_code"}
    second(app, anns)
    app.confirm_password()
    give_number(app, OTHER)
    purpose = sms.code()
    app.sign_out()
    app.sign_in(ann.email)
    if sms.code() != purpose:
        assert said(app, second(app, purpose)) == {"incorrect_code"}


def test_ten_wrong_codes_an_hour(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: of an account, whoever asks for how many new ones."""
    user = with_phone(new_user())
    door.sign_in(user.email)
    for _code in range(2):
        for _try in range(5):
            assert said(door, second(door, wrong(sms.code()))) == {"incorrect_code"}
        resend(door)
    answer = second(door, sms.code())
    assert said(door, answer) == {"too_many_tries"}
    assert door.name == "web" or answer.status_code == 429
    assert not door.signed_in()


def test_messages_are_limited(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: five an hour to one number of one account; the fifth code still works."""
    user = with_phone(new_user())
    door.sign_in(user.email)
    for _again in range(7):
        answer = resend(door)
    assert len(sms.sent) == 5
    assert door.name == "web" or (answer.status_code, said(door, answer)) == (429, {"too_many_messages"})
    second(door, sms.code())
    assert door.signed_in()


def test_messages_to_one_number_are_limited(app: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: however many accounts ask, from however many addresses; and signing in is not used up by it."""
    owner = with_phone(new_user("owner@example.org"))
    for number in range(8):
        user = new_user(f"user{number}@example.org")
        app.client.defaults["REMOTE_ADDR"] = f"192.0.2.{number}"
        app.token = ""
        app.sign_in(user.email)
        app.confirm_password()
        answer = give_number(app, NUMBER)
    assert (answer.status_code, said(app, answer)) == (429, {"too_many_messages"})
    assert len(sms.sent) == 5
    app.token = ""
    app.sign_in(owner.email)
    assert len(sms.sent) == 6


def test_messages_of_one_address_are_limited(app: Any, new_user: NewUser, sms: Recorder, settings_of: Any) -> None:
    from django.conf import settings

    with settings_of(settings, "SMS_PER_ADDRESS", 3):
        for number in range(5):
            user = new_user(f"user{number}@example.org")
            app.token = ""
            app.sign_in(user.email)
            app.confirm_password()
            give_number(app, f"+49151234567{number}0")
    assert len(sms.sent) == 3


def test_gateway_fails(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: said, nobody is signed in, nothing is counted, and the next one works."""
    user = with_phone(new_user())
    sms.fails = True
    door.sign_in(user.email)
    assert not door.signed_in()
    if door.name == "web":
        assert "could not be sent" in door.client.get("/accounts/login/code/confirm/").content.decode()
    else:
        assert door.call("get", f"{APP}/auth/code/confirm").json()["data"]["problem"] == "sms_not_sent"
        assert resend(door).status_code == 503
    for _try in range(6):
        resend(door)
    sms.fails = False
    resend(door)
    second(door, sms.code())
    assert door.signed_in()


@pytest.mark.parametrize("code", ["", "x", "\x00", "٠٠٠٠٠٠", "0" * 5000, "123456\r\n", "None"])
def test_malformed_codes(door: Any, new_user: NewUser, sms: Recorder, code: str) -> None:
    """Bad input at the second step."""
    user = with_phone(new_user())
    door.sign_in(user.email)
    answer = second(door, code)
    assert answer.status_code in (200, 400)
    assert said(door, answer)
    assert not door.signed_in()


@pytest.mark.parametrize("body", ["{}", "[]", '{"code": 5}', '{"code": null}', '{"code": ["123456"]}', "{", "\x00"])
def test_malformed_requests(app: Any, new_user: NewUser, sms: Recorder, body: str) -> None:
    user = with_phone(new_user())
    app.sign_in(user.email)
    for path in ("auth/code/confirm", "auth/2fa/authenticate", "auth/phone/verify", "account/phone"):
        headers = {"X-Session-Token": app.token}
        answer = app.client.post(f"{APP}/{path}", body, content_type="application/json", headers=headers)
        assert answer.status_code in (400, 401, 409), path
    assert not app.signed_in()


def test_steps_are_not_skipped(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """A8: between the password and the code nothing of the account can be reached."""
    user = with_phone(new_user())
    door.sign_in(user.email)
    if door.name == "web":
        for path in ("/account/", "/accounts/2fa/", "/accounts/phone/change/", "/accounts/2fa/recovery-codes/"):
            assert door.client.get(path).status_code == 302
    else:
        for path in ("/api/v1/subscriptions", "/api/v1/account/two-steps", f"{APP}/account/phone"):
            assert door.call("get", path).status_code == 401
    # Without the password there is no second step either.
    door.sign_out()
    if door.name == "web":
        door.client.cookies.clear()
    answer = second(door, sms.code())
    assert answer.status_code in (302, 401)
    assert not door.signed_in()


def test_declined_statement_sends_no_sms(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """A5: the statement comes before the code."""
    from portal.consents.models import Kind, Statement

    user = with_phone(new_user())
    Statement.objects.create(kind=Kind.PORTAL, version=2, language="en", text="Changed.")
    door.sign_in(user.email)
    assert sms.sent == []
    if door.name == "api":
        door.call("post", "/api/v1/auth/statements", {"accept": {"portal": 2}})
    else:
        door.client.post("/accounts/statement/", {"portal": "2"})
    assert len(sms.sent) == 1
    second(door, sms.code())
    assert door.signed_in()
