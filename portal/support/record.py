"""A request as plain values, for the export of an account."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet

from portal.accounts.models import User
from portal.support.models import Ticket


def every(user: User) -> QuerySet[Ticket]:
    return user.tickets.select_related("product").prefetch_related("messages__attachments", "events").order_by("pk")


def of(ticket: Ticket) -> dict[str, Any]:
    """Times in ISO 8601, UTC. Files by name and digest: they are downloaded from the request's page."""
    return {
        "number": ticket.pk,
        "subject": ticket.subject,
        "product": ticket.product.name if ticket.product else None,
        "platform": ticket.platform,
        "status": ticket.status,
        "created_at": ticket.created_at.isoformat(),
        "messages": [
            {
                "from": "support" if message.staff else "you",
                "at": message.at.isoformat(),
                "text": message.text,
                "files": [
                    {"name": file.name, "size": file.size, "sha256": file.sha256} for file in message.attachments.all()
                ],
            }
            for message in ticket.messages.all()
        ],
        "history": [{"what": event.what, "at": event.at.isoformat()} for event in ticket.events.all()],
    }
