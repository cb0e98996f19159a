"""One test per rule of accounts, at both doors. The rule's id heads each test's text (P1-P4, P14; A1-A27)."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from typing import Any

import pytest
from django.core import mail
from django.core.cache import cache
from django.core.management import call_command
from django.utils import timezone

from portal.accounts import countries
from portal.accounts.models import User

GOOD = "Blue7kettle"


def link(text: str) -> str:
    """The path of the first link of a mail."""
    found = re.search(r"https?://[^/]+(/\S+)", text)
    assert found is not None, text
    return found[1]


def test_account_is_made(door: Any) -> None:
    """P1, A19: e-mail, password and the boxes make an account that is signed in at once."""
    answer = door.sign_up("ann@example.org")
    assert answer.codes == {}
    assert door.signed_in()
    user = User.objects.get()
    assert (user.email, user.country) == ("ann@example.org", "FR")
    assert user.check_password(GOOD)
    assert user.password.startswith("argon2$argon2id$v=19$m=19456,t=2,p=1$")


@pytest.mark.parametrize(
    "password, code",
    [
        ("Ab1xyzw", "password_too_short"),
        ("Bluekettle", "password_no_digit"),
        ("BLUE7KETTLE", "password_no_lower"),
        ("blue7kettle", "password_no_upper"),
        ("Blue7 kettle", "password_space"),
        ("Blue7\tkettle", "password_space"),
        ("Blue7\u00a0kettle", "password_space"),
        ("Чайник7blue", "password_no_upper"),  # Cyrillic capitals are no Latin letters
        ("чайник7BLUE", "password_no_lower"),
        ("Bluekettle٣", "password_no_digit"),  # nor is an Arabic-Indic digit one of 0-9
        ("Password1", "password_too_common"),
        ("Penelope.7", "password_too_similar"),
    ],
)
def test_password_rules(door: Any, password: str, code: str) -> None:
    """A12, A13: such a password is refused, with the same code at both doors, and no account is made."""
    answer = door.sign_up("penelope.7@example.org", password)
    assert code in answer.codes["password"]
    assert not User.objects.exists()
    assert not door.signed_in()


def test_passwords_must_agree(web: Any) -> None:
    """A11: the confirmation. Only the page has it; an application compares itself."""
    assert web.sign_up("ann@example.org", password2="Blue7kettlf").codes["password2"]
    assert not User.objects.exists()


@pytest.mark.parametrize(
    "email", ["", "ann", "ann@", "@example.org", "ann@example", "a b@example.org", "ann\0@example.org"]
)
def test_email_must_be_valid(door: Any, email: str) -> None:
    """A24."""
    codes = door.sign_up(email).codes
    # A null byte is refused before anybody asks which field it is in, at one of the doors.
    assert codes.get("email", set()) & {"invalid", "required", "null_characters_not_allowed"} or (
        "\0" in email and codes == {"__all__": {"malformed"}}
    )
    assert not User.objects.exists()


@pytest.mark.parametrize("email", ["ann@exаmple.org", "аnn@example.org", "ann@exam\u200bple.org"])
def test_look_alike_letters_are_refused(door: Any, email: str) -> None:
    """A24: the Cyrillic а, and an invisible character."""
    assert door.sign_up(email).codes["email"] == {"invalid"}
    assert not User.objects.exists()


def test_used_email_is_refused(door: Any, new_user: Callable[..., User]) -> None:
    """A10: whatever its case."""
    new_user("ann@example.org")
    assert door.sign_up("Ann@Example.ORG").codes["email"] == {"email_taken"}
    assert User.objects.count() == 1


def test_privacy_box_is_needed(door: Any) -> None:
    """P2, A15, A16: the server refuses without it, whatever a page's button does."""
    assert door.sign_up("ann@example.org", privacy=False).codes == {"privacy": {"required"}}
    assert not User.objects.exists()


def test_create_waits_for_the_box(web: Any) -> None:
    """A15, A16: the page links the policy in a window of its own, and its script disables Create."""
    page = web.client.get("/accounts/signup/").content.decode()
    assert re.search(r'<a href="/legal/privacy/" target="_blank" rel="noopener">', page)
    assert '<script src="/static/portal/signup.js" defer>' in page
    assert web.client.get("/legal/privacy/").status_code == 200


@pytest.mark.parametrize(
    "header, country", [("fr-CA,fr;q=0.9", "CA"), ("en,de-AT;q=0.8", "AT"), ("fr", "FR"), ("es-419", "")]
)
def test_country_is_preset(web: Any, header: str, country: str) -> None:
    """P1, A14: from the browser's languages."""
    page = web.client.get("/accounts/signup/", headers={"Accept-Language": header})
    assert page.context["form"]["country"].value() == country
    assert (
        "selected" in re.sub(r"(?s).*<select name=.country.*?>(.*?)</select>.*", r"\1", page.content.decode())
    ) or not country


@pytest.mark.parametrize(
    "locale, country",
    [("fr_CA.UTF-8", "CA"), ("zh-Hant-TW", "TW"), ("de", "DE"), ("ja", "JP"), ("es-419", ""), ("ar", ""), ("en", ""),
     ("xx", ""), ("en-ZZ", ""), ("", ""), ("-", ""), ("en-GB@euro", "GB")],
)  # fmt: skip
def test_country_of_a_locale(locale: str, country: str) -> None:
    """A14."""
    assert countries.of_locale(locale) == country


def test_country_from_the_applications_locale(app: Any) -> None:
    """P1, A14: an application sends its locale; without any country there is no account."""
    assert app.sign_up("ann@example.org", country=None, locale="pt_BR").codes == {}
    assert User.objects.get().country == "BR"
    app.sign_out()
    assert app.sign_up("bob@example.org", country=None).codes == {"country": {"required"}}
    assert app.sign_up("bob@example.org", country="Atlantis").codes == {"country": {"invalid_choice"}}


def test_country_is_changed_by_support_only(web: Any, new_user: Callable[..., User]) -> None:
    """P1, A14."""
    user = new_user(country="FR")
    web.sign_in(user.email)
    web.client.post("/account/", {"language": "en", "country": "US"})
    user.refresh_from_db()
    assert (user.country, user.language) == ("FR", "en")
    staff = User.objects.create_superuser("staff@example.org", GOOD, country="DE")
    web.client.force_login(staff)
    form = web.client.get(f"/staff/accounts/user/{user.pk}/change/").context["adminform"].form
    data = {name: form[name].value() for name in form.fields if form[name].value() not in (None, False)} | {
        "country": "US"
    }
    response = web.client.post(f"/staff/accounts/user/{user.pk}/change/", data)
    assert response.status_code == 302, response.context["adminform"].form.errors
    user.refresh_from_db()
    assert user.country == "US"


@pytest.mark.parametrize("ticked", [False, True])
def test_marketing_is_apart(door: Any, ticked: bool) -> None:
    """P2, A17: its own box, off unless ticked; nothing else depends on it."""
    fields = {"marketing": "on" if door.name == "web" else True} if ticked else {}
    assert door.sign_up("ann@example.org", **fields).codes == {}
    kinds = set(User.objects.get().consents.values_list("statement__kind", flat=True))
    assert kinds == {"privacy", "portal"} | ({"marketing"} if ticked else set())


def test_activation_link(door: Any, web: Any) -> None:
    """P4, A19: the mail's link shows a button, and only the button confirms: scanners of mails follow links."""
    from allauth.account.models import EmailAddress

    door.sign_up("ann@example.org")
    assert [each.to for each in mail.outbox] == [["ann@example.org"]]
    path = link(mail.outbox[0].body)
    assert web.client.get(path).status_code == 200
    assert not EmailAddress.objects.get().verified
    web.client.post(path)
    assert EmailAddress.objects.get().verified


def test_unconfirmed_accounts_expire(new_user: Callable[..., User]) -> None:
    """P4: after seven days. Confirmed ones, younger ones and staff stay."""
    old = timezone.now() - timedelta(days=7, minutes=1)
    young = timezone.now() - timedelta(days=6, hours=23)
    new_user("old@example.org", verified=False, date_joined=old)
    new_user("young@example.org", verified=False, date_joined=young)
    new_user("confirmed@example.org", verified=True, date_joined=old)
    new_user("staff@example.org", verified=False, date_joined=old, is_staff=True)
    out = StringIO()
    call_command("expire_accounts", stdout=out)
    assert set(User.objects.values_list("email", flat=True)) == {
        "young@example.org", "confirmed@example.org", "staff@example.org"
    }  # fmt: skip
    assert "removed 1 unconfirmed accounts" in out.getvalue()


def test_expired_link(web: Any, settings_of: Callable[..., Any]) -> None:
    """P4: a link of last week confirms nothing, and says so."""
    from allauth.account.models import EmailAddress, EmailConfirmationHMAC
    from django.core import signing

    web.sign_up("ann@example.org")
    address = EmailAddress.objects.get()
    week_ago = timezone.now() - timedelta(days=7, minutes=1)
    with settings_of(signing.time, "time", week_ago.timestamp):
        key = EmailConfirmationHMAC(address).key
    assert web.client.post(f"/accounts/confirm-email/{key}/").status_code == 404
    assert not EmailAddress.objects.get().verified
    fresh = EmailConfirmationHMAC(address).key
    web.client.post(f"/accounts/confirm-email/{fresh}/")
    assert EmailAddress.objects.get().verified


def test_account_of_a_purchase(web: Any) -> None:
    """P4, A22: a link to set a password; the statements are asked for at the first sign-in."""
    arguments = ("checkout_account", "Buyer@example.org", "--country", "it", "--origin", "https://portal.example")
    call_command(*arguments, stdout=StringIO())
    user = User.objects.get()
    assert (user.email, user.country, user.has_usable_password()) == ("buyer@example.org", "IT", False)
    assert [each.to for each in mail.outbox] == [["buyer@example.org"]]
    assert "https://portal.example/accounts/password/reset/key/" in mail.outbox[0].body
    form = web.client.get(link(mail.outbox[0].body), follow=True)
    address = form.redirect_chain[-1][0]
    web.client.post(address, {"password1": GOOD, "password2": GOOD})
    assert web.sign_in("buyer@example.org").raw.headers["Location"] == "/accounts/statement/"
    call_command(*arguments, stdout=StringIO())
    assert User.objects.count() == 1


def test_sign_in(door: Any, new_user: Callable[..., User]) -> None:
    """A25: the e-mail in any case; a wrong password and an unknown e-mail are the same answer."""
    new_user("ann@example.org")
    wrong = door.sign_in("ann@example.org", "Red7kettle")
    unknown = door.sign_in("nobody@example.org", "Red7kettle")
    assert wrong.codes == unknown.codes
    assert wrong.every() == {"email_password_mismatch"}
    assert not door.signed_in()
    assert door.sign_in("ANN@example.org").codes == {}
    assert door.signed_in()


def test_password_reset(web: Any, new_user: Callable[..., User]) -> None:
    """P4: by a link that works once; every session ends; who has no account is not told apart."""
    new_user("ann@example.org")
    other = type(web)(type(web.client)())
    other.sign_in("ann@example.org")
    known = web.client.post("/accounts/password/reset/", {"email": "ann@example.org"})
    unknown = web.client.post("/accounts/password/reset/", {"email": "nobody@example.org"})
    assert (known.status_code, known.headers["Location"]) == (unknown.status_code, unknown.headers["Location"])
    assert [each.to for each in mail.outbox] == [["ann@example.org"]]
    path = link(mail.outbox[0].body)
    address = web.client.get(path, follow=True).redirect_chain[-1][0]
    web.client.post(address, {"password1": "Green8spoon", "password2": "Green8spoon"})
    assert User.objects.get().check_password("Green8spoon")
    assert not other.signed_in()
    again = type(web)(type(web.client)())
    assert "redirect_chain" in vars(again.client.get(path, follow=True))
    again.client.post(path, {"password1": "Third9plate", "password2": "Third9plate"}, follow=True)
    assert User.objects.get().check_password("Green8spoon")


def test_no_reuse_of_the_last_five(web: Any, new_user: Callable[..., User]) -> None:
    """P4: five back is refused, six back is free again."""
    user = new_user("ann@example.org", "Pass0word.a")
    names = [f"Pass{number}word.b" for number in range(1, 6)]
    current = "Pass0word.a"

    def change(to: str) -> set[str]:
        cache.clear()  # how often a password may be changed is another rule
        web.client.post("/accounts/login/", {"login": user.email, "password": current})
        response = web.client.post(
            "/accounts/password/change/", {"oldpassword": current, "password1": to, "password2": to}
        )
        if response.status_code == 302:
            return set()
        return {each.code for each in response.context["form"].errors.as_data()["password1"]}

    for name in names[:4]:
        assert change(name) == set()
        current = name
    assert change("Pass0word.a") == {"password_reused"}
    assert change(current) == {"password_reused"}
    assert change(names[4]) == set()
    current = names[4]
    assert change("Pass0word.a") == set()
    assert user.former_passwords.count() == 5
