"""What a password must be, and how it is kept."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from django.contrib.auth.hashers import Argon2PasswordHasher, check_password
from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

if TYPE_CHECKING:
    from portal.accounts.models import User


class Hasher(Argon2PasswordHasher):
    """Argon2id with the parameters of OWASP's password storage cheat sheet."""

    time_cost = 2
    memory_cost = 19_456  # KiB
    parallelism = 1


class Characters:
    """A digit, a lower- and an upper-case Latin letter, and no space."""

    # Latin letters only: str.islower would also take Cyrillic ones.
    RULES = (
        (re.compile(r"[0-9]"), "password_no_digit"),
        (re.compile(r"[a-z]"), "password_no_lower"),
        (re.compile(r"[A-Z]"), "password_no_upper"),
    )

    def validate(self, password: str, user: User | None = None) -> None:
        messages = {
            "password_no_digit": _("The password needs a digit."),
            "password_no_lower": _("The password needs a lower-case Latin letter."),
            "password_no_upper": _("The password needs an upper-case Latin letter."),
        }
        errors = [ValidationError(messages[code], code) for rule, code in self.RULES if not rule.search(password)]
        if re.search(r"\s", password):
            errors.append(ValidationError(_("The password must not contain spaces."), "password_space"))
        if errors:
            raise ValidationError(errors)

    def get_help_text(self) -> str:
        return _("A digit, a lower-case and an upper-case Latin letter, no spaces.")


class NotReused:
    """None of the last passwords, the present one included."""

    def __init__(self, last: int = 5) -> None:
        self.last = last

    def validate(self, password: str, user: User | None = None) -> None:
        if user is None or user.pk is None:
            return
        former = user.former_passwords.order_by("-at", "-pk")[: self.last]
        if any(check_password(password, each.encoded) for each in former):
            raise ValidationError(
                _("This is one of your last %(last)d passwords: take another."), "password_reused", {"last": self.last}
            )

    def password_changed(self, password: str, user: User | None = None) -> None:
        """Django calls this after a new password has been saved."""
        if user is None or user.pk is None:
            return
        user.former_passwords.create(encoded=user.password)
        kept = user.former_passwords.order_by("-at", "-pk").values_list("pk", flat=True)[: self.last]
        user.former_passwords.exclude(pk__in=list(kept)).delete()

    def get_help_text(self) -> str:
        return _("None of your last %(last)d passwords.") % {"last": self.last}
