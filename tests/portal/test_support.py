"""P12, M4, D7: requests to support, with files, by page and interface; the staff's side; help pages."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from django.conf import settings
from django.core import mail
from django.core.exceptions import ValidationError

from portal.accounts.models import User
from portal.subscriptions.models import Product
from portal.support import tickets
from portal.support.models import Attachment, Event, Message, Status, Ticket
from tests.portal.asking import ORIGIN, clean_store, done, file, send, staff, stored

__all__ = ["clean_store", "staff"]  # fixtures

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 50


def test_write_to_support(door: Any, new_user: Callable[..., User]) -> None:
    """P12: subject, product, platform, text and files; support gets a mail with a link to its own side."""
    Product.objects.create(slug="vpn", name="VPN")
    user = new_user()
    door.sign_in(user.email)
    product = "vpn" if door.name == "api" else Product.objects.get().pk
    data = {"subject": "It drops", "product": product, "platform": "linux", "text": "In trains.\r\nAlways."}
    assert send(door, data | {"files": [file("report.log"), file("screen.png", PNG)]}) == (done(door), "")
    ticket = Ticket.objects.get()
    assert (ticket.owner, ticket.subject, ticket.status) == (user, "It drops", Status.OPEN)
    assert (ticket.product, ticket.platform) == (Product.objects.get(), "linux")
    message = ticket.messages.get()
    assert (message.text, message.staff) == ("In trains.\nAlways.", False)
    assert [each.name for each in message.attachments.all()] == ["report.log", "screen.png"]
    sent = mail.outbox[-1]
    assert (sent.to, sent.subject) == ([settings.SUPPORT_MAIL], f"[#{ticket.pk}] It drops")
    assert f"/staff/support/ticket/{ticket.pk}/change/" in sent.body
    for piece in ("In trains.", "ann@example.org", "VPN", "Linux", "screen.png"):
        assert piece in sent.body


@pytest.mark.parametrize(
    "change, code",
    [
        ({"subject": " \u200b\t "}, "text_missing"),
        ({"text": ""}, "text_missing"),
        ({"subject": "a" * 121}, "text_too_long"),
        ({"text": "a" * 20_001}, "text_too_long"),
        ({"subject": "a\nBcc: eve@example.org"}, "text_characters"),
        ({"subject": "a\u2028b"}, "text_characters"),
        ({"text": "a\0b"}, "text_characters"),
        ({"text": "a\x1b[2Jb"}, "text_characters"),
        ({"platform": "amiga"}, "platform_unknown"),
    ],
)
def test_wrong_requests(door: Any, new_user: Callable[..., User], change: dict[str, str], code: str) -> None:
    """P12: what is no text is refused, and nothing is kept or mailed."""
    door.sign_in(new_user().email)
    status, said = send(door, {"subject": "a", "text": "b"} | change)
    assert status in (400, 422)
    assert said in {code, "malformed"}
    assert (Ticket.objects.count(), mail.outbox) == (0, [])


def test_correspondence(door: Any, web: Any, new_user: Callable[..., User], staff: User) -> None:
    """P12: open, answered, waiting, open again by writing, closed, opened again; each change is in the history."""
    user = new_user()
    door.sign_in(user.email)
    send(door, {"subject": "It drops", "text": "In trains."})
    ticket = Ticket.objects.get()

    def now() -> str:
        ticket.refresh_from_db()
        return ticket.status

    def press(what: str) -> None:
        if door.name == "api":
            assert door.call("post", f"/api/v1/support/requests/{ticket.pk}/{what}").status_code == 200
        else:
            assert door.client.post(f"/support/{ticket.pk}/{what}/").status_code == 302

    mail.outbox.clear()  # type: ignore[attr-defined]
    tickets.answer(ticket, staff, "Which train?", ORIGIN, then=Status.WAITING)
    assert now() == "waiting"
    sent = mail.outbox[-1]
    assert sent.to == [user.email] and f"{ORIGIN}/support/{ticket.pk}/" in sent.body and "Which train?" in sent.body
    assert send(door, {"text": "The slow one."}, ticket.pk) == (done(door), "")
    assert now() == "open"
    assert mail.outbox[-1].to == [settings.SUPPORT_MAIL]
    tickets.answer(ticket, staff, "Sit elsewhere.", ORIGIN)
    assert now() == "answered"
    press("close")
    press("close")
    assert now() == "closed"
    press("reopen")
    press("reopen")
    assert now() == "open"
    history = list(ticket.events.values_list("what", flat=True))
    assert history == ["opened", "asked", "wrote", "answered", "closed", "reopened"]
    if door.name == "api":
        found = door.call("get", f"/api/v1/support/requests/{ticket.pk}").json()
        assert [each["by"] for each in found["messages"]] == ["you", "support", "you", "support"]
        assert [each["what"] for each in found["history"]] == history
        assert [each["number"] for each in door.call("get", "/api/v1/support/requests").json()] == [ticket.pk]
        assert "staff@" not in json.dumps(found)
    else:
        page = door.client.get(f"/support/{ticket.pk}/").content.decode()
        for piece in (
            "Which train?",
            "The slow one.",
            "Question from support",
            "Close the request",
        ):
            assert piece in page
        assert "staff@" not in page
        assert "It drops" in door.client.get("/support/").content.decode()


def test_others_see_nothing(door: Any, new_user: Callable[..., User]) -> None:
    """P12: neither the request nor its files: there is no such thing."""
    ann, eve = new_user("ann@example.org"), new_user("eve@example.org")
    ticket = tickets.open_ticket(ann, "Mine", "secret words", ORIGIN, files=[file("a.txt")])
    attachment = Attachment.objects.get()
    if door.name == "api":
        assert door.client.get("/api/v1/support/requests").status_code == 401
    else:
        assert door.client.get(f"/support/{ticket.pk}/").status_code == 302
        assert door.client.get(f"/support/attachments/{attachment.pk}/").status_code == 302
    door.sign_in(eve.email)
    big = 2**63
    if door.name == "api":
        paths = [f"requests/{ticket.pk}", f"files/{attachment.pk}", "requests/999"]
        for path in paths:
            answer = door.call("get", f"/api/v1/support/{path}")
            assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
        for path in (f"requests/{ticket.pk}/close", f"requests/{ticket.pk}/reopen"):
            assert door.call("post", f"/api/v1/support/{path}").status_code == 404
        assert door.call("get", f"/api/v1/support/requests/{big}").status_code == 422
        assert door.call("get", "/api/v1/support/requests").json() == []
    else:
        for path in (f"{ticket.pk}/", f"attachments/{attachment.pk}/", f"{big}/", f"attachments/{big}/"):
            assert door.client.get(f"/support/{path}").status_code == 404
        for path in (f"{ticket.pk}/close/", f"{ticket.pk}/reopen/"):
            assert door.client.post(f"/support/{path}").status_code == 404
        assert "Mine" not in door.client.get("/support/").content.decode()
    assert send(door, {"text": "x"}, ticket.pk)[0] == 404
    assert (ticket.messages.count(), ticket.events.count()) == (1, 1)


def test_limit_of_an_hour(door: Any, new_user: Callable[..., User]) -> None:
    """P12: so many requests and no more, also when many come at once; another account is not concerned."""
    from django.db import connections

    user = new_user()

    def once(number: int) -> str:
        try:
            return tickets.open_ticket(user, f"{number}", "b", ORIGIN).status
        except ValidationError as err:
            return str(err.code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(once, range(12)))
    assert (said.count("open"), said.count("too_many_tries")) == (settings.TICKETS_PER_HOUR, 7)
    door.sign_in(user.email)
    assert send(door, {"subject": "a", "text": "b"}) == (429, "too_many_tries")
    Ticket.objects.update(created_at="2020-01-01T00:00:00Z")
    assert send(door, {"subject": "a", "text": "b"}) == (done(door), "")
    assert tickets.open_ticket(new_user("bob@example.org"), "a", "b", ORIGIN).status == "open"


def test_export_and_deletion(web: Any, new_user: Callable[..., User], staff: User) -> None:
    """P12, P14: the export tells all of it; with the account it is gone, the files as well."""
    user = new_user()
    ticket = tickets.open_ticket(user, "It drops", "In trains.", ORIGIN, files=[file("a.txt")])
    tickets.answer(ticket, staff, "Which train?", ORIGIN, files=[file("b.txt")])
    web.sign_in(user.email)
    web.confirm_password()
    found = json.loads(web.client.get("/account/export/").content)["support_requests"]
    assert [(each["from"], each["text"]) for each in found[0]["messages"]] == [
        ("you", "In trains."), ("support", "Which train?")
    ]  # fmt: skip
    assert found[0]["messages"][0]["files"][0]["name"] == "a.txt"
    assert len(stored()) == 2
    user.delete()
    assert (Ticket.objects.count(), Message.objects.count(), Event.objects.count(), stored()) == (0, 0, 0, [])


def test_a_mail_server_that_is_away_loses_nothing(web: Any, new_user: Callable[..., User], monkeypatch: Any) -> None:
    """P12: what was written is kept and on the page."""
    monkeypatch.setattr(settings, "EMAIL_BACKEND", "django.core.mail.backends.smtp.EmailBackend")
    monkeypatch.setattr(settings, "EMAIL_HOST", "127.0.0.1")
    monkeypatch.setattr(settings, "EMAIL_PORT", 1)
    web.sign_in(new_user().email)
    assert send(web, {"subject": "a", "text": "b"}) == (302, "")
    assert Ticket.objects.count() == 1


def test_staff_answers(web: Any, new_user: Callable[..., User], staff: User) -> None:
    """P12: in the admin: answer with a file, assign, set the status, filter; the owner is told."""
    user = new_user()
    ticket = tickets.open_ticket(user, "It drops", "In <b>trains</b>.", ORIGIN, files=[file("a.txt")])
    web.client.force_login(staff)
    path = f"/staff/support/ticket/{ticket.pk}/change/"
    page = web.client.get(path).content.decode()
    assert "In &lt;b&gt;trains&lt;/b&gt;." in page and "/support/attachments/" in page
    inlines = {
        f"{name}-{key}": value
        for name in ("messages", "events")
        for key, value in (("TOTAL_FORMS", "0"), ("INITIAL_FORMS", "0"))
    }
    base = {"status": "open", "assignee": staff.pk, "then": "waiting", **inlines}
    mail.outbox.clear()  # type: ignore[attr-defined]
    wrong = web.client.post(path, base | {"answer": "Which?", "attached": file("a.exe", b"MZ")})
    assert wrong.status_code == 200 and mail.outbox == []
    response = web.client.post(path, base | {"answer": "Which train?", "attached": file("b.txt")})
    assert response.status_code == 302, response.context["adminform"].errors
    ticket.refresh_from_db()
    assert (ticket.status, ticket.assignee) == ("waiting", staff)
    answer = ticket.messages.get(staff=True)
    assert (answer.text, answer.author, answer.attachments.get().name) == ("Which train?", staff, "b.txt")
    assert [each.to for each in mail.outbox] == [[user.email]]
    assert f"http://testserver/support/{ticket.pk}/" in mail.outbox[0].body
    assert web.client.post(path, base | {"status": "closed"}).status_code == 302
    ticket.refresh_from_db()
    assert ticket.status == "closed"
    assert list(ticket.events.values_list("what", flat=True)) == ["opened", "assigned", "asked", "closed"]
    for query in ("?status__exact=closed", "?q=drops", "?q=ann@example.org", "?q=Which"):
        assert "It drops" in web.client.get(f"/staff/support/ticket/{query}").content.decode()
    assert "It drops" not in web.client.get("/staff/support/ticket/?status__exact=open").content.decode()
    other = User.objects.create_superuser("other@example.org", "Blue7kettle")
    web.client.force_login(other)
    action = {"action": "assign_to_me", "_selected_action": [ticket.pk]}
    assert web.client.post("/staff/support/ticket/", action).status_code == 302
    ticket.refresh_from_db()
    assert ticket.assignee == other


def test_staff_alone(web: Any, new_user: Callable[..., User]) -> None:
    """P12: an account that is not staff gets no further."""
    user = new_user()
    ticket = tickets.open_ticket(user, "a", "b", ORIGIN)
    web.sign_in(user.email)
    for path in ("/staff/support/ticket/", f"/staff/support/ticket/{ticket.pk}/change/", "/staff/support/verdict/"):
        assert web.client.get(path).status_code == 302
