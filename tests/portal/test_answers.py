"""P12: answers by mail: whose, what of them is kept, and what is never answered."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from hypothesis import given
from hypothesis import strategies as st

from portal.accounts.models import User
from portal.support import incoming, tickets
from portal.support import mail as support_mail
from portal.support.models import Status, Ticket
from tests.portal.mailbox import BOX, ORIGIN, Box, box, replies

__all__ = ["box", "replies"]  # fixtures


@pytest.fixture
def ticket(new_user: Callable[..., User], replies: None) -> Ticket:
    return tickets.open_ticket(new_user(), "It drops", "In trains.", ORIGIN)


def reply(ticket: Ticket, body: str = "Yes, the slow one.", **headers: str) -> EmailMessage:
    message = EmailMessage()
    fields = {"From": "Ann <ann@example.org>", "To": support_mail.address(ticket), "Subject": "Re: [#1] It drops"}
    for name, value in (fields | {key.replace("_", "-"): value for key, value in headers.items()}).items():
        if value:
            message[name] = value
    message.set_content(body)
    return message


def take(message: EmailMessage | bytes, recipient: str = "") -> str:
    raw = message if isinstance(message, bytes) else message.as_bytes()
    return incoming.receive(raw, recipient, ORIGIN)[0].value


def said(ticket: Ticket) -> list[str]:
    return list(ticket.messages.values_list("text", flat=True))[1:]


def test_answer_by_mail(ticket: Ticket, box: Box) -> None:
    """P12: it is in the correspondence, which is open again, support is told; delivered twice it is taken once."""
    tickets.close(ticket, ticket.owner)
    message = reply(ticket, Message_ID="<1@example.org>")
    assert [take(message), take(message)] == ["taken", "ignored"]
    ticket.refresh_from_db()
    assert (said(ticket), ticket.status) == (["Yes, the slow one."], Status.OPEN)
    assert [recipients for recipients, _raw in box.mails] == [[settings.SUPPORT_MAIL]]
    address = support_mail.address(ticket)
    assert take(reply(ticket, To="", Message_ID="<2@example.org>"), address.upper()) == "taken"
    assert take(reply(ticket, To="list@example.org", Cc=address, Message_ID="<3@example.org>")) == "taken"


def test_whose_answer(ticket: Ticket, new_user: Callable[..., User]) -> None:
    """P12: the address must be the one made for this request, and the sender its owner."""
    other = tickets.open_ticket(new_user("bob@example.org"), "a", "b", ORIGIN)
    address = support_mail.address(ticket)
    name, signature = address.partition("@")[0].rsplit("-", 1)
    wrong = [
        {"To": f"{name}-{'a' * len(signature)}@portal.example"},
        {"To": f"{name.replace(str(ticket.pk), str(other.pk))}-{signature}@portal.example"},
        {"To": address.replace("portal.example", "evil.example")},
        {"To": BOX},
        {"To": f"help+{'9' * 30}-{signature}@portal.example"},
        {"From": "bob@example.org"},
        {"From": "Ann <eve@example.org>"},
        {"From": ""},
        {"From": "ann@example.org, eve@example.org"},
    ]
    assert {take(reply(ticket, **each)) for each in wrong} == {"unknown"}
    assert said(ticket) == said(other) == []
    ticket.owner.is_active = False
    ticket.owner.save()
    assert take(reply(ticket)) == "unknown"


def test_no_answers_without_the_setting(ticket: Ticket, monkeypatch: Any) -> None:
    message = reply(ticket)
    monkeypatch.setattr(settings, "REPLY_MAIL", "")
    assert support_mail.address(ticket) == ""
    assert take(message) == "unknown"
    with pytest.raises(CommandError, match="reply_mail is not set"):
        call_command("receive_mail", "--origin", ORIGIN)


@pytest.mark.parametrize(
    "headers",
    [
        {"Auto-Submitted": "auto-replied"}, {"Auto_Submitted": "Auto-Generated; x=y"}, {"Precedence": "bulk"},
        {"Precedence": "auto_reply"}, {"Return_Path": "<>"}, {"List_Id": "<x.example.org>"}, {"X_Autoreply": "yes"},
        {"X_Loop": "me"},
    ],
)  # fmt: skip
def test_machines_are_not_answered(ticket: Ticket, box: Box, headers: dict[str, str]) -> None:
    """P12: or two would write to each other for ever (RFC 3834)."""
    assert take(reply(ticket, **headers)) == "ignored"
    assert (said(ticket), box.mails) == ([], [])
    assert take(reply(ticket, Auto_Submitted="no")) == "taken"


MARK = support_mail.MARK
QUOTES = [
    ("Yes.\n\nOn Mon, 23 Nov 2026 at 10:00, Portal <p@x.example> wrote:\n> =-\n> old\n", "Yes."),
    ("Ja.\n\nAm 23.11.2026 um 10:00 schrieb Portal\n<p@x.example>:\n\n> alt\n", "Ja."),
    (f"はい。\n\n2026年11月23日(月) 10:00 Portal <p@x.example>:\n> {MARK}\n> old\n> more", "はい。"),
    (f"Yes.\n\n{MARK}\nWrite your answer above this line.\nold", "Yes."),
    ("Yes.\n\n-----Original Message-----\nFrom: Portal <p@x.example>\nSent: Monday\nTo: Ann\nold", "Yes."),
    ("Oui.\n\n________________________________\nDe : x\nDe: P <p@x.example>\nEnvoyé: lundi\nÀ: Ann\nvieux", "Oui."),
    ("Yes.\n-- \nAnn\nTel. 1\n", "Yes."),
    ("> Which train?\nThe slow one.\n> And when?\nAt 9.\n", "> Which train?\nThe slow one.\n> And when?\nAt 9."),
    ("Steps:\n1. connect to 10.0.0.1:\n2. wait", "Steps:\n1. connect to 10.0.0.1:\n2. wait"),
    ("> only a quote", "> only a quote"),
]


@pytest.mark.parametrize("body, expected", QUOTES)
def test_quotes(body: str, expected: str) -> None:
    """P12: what is quoted under an answer goes, what is answered between stays, and nobody's words are lost."""
    assert incoming.unquoted(body) == expected


def test_html_alone(ticket: Ticket) -> None:
    message = reply(ticket)
    message.set_content(
        "<html><head><title>x</title><style>b{}</style></head><body><p>Yes, <b>always</b> &amp; everywhere.<br>Ann"
        "<script>alert(1)</script></p><blockquote>old words</blockquote></body></html>",
        subtype="html",
    )
    assert take(message) == "taken"
    assert said(ticket) == ["Yes, always & everywhere.\nAnn"]


def test_files_by_mail(ticket: Ticket, monkeypatch: Any) -> None:
    """P12: the same rules; a file that may not be kept is named, and the words are kept all the same."""
    monkeypatch.setattr(settings, "ATTACHMENT_COUNT", 2)
    message = reply(ticket)
    message.add_attachment(b"words\n", maintype="text", subtype="plain", filename="../a.txt")
    message.add_attachment(b"MZ\x90", maintype="application", subtype="octet-stream", filename="b.exe")
    message.add_attachment(b"\x89PNG\r\n\x1a\n", maintype="image", subtype="png", filename="c.png")
    message.add_attachment(b"words\n", maintype="text", subtype="plain", filename="d.txt")
    assert take(message) == "taken"
    found = ticket.messages.last()
    assert found is not None
    assert [each.name for each in found.attachments.all()] == ["a.txt", "c.png"]
    assert found.text.startswith("Yes, the slow one.") and "b.exe" in found.text and found.text.count("[A file") == 2
    only = reply(ticket, "")
    only.add_attachment(b"words\n", maintype="text", subtype="plain", filename="a.txt")
    assert take(only) == "taken"
    assert said(ticket)[-1] == "(Only files were sent.)"


@pytest.mark.parametrize(
    "content, expected",
    [
        (b"Content-Type: text/plain; charset=latin-1\n\nGr\xf6\xdfe", "Größe"),
        (b"Content-Type: text/plain; charset=nonsense\n\nGr\xc3\xb6\xc3\x9fe", "Größe"),
        (b"Content-Type: text/plain; charset=utf-8\n\na\0b\x1b[2Jc\xff", "ab[2Jc\ufffd"),
        (b"Content-Type: text/plain\nContent-Transfer-Encoding: base64\n\n!!!", "(Only files were sent.)"),
        (b"Content-Type: multipart/mixed; boundary=x\n\nno parts at all", "(Only files were sent.)"),
    ],
)
def test_wrong_encodings(ticket: Ticket, content: bytes, expected: str) -> None:
    """P12: what can be read is read."""
    head = f"From: ann@example.org\nTo: {support_mail.address(ticket)}\n".encode()
    assert take(head + content) == "taken"
    assert said(ticket) == [expected]


def test_too_large_and_too_many(ticket: Ticket, monkeypatch: Any) -> None:
    """P12: bounded like the pages."""
    monkeypatch.setattr(tickets, "MESSAGES_PER_HOUR", 2)
    assert [take(reply(ticket, Message_ID=f"<{n}@x>")) for n in range(3)] == ["taken", "later", "later"]
    monkeypatch.setattr(settings, "ATTACHMENT_MEGABYTES", 1)
    monkeypatch.setattr(settings, "ATTACHMENT_COUNT", 1)
    assert take(reply(ticket, "x" * 70 + "\n" + "words \n" * 500_000)) == "too large"


@given(st.binary(max_size=300), st.sampled_from([b"", b"From: ann@example.org\nTo: x\n", b"From: =?x?q?=\nTo: <\n"]))
def test_any_bytes(head: bytes, raw: bytes) -> None:
    """P12: a stranger's bytes are no error of ours."""
    assert take(head + raw) in ("unknown", "malformed", "ignored")


def test_command(ticket: Ticket, box: Box, monkeypatch: Any) -> None:
    """P12: one mail from standard input; the exit status tells the mail server what to do (sysexits.h)."""

    def pipe(raw: bytes, *more: str) -> int:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
        try:
            call_command("receive_mail", "--origin", ORIGIN, *more)
        except CommandError as err:
            assert "ann@" not in str(err) and "slow" not in str(err)
            return err.returncode
        return 0

    address = support_mail.address(ticket)
    assert pipe(reply(ticket, To="").as_bytes(), "--recipient", address) == 0
    assert said(ticket) == ["Yes, the slow one."]
    assert pipe(reply(ticket, From="eve@example.org").as_bytes()) == 67
    assert pipe(b"") == 65
    monkeypatch.setattr(tickets, "MESSAGES_PER_HOUR", 1)
    assert pipe(reply(ticket, Message_ID="<9@x>").as_bytes()) == 75


def test_pipe(ticket: Ticket) -> None:
    """P12: as a mail server runs it: another process, bytes on standard input."""
    from django.db import connections

    connections.close_all()
    command = [sys.executable, "-m", "portal", "receive_mail", "--origin", ORIGIN]
    environment = os.environ | {"PORTAL_REPLY_MAIL": BOX, "PORTAL_MAIL_PORT": "1"}
    done = subprocess.run(
        command, input=reply(ticket).as_bytes(), capture_output=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr.decode()
    assert said(ticket) == ["Yes, the slow one."]
