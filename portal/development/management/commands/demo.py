"""Fills an empty development portal: an administrator, products, plans and a few codes. Says what it made."""

from __future__ import annotations

import secrets
from typing import Any

from allauth.account.models import EmailAddress
from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from portal.accounts.models import User
from portal.consents import ledger
from portal.development import samples
from portal.subscriptions import redemption
from portal.subscriptions.models import Plan, Product

ADMINISTRATOR = "admin@portal.example"
PRODUCTS = (
    ("vpn", "VPN", False, (("vpn-year", "Premium, one year", 365, 5), ("vpn-month", "Premium, one month", 30, 5))),
    ("suite", "Security suite", True, (("suite-year", "Five devices, one year", 365, 5),)),
)


class Command(BaseCommand):
    help = "Demo data, in development only. Run again, it changes nothing."

    def handle(self, *args: Any, **options: Any) -> None:
        if not settings.DEBUG:
            raise CommandError("demo data is for development: debug is false here")
        for slug, name, shareable, plans in PRODUCTS:
            product, _made = Product.objects.get_or_create(slug=slug, defaults={"name": name, "shareable": shareable})
            for plan_slug, plan_name, days, seats in plans:
                Plan.objects.get_or_create(
                    slug=plan_slug, defaults={"product": product, "name": plan_name, "days": days, "seats": seats}
                )
        samples.add()
        if User.objects.filter(email=ADMINISTRATOR).exists():
            self.stdout.write(f"the demo is here already; the administrator is {ADMINISTRATOR}")
            return
        password = "Demo-" + secrets.token_urlsafe(9) + "-7aA"
        user = User.objects.create_superuser(ADMINISTRATOR, password, country="DE", language="en")
        EmailAddress.objects.create(user=user, email=user.email, primary=True, verified=True)
        for statement in ledger.missing(user):
            ledger.give(user, statement, None)
        self.stdout.write(f"administrator: {ADMINISTRATOR}  password: {password}")
        for plan in Plan.objects.order_by("slug"):
            for code in redemption.make(plan, 2, "demo"):
                self.stdout.write(f"code for {plan}: {code}")
