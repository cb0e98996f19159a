"""Takes one mail from standard input: what a mail server runs for the addresses of `reply_mail`.

Its exit status tells the mail server what to do (sysexits.h): 0 done, 65 malformed or too large, 67 no such address,
75 try again later.
"""

from __future__ import annotations

import sys
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from portal.support import incoming

STATUS = {
    incoming.Outcome.TAKEN: 0,
    incoming.Outcome.IGNORED: 0,
    incoming.Outcome.MALFORMED: 65,
    incoming.Outcome.TOO_LARGE: 65,
    incoming.Outcome.UNKNOWN: 67,
    incoming.Outcome.LATER: 75,
}


class Command(BaseCommand):
    help = "Reads one mail from standard input: an answer of an account to support."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--origin", required=True, help="where the portal is, such as https://portal.example")
        parser.add_argument("--recipient", default="", help="the envelope's recipient, as the mail server has it")

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.REPLY_MAIL:
            raise CommandError("reply_mail is not set: this portal takes no answers by mail", returncode=69)
        raw = sys.stdin.buffer.read(incoming.most_bytes() + 1)
        try:
            outcome, _message = incoming.receive(raw, options["recipient"], options["origin"])
        except (DatabaseError, OSError) as err:
            raise CommandError(f"later: {err.__class__.__name__}", returncode=75) from err
        if STATUS[outcome]:
            # Neither addresses nor words of the mail: mail servers send this to whoever the mail claims to be from.
            raise CommandError(f"not taken: {outcome.value}", returncode=STATUS[outcome])
