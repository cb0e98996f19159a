"""P5: the authenticator app, the recovery codes and a password reset; at both doors."""

from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from allauth.account.models import EmailAddress
from allauth.mfa.models import Authenticator
from django.core import mail
from django.test import Client

from portal.accounts.steps import codes, phones
from tests.portal.second_step import (
    APP,
    NUMBER,
    NewUser,
    Recorder,
    awaited,
    by_app,
    confirm_number,
    give_number,
    recovery,
    said,
    second,
    shown,
    stopped,
    use_sms,
    with_app,
    with_phone,
    wrong,
)

pytestmark = pytest.mark.usefixtures("sms")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped(monkeypatch)


def test_app_after_the_phone(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: the app is optional and second: without a phone it is refused."""
    user = new_user()
    door.sign_in(user.email)
    door.confirm_password()
    path = f"{APP}/account/authenticators/totp"
    if door.name == "api":
        for answer in (door.call("get", path), door.call("post", path, {"code": "123456"})):
            assert (answer.status_code, said(door, answer)) == (409, {"phone_first"})
    else:
        assert door.client.get("/accounts/2fa/totp/activate/").headers["Location"] == "/accounts/2fa/"
        door.client.post("/accounts/2fa/totp/activate/", {"code": "123456"})
    assert not Authenticator.objects.exists()
    with_phone(user)
    if door.name == "api":
        meta = door.call("get", path).json()["meta"]
        door.call("post", path, {"code": shown(meta["secret"])})
    else:
        page = door.client.get("/accounts/2fa/totp/activate/")
        door.client.post("/accounts/2fa/totp/activate/", {"code": shown(page.context["form"].secret)})
    assert phones.has_app(user)


def test_app_is_the_default_and_sms_remains(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: the app's code is asked for, not both; "Use the code from SMS" remains."""
    user = with_phone(new_user())
    secret = with_app(user)
    door.sign_in(user.email)
    assert awaited(door) == "mfa_authenticate"
    assert sms.sent == []
    use_sms(door)
    assert awaited(door) == "login_by_code"
    second(door, sms.code())
    assert door.signed_in()
    door.sign_out()
    door.sign_in(user.email)
    by_app(door, shown(secret))
    assert door.signed_in()
    assert len(sms.sent) == 1


def test_app_codes_work_once(door: Any, new_user: NewUser) -> None:
    user = with_phone(new_user())
    secret = with_app(user)
    door.sign_in(user.email)
    code = shown(secret)
    by_app(door, code)
    assert door.signed_in()
    door.sign_out()
    door.sign_in(user.email)
    assert said(door, by_app(door, code)) == {"incorrect_code"}


def test_guessing_the_app(door: Any, new_user: NewUser) -> None:
    """P5: the same ten an hour as by SMS."""
    user = with_phone(new_user())
    secret = with_app(user)
    door.sign_in(user.email)
    for _try in range(10):
        assert said(door, by_app(door, "1")) == {"incorrect_code"}
    answer = by_app(door, shown(secret))
    assert said(door, answer) == {"too_many_tries"}
    assert door.name == "web" or answer.status_code == 429
    assert not door.signed_in()


def test_simultaneous_guesses(new_user: NewUser, app: Any, sms: Recorder) -> None:
    """P5: 24 wrong codes at once: five are judged, as one after the other."""
    from django.db import connections

    user = with_phone(new_user())
    app.sign_in(user.email)
    body = json.dumps({"code": wrong(sms.code())})

    def once(_number: int) -> str:
        try:
            headers = {"X-Session-Token": app.token}
            answer = Client().post(f"{APP}/auth/code/confirm", body, content_type="application/json", headers=headers)
            return str(answer.json()["errors"][0]["code"])
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(once, range(24)))
    assert answers.count("incorrect_code") == 5
    assert set(answers) == {"incorrect_code", "code_expired", "too_many_tries"}


def test_simultaneous_right_codes(new_user: NewUser, sms: Recorder, rf: Any = None) -> None:
    """P5: of 8 at once one counts."""
    from django.core.exceptions import ValidationError
    from django.db import connections
    from django.test import RequestFactory

    user = with_phone(new_user())
    codes.send(RequestFactory().get("/"), user, codes.Purpose.SIGNIN, NUMBER)
    code = sms.code()

    def once(_number: int) -> bool:
        try:
            codes.check(user, codes.Purpose.SIGNIN, code)
        except ValidationError:
            return False
        finally:
            connections.close_all()
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(once, range(8))) == 1


def test_recovery_code(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: in place of the SMS, once."""
    user = with_phone(new_user())
    code = recovery(user)[3]
    door.sign_in(user.email)
    second(door, code)
    assert door.signed_in()
    assert len(recovery(user)) == 9
    door.sign_out()
    door.sign_in(user.email)
    assert said(door, second(door, code)) & {"incorrect_code"}
    assert not door.signed_in()


def test_password_reset_asks_too(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: who reads the mail alone changes nothing; a code by SMS, or a recovery code, does."""
    user = with_phone(new_user())

    def follow() -> str:
        """The key of the mailed link; at the page, the address it leads to, without the key."""
        door.client.post("/accounts/password/reset/", {"email": user.email})
        link = re.search(r"/accounts/password/reset/key/([^/]+)/", mail.outbox[-1].body)
        assert link is not None
        return str(door.client.get(link[0]).headers["Location"]) if door.name == "web" else link[1]

    def reset(where: str, password: str, code: str = "") -> Any:
        if door.name == "api":
            return door.call("post", f"{APP}/auth/password/reset", {"key": where, "password": password, "code": code})
        return door.client.post(where, {"password1": password, "password2": password, "code": code})

    link = follow()
    assert said(door, reset(link, "short")) and sms.sent == []
    assert said(door, reset(link, "Red7kettle")) == {"code_required"}
    assert said(door, reset(link, "Red7kettle", wrong(sms.code()))) == {"incorrect_code"}
    user.refresh_from_db()
    assert user.check_password("Blue7kettle")
    reset(link, "Red7kettle", sms.code())
    user.refresh_from_db()
    assert user.check_password("Red7kettle")
    assert not door.signed_in()
    reset(follow(), "Green7kettle", recovery(user)[0])
    user.refresh_from_db()
    assert user.check_password("Green7kettle")


def test_password_reset_with_an_app(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: then no SMS is sent."""
    from allauth.account.forms import default_token_generator
    from allauth.account.utils import user_pk_to_url_str

    user = with_phone(new_user())
    secret = with_app(user)
    key = f"{user_pk_to_url_str(user)}-{default_token_generator.make_token(user)}"
    if door.name == "api":
        path, body = f"{APP}/auth/password/reset", {"key": key, "password": "Red7kettle"}
        assert said(door, door.call("post", path, body)) == {"code_required"}
        door.call("post", path, body | {"code": shown(secret)})
    else:
        page = door.client.get(f"/accounts/password/reset/key/{key}/").headers["Location"]
        body = {"password1": "Red7kettle", "password2": "Red7kettle"}
        assert said(door, door.client.post(page, body)) == {"code_required"}
        door.client.post(page, body | {"code": shown(secret)})
    assert sms.sent == []
    user.refresh_from_db()
    assert user.check_password("Red7kettle")


def test_new_recovery_codes(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: need the password; shown once; the former are void; without a phone there are none."""
    user = new_user()
    door.sign_in(user.email)

    def make() -> Any:
        if door.name == "api":
            return door.call("post", f"{APP}/account/authenticators/recovery-codes")
        return door.client.post("/accounts/2fa/recovery-codes/generate/")

    assert make().status_code in (302, 401, 409)
    door.confirm_password()
    make()
    assert not Authenticator.objects.exists()
    with_phone(user)
    former = recovery(user)
    answer = make()
    new = recovery(user)
    assert not set(former) & set(new)
    if door.name == "api":
        assert answer.json()["data"]["unused_codes"] == new
        again = door.call("get", f"{APP}/account/authenticators/recovery-codes").json()
        assert "unused_codes" not in again["data"]
    else:
        assert new[0] in door.client.get("/accounts/2fa/recovery-codes/").content.decode()
        assert new[0] not in door.client.get("/accounts/2fa/recovery-codes/").content.decode()


def test_recovery_codes_stay_with_the_phone(door: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: turning the app off leaves the phone and the codes."""
    user = with_phone(new_user())
    with_app(user)
    left = recovery(user)[1:]
    door.sign_in(user.email)
    by_app(door, recovery(user)[0])
    door.confirm_password()
    if door.name == "api":
        door.call("delete", f"{APP}/account/authenticators/totp")
    else:
        door.client.post("/accounts/2fa/totp/deactivate/")
    assert not phones.has_app(user)
    assert phones.on(user)
    assert recovery(user) == left


def test_secrets_are_sealed(new_user: NewUser) -> None:
    """P5: a copy of the database makes no codes."""
    user = with_phone(new_user())
    secret = with_app(user)
    data = json.dumps([each.data for each in Authenticator.objects.filter(user=user)])
    assert secret not in data
    assert all(code not in data for code in recovery(user))


def test_pages(web: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: every page of it, without scripts."""
    user = new_user()
    web.sign_in(user.email)
    assert "Confirm a mobile number" in web.client.get("/accounts/2fa/").content.decode()
    web.confirm_password()
    assert "Mobile number" in web.client.get("/accounts/phone/change/").content.decode()
    assert web.client.get("/accounts/phone/verify/").status_code == 302
    give_number(web, NUMBER)
    page = web.client.get("/accounts/phone/verify/").content.decode()
    assert "+49" in page and NUMBER not in page
    assert confirm_number(web, sms.code()).headers["Location"] == "/accounts/2fa/recovery-codes/"
    assert recovery(user)[0] in web.client.get("/accounts/2fa/recovery-codes/").content.decode()
    page = web.client.get("/accounts/2fa/").content.decode()
    assert "10 codes are left" in page and NUMBER not in page
    page = web.client.get("/accounts/2fa/totp/activate/").content.decode()
    assert 'src="data:image/svg+xml;base64,' in page and "style=" not in page and "<script" not in page
    with_app(user)
    for path in (
        "/accounts/2fa/",
        "/accounts/2fa/off/",
        "/accounts/2fa/totp/deactivate/",
        "/accounts/2fa/reauthenticate/",
    ):
        assert web.client.get(path).status_code == 200, path


def test_state_by_the_interface(app: Any, new_user: NewUser, sms: Recorder) -> None:
    user = with_phone(new_user())
    app.sign_in(user.email)
    second(app, sms.code())
    found = app.call("get", "/api/v1/account/two-steps").json()
    assert found == {"offered": True, "on": True, "phone": "+49•••••••••89", "app": False, "recovery_codes_left": 10}


def test_email_can_change(web: Any, new_user: NewUser, sms: Recorder) -> None:
    """P5: two steps do not tie an account to its e-mail."""
    user = with_phone(new_user())
    web.sign_in(user.email)
    second(web, sms.code())
    web.confirm_password()
    web.client.post("/accounts/email/", {"email": "new@example.org", "action_add": ""})
    assert EmailAddress.objects.filter(user=user, email="new@example.org", verified=False).exists()


def test_support_turns_it_off(web: Any, new_user: NewUser) -> None:
    """P5: for who lost everything; it stays in the log."""
    from django.contrib.admin.models import LogEntry

    user = with_phone(new_user())
    staff = new_user("staff@example.org", is_staff=True, is_superuser=True)
    web.client.force_login(staff)
    data = {"action": "turn_two_steps_off", "_selected_action": [user.pk]}
    web.client.post("/staff/accounts/user/", data)
    assert not phones.on(user)
    assert LogEntry.objects.filter(user=staff, object_id=str(user.pk)).exists()
    assert mail.outbox[-1].to == [user.email]
