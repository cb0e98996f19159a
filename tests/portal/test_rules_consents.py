"""Consents (P2, P14; A5, A6, A15-A18): asked, dated, versioned, withdrawn, asked again."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from portal.accounts.models import User
from portal.consents import ledger
from portal.consents.models import Consent, Kind, Statement


def publish(kind: Kind, version: int = 2, language: str = "en", text: str = "Changed.") -> Statement:
    return Statement.objects.create(kind=kind, version=version, language=language, text=text)


def test_no_account_without_the_statement(door: Any) -> None:
    """A6, A18: Decline posts nothing, and the server refuses a form without the acceptance."""
    assert door.sign_up("ann@example.org", portal_statement=None).codes == {"portal_statement": {"required"}}
    assert not User.objects.exists()
    assert not door.signed_in()


@pytest.mark.parametrize("version", ["0", "2", "1.0", "yes", "١"])
def test_only_the_newest_version_counts(door: Any, version: str) -> None:
    """A18: what was accepted is what is in force."""
    assert door.sign_up("ann@example.org", portal_statement=version).codes == {
        "portal_statement": {"statement_changed"}
    }
    assert not User.objects.exists()


def test_what_is_recorded(door: Any) -> None:
    """P2: version, hash of the text, language, time and address."""
    door.sign_up("ann@example.org")
    kept = {each.statement.kind: each for each in Consent.objects.select_related("statement")}
    assert set(kept) == {"privacy", "portal"}
    for consent in kept.values():
        text = consent.statement.text
        assert consent.statement.sha256 == hashlib.sha256(text.encode()).hexdigest()
        assert (consent.statement.version, consent.statement.language) == (1, "en")
        assert consent.address == "127.0.0.1"
        assert consent.given_at is not None
        assert consent.withdrawn_at is None


def test_published_texts_never_change() -> None:
    """P2."""
    text = Statement.objects.get(kind=Kind.PORTAL, language="en")
    text.text += "!"
    with pytest.raises(ValidationError) as caught:
        text.save()
    assert caught.value.code == "published"


def test_text_in_the_language_of_the_page(web: Any) -> None:
    """P2: the reader's language, otherwise English."""
    publish(Kind.PORTAL, 2, "en", "English text")
    publish(Kind.PORTAL, 2, "fr", "Texte français")
    from django.utils import translation

    with translation.override("fr-CA"):
        assert ledger.current(Kind.PORTAL).text == "Texte français"
    with translation.override("de"):
        assert ledger.current(Kind.PORTAL).text == "English text"


def test_new_version_is_asked_on_the_page(web: Any, new_user: Callable[..., User]) -> None:
    """A5, A6: Decline signs nobody in and stores nothing; Accept goes on."""
    user = new_user()
    publish(Kind.PORTAL)
    assert web.sign_in(user.email).raw.headers["Location"] == "/accounts/statement/"
    assert not web.signed_in()
    page = web.client.get("/accounts/statement/").content.decode()
    assert "Changed." in page
    web.client.post("/accounts/statement/", {"portal": "2", "decline": "1"})
    assert not web.signed_in()
    assert not ledger.holds(user, Kind.PORTAL)
    assert user.consents.count() == 2
    # Declined is over: Accept needs the password again.
    web.client.post("/accounts/statement/", {"portal": "2"})
    assert not web.signed_in()
    web.sign_in(user.email)
    web.client.post("/accounts/statement/", {"portal": "2"})
    assert web.signed_in()
    assert ledger.holds(user, Kind.PORTAL)


def test_new_version_is_asked_in_the_application(app: Any, new_user: Callable[..., User]) -> None:
    """A5, A6: the same by the headless interface, which shows the step as pending."""
    user = new_user()
    publish(Kind.PORTAL)
    assert app.sign_in(user.email).status == 401
    assert app.pending() == ["portal_statement"]
    shown = app.call("get", "/api/v1/auth/statements").json()["data"]
    assert [(each["kind"], each["version"], each["text"]) for each in shown] == [("portal", 2, "Changed.")]
    assert app.call("delete", "/api/v1/auth/statements").status_code == 401
    assert app.pending() == []
    assert not app.signed_in()
    assert user.consents.count() == 2
    app.sign_in(user.email)
    for wrong in ({"accept": {"portal": 1}}, {"accept": []}, {"accept": {"portal": None}}, {}):
        response = app.call("post", "/api/v1/auth/statements", wrong)
        assert (response.status_code, response.json()["errors"][0]["code"]) == (400, "statement_changed")
    assert app.call("post", "/api/v1/auth/statements", {"accept": {"portal": 2}}).status_code == 200
    assert app.signed_in()
    assert ledger.holds(user, Kind.PORTAL)


def test_step_needs_a_password_first(web: Any, app: Any) -> None:
    """A6: nobody reaches the step from outside."""
    assert web.client.get("/accounts/statement/").headers["Location"] == "/accounts/login/"
    assert app.call("post", "/api/v1/auth/statements", {"accept": {"portal": 1}}).status_code == 401


def test_statement_changes_while_it_is_read(web: Any, new_user: Callable[..., User]) -> None:
    """P2: the version that was shown is the one that is accepted."""
    user = new_user()
    publish(Kind.PORTAL, 2)
    web.sign_in(user.email)
    publish(Kind.PORTAL, 3, text="Changed again.")
    page = web.client.post("/accounts/statement/", {"portal": "2"})
    assert "Changed again." in page.content.decode()
    assert not web.signed_in()


@pytest.mark.parametrize("kind", [Kind.PORTAL, Kind.PRIVACY])
def test_withdrawal_signs_out_everywhere(web: Any, app: Any, new_user: Callable[..., User], kind: Kind) -> None:
    """P2, P14: and the next sign-in asks for that one."""
    user = new_user()
    web.sign_in(user.email)
    app.sign_in(user.email)
    web.client.post("/account/consents/withdraw/", {"kind": kind.value})
    assert not web.signed_in()
    assert not app.signed_in()
    assert user.consents.filter(withdrawn_at__isnull=False).count() == 1
    app.token = ""
    app.sign_in(user.email)
    assert [each["kind"] for each in app.call("get", "/api/v1/auth/statements").json()["data"]] == [kind.value]


def test_marketing_on_and_off(web: Any, app: Any, new_user: Callable[..., User]) -> None:
    """P14: each change is kept; nobody is signed out."""
    user = new_user()
    web.sign_in(user.email)
    app.sign_in(user.email)
    web.client.post("/account/consents/marketing/", {"marketing": "on"})
    assert ledger.holds(user, Kind.MARKETING)
    assert app.call("put", "/api/v1/account/marketing", {"on": False}).json() == {"on": False}
    assert not ledger.holds(user, Kind.MARKETING)
    assert app.call("put", "/api/v1/account/marketing", {"on": True}).json() == {"on": True}
    assert app.call("put", "/api/v1/account/marketing", {"on": True}).json() == {"on": True}
    history = [each for each in app.call("get", "/api/v1/account/consents").json() if each["kind"] == "marketing"]
    assert [each["withdrawn_at"] is None for each in history] == [True, False]
    page = web.client.get("/account/consents/").content.decode()
    assert page.count("Marketing statement</th>") == 2


def test_consents_in_the_admin_are_for_looking(web: Any, new_user: Callable[..., User]) -> None:
    """P2: not even staff changes what somebody accepted."""
    new_user()
    web.client.force_login(User.objects.create_superuser("staff@example.org", "Blue7kettle"))
    consent, text = Consent.objects.first(), Statement.objects.first()
    assert consent is not None and text is not None
    for path in (f"consent/{consent.pk}/delete/", f"statement/{text.pk}/delete/", "consent/add/"):
        assert web.client.post(f"/staff/consents/{path}", {"post": "yes"}).status_code == 403
    assert web.client.post(f"/staff/consents/statement/{text.pk}/change/", {"text": "x"}).status_code == 403
    data = {"kind": "portal", "version": "2", "language": "en", "text": "New."}
    assert web.client.post("/staff/consents/statement/add/", data).status_code == 302
    assert ledger.current(Kind.PORTAL).text == "New."
