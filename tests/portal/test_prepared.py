"""What devices ask most often: few statements, whose SQL is written once, and the same answers as ever."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import IntegrityError, connection, transaction
from django.db.models import BigAutoField, CharField, DateTimeField, GenericIPAddressField
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal import signing
from portal.accounts.models import User
from portal.devices import connecting
from portal.devices.models import Credential, Device
from portal.prepared import Select, Slot, Update
from portal.subscriptions import redemption
from portal.subscriptions.models import Plan, Product, Term
from portal.vpn import entitlement
from tests.portal import laptop

ENTITLEMENT = "/api/v1/entitlement"


@pytest.fixture
def device(new_user: Callable[..., User]) -> Device:
    made, _credential = connecting.connect(new_user(), connecting.Computer(**laptop.body(machine="machine-1")))
    return made


def named(device: Device, text: str) -> None:
    Device.objects.filter(pk=device.pk).update(name=text)


def test_models_as_the_queryset_gives_them(device: Device) -> None:
    """Every field of the device, its account and its credential, without another query."""
    asked = Credential.objects.order_by().select_related("device__user")
    wanted = asked.get()
    select: Select[Credential] = Select(lambda: asked.filter(digest=Slot("digest", CharField())))
    for _time in range(2):
        with CaptureQueriesContext(connection) as queries:
            (found,) = select(digest=wanted.digest)
            pairs = [(found, wanted), (found.device, wanted.device), (found.device.user, wanted.device.user)]
        assert len(queries) == 1
        for one, other in pairs:
            fields = [each.attname for each in other._meta.concrete_fields]
            assert [getattr(one, each) for each in fields] == [getattr(other, each) for each in fields]
            assert not one._state.adding
    assert select(digest="0" * 64) == []


def test_values_are_bound_at_each_call(device: Device) -> None:
    """None is part of the SQL, whatever it looks like."""
    select: Select[tuple[int, str]] = Select(
        lambda: Device.objects.order_by().filter(name=Slot("name", CharField())).values_list("pk", "name")
    )
    for text in ("Lap'top", "' OR 1=1 --", "100 % %s", "\N{SNOWMAN}"):
        assert select(name=text) == []
        named(device, text)
        assert select(name=text) == [(device.pk, text)]


def test_update_tells_how_many(device: Device) -> None:
    update = Update(
        lambda: Device.objects.filter(pk=Slot("pk", BigAutoField())),
        last_seen_at=Slot("now", DateTimeField()),
        address=Slot("address", GenericIPAddressField()),
    )
    now = timezone.now() + timedelta(days=1)
    for address in ("2001:db8::7", "192.0.2.7"):
        assert update(pk=device.pk, now=now, address=address) == 1
        device.refresh_from_db()
        assert (device.last_seen_at, device.address) == (now, address)
    assert update(pk=device.pk + 1, now=now, address="192.0.2.8") == 0


def test_a_failed_update_rolls_back(device: Device) -> None:
    """As Django's own: nothing goes on in a transaction that has failed."""
    other, _credential = connecting.connect(device.user, connecting.Computer(**laptop.body(machine="machine-2")))
    rename = Update(lambda: Device.objects.filter(pk=Slot("pk", BigAutoField())), name=Slot("name", CharField()))
    with pytest.raises(transaction.TransactionManagementError), transaction.atomic():
        with pytest.raises(IntegrityError):
            rename(pk=other.pk, name=device.name)
        named(other, "Another")
    other.refresh_from_db()
    assert other.name != "Another"


def test_an_entitlement_costs_three_statements(app: Any, new_user: Callable[..., User]) -> None:
    """The credential with its device and account; when it was last seen, unless that was a moment ago; the terms."""
    user = new_user("ann@example.org")
    laptop.subscribe(user)
    credential, device = laptop.exchange(app, new_user, user.email)
    asker = Client(headers={"Authorization": f"Bearer {credential}"})
    assert asker.get(ENTITLEMENT).status_code == 200  # takes the seat
    Device.objects.filter(pk=device.pk).update(last_seen_at=timezone.now() - timedelta(hours=13))
    for statements in (3, 2):
        with CaptureQueriesContext(connection) as queries:
            answer = asker.get(ENTITLEMENT)
        assert answer.status_code == 200 and len(queries) == statements, queries.captured_queries
    device.refresh_from_db()
    assert timezone.now() - device.last_seen_at < timedelta(minutes=1)


def test_nothing_that_was_read_is_kept(app: Any, new_user: Callable[..., User]) -> None:
    """The next request sees what changed: the plan, the account that may not sign in, the device that was removed."""
    user = new_user("ann@example.org")
    subscription = laptop.subscribe(user)
    credential, device = laptop.exchange(app, new_user, user.email)

    def asked() -> tuple[int, str]:
        answer = laptop.call(credential, "get", ENTITLEMENT)
        if answer.status_code != 200:
            return answer.status_code, answer.json()["code"]
        claims = signing.verify(answer.json()["token"], entitlement.TYPE, audience=entitlement.AUDIENCE)
        return 200, f"{claims['plan']} {claims['why']}"

    assert asked() == asked() == (200, "premium active")
    Term.objects.filter(subscription=subscription).delete()
    assert asked() == (200, "free expired")
    User.objects.filter(pk=user.pk).update(is_active=False)
    assert asked() == (401, "device_unknown")
    User.objects.filter(pk=user.pk).update(is_active=True)
    assert asked() == (200, "free expired")
    connecting.disconnect(device)
    assert asked() == (401, "device_unknown")


def test_the_language_is_not_in_the_address(web: Any) -> None:
    """It comes from the cookie or from Accept-Language, also where an address begins like a language."""
    for path, status in (("/", 302), ("/fr/", 404), ("/api/v1/keys", 200), ("/accounts/login/", 200)):
        answer = web.client.get(path, headers={"Accept-Language": "de"})
        assert (answer.status_code, answer["Content-Language"]) == (status, "de"), path
        assert "Accept-Language" in answer["Vary"]


def test_terms_are_read_once_to_be_told(app: Any, new_user: Callable[..., User]) -> None:
    """State, days left, end, seats and the list of terms follow from one reading."""
    user = new_user("ann@example.org")
    subscription = laptop.subscribe(user)
    app.sign_in(user.email)
    with CaptureQueriesContext(connection) as queries:
        (told,) = app.call("get", "/api/v1/subscriptions").json()
    assert sum('FROM "subscriptions_term"' in each["sql"] for each in queries) == 1
    assert (told["state"], told["days_left"], told["seats"], told["seats_left"]) == ("active", 365, 2, 2)
    assert told["ends_at"] == told["terms"][-1]["ends_at"] and len(told["terms"]) == 1
    later = timezone.now() + timedelta(days=366)
    assert subscription.state(later) == "grace" and subscription.state(later + timedelta(days=7)) == "expired"


def test_a_seat_of_another_product_is_none_of_the_vpn(new_user: Callable[..., User]) -> None:
    """P13: a premium plan of something else gives this device the free one."""
    user = new_user()
    product = Product.objects.create(slug="other", name="Other")
    plan = Plan.objects.create(product=product, slug="other-year", name="A year", days=365)
    redemption.redeem(user, redemption.make(plan, 1, "")[0])
    computer = connecting.Computer(**laptop.body(machine="machine-1"))
    device, _credential = connecting.connect(user, computer, product.slug)
    assert device.seat is not None
    assert entitlement.right_of(device) == entitlement.Right(Plan.Tier.FREE, entitlement.Why.NONE, 300)
