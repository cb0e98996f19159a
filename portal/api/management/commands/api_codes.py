"""Prints the codes of refusals, or writes them into docs/portal-api.md."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.api import codes

PART = re.compile(r"(<!-- codes: [^\n]*-->\n).*?(<!-- end -->)", re.DOTALL)


class Command(BaseCommand):
    help = "The codes of refusals as a Markdown table."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--write", type=Path, help="the document whose part between the two marks is replaced")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["write"] is None:
            self.stdout.write(codes.markdown())
            return
        text = options["write"].read_text(encoding="utf-8")
        new, count = PART.subn(lambda found: f"{found[1]}{codes.markdown()}\n{found[2]}", text)
        if count != 1:
            raise CommandError(f"{options['write']}: the two marks are not there")
        options["write"].write_text(new, encoding="utf-8")
