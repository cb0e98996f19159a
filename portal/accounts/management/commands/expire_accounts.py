"""Removes accounts whose e-mail was not confirmed in time, and what has expired with them. Run it daily."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from allauth.account.models import EmailAddress
from captcha.models import CaptchaStore
from django.conf import settings
from django.core.management import call_command
from django.core.management.base import BaseCommand
from django.db.models import Exists, OuterRef
from django.utils import timezone

from portal.accounts import attempts
from portal.accounts.models import DeletionCode, SmsCode, User


class Command(BaseCommand):
    help = "Removes unconfirmed accounts older than activation_days, expired sessions, captchas and counted failures."

    def handle(self, *args: Any, **options: Any) -> None:
        before = timezone.now() - timedelta(days=settings.ACTIVATION_DAYS)
        confirmed = EmailAddress.objects.filter(user=OuterRef("pk"), verified=True)
        # A staff account is made by hand, and one with a subscription was paid for: neither is removed unasked.
        unconfirmed = User.objects.filter(
            ~Exists(confirmed), date_joined__lt=before, is_staff=False, subscriptions__isnull=True
        )
        count = 0
        for user in unconfirmed:
            user.delete()
            count += 1
        failures = attempts.expire()
        DeletionCode.objects.filter(expires_at__lte=timezone.now()).delete()
        SmsCode.objects.filter(expires_at__lte=timezone.now()).delete()
        CaptchaStore.remove_expired()
        call_command("clearsessions")
        self.stdout.write(f"removed {count} unconfirmed accounts and {failures} counted failures")
