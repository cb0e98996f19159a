"""What the portal asks a shop. No real payment is made here: a shop is named by a setting and plugged in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, cast

from django.conf import settings
from django.utils.module_loading import import_string


@dataclass(frozen=True)
class Renewal:
    """A renewal that was paid: its unique reference, and the slug of the plan it bought."""

    reference: str
    plan: str


class Shop(Protocol):
    def renewals(self, code_digest: str) -> list[Renewal]:
        """Every paid renewal of the subscription that this code began. Raises OSError when it cannot be asked."""


class NoShop:
    """Nothing is sold: only codes give terms."""

    def renewals(self, code_digest: str) -> list[Renewal]:
        return []


def shop() -> Shop:
    return cast(Shop, import_string(getattr(settings, "SHOP", "portal.subscriptions.payments.NoShop"))())
