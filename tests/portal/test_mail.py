"""What is mailed, read from a real mail server."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from email.message import EmailMessage
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.utils import timezone

from portal.accounts.models import User
from portal.subscriptions import redemption, sharing
from portal.subscriptions.models import Plan, Product, Subscription, Term
from portal.support import mail as support_mail
from portal.support import tickets
from tests.portal.mailbox import ORIGIN, Box, box, replies

__all__ = ["box", "replies"]  # fixtures


@pytest.fixture
def subscription(new_user: Callable[..., User]) -> Subscription:
    product = Product.objects.create(slug="suite", name="Schütz ✓ 日本語", shareable=True)
    plan = Plan.objects.create(product=product, slug="suite-month", name="One month", days=30, seats=2)
    found, _outcome = redemption.redeem(new_user("bob@example.org"), redemption.make(plan, 1, "")[0])
    return found


def text(message: EmailMessage) -> str:
    return str(message.get_content())


def test_activation(box: Box, door: Any) -> None:
    """P4: the link in it confirms the e-mail."""
    door.sign_up("ann@example.org")
    message = box.last()
    assert message["To"] == "ann@example.org"
    link = re.findall(r"http://testserver(/accounts/confirm-email/\S+/)", text(message))[0]
    door.client.post(link)
    assert User.objects.get().emailaddress_set.get().verified


def test_reset(box: Box, web: Any, new_user: Callable[..., User]) -> None:
    """P4: the link in it sets a new password."""
    new_user()
    web.client.post("/accounts/password/reset/", {"email": "ann@example.org"})
    link = re.findall(r"http://testserver(/accounts/password/reset/key/\S+/)", text(box.last()))[0]
    form = web.client.get(link, follow=True).request["PATH_INFO"]
    web.client.post(form, {"password1": "Green7kettle", "password2": "Green7kettle"})
    assert web.sign_in("ann@example.org", "Green7kettle").codes == {}
    web.client.post("/accounts/password/reset/", {"email": "nobody@example.org"})
    assert {each for recipients, _raw in box.mails for each in recipients} == {"ann@example.org"}


def test_deletion_code(box: Box, web: Any, new_user: Callable[..., User]) -> None:
    """P14: the code in it deletes the account; then a last mail."""
    user = new_user()
    web.sign_in(user.email)
    web.confirm_password()
    web.client.post("/account/delete/")
    code = re.findall(r"(?m)^([2-9A-HJ-NP-Z]{8})\r?$", text(box.last()))[0]
    web.client.post("/account/delete/", {"code": code})
    assert not User.objects.exists()
    assert "ann@example.org" in text(box.last())


def test_invitation(box: Box, web: Any, new_user: Callable[..., User], subscription: Subscription) -> None:
    """P9: names of all languages, and nothing that a name could smuggle into the headers."""
    user = new_user()
    sharing.invite(subscription, user.email, "Bøb ✓\r\nBcc: eve@example.org\r\n\r\nevil", ORIGIN)
    message = box.last()
    assert "Schütz ✓ 日本語" in message["Subject"] and "Bøb ✓" in text(message)
    assert box.mails[-1][0] == ["ann@example.org"]
    web.sign_in(user.email)
    link = re.findall(r"https://portal.example(/subscriptions/invitations/\S+/)", text(message))[0]
    assert web.client.post(link).status_code == 302
    assert user.shares.get().accepted_at is not None


@pytest.mark.parametrize("name", ["a\nBcc: eve@example.org", "a\r\n\r\n<b>body", "a" * 300, "日" * 80])
def test_nothing_gets_into_the_headers(box: Box, new_user: Callable[..., User], name: str) -> None:
    """Whatever a product is called: one subject, one recipient, the same body."""
    product = Product.objects.create(slug="x", name=name, shareable=True)
    plan = Plan.objects.create(product=product, slug="x", name="One", days=30)
    found, _outcome = redemption.redeem(new_user(), redemption.make(plan, 1, "")[0])
    sharing.invite(found, "eve@example.org", name, ORIGIN)
    message = box.last()
    assert box.mails[-1][0] == ["eve@example.org"]
    subject = message["Subject"].strip()
    assert "\n" not in subject and subject.startswith(re.split(r"[\r\n]", name)[0])


def test_reminder(box: Box, subscription: Subscription) -> None:
    """P8: with the product's name and where to renew."""
    Term.objects.update(ends_at=timezone.now() + timedelta(days=7) - timedelta(minutes=1))
    call_command("remind", "--origin", ORIGIN, stdout=StringIO())
    message = box.last()
    assert message["Subject"] == "Schütz ✓ 日本語 ends in 7 days"
    assert f"{ORIGIN}/subscriptions/" in text(message)


def test_requests_to_support(box: Box, new_user: Callable[..., User], replies: None) -> None:
    """P12: both ways; mail programs put them together, machines do not answer them."""
    user = new_user()
    ticket = tickets.open_ticket(user, "Größe 日本 " + "x" * 90, "Ä\n.\nFrom here", ORIGIN)
    first = box.last()
    assert first["Subject"].strip() == f"[#{ticket.pk}] {ticket.subject}"
    assert "Ä\n.\nFrom here" in text(first).replace("\r\n", "\n")
    tickets.answer(ticket, user, "Try this.", ORIGIN)
    second = box.last()
    assert second["To"] == "ann@example.org"
    assert first["References"] == second["References"] != first["Message-ID"] != second["Message-ID"]
    assert first["Auto-Submitted"] == second["Auto-Submitted"] == "auto-generated"
    assert first["Reply-To"] is None
    reply = second["Reply-To"].addresses[0].addr_spec
    assert reply == support_mail.address(ticket) and len(reply.partition("@")[0]) <= 64
    assert f"{ORIGIN}/support/{ticket.pk}/" in text(second)


def test_mail_in_the_language_of_its_reader(box: Box, new_user: Callable[..., User]) -> None:
    """P12: not of the staff that answers. (Where it is not translated yet, English.)"""
    from django.utils import translation

    user = new_user(language="de")
    ticket = tickets.open_ticket(user, "a", "b", ORIGIN)
    with translation.override("fr"):
        tickets.answer(ticket, user, "c", ORIGIN)
        assert translation.get_language() == "fr"
    with translation.override("de"):
        expected = translation.gettext("Read the whole correspondence, and answer:")
    assert expected in text(box.last())
