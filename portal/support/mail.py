"""Mails of support: to its own address when something was written, to the owner when it was answered.

Where replies are possible, the address to reply to carries the request's number and a signature: who knows it has read
the mail, and nobody can make one up.
"""

from __future__ import annotations

import base64
import logging
import re

from allauth.account.adapter import get_adapter
from django.conf import settings
from django.urls import reverse
from django.utils import translation
from django.utils.crypto import constant_time_compare, salted_hmac

from portal.support.models import Message, Ticket

log = logging.getLogger(__name__)
# Above it is the answer, below it what we wrote. No language, no quoting and no wrapping changes it.
MARK = "=-=-=-=-=-=-=-=-=-=-="


def _signature(ticket: Ticket) -> str:
    digest = salted_hmac("portal.support.reply", f"{ticket.pk}:{ticket.owner_id}", algorithm="sha256").digest()
    # Some servers change the case of addresses: base32 survives it. 15 bytes are 24 characters.
    return base64.b32encode(digest[:15]).decode().lower()


def address(ticket: Ticket) -> str:
    """Where an answer by mail goes; empty when this portal takes none."""
    name, at, domain = settings.REPLY_MAIL.partition("@")
    return f"{name}+{ticket.pk}-{_signature(ticket)}@{domain}" if at else ""


def addressed(to: str) -> Ticket | None:
    """The request that an address was made for."""
    name, _at, domain = settings.REPLY_MAIL.partition("@")
    form = rf"{re.escape(name)}\+([0-9]{{1,18}})-([a-z2-7]{{24}})@{re.escape(domain)}"
    found = re.fullmatch(form, to.strip(), re.IGNORECASE | re.ASCII) if name else None
    ticket = Ticket.objects.select_related("owner").filter(pk=int(found[1])).first() if found else None
    if found is None or ticket is None or not constant_time_compare(_signature(ticket), found[2].lower()):
        return None
    return ticket


def _identity(message: Message) -> dict[str, str]:
    """Mail programs put a request's mails together; other machines do not answer them."""
    domain = settings.DEFAULT_FROM_EMAIL.rpartition("@")[2].strip("<> ") or "localhost"
    return {
        "Message-ID": f"<request-{message.ticket_id}-message-{message.pk}@{domain}>",
        "References": f"<request-{message.ticket_id}@{domain}>",
        "Auto-Submitted": "auto-generated",
        "X-Auto-Response-Suppress": "All",
    }


def _send(template: str, to: str, context: dict[str, object], headers: dict[str, str]) -> None:
    try:
        get_adapter().render_mail(f"support/email/{template}", to, context, headers=headers).send()
    except OSError:  # smtplib's errors are of this kind
        # What was written is kept and on the page: a mail server that is away must not lose it.
        log.exception("the mail of request %s could not be handed over", context["number"])


def _context(message: Message, link: str) -> dict[str, object]:
    ticket = message.ticket
    return {
        "brand": settings.BRAND,
        "number": ticket.pk,
        "subject": ticket.subject,
        "text": message.text,
        "files": [each.name for each in message.attachments.all()],
        "link": link,
        "mark": MARK,
    }


def to_support(message: Message, origin: str) -> None:
    ticket = message.ticket
    link = origin.rstrip("/") + reverse("admin:support_ticket_change", args=[ticket.pk])
    context = _context(message, link) | {
        "email": ticket.owner.email,
        "product": ticket.product.name if ticket.product else "",
        "platform": ticket.get_platform_display(),
    }
    with translation.override(settings.LANGUAGE_CODE):
        _send("to_support", settings.SUPPORT_MAIL, context, _identity(message))


def to_owner(message: Message, origin: str) -> None:
    ticket = message.ticket
    link = origin.rstrip("/") + reverse("support:ticket", args=[ticket.pk])
    reply = address(ticket)
    headers = _identity(message) | ({"Reply-To": reply} if reply else {})
    with translation.override(ticket.owner.language or settings.LANGUAGE_CODE):
        _send("to_owner", ticket.owner.email, _context(message, link) | {"reply": reply}, headers)
