"""P13: entitlements, which a daemon verifies offline."""

from __future__ import annotations

import base64
import itertools
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import jwt
import pytest
from django.conf import settings
from django.test import Client
from django.utils import timezone

from portal import signing
from portal.accounts.models import User
from portal.devices import connecting
from portal.devices.models import Device
from portal.subscriptions import redemption
from portal.subscriptions.models import Plan
from portal.vpn import entitlement
from tests.portal.signed import DAY, KEY, claims_of, connected, keys, later, vpn

__all__ = ["keys", "vpn"]  # fixtures


def test_anonymous_entitlement() -> None:
    """P13: without sign-in 200 MB a day and no choice; for 72 hours, to be refreshed after 12."""
    answer = Client().post("/api/v1/entitlement/anonymous", {"public_key": KEY}, content_type="application/json")
    said = answer.json()
    claims = claims_of(said["token"])
    assert jwt.get_unverified_header(said["token"])["typ"] == "vpn-ent+jwt"
    now = claims["iat"]
    assert abs(now - time.time()) < 60
    assert claims == {
        "aud": "vpn", "dev": claims["dev"], "wg": KEY, "plan": "free", "why": "anonymous", "quota_mb_day": 200,
        "servers": "auto", "refresh": said["refresh_at"], "exp": said["expires_at"], "iat": now,
    }  # fmt: skip
    assert claims["dev"].startswith("anonymous-")
    assert (claims["exp"] - now) // 3600 == 72 and (claims["refresh"] - now) // 3600 == 12
    assert len(said["token"]) < 800


def test_a_second_that_ends_meanwhile(monkeypatch: Any) -> None:
    """P13: the times in a token are of one moment, so it is good for exactly the hours of the settings."""
    ticking = itertools.count(int(time.time()))
    with monkeypatch.context() as patch:
        for module in (entitlement, signing):
            patch.setattr(module, "time", SimpleNamespace(time=lambda: next(ticking)))
        token, refresh, expires = entitlement.anonymous(KEY)
    claims = jwt.decode(token, options={"verify_signature": False})
    assert (claims["exp"], claims["refresh"]) == (expires, refresh)
    assert expires - claims["iat"] == settings.ENTITLEMENT_HOURS * 3600
    assert refresh - claims["iat"] == settings.ENTITLEMENT_REFRESH_HOURS * 3600


@pytest.mark.parametrize(
    "key", ["", "x" * 44, KEY[:-1], KEY + "=", "A" * 43 + "=", "\0" * 44, KEY[:-2] + "9=", 7, None]
)
def test_wrong_keys(key: Any) -> None:
    answer = Client().post("/api/v1/entitlement/anonymous", json.dumps({"public_key": key}), "application/json")
    assert (answer.status_code, answer.json()["code"]) in ((422, "malformed"), (400, "malformed"), (400, "key_invalid"))


def test_anonymous_entitlements_are_limited(monkeypatch: Any) -> None:
    """P13: by address, across workers: simultaneous ones too."""
    from django.db import connections

    monkeypatch.setattr(settings, "ANONYMOUS_PER_ADDRESS", 5)

    def ask(number: int) -> int:
        try:
            key = base64.b64encode(bytes([number + 1] * 32)).decode()
            path = "/api/v1/entitlement/anonymous"
            return int(Client().post(path, {"public_key": key}, content_type="application/json").status_code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(ask, range(12)))
    assert (said.count(200), said.count(429)) == (5, 7)


def test_who_asks_for_an_entitlement(vpn: Plan, new_user: Callable[..., User], app: Any) -> None:
    """P13: a connected device alone: not a session, not a revoked credential, not nothing."""
    ann = new_user()
    device, client = connected(ann)
    assert client.get("/api/v1/entitlement").status_code == 200
    app.sign_in(ann.email)
    for path in ("/api/v1/entitlement", "/api/v1/servers"):
        assert app.call("get", path).status_code == 401
        assert Client().get(path).status_code == 401
        assert Client(headers={"Authorization": "Bearer x"}).get(path).status_code == 401
    connecting.disconnect(device)
    assert client.get("/api/v1/entitlement").status_code == 401


def entitled(client: Client) -> dict[str, Any]:
    return claims_of(client.get("/api/v1/entitlement").json()["token"])


def test_entitlement_follows_the_subscription(vpn: Plan, new_user: Callable[..., User]) -> None:
    """P13: signed in 300 MB a day; with premium no limit and a choice, in grace too; expired, free again."""
    ann = new_user()
    device, client = connected(ann)
    claims = entitled(client)
    assert (claims["dev"], claims["wg"]) == (str(device.public_id), KEY)
    facts = ("plan", "why", "quota_mb_day", "servers")
    assert [claims[name] for name in facts] == ["free", "none", 300, "auto"]
    assert "@" not in json.dumps(claims)  # who it is, is nobody else's business

    subscription, _outcome = redemption.redeem(ann, redemption.make(vpn, 1, "")[0])
    claims = entitled(client)
    assert [claims[name] for name in facts] == ["premium", "active", None, "choose"]
    assert (claims["exp"] - claims["iat"]) // 3600 == 72

    later(subscription, 365 * DAY)
    assert [entitled(client)[name] for name in facts] == ["premium", "grace", None, "choose"]
    later(subscription, 7 * DAY)
    assert [entitled(client)[name] for name in facts] == ["free", "expired", 300, "auto"]
    redemption.redeem(ann, redemption.make(vpn, 1, "")[0])
    assert [entitled(client)[name] for name in facts] == ["premium", "active", None, "choose"]


def test_a_free_term_is_free(vpn: Plan, new_user: Callable[..., User]) -> None:
    """P13: the plan's tier decides, and the paid term before it ends when it ends."""
    free = Plan.objects.create(product=vpn.product, slug="vpn-free", name="Free", tier=Plan.Tier.FREE, days=30)
    day = Plan.objects.create(product=vpn.product, slug="vpn-day", name="One day", days=1)
    ann, bob = new_user(), new_user("bob@example.org")
    redemption.redeem(ann, redemption.make(free, 1, "")[0])
    assert entitled(connected(ann)[1])["plan"] == "free"
    for plan in (day, free):
        redemption.redeem(bob, redemption.make(plan, 1, "")[0])
    claims = entitled(connected(bob)[1])
    assert claims["plan"] == "premium"
    assert claims["exp"] <= bob.subscriptions.get().reserves().get().starts_at.timestamp()


def test_no_entitlement_outlives_the_plan(vpn: Plan, new_user: Callable[..., User]) -> None:
    """P13: verified offline, it ends with the grace of the subscription when that is sooner than 72 hours."""
    ann = new_user()
    subscription, _outcome = redemption.redeem(ann, redemption.make(vpn, 1, "")[0])
    _device, client = connected(ann)
    later(subscription, 371 * DAY)
    claims = entitled(client)
    end = subscription.ends_at()
    assert end is not None
    assert claims["why"] == "grace"
    assert claims["exp"] == int((end + 7 * DAY).timestamp())
    assert claims["refresh"] <= claims["exp"]
    # Minutes before the end a daemon is still given a few, or it would ask without end.
    later(subscription, end + 7 * DAY - timezone.now() - timedelta(seconds=20))
    assert entitled(client)["exp"] - time.time() > 200


def test_premium_takes_a_seat(vpn: Plan, new_user: Callable[..., User]) -> None:
    """P13: two seats, two premium devices; the third is told why it is not; it is when one is free."""
    ann = new_user()
    redemption.redeem(ann, redemption.make(vpn, 1, "")[0])
    devices = [connected(ann, f"machine-{number}") for number in range(3)]
    assert [entitled(client)["why"] for _device, client in devices] == ["active", "active", "no_seat"]
    third = entitled(devices[2][1])
    assert (third["plan"], third["quota_mb_day"]) == ("free", 300)
    connecting.disconnect(Device.objects.get(pk=devices[0][0].pk))
    assert [entitled(client)["plan"] for _device, client in devices[1:]] == ["premium", "premium"]
