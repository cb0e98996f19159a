"""One mail becomes a message of a request, when it was sent by its owner to the address made for that request."""

from __future__ import annotations

import email
import hashlib
import io
import re
from collections.abc import Iterator
from email.message import EmailMessage
from email.policy import default
from email.utils import getaddresses
from enum import StrEnum
from html.parser import HTMLParser
from itertools import islice

from allauth.account.models import EmailAddress
from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.files.base import File
from django.utils.translation import gettext as _
from django.utils.translation import override

from portal.support import attachments, mail, tickets, words
from portal.support.models import Message, Ticket

MOST_PARTS = 200


class Outcome(StrEnum):
    TAKEN = "taken"
    IGNORED = "ignored"  # a machine's answer, or a mail that is here already
    UNKNOWN = "unknown"  # no request has this address, or the sender is not its owner
    MALFORMED = "malformed"
    TOO_LARGE = "too large"
    LATER = "later"  # too many mails in an hour


def most_bytes() -> int:
    """Of a mail: the attachments in base64, and the words."""
    return attachments.most_bytes() * settings.ATTACHMENT_COUNT * 14 // 10 + 1_000_000


def receive(raw: bytes, recipient: str, origin: str) -> tuple[Outcome, Message | None]:
    """`recipient`: the envelope's, when the mail server says it. Whatever comes in, it raises nothing of its own."""
    if len(raw) > most_bytes():
        return Outcome.TOO_LARGE, None
    message = email.message_from_bytes(raw, policy=default)
    if not isinstance(message, EmailMessage) or not message.keys():
        return Outcome.MALFORMED, None
    if from_machine(message):
        return Outcome.IGNORED, None
    named = [recipient, *_addresses(message, "Delivered-To", "X-Original-To", "To", "Cc")]
    ticket = next((found for each in named if (found := mail.addressed(each)) is not None), None)
    if ticket is None or not _by_owner(message, ticket):
        return Outcome.UNKNOWN, None
    with override(ticket.owner.language or settings.LANGUAGE_CODE):
        return _take(raw, message, ticket, origin)


def _take(raw: bytes, message: EmailMessage, ticket: Ticket, origin: str) -> tuple[Outcome, Message | None]:
    parts = list(islice(_leaves(message), MOST_PARTS))
    files, remarks = _files(parts)
    said = unquoted(words.repaired(_text(parts), 20 * words.TEXT))
    text = words.repaired("\n\n".join(filter(None, (said, *remarks))))
    identity = _header(message, "Message-ID") or hashlib.sha256(raw).hexdigest()
    came_by = hashlib.sha256(f"{ticket.pk}:{identity}".encode(errors="replace")).hexdigest()
    try:
        return Outcome.TAKEN, tickets.write(
            ticket, text or _("(Only files were sent.)"), origin, files=files, came_by=came_by
        )
    except ValidationError as err:
        match err.code:
            case "mail_taken":
                return Outcome.IGNORED, None
            case "too_many_tries":
                return Outcome.LATER, None
            case _:
                return Outcome.MALFORMED, None


def _header(message: EmailMessage, name: str) -> str:
    try:
        return str(message[name] or "")
    except Exception:  # the library's parser of headers fails in many ways on what strangers send
        return ""


def _addresses(message: EmailMessage, *names: str) -> list[str]:
    # One by one: a header that is nonsense spoils the others of a call.
    given = [text for name in names if (text := _header(message, name))]
    return [address for text in given for _name, address in getaddresses([text]) if address]


def from_machine(message: EmailMessage) -> bool:
    """RFC 3834: what answers by itself is never answered, or two machines write to each other for ever."""
    automatic = _header(message, "Auto-Submitted").strip().lower()
    return (
        (automatic != "" and not automatic.startswith("no"))
        or _header(message, "Precedence").strip().lower() in ("bulk", "junk", "list", "auto_reply")
        or _header(message, "Return-Path").strip() == "<>"
        or any(message.get_all(name) for name in ("List-Id", "X-Autoreply", "X-Autorespond", "X-Loop"))
        or message.get_content_type() in ("multipart/report", "message/delivery-status")
    )


def _by_owner(message: EmailMessage, ticket: Ticket) -> bool:
    senders = {address.lower() for address in _addresses(message, "From")}
    owned = set(EmailAddress.objects.filter(user=ticket.owner).values_list("email", flat=True))
    return ticket.owner.is_active and len(senders) == 1 and bool(senders & {each.lower() for each in owned})


def _leaves(message: EmailMessage) -> Iterator[EmailMessage]:
    """Parts that contain no others; a mail inside a mail is one of them."""
    if message.is_multipart() and message.get_content_maintype() == "multipart":
        for part in message.iter_parts():
            yield from _leaves(part)  # type: ignore[arg-type]
    else:
        yield message


def _decoded(part: EmailMessage) -> str:
    payload = part.get_payload(decode=True)
    data = payload if isinstance(payload, bytes) else b""
    try:
        return data.decode(part.get_content_charset() or "utf-8", "replace")
    except (LookupError, ValueError):
        return data.decode("utf-8", "replace")


def _is_file(part: EmailMessage) -> bool:
    return part.get_content_disposition() == "attachment" or part.get_content_maintype() not in ("text", "multipart")


def _text(parts: list[EmailMessage]) -> str:
    """The plain text; without one, the words of the HTML."""
    for kind in ("text/plain", "text/html"):
        for part in parts:
            if part.get_content_type() == kind and not _is_file(part):
                return _decoded(part) if kind == "text/plain" else words_of_html(_decoded(part))
    return ""


def _files(parts: list[EmailMessage]) -> tuple[list[File], list[str]]:
    """What may be kept, and a remark for each file that may not: words are never lost for a file's sake."""
    kept: list[File] = []
    remarks = []
    for part in parts:
        if not _is_file(part):
            continue
        try:
            given = part.get_filename() or "file"
        except Exception:  # as in _header
            given = "file"
        name = words.file_name(given)
        payload = part.get_payload(decode=True)
        file = File(io.BytesIO(payload if isinstance(payload, bytes) else b""), name)
        file.size = len(payload) if isinstance(payload, bytes) else 0
        try:
            attachments.judge_all([*kept, file], [*(each.name or "" for each in kept), name])
            kept.append(file)
        except ValidationError as err:
            remarks.append(_("[A file was not kept. %(reason)s]") % {"reason": " ".join(err.messages)})
    return kept, remarks[: settings.ATTACHMENT_COUNT]


class _Words(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.lines = [""]
        self.quoted = self.hidden = 0

    def _line(self) -> None:
        self.lines.append("> " * bool(self.quoted))

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden += tag in ("script", "style", "head", "title")
        self.quoted += tag == "blockquote"
        if tag in ("br", "p", "div", "tr", "li", "blockquote", "h1", "h2", "h3"):
            self._line()

    def handle_endtag(self, tag: str) -> None:
        self.hidden -= self.hidden > 0 and tag in ("script", "style", "head", "title")
        self.quoted -= self.quoted > 0 and tag == "blockquote"
        if tag in ("p", "div", "blockquote"):
            self._line()

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.lines[-1] += re.sub(r"\s+", " ", data)


def words_of_html(html: str) -> str:
    parser = _Words()
    parser.feed(html)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in parser.lines)).strip()


# "Subject: x", in any language; three in a row with an address in them is what Outlook puts above a quoted mail.
FIELD = re.compile(r"\*?[^\W\d][^:\n]{0,20}:\*? \S.*")


def unquoted(text: str) -> str:
    """What the person wrote, without the mail it answers and without the signature; if nothing remains, everything."""
    lines = text.split("\n")
    answered = next((at for at, line in enumerate(lines) if mail.MARK in line), None)
    if answered is None:
        answered = next((at for at in range(len(lines)) if _outlook(lines[at : at + 4])), None)
    if answered is not None:
        del lines[answered:]
    quoted = answered is not None
    while lines and (not lines[-1].strip() or lines[-1].lstrip().startswith(">")):
        quoted = quoted or bool(lines[-1].strip())
        lines.pop()
    if quoted:
        _drop_attribution(lines)
    signature = next((at for at, line in enumerate(lines) if line in ("-- ", "--")), None)
    if signature is not None:
        del lines[signature:]
    return "\n".join(lines).strip() or text.strip()


def _outlook(lines: list[str]) -> bool:
    fields = [line for line in lines[-3:] if FIELD.fullmatch(line.strip())]
    begins = bool(re.fullmatch(r"_{10,}|-{3,}.*-{3,}", lines[0].strip()))
    return begins and len(fields) == 3 and any("@" in line for line in fields)


def _drop_attribution(lines: list[str]) -> None:
    """ "On 22 November 2026 at 10:00, the portal <portal@example.org> wrote:", over up to three lines."""
    for count in (1, 2, 3):
        last = " ".join(lines[-count:]).strip()
        if last.endswith((":", "\uff1a")) and re.search(r"\d", last) and re.search(r"[@<]", last):
            del lines[-count:]
            return
