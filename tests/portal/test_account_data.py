"""P14: deletion by a mailed code, export, sessions; at both doors."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.core import mail
from django.utils import timezone

from portal.accounts.models import DeletionCode, User
from portal.subscriptions import redemption
from portal.subscriptions.models import Plan, Product, Term

GOOD = "Blue7kettle"


@pytest.fixture
def plan() -> Plan:
    vpn = Product.objects.create(slug="vpn", name="VPN", shareable=False)
    return Plan.objects.create(product=vpn, slug="vpn-year", name="One year", days=365, seats=5)


def ask(door: Any) -> Any:
    if door.name == "api":
        return door.call("post", "/api/v1/account/deletion")
    return door.client.post("/account/delete/")


def confirm(door: Any, code: str) -> Any:
    if door.name == "api":
        return door.call("post", "/api/v1/account/deletion/confirm", {"code": code})
    return door.client.post("/account/delete/", {"code": code})


def code_of(response: Any) -> str:
    return str(
        response.json()["code"] if "json" in response.headers["Content-Type"] else response.context["error"].code
    )


def mailed() -> str:
    found = re.search(r"^([2-9A-HJ-NP-Z]{8})$", mail.outbox[-1].body, re.MULTILINE)
    assert found is not None, mail.outbox[-1].body
    return found[1]


def test_deletion(door: Any, new_user: Callable[..., User]) -> None:
    """The code in the mail removes everything and ends every session; a mail confirms it."""
    new_user("bob@example.org")
    user = new_user("ann@example.org")
    door.sign_in(user.email)
    door.confirm_password()
    ask(door)
    assert mail.outbox[-1].to == ["ann@example.org"]
    assert User.objects.count() == 2
    confirm(door, mailed().lower())
    assert list(User.objects.values_list("email", flat=True)) == ["bob@example.org"]
    assert not door.signed_in()
    assert mail.outbox[-1].to == ["ann@example.org"] and "gone" in mail.outbox[-1].body


def test_wrong_codes(door: Any, new_user: Callable[..., User]) -> None:
    """Five tries, half an hour, one account: then a new code is needed."""
    user = new_user()
    other = new_user("bob@example.org")
    door.sign_in(user.email)
    door.confirm_password()
    assert code_of(confirm(door, "ABCDEFGH")) == "code_expired"  # none was asked for
    ask(door)
    right = mailed()
    for _try in range(5):
        assert code_of(confirm(door, "ABCDEFGH" if right != "ABCDEFGH" else "BCDEFGHJ")) == "code_wrong"
    assert code_of(confirm(door, right)) == "code_expired"
    ask(door)
    assert code_of(confirm(door, right)) == "code_wrong"
    right = mailed()
    DeletionCode.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    assert code_of(confirm(door, right)) == "code_expired"
    ask(door)
    of_ann = mailed()
    door.sign_out()
    door.sign_in(other.email)
    door.confirm_password()
    ask(door)
    assert code_of(confirm(door, of_ann)) == "code_wrong"
    assert User.objects.count() == 2


def test_refused_while_a_subscription_is_paid(door: Any, new_user: Callable[..., User], plan: Plan) -> None:
    """Z11: before the mail and after it; free again when the last term has ended."""
    user = new_user()
    door.sign_in(user.email)
    door.confirm_password()
    ask(door)
    code = mailed()
    redemption.redeem(user, redemption.make(plan, 1, "")[0])
    assert code_of(ask(door)) == "has_active_subscription"
    assert code_of(confirm(door, code)) == "has_active_subscription"
    assert User.objects.filter(pk=user.pk).exists()
    past = timezone.now() - timedelta(days=400)
    Term.objects.update(starts_at=past, ends_at=past + timedelta(days=365))
    confirm(door, code)
    assert not User.objects.exists()


def test_deletion_and_export_need_the_password_again(web: Any, app: Any, new_user: Callable[..., User]) -> None:
    """A browser or an application left open is not enough."""
    user = new_user()
    web.sign_in(user.email)
    app.sign_in(user.email)
    for path in ("/account/delete/", "/account/export/"):
        assert web.client.get(path).headers["Location"].startswith("/accounts/reauthenticate/")
    web.client.post("/account/delete/")
    for method, path in (("post", "deletion"), ("post", "deletion/confirm"), ("get", "export")):
        answer = app.call(method, f"/api/v1/account/{path}", {"code": "x"} if method == "post" else None)
        assert (answer.status_code, answer.json()["code"]) == (401, "reauthentication_required")
    assert mail.outbox == []
    web.confirm_password("Red7kettle")
    assert web.client.get("/account/delete/").status_code == 302
    web.confirm_password()
    assert web.client.get("/account/delete/").status_code == 200
    app.confirm_password()
    assert app.call("get", "/api/v1/account/export").status_code == 200


def test_export(door: Any, new_user: Callable[..., User], plan: Plan) -> None:
    """Everything kept, nothing secret."""
    user = new_user()
    code = redemption.make(plan, 1, "")[0]
    redemption.redeem(user, code)
    door.sign_in(user.email)
    door.confirm_password()
    response = door.call("get", "/api/v1/account/export") if door.name == "api" else door.client.get("/account/export/")
    found = json.loads(response.content)
    assert found["account"] | {"created_at": 0, "last_sign_in": 0} == {
        "email": "ann@example.org", "country": "FR", "language": "", "created_at": 0, "last_sign_in": 0
    }  # fmt: skip
    assert found["emails"] == [{"email": "ann@example.org", "verified": True, "primary": True}]
    assert {each["kind"] for each in found["consents"]} == {"privacy", "portal"}
    assert [each["product"] for each in found["subscriptions"]] == ["VPN"]
    text = response.content.decode()
    assert user.password not in text and "argon2" not in text and code not in text


def test_sessions_are_listed_and_ended(web: Any, app: Any, new_user: Callable[..., User]) -> None:
    """From the page, the application's one is ended."""
    user = new_user()
    app.sign_in(user.email)
    web.sign_in(user.email)
    page = web.client.get("/accounts/sessions/")
    assert page.content.decode().count("127.0.0.1") >= 2
    web.client.post("/accounts/sessions/")
    assert not app.signed_in()
    assert web.signed_in()
