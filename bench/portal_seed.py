"""Fills a portal's database, or sends commands to its devices. A program of its own: it is Django, bench_portal is not.

python -m bench.portal_seed make PLACES FILE
python -m bench.portal_seed send COUNT A_SECOND
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import sys
import time
import uuid
from datetime import timedelta
from pathlib import Path

PASSWORD = "Blue7kettle"  # of accounts that live for minutes


def _bytes(what: str, number: int) -> bytes:
    return hashlib.sha256(f"{what} {number}".encode()).digest()


def email(number: int) -> str:
    return f"person{number}@example.org"


def credential(number: int) -> str:
    return "twd_" + base64.urlsafe_b64encode(_bytes("device", number)).rstrip(b"=").decode()


def device(number: int) -> str:
    return str(uuid.UUID(bytes=_bytes("name", number)[:16], version=4))


def wireguard(number: int) -> str:
    return base64.b64encode(_bytes("key", number)).decode()


def make(count: int, file: Path) -> None:
    """So many accounts: consents given, e-mail confirmed, a year of the VPN, a device that last asked 13 hours ago."""
    from allauth.account.models import EmailAddress
    from django.contrib.auth.hashers import make_password
    from django.core.management import call_command
    from django.db import transaction
    from django.utils import timezone

    from portal.accounts.models import User
    from portal.consents.models import Consent, Kind, Statement
    from portal.devices.connecting import digest
    from portal.devices.models import Credential, Device
    from portal.subscriptions import redemption
    from portal.subscriptions.models import Plan, Product, Seat, Subscription, Term

    call_command("migrate", verbosity=0)
    call_command("signing_keys", "make", stdout=io.StringIO())
    now = timezone.now()
    with transaction.atomic():
        encoded = make_password(PASSWORD)  # one for all: to verify costs the same
        users = User.objects.bulk_create(
            [User(email=email(number), password=encoded, country="SE") for number in range(count)], batch_size=1000
        )
        EmailAddress.objects.bulk_create(
            [EmailAddress(user=each, email=each.email, verified=True, primary=True) for each in users], batch_size=1000
        )
        texts = [
            Statement.objects.filter(kind=kind, language="en").latest("version") for kind in (Kind.PRIVACY, Kind.PORTAL)
        ]
        Consent.objects.bulk_create(
            [Consent(user=each, statement=text) for each in users for text in texts], batch_size=1000
        )
        product, _ = Product.objects.get_or_create(slug="vpn", defaults={"name": "VPN", "shareable": False})
        other, _ = Product.objects.get_or_create(slug="other", defaults={"name": "Other"})
        plan = Plan.objects.create(product=product, slug="bench-year", name="A year", days=365, seats=5)
        month = Plan.objects.create(product=other, slug="bench-month", name="A month", days=30, seats=5)
        owned = Subscription.objects.bulk_create(
            [Subscription(owner=each, product=product) for each in users], batch_size=1000
        )
        since, until = now - timedelta(days=30), now + timedelta(days=335)
        Term.objects.bulk_create(
            [Term(subscription=each, plan=plan, starts_at=since, ends_at=until) for each in owned], batch_size=1000
        )
        seats = Seat.objects.bulk_create(
            [Seat(subscription=each, user=each.owner, device=device(number)) for number, each in enumerate(owned)],
            batch_size=1000,
        )
        devices = Device.objects.bulk_create(
            [
                Device(
                    user=seat.user, public_id=device(number), name="Laptop", platform="linux", version="1.4.0",
                    machine=_bytes("machine", number).hex(), wireguard_key=wireguard(number), seat=seat,
                    last_seen_at=now - timedelta(hours=13), address="192.0.2.7",
                )
                for number, seat in enumerate(seats)
            ],
            batch_size=1000,
        )  # fmt: skip
        Credential.objects.bulk_create(
            [
                Credential(device=each, digest=digest(credential(number)), application="vpn")
                for number, each in enumerate(devices)
            ],
            batch_size=1000,
        )
        codes = redemption.make(month, count, "bench")
    file.write_text(json.dumps(codes))


def send(count: int, rate: float) -> None:
    """To the first devices, one each, so many a second; then tells which command was committed when."""
    from portal.devices import commands
    from portal.devices.models import Device

    found = [Device.objects.get(public_id=device(number)) for number in range(count)]
    print("ready", flush=True)
    sys.stdin.readline()
    begun, sent = time.monotonic(), []
    for number, each in enumerate(found):
        time.sleep(max(0.0, begun + number / rate - time.monotonic()))
        command = commands.send(each, "refresh")
        sent.append((command.jti, time.time()))
    for jti, when in sent:
        print(jti, when)


if __name__ == "__main__":
    import django

    django.setup()
    if sys.argv[1] == "make":
        make(int(sys.argv[2]), Path(sys.argv[3]))
    else:
        send(int(sys.argv[2]), float(sys.argv[3]))
