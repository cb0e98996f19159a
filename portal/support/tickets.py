"""What happens to a request. Pages, the interface, mails and the staff's side all pass here."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.files.base import File
from django.db import transaction
from django.utils import timezone
from django.utils.translation import gettext as _

from portal.accounts.models import User
from portal.subscriptions.models import Product
from portal.support import mail, words
from portal.support.attachments import Kept
from portal.support.models import Event, Happening, Message, Platform, Status, Ticket

HOUR = timedelta(hours=1)
MESSAGES_PER_HOUR = 60


def _lock(user: User) -> None:
    """One at a time for an account, whichever worker serves it: so the counts below are exact."""
    # On SQLite the transaction itself is the lock: it is IMMEDIATE.
    User.objects.select_for_update().get(pk=user.pk)


def _limited(count: int, most: int) -> None:
    if count >= most:
        raise ValidationError(_("You have written a lot in the last hour. Please wait a little."), "too_many_tries")


def open_ticket(
    user: User,
    subject: str,
    text: str,
    origin: str,
    *,
    product: Product | None = None,
    platform: str = "",
    files: Iterable[File] = (),
) -> Ticket:
    """A new request; support gets a mail.

    Raises ValidationError text_missing, text_too_long, text_characters, platform_unknown, attachment_… or
    too_many_tries.
    """
    subject, text = words.line(subject), words.text(text)
    if platform and platform not in Platform.values:
        raise ValidationError(_("This platform is not known here."), "platform_unknown")
    with Kept(files) as kept, transaction.atomic():
        _lock(user)
        lately = user.tickets.filter(created_at__gt=timezone.now() - HOUR).count()
        _limited(lately, settings.TICKETS_PER_HOUR)
        ticket = user.tickets.create(subject=subject, product=product, platform=platform)
        message = ticket.messages.create(author=user, text=text)
        kept.attach(message)
        Event.objects.create(ticket=ticket, what=Happening.OPENED, by=user)
    mail.to_support(message, origin)
    return ticket


def write(ticket: Ticket, text: str, origin: str, *, files: Iterable[File] = (), came_by: str | None = None) -> Message:
    """The owner writes: the request is open again, whatever it was.

    Raises ValidationError text_…, attachment_…, too_many_tries, or mail_taken (this mail is here already).
    """
    text = words.text(text)
    user = ticket.owner
    with Kept(files) as kept, transaction.atomic():
        _lock(user)
        if came_by is not None and Message.objects.filter(mail=came_by).exists():
            raise ValidationError(_("This mail has arrived already."), "mail_taken")
        lately = Message.objects.filter(ticket__owner=user, staff=False, at__gt=timezone.now() - HOUR).count()
        _limited(lately, MESSAGES_PER_HOUR)
        message = ticket.messages.create(author=user, text=text, mail=came_by)
        kept.attach(message)
        _change(ticket, Status.OPEN, Happening.WROTE, user)
    mail.to_support(message, origin)
    return message


def answer(
    ticket: Ticket, by: User, text: str, origin: str, *, then: Status = Status.ANSWERED, files: Iterable[File] = ()
) -> Message:
    """Support writes; the owner gets a mail. `then`: answered, waiting for the owner, or closed.

    Raises ValidationError text_… or attachment_….
    """
    text = words.text(text)
    what = {Status.WAITING: Happening.ASKED, Status.CLOSED: Happening.CLOSED}.get(then, Happening.ANSWERED)
    with Kept(files) as kept, transaction.atomic():
        message = ticket.messages.create(author=by, staff=True, text=text)
        kept.attach(message)
        _change(ticket, then, what, by, staff=True)
    mail.to_owner(message, origin)
    return message


def close(ticket: Ticket, by: User, *, staff: bool = False) -> None:
    """Twice is once."""
    with transaction.atomic():
        if Ticket.objects.filter(pk=ticket.pk).exclude(status=Status.CLOSED).update(status=Status.CLOSED):
            _change(ticket, Status.CLOSED, Happening.CLOSED, by, staff=staff)


def reopen(ticket: Ticket, by: User, *, staff: bool = False) -> None:
    """Of a closed one; otherwise nothing happens."""
    with transaction.atomic():
        if Ticket.objects.filter(pk=ticket.pk, status=Status.CLOSED).update(status=Status.OPEN):
            _change(ticket, Status.OPEN, Happening.REOPENED, by, staff=staff)


def set_status(ticket: Ticket, by: User, status: Status) -> None:
    """Staff sets it without a word."""
    match status:
        case Status.CLOSED:
            close(ticket, by, staff=True)
        case Status.OPEN if ticket.status == Status.CLOSED:
            reopen(ticket, by, staff=True)
        case _:
            ticket.status = status
            ticket.save(update_fields=["status"])


def assigned(ticket: Ticket, by: User) -> None:
    Event.objects.create(ticket=ticket, what=Happening.ASSIGNED, by=by, staff=True)


def _change(ticket: Ticket, status: Status, what: Happening, by: User, *, staff: bool = False) -> None:
    ticket.status, ticket.updated_at = status, timezone.now()
    ticket.save(update_fields=["status", "updated_at"])
    Event.objects.create(ticket=ticket, what=what, by=by, staff=staff)
