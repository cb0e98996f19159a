"""Mails owners whose last term ends in exactly so many days. Run it once a day."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from allauth.account.adapter import get_adapter
from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db.models import Max
from django.utils import timezone

from portal.subscriptions.models import Subscription

DAYS = (30, 7, 1)


class Command(BaseCommand):
    help = "Reminds owners by e-mail 30, 7 and 1 days before their last term ends."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--origin", required=True, help="where the portal is, such as https://portal.example")

    def handle(self, *args: Any, **options: Any) -> None:
        now = timezone.now()
        count = 0
        for days in DAYS:
            # A day's window, so that a daily run mails each end once; a reserve term moves the end, and the mail.
            ending = Subscription.objects.annotate(last=Max("terms__ends_at")).filter(
                last__gt=now + timedelta(days=days - 1), last__lte=now + timedelta(days=days)
            )
            for each in ending.select_related("owner", "product"):
                context = {
                    "brand": settings.BRAND,
                    "product": each.product.name,
                    "days": days,
                    "link": options["origin"].rstrip("/") + "/subscriptions/",
                    "email": each.owner.email,
                }
                get_adapter().render_mail("account/email/subscription_ends", each.owner.email, context).send()
                count += 1
        self.stdout.write(f"reminded {count} owners")
