"""P6, A25, A26: signing up and in by Google, Facebook, Apple, Yandex, VK, played on loopback (providers.py)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from allauth.account.models import EmailAddress
from allauth.socialaccount.models import SocialAccount
from django.core import mail
from django.test import Client

from portal.accounts.models import Phone, User
from portal.accounts.steps import gateways
from portal.consents.models import Kind
from tests.portal.providers import NAMES, Persona, Played
from tests.portal.quick import at_provider, go, said

NewUser = Callable[..., User]
GOOD = "Blue7kettle"
FORM = {"country": "FR", "privacy": "on", "portal_statement": "1", "password1": GOOD, "password2": GOOD}


@pytest.mark.parametrize("name", NAMES)
def test_sign_up(web: Any, played: Played, name: str) -> None:
    """P6, A25: our form comes first: country, privacy, statement, password; then the account, e-mail confirmed."""
    answer = go(web.client, name)
    assert answer.headers["Location"] == "/accounts/3rdparty/signup/", played.seen
    assert not User.objects.exists()
    page = web.client.get("/accounts/3rdparty/signup/").content.decode()
    assert 'value="ann@example.org"' in page and "privacy policy" in page
    done = web.client.post("/accounts/3rdparty/signup/", FORM)
    assert done.headers["Location"] == "/subscriptions/", done.context and done.context["form"].errors
    user = User.objects.get()
    assert (user.email, user.country) == ("ann@example.org", "FR")
    assert user.check_password(GOOD)
    assert EmailAddress.objects.filter(user=user, email="ann@example.org", verified=True).count() == 1
    assert {each.statement.kind for each in user.consents.all()} == {Kind.PRIVACY, Kind.PORTAL}
    kept = SocialAccount.objects.get(user=user)
    assert (kept.provider, kept.uid, kept.extra_data) == (name, "1029384756", {"email": "ann@example.org"})
    assert web.signed_in()
    web.sign_out()
    # The next time there is no form.
    assert go(web.client, name).headers["Location"] == "/subscriptions/"
    assert web.signed_in()


@pytest.mark.parametrize("name", NAMES)
def test_same_confirmed_email(web: Any, played: Played, new_user: NewUser, name: str) -> None:
    """P6, A26: an account with the same confirmed e-mail is signed in and linked; its owner is mailed."""
    user = new_user("ann@example.org")
    played.persona.email = "Ann@Example.org"
    assert go(web.client, name).headers["Location"] == "/subscriptions/", played.seen
    assert web.signed_in()
    assert SocialAccount.objects.get().user == user
    assert user.check_password(GOOD)
    assert mail.outbox[-1].to == ["ann@example.org"]


@pytest.mark.parametrize("name", NAMES)
def test_unconfirmed_account_is_not_taken_over(web: Any, played: Played, new_user: NewUser, name: str) -> None:
    """P6: nor given away: who registered with a stranger's e-mail gets nothing of the stranger's (pre-hijacking)."""
    user = new_user("ann@example.org", verified=False)
    assert "nobody confirmed" in said(web.client, go(web.client, name))
    assert not web.signed_in()
    assert not SocialAccount.objects.exists()
    user.refresh_from_db()
    assert user.check_password(GOOD)
    assert User.objects.count() == 1


def test_without_a_password(web: Any, played: Played, new_user: NewUser) -> None:
    """P6: sensitive actions ask for one, so it is set first."""
    user = new_user("ann@example.org")
    user.set_unusable_password()
    user.save()
    assert "no password yet" in said(web.client, go(web.client, "google"))
    assert not web.signed_in() and not SocialAccount.objects.exists()


@pytest.mark.parametrize("name", ["apple", "google"])
def test_unconfirmed_at_the_provider(web: Any, played: Played, new_user: NewUser, name: str) -> None:
    """P6: an e-mail that anybody may type there opens nothing here."""
    new_user("ann@example.org")
    played.persona.verified = False
    assert "no confirmed e-mail" in said(web.client, go(web.client, name))
    assert not web.signed_in()
    assert not SocialAccount.objects.exists()


@pytest.mark.parametrize("name", NAMES)
def test_without_email(web: Any, played: Played, name: str) -> None:
    """P6: no e-mail, no account."""
    played.persona.email = None
    assert "no confirmed e-mail" in said(web.client, go(web.client, name))
    assert not User.objects.exists()


def test_apple_form_is_not_believed(web: Any, played: Played, new_user: NewUser) -> None:
    """P6: what the browser posts besides the code could be anybody's words."""
    new_user("ann@example.org")
    played.persona = Persona(uid="attacker", email=None)
    forged = '{"email": "ann@example.org", "email_verified": true, "sub": "x"}'
    answer = go(web.client, "apple", tamper={"user": forged, "id_token": "x"})
    assert "no confirmed e-mail" in said(web.client, answer)
    assert not web.signed_in()
    assert not SocialAccount.objects.exists()


@pytest.mark.parametrize("left_out", ["privacy", "portal_statement", "country", "password1", "password2"])
def test_rules_of_signing_up_hold(web: Any, played: Played, left_out: str) -> None:
    """P2, P6: no account without the privacy box, the statement, a country and a password."""
    go(web.client, "google")
    form = {key: value for key, value in FORM.items() if key != left_out}
    answer = web.client.post("/accounts/3rdparty/signup/", form)
    assert left_out in answer.context["form"].errors
    assert not User.objects.exists()
    assert not web.signed_in()


@pytest.mark.parametrize(
    "password, code",
    [
        ("short7A", "password_too_short"),
        ("Password1", "password_too_common"),
        ("Ann@example.org1", "password_too_similar"),
    ],
)
def test_passwords_are_judged(web: Any, played: Played, password: str, code: str) -> None:
    """A12, P6."""
    go(web.client, "google")
    answer = web.client.post("/accounts/3rdparty/signup/", FORM | {"password1": password, "password2": password})
    assert code in {each.code for each in answer.context["form"].errors.as_data()["password1"]}
    assert not User.objects.exists()


def test_email_is_the_providers(web: Any, played: Played) -> None:
    """P6: whatever the form sends."""
    go(web.client, "google")
    web.client.post("/accounts/3rdparty/signup/", FORM | {"email": "victim@example.org"})
    assert [user.email for user in User.objects.all()] == ["ann@example.org"]
    assert not EmailAddress.objects.filter(email="victim@example.org").exists()


def test_second_step_is_held(web: Any, played: Played, new_user: NewUser, monkeypatch: pytest.MonkeyPatch) -> None:
    """P5, P6: a provider is the first step only."""
    sent: list[str] = []

    class Recorder:
        def send(self, number: str, text: str) -> None:
            sent.append(text)

    monkeypatch.setattr(gateways, "gateway", Recorder)
    Phone.objects.create(user=new_user("ann@example.org"), number="+4915123456789")
    assert go(web.client, "google").headers["Location"] == "/accounts/login/code/confirm/"
    assert not web.signed_in()
    code = re.search(r"\b[0-9]{6}\b", sent[-1])
    assert code is not None
    web.client.post("/accounts/login/code/confirm/", {"code": code[0]})
    assert web.signed_in()


def test_statement_is_held(web: Any, played: Played, new_user: NewUser) -> None:
    """A6, P6: and a new statement."""
    from portal.consents.models import Statement

    new_user("ann@example.org")
    Statement.objects.create(kind=Kind.PORTAL, version=2, language="en", text="Changed.")
    assert go(web.client, "google").headers["Location"] == "/accounts/statement/"
    assert not web.signed_in()


@pytest.mark.parametrize("name", NAMES)
def test_cancelled(web: Any, played: Played, name: str) -> None:
    played.persona.cancels = True
    """P6: said, and nothing is changed; Apple has a word of its own for it."""
    assert "Nothing was changed" in said(web.client, go(web.client, name))
    assert not User.objects.exists()


BROKEN = [(500, "{}"), (200, "not json"), (200, "[]"), (200, "{}"), (200, '{"access_token": "x"}'), (200, "null"),
          (200, '{"access_token": "x", "id_token": 5}'),
          (200, '{"access_token": "x", "id_token": "a.b.c"}')]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("broken", BROKEN)
def test_nonsense_from_the_provider(web: Any, played: Played, name: str, broken: tuple[int, str]) -> None:
    """Bad input: an error page, nothing half-done."""
    for path in ("token", "graph/me", "info", "user_info", "keys"):
        played.broken[f"/{name}/{path}"] = broken
    answer = go(web.client, name)
    assert answer.status_code == 401
    assert not User.objects.exists() and not SocialAccount.objects.exists()
    assert not web.signed_in()


@pytest.mark.parametrize("name", ["facebook", "vk", "yandex"])
@pytest.mark.parametrize(
    "body", ["{}", "[]", "null", '{"user": {}}', '{"user": []}', '{"id": null}', '{"id": {"a": 1}}']
)
def test_nonsense_about_the_person(web: Any, played: Played, name: str, body: str) -> None:
    for path in ("graph/me", "info", "user_info"):
        played.broken[f"/{name}/{path}"] = (200, body)
    answer = go(web.client, name)
    assert answer.status_code in (401, 302)
    assert not User.objects.exists() and not web.signed_in()


def test_answers_are_tied_to_the_browser(web: Any, played: Played, new_user: NewUser) -> None:
    """P6: another browser's answer, a wrong state and a second use are refused."""
    new_user("ann@example.org")
    start = web.client.post("/accounts/google/login/?process=login")
    back, _form = at_provider(start.headers["Location"])
    query = parse_qs(urlsplit(back).query)
    path = "/accounts/google/login/callback/"
    stranger = Client()
    assert stranger.get(path, {"code": query["code"][0], "state": query["state"][0]}).status_code == 401
    assert web.client.get(path, {"code": query["code"][0], "state": "x"}).status_code == 401
    assert web.client.get(path, {"code": query["code"][0], "state": query["state"][0]}).status_code == 302
    assert web.signed_in()
    web.sign_out()
    assert web.client.get(path, {"code": query["code"][0], "state": query["state"][0]}).status_code == 401


def test_start_needs_our_own_form(played: Played) -> None:
    """P6: no other site starts a sign-in here; nor does a link add scopes or another address."""
    strict = Client(enforce_csrf_checks=True)
    assert strict.post("/accounts/google/login/").status_code == 403
    assert strict.get("/accounts/google/login/").status_code == 200
    client = Client()
    more = "?auth_params=redirect_uri%3Dhttps%3A%2F%2Fevil.example&scope=https://www.googleapis.com/auth/drive"
    sent = parse_qs(urlsplit(client.post(f"/accounts/google/login/{more}").headers["Location"]).query)
    assert sent["redirect_uri"] == ["http://testserver/accounts/google/login/callback/"]
    assert set(sent["scope"][0].split()) == {"openid", "email"}
    assert client.put("/accounts/google/login/").status_code == 405


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example/", "javascript:alert(1)"])
def test_open_redirects(web: Any, played: Played, new_user: NewUser, target: str) -> None:
    new_user("ann@example.org")
    start = web.client.post(f"/accounts/google/login/?process=login&next={target}")
    url = urlsplit(at_provider(start.headers["Location"])[0])
    assert web.client.get(f"{url.path}?{url.query}").headers["Location"] == "/subscriptions/"
