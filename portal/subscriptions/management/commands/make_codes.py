"""Makes activation codes in bulk, one a line on standard output. They are shown this once."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.subscriptions import redemption
from portal.subscriptions.models import Plan


class Command(BaseCommand):
    help = "Makes activation codes of a plan. Only their digests are kept: store the output safely."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("plan", help="the plan's slug")
        parser.add_argument("count", type=int)
        parser.add_argument("--batch", default="", help="which order or print run they are for")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["count"] <= 1_000_000:
            raise CommandError(f"{options['count']}: between 1 and 1,000,000 codes")
        plan = Plan.objects.filter(slug=options["plan"]).first()
        if plan is None:
            known = ", ".join(Plan.objects.values_list("slug", flat=True)) or "none yet"
            raise CommandError(f"plan {options['plan']!r} is not known; there are: {known}")
        for code in redemption.make(plan, options["count"], options["batch"]):
            self.stdout.write(code)
