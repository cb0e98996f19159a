"""Makes the account of a purchase and mails the link to set its password."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import BaseCommand, CommandError, CommandParser

from portal.accounts import checkout, countries


class Command(BaseCommand):
    help = "Makes an account for an e-mail that bought something; its owner gets a link to set a password."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("email")
        parser.add_argument("--country", default="", help="ISO 3166-1, two letters")
        parser.add_argument("--origin", required=True, help="where the portal is, such as https://portal.example")

    def handle(self, *args: Any, **options: Any) -> None:
        country = options["country"].upper()
        if country and country not in countries.codes():
            raise CommandError(f"--country {country}: not a country of ISO 3166-1")
        try:
            user, made = checkout.account_for(options["email"], country, options["origin"])
        except ValidationError as err:
            raise CommandError(f"{options['email']}: {'; '.join(err.messages)}") from err
        self.stdout.write(f"{user.email}: {'made, the link is mailed' if made else 'exists already'}")
