"""What the tests of downloads share: releases in a folder of their own, and somebody who may have them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages

from portal.accounts.models import User
from portal.downloads.models import Package, Release
from portal.subscriptions import redemption
from portal.subscriptions.models import Plan, Product, Subscription, Term

DATA = bytes(range(256)) * 5000  # more than one chunk


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: Any) -> Path:
    """Releases of this test alone."""
    folder = tmp_path / "releases"
    monkeypatch.setattr(storages["releases"], "_location", str(folder))
    for name in ("base_location", "location"):
        storages["releases"].__dict__.pop(name, None)
    return folder


@pytest.fixture
def suite() -> Plan:
    product = Product.objects.create(slug="suite", name="Suite", shareable=True)
    return Plan.objects.create(product=product, slug="suite-year", name="One year", days=365, seats=2)


def release(product: Product, platform: str = "linux", package: str = "deb", **fields: Any) -> Release:
    store = package == Package.STORE
    values: dict[str, Any] = {"version": "3.1", "published": True}
    values |= {"store_url": "https://store.example/app"} if store else {"file": ContentFile(DATA, name="../../x.sh")}
    made = Release(product=product, platform=platform, package=package, **(values | fields))
    made.full_clean()
    made.save()
    return made


@pytest.fixture
def ann(suite: Plan, new_user: Callable[..., User]) -> User:
    """Has the suite, with two seats."""
    user = new_user()
    redemption.redeem(user, redemption.make(suite, 1, "")[0])
    return user


def own(user: User) -> Subscription:
    found: Subscription = user.subscriptions.get()
    return found


def later(subscription: Subscription, by: timedelta) -> None:
    for term in subscription.terms.all():
        Term.objects.filter(pk=term.pk).update(starts_at=term.starts_at - by, ends_at=term.ends_at - by)


def link_of(web: Any, found: Release) -> str:
    """Where the Download button leads."""
    answer = web.client.get(f"/downloads/releases/{found.pk}/start/")
    assert answer.status_code == 302, answer.content
    return urlsplit(answer["Location"]).path


def body(answer: Any) -> bytes:
    return bytes(answer.getvalue() if answer.streaming else answer.content)
