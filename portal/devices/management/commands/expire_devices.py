"""Removes old commands, tickets that nobody used, and tokens of device authorisations. Run it daily."""

from __future__ import annotations

from typing import Any

from allauth.idp.oidc.models import Token
from django.core.management.base import BaseCommand
from django.utils import timezone

from portal.devices import commands
from portal.devices.models import Ticket


class Command(BaseCommand):
    help = "Removes commands older than 90 days, unused tickets and expired tokens."

    def handle(self, *args: Any, **options: Any) -> None:
        count = commands.expire()
        Ticket.objects.filter(expires_at__lte=timezone.now()).delete()
        Token.objects.expired().delete()
        self.stdout.write(f"removed {count} commands")
