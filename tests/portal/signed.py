"""What the tests of keys, entitlements and servers share: new keys, a plan, and what a daemon verifies with."""

from __future__ import annotations

import base64
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from django.conf import settings
from django.core.management import call_command
from django.test import Client

from portal.accounts.models import User
from portal.devices import connecting
from portal.devices.models import Device
from portal.subscriptions.models import Plan, Product, Subscription, Term

DAY = timedelta(days=1)
KEY = base64.b64encode(bytes(range(32))).decode()


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: Any) -> Path:
    """New keys for each test, for some rotate them."""
    monkeypatch.setattr(settings, "SIGNING_KEYS", tmp_path / "keys")
    call_command("signing_keys", "make", stdout=StringIO())
    return tmp_path / "keys" / "signing.json"


@pytest.fixture
def vpn() -> Plan:
    product = Product.objects.create(slug="vpn", name="VPN", shareable=False)
    return Plan.objects.create(product=product, slug="vpn-year", name="One year", days=365, seats=2)


def command(*arguments: str) -> str:
    out = StringIO()
    call_command("signing_keys", *arguments, stdout=out)
    return out.getvalue()


def later(subscription: Subscription, by: timedelta) -> None:
    for term in subscription.terms.all():
        Term.objects.filter(pk=term.pk).update(starts_at=term.starts_at - by, ends_at=term.ends_at - by)


def connected(user: User, machine: str = "machine-1", product: str = "") -> tuple[Device, Client]:
    """A device and a client that shows its credential."""
    computer = connecting.Computer("laptop", "linux", "3.1", machine, KEY)
    device, credential = connecting.connect(user, computer, product)
    return device, Client(headers={"Authorization": f"Bearer {credential}"})


def pinned() -> list[Ed25519PublicKey]:
    """What a daemon keeps: read from /api/v1/keys, without our own code."""
    found = Client().get("/api/v1/keys").json()["keys"]
    return [Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(each["x"] + "=")) for each in found]


def claims_of(text: str) -> dict[str, Any]:
    """As a daemon reads it: by the pinned key, offline."""
    return dict(jwt.decode(text, pinned()[0], algorithms=["EdDSA"], audience="vpn"))
