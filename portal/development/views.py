"""The mail box: what the portal mailed, newest first. Only with debug = true."""

from __future__ import annotations

import email
import re
from email.policy import default
from pathlib import Path

from django.conf import settings
from django.contrib.auth.decorators import login_not_required
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

# What Django's file backend writes after each mail.
SEPARATOR = re.compile(rb"^-{79}\n", re.MULTILINE)
MOST = 50


def mails(folder: Path) -> list[dict[str, object]]:
    """The newest mails of the folder: to, subject, date, text and the links in it."""
    raw = []
    for file in sorted(folder.glob("*.log"), reverse=True)[:MOST]:
        raw += [part for part in reversed(SEPARATOR.split(file.read_bytes())) if part.strip()]
    found = []
    for part in raw[:MOST]:
        message = email.message_from_bytes(part, policy=default)
        body = message.get_body(("plain", "html"))
        text = body.get_content() if body is not None else ""
        links = re.findall(r"https?://[^\s<>\"]+", text)
        found.append(
            {"to": message["To"], "subject": message["Subject"], "date": message["Date"], "text": text, "links": links}
        )
    return found


@login_not_required
@require_safe
def mail_box(request: HttpRequest) -> HttpResponse:
    if not settings.DEBUG:
        raise Http404
    return render(request, "development/mail.html", {"mails": mails(Path(settings.EMAIL_FILE_PATH))})
