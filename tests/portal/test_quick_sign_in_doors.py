"""P6, A26, A27: where quick sign-in is offered, connecting from the settings, applications, credentials."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from allauth.socialaccount.models import SocialAccount
from django.conf import settings

from portal import config
from portal.accounts.models import User
from tests.portal.providers import NAMES, Persona, Played
from tests.portal.quick import go, said

NewUser = Callable[..., User]
GOOD = "Blue7kettle"
FORM = {"country": "FR", "privacy": "on", "portal_statement": "1", "password1": GOOD, "password2": GOOD}


# Where it is offered


@pytest.mark.parametrize(
    "language, offered",
    [
        ("fr-FR", {"Apple", "Facebook", "Google", "VK", "Yandex"}),
        ("en", {"Apple", "Facebook", "Google", "VK", "Yandex"}),
        ("ru-RU", {"VK", "Yandex"}),
        ("be-BY", {"Apple", "Google", "VK", "Yandex"}),
    ],
)
@pytest.mark.parametrize("page", ["/accounts/login/", "/accounts/signup/"])
def test_offered_by_country(web: Any, played: Played, page: str, language: str, offered: set[str]) -> None:
    """A27: Russia has no foreign providers, Belarus no Facebook."""
    found = web.client.get(page, headers={"Accept-Language": language}).content.decode()
    doors = re.findall(r'"/accounts/(apple|facebook|google|vk|yandex)/login/', found)
    assert set(doors) == {name.lower() for name in offered}


@pytest.mark.parametrize("name", ["apple", "facebook", "google"])
def test_not_offered_is_not_there(web: Any, played: Played, name: str) -> None:
    """A27: by its address neither: 404."""
    russian = {"Accept-Language": "ru-RU"}
    for path in (f"/accounts/{name}/login/", f"/accounts/{name}/login/callback/?code=x&state=x"):
        assert web.client.get(path, headers=russian).status_code in (404, 405)
    assert web.client.post(f"/accounts/{name}/login/", headers=russian).status_code == 404
    assert web.client.post("/accounts/yandex/login/", headers=russian).status_code == 302


def test_country_of_the_account_counts(web: Any, played: Played, new_user: NewUser) -> None:
    """A27: not the browser's, once the account is known."""
    new_user("ann@example.org", country="RU")
    assert "not offered in the country" in said(web.client, go(web.client, "google", **{"Accept-Language": "en-FR"}))
    assert not web.signed_in()
    assert go(web.client, "yandex", **{"Accept-Language": "fr-FR"}).headers["Location"] == "/subscriptions/"


def test_country_in_the_form_counts(web: Any, played: Played) -> None:
    """A27: nor can a Russian account be made by way of Google."""
    go(web.client, "google")
    answer = web.client.post("/accounts/3rdparty/signup/", FORM | {"country": "RU"})
    assert [each.code for each in answer.context["form"].errors.as_data()["country"]] == ["provider_not_offered"]
    assert not User.objects.exists()


def test_rules_are_the_hosts(web: Any, played: Played, settings_of: Any) -> None:
    """A27: a table in the settings."""
    with settings_of(settings, "SOCIAL_NOT_IN", {"FR": ["vk"]}):
        for language, status in (("fr-FR", 404), ("ru-RU", 302)):
            answer = web.client.post("/accounts/vk/login/", headers={"Accept-Language": language})
            assert answer.status_code == status


@pytest.mark.parametrize("name", NAMES)
def test_not_configured(web: Any, name: str) -> None:
    """P6: without the host's credentials there is no button and no address."""
    assert "Continue with" not in web.client.get("/accounts/login/").content.decode()
    assert web.client.post(f"/accounts/{name}/login/").status_code == 404
    assert web.client.get(f"/accounts/{name}/login/").status_code == 404


def test_content_security_policy(web: Any, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: pages with buttons, and only these, allow forms that lead on to the configured providers."""
    monkeypatch.setattr(settings, "SOCIALACCOUNT_PROVIDERS", {"google": settings.SOCIALACCOUNT_PROVIDERS["google"]})

    def allowed(path: str) -> str:
        found = re.search(r"form-action ([^;]+)", web.client.get(path).headers["Content-Security-Policy"])
        assert found is not None
        return found[1]

    assert allowed("/accounts/login/") == "'self' https://accounts.google.com"
    assert allowed("/accounts/google/login/") == "'self' https://accounts.google.com"
    assert allowed("/statements/privacy/") == "'self'"
    monkeypatch.setattr(settings, "SOCIALACCOUNT_PROVIDERS", {})
    assert allowed("/accounts/login/") == "'self'"


# Connecting from the settings


def test_connect_and_disconnect(web: Any, played: Played, new_user: NewUser) -> None:
    """A26: from the account's page; needs the password; only the same confirmed e-mail."""
    user = new_user("ann@example.org")
    web.sign_in(user.email)
    assert go(web.client, "google", "connect").headers["Location"].startswith("/accounts/reauthenticate/")
    assert not SocialAccount.objects.exists()
    web.confirm_password()
    # Goes on where it stopped.
    SocialAccount.objects.get(user=user).delete()
    played.persona = Persona(uid="7", email="other@example.org")
    assert "same confirmed e-mail" in said(web.client, go(web.client, "google", "connect"))
    assert not SocialAccount.objects.exists()
    played.persona = Persona()
    go(web.client, "google", "connect")
    kept = SocialAccount.objects.get(user=user)
    page = web.client.get("/accounts/3rdparty/").content.decode()
    assert "Disconnect Google" in page
    web.client.post("/accounts/3rdparty/", {"account": kept.pk})
    assert not SocialAccount.objects.exists()


def test_stranger_disconnects_nothing(web: Any, played: Played, new_user: NewUser) -> None:
    """P6: only one's own."""
    kept = SocialAccount.objects.create(user=new_user("ann@example.org"), provider="google", uid="1")
    web.sign_in(new_user("bob@example.org").email)
    web.confirm_password()
    web.client.post("/accounts/3rdparty/", {"account": kept.pk})
    assert SocialAccount.objects.filter(pk=kept.pk).exists()


def test_connected_before_the_rule(door: Any, played: Played, new_user: NewUser) -> None:
    """A27: a link from before is shown and can be removed, but signs nobody in."""
    user = new_user("ann@example.org", country="RU")
    SocialAccount.objects.create(user=user, provider="google", uid="1029384756", extra_data={"email": user.email})
    door.sign_in(user.email)
    door.confirm_password()
    if door.name == "web":
        page = door.client.get("/accounts/3rdparty/").content.decode()
        assert "Disconnect Google" in page and "Connect Google" not in page and "Connect Yandex" in page
        door.client.post("/accounts/3rdparty/", {"account": SocialAccount.objects.get().pk})
    else:
        path = "/_allauth/app/v1/account/providers"
        assert door.call("get", path).json()["data"][0]["provider"]["id"] == "google"
        door.call("delete", path, {"provider": "google", "account": "1029384756"})
    assert not SocialAccount.objects.exists()


# Applications: by a token of the provider's own library


def token(app: Any, provider: str, **given: Any) -> Any:
    body = {"provider": provider, "process": "login", "token": {"client_id": f"{provider}-client"} | given}
    return app.call("post", "/_allauth/app/v1/auth/provider/token", body)


def test_application_signs_up(app: Any, played: Played) -> None:
    """P6, P7: the same rules by the interface."""
    answer = token(app, "apple", id_token=played.id_token("apple", Persona()))
    assert answer.status_code == 401
    assert app.pending() == ["provider_signup"]
    path = "/_allauth/app/v1/auth/provider/signup"
    refused = app.call("post", path, {"country": "FR", "portal_statement": "1", "password": GOOD})
    assert (refused.status_code, refused.json()["errors"][0]["param"]) == (400, "privacy")
    refused = app.call("post", path, {"country": "FR", "portal_statement": "1", "privacy": True})
    assert (refused.status_code, refused.json()["errors"][0]["param"]) == (400, "password")
    assert not User.objects.exists()
    body = {"country": "FR", "portal_statement": "1", "privacy": True, "password": GOOD, "email": "x@example.org"}
    assert app.call("post", path, body).status_code == 200
    assert [user.email for user in User.objects.all()] == ["ann@example.org"]
    assert app.signed_in()


def test_application_signs_in(app: Any, played: Played, new_user: NewUser) -> None:
    new_user("ann@example.org")
    assert token(app, "apple", id_token=played.id_token("apple", Persona())).status_code == 200
    assert app.signed_in()


@pytest.mark.parametrize("persona, verified, code", [
    (Persona(verified=False), True, "no_verified_email"), (Persona(), False, "email_unconfirmed"),
])  # fmt: skip
def test_application_is_refused(
    app: Any, played: Played, new_user: NewUser, persona: Persona, verified: bool, code: str
) -> None:
    """P6: with codes."""
    new_user("ann@example.org", verified=verified)
    answer = token(app, "apple", id_token=played.id_token("apple", persona))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, code)
    assert not app.signed_in()


def forged(played: Played) -> list[str]:
    persona, key = Persona(), played.apple_key
    good = played.id_token("apple", persona)
    claims = jwt.decode(good, options={"verify_signature": False})
    public = played.keys()["keys"][0]["n"]
    return [
        good[:-6] + "AAAAAA",
        good + ".x",
        jwt.encode(claims, "", "none", {"kid": "played"}),
        jwt.encode(claims, public, "HS256", {"kid": "played"}),
        jwt.encode(claims, key, "RS256"),
        jwt.encode(claims, key, "RS256", {"kid": "another"}),
        jwt.encode(claims | {"aud": "somebody-else"}, key, "RS256", {"kid": "played"}),
        jwt.encode(claims | {"iss": "https://evil.example"}, key, "RS256", {"kid": "played"}),
        jwt.encode(claims | {"exp": 1}, key, "RS256", {"kid": "played"}),
        "", "x", "é", "a" * 20_000, "..", "\x00",
    ]  # fmt: skip


@pytest.mark.parametrize("number", range(15))
def test_forged_tokens(app: Any, played: Played, new_user: NewUser, number: int) -> None:
    """Bad input: a signature, key, audience, issuer or time that is not right: 400, never a crash."""
    new_user("ann@example.org")
    answer = token(app, "apple", id_token=forged(played)[number])
    assert answer.status_code == 400, answer.content
    assert {each["code"] for each in answer.json()["errors"]} & {"invalid_token", "token_required", "malformed"}
    assert not app.signed_in()


def test_application_by_country(app: Any, played: Played) -> None:
    """A27: by the interface too."""
    app.headers["Accept-Language"] = "ru-RU"
    answer = token(app, "apple", id_token=played.id_token("apple", Persona()))
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (400, "unknown_provider")
    assert not User.objects.exists()


# Credentials


@pytest.mark.parametrize(
    "given, expected",
    [
        ({"google": {"client_id": "x"}}, "secret or secret_file is missing"),
        ({"google": {"secret": "x"}}, "client_id"),
        ({"gogle": {"client_id": "x", "secret": "y"}}, "social"),
        ({"google": {"client_id": "x", "secret": "top-secret", "scope": "all"}}, "Extra inputs"),
    ],
)
def test_wrong_settings(given: Any, expected: str) -> None:
    """P6: named, without the secret."""
    from pydantic import ValidationError

    with pytest.raises(ValidationError) as caught:
        config.Config.model_validate({"debug": True, "social": given})
    assert expected in str(caught.value) and "top-secret" not in str(caught.value)


def test_secrets_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P6: a file of the host's, in TOML or by the environment."""
    (tmp_path / "google").write_text("hidden\n")
    (tmp_path / "portal.toml").write_text(
        f'debug = true\n[social.google]\nclient_id = "a"\nsecret_file = "{tmp_path}/google"\n'
    )
    monkeypatch.setenv("PORTAL_CONFIG", str(tmp_path / "portal.toml"))
    found = config.providers(config.load())
    assert found["google"]["APPS"] == [{"client_id": "a", "secret": "hidden"}]
    monkeypatch.setenv("PORTAL_SOCIAL", '{"vk": {"client_id": "b", "secret": "c"}}')
    assert set(config.providers(config.load())) == {"vk"}
