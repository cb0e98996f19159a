"""P7: applications sign in with every step and become devices; a second one on the same computer."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from allauth.usersessions.models import UserSession
from django.contrib.sessions.models import Session
from django.test import Client

from portal.accounts.models import User
from portal.consents import ledger
from portal.consents.models import Kind
from portal.devices import connecting
from portal.devices.models import Credential, Device, Ticket
from portal.subscriptions.models import Seat
from tests.portal.laptop import DEVICES, body, call, exchange, subscribe


@pytest.fixture
def connected(app: Any, new_user: Callable[..., User]) -> Callable[..., tuple[str, Device]]:
    return lambda email="ann@example.org", **fields: exchange(app, new_user, email, **fields)


def test_every_step_then_a_device(app: Any, new_user: Callable[..., User], solved: Any) -> None:
    """P7, A5, A6, A7: wrong passwords, the captcha, the statement; only then a session that becomes a device."""
    user = new_user()
    user.consents.all().delete()
    for _try in range(3):
        app.sign_in(user.email, "Wrong1password")
    assert app.sign_in(user.email).every() == {"captcha_required"}
    app.sign_in(user.email, **app.captcha(*solved()))
    assert app.pending() == ["portal_statement"]
    # Half signed in is not signed in.
    assert app.call("post", DEVICES, body()).status_code == 401
    texts = app.call("get", "/api/v1/auth/statements").json()["data"]
    accept = {each["kind"]: each["version"] for each in texts}
    app.call("post", "/api/v1/auth/statements", {"accept": accept})
    session = app.token
    answer = app.call("post", DEVICES, body(name="  Ann's   laptop "))
    assert answer.status_code == 201
    token, device = answer.json()["credential"], Device.objects.get()
    assert (device.name, device.user) == ("Ann's laptop", user)
    assert call(token, "get", "/api/v1/device").json()["account"] == user.email
    # The session is gone, in both tables.
    assert not Session.objects.exists() and not UserSession.objects.exists()
    app.token = session
    assert app.call("get", "/api/v1/subscriptions").status_code == 401
    assert app.call("post", DEVICES, body()).status_code == 401


def test_credentials_are_kept_as_digests(connected: Any) -> None:
    """P7: 256 random bits, of which the database has the SHA-256; the machine's name is not there either."""
    token, device = connected(machine="my-serial-number-0001")
    assert len(base64.urlsafe_b64decode(token.removeprefix("twd_") + "=")) == 32
    kept = device.credentials.get()
    assert kept.digest == connecting.digest(token)
    row = " ".join(str(value) for value in (*vars(device).values(), *vars(kept).values()))
    assert token not in row and "my-serial-number-0001" not in row


def test_wrong_credentials() -> None:
    wrong = ["", "x", "twd_", "twd_" + "A" * 43, "twd_" + "é" * 43, "twt_" + "A" * 43, "twd_" + "A" * 5000, "a b c"]
    for token in wrong:
        answer = call(token.encode().decode("latin-1"), "get", "/api/v1/device")
        assert (answer.status_code, answer.headers["Content-Type"]) == (401, "application/problem+json")


def test_a_session_is_no_credential_and_the_reverse(app: Any, connected: Any) -> None:
    """P7: what manages an account is not what a device shows: a stolen credential disconnects nobody else."""
    token, device = connected()
    app.sign_in("ann@example.org")
    session = app.token
    assert call(session, "get", "/api/v1/device").status_code == 401
    for method, path in (("get", DEVICES), ("delete", f"{DEVICES}/{device.public_id}"), ("post", DEVICES)):
        assert call(token, method, path, body() if method == "post" else None).status_code == 401
        assert getattr(Client(), method)(path, headers={"X-Session-Token": token}).status_code == 401
    assert Device.objects.exists()


WRONG = [
    ({"wireguard_key": "A" * 43 + "="}, "key_invalid"),  # 32 zero bytes are nobody's key
    ({"wireguard_key": base64.b64encode(b"x" * 31).decode()}, "key_invalid"),
    ({"wireguard_key": base64.b64encode(b"x" * 33).decode()}, "key_invalid"),
    ({"wireguard_key": base64.b64encode(b"x" * 32).decode()[:-2] + "B="}, "key_invalid"),  # not canonical
    ({"wireguard_key": "not base64!"}, "key_invalid"),
    ({"wireguard_key": "é" * 44}, "key_invalid"),
    ({"platform": "amiga"}, "platform_invalid"),
    ({"name": "   "}, "name_invalid"),
    ({"name": "a\u202eb"}, "name_invalid"),
    ({"name": "a\x07b"}, "name_invalid"),
    ({"name": "x" * 81}, "name_invalid"),
    ({"machine": "short"}, "machine_invalid"),
    ({"version": "1.0; rm"}, "version_invalid"),
    ({"version": ""}, "version_invalid"),
    ({"application": "../x"}, "application_invalid"),
    ({"product": "a b"}, "product_invalid"),
    ({"name": None}, "malformed"),
    ({"name": "a\x00b"}, "malformed"),
    ({"product": "\x00"}, "malformed"),
    ({"machine": 5}, "malformed"),
    ({"name": "x" * 201}, "malformed"),
]


def test_what_a_device_must_say(app: Any, new_user: Callable[..., User]) -> None:
    """P11: refused with its reason; nothing is connected, and the session is still good for the right answer."""
    app.sign_in(new_user().email)
    for fields, code in WRONG:
        answer = app.call("post", DEVICES, body(**fields))
        assert answer.json()["code"] == code and answer.status_code in (400, 422), fields
    assert not Device.objects.exists()
    assert app.call("post", DEVICES, body()).status_code == 201


def test_one_session_makes_one_device(app: Any, new_user: Callable[..., User]) -> None:
    """P7: eight exchanges of one session at once: one wins."""
    from django.db import connections

    app.sign_in(new_user().email)
    token = app.token

    def once(_number: int) -> int:
        try:
            data = json.dumps(body())
            headers = {"X-Session-Token": token}
            return Client().post(DEVICES, data, content_type="application/json", headers=headers).status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        said = sorted(pool.map(once, range(8)))
    assert said == [201] + [401] * 7
    assert Device.objects.count() == 1


def derived(token: str, machine: str, wrong: dict[str, str] | None = None) -> Any:
    """The ticket, and what the second application was told when it redeemed it."""
    ticket = call(token, "post", "/api/v1/device/tickets", {"application": "suite"}).json()
    redeem = {"ticket": ticket["ticket"], "application": "suite", "machine": machine} | (wrong or {})
    return ticket, Client().post(f"{DEVICES}/derived", json.dumps(redeem), content_type="application/json")


def test_continue_as(web: Any, connected: Any) -> None:
    """P7, A4: the second application is told whose account it is, and gets a credential of its own."""
    machine = "m" * 20
    token, device = connected(machine=machine)
    ticket, answer = derived(token, machine)
    assert (ticket["account"], answer.status_code) == ("ann@example.org", 201)
    second = answer.json()["credential"]
    found = call(second, "get", "/api/v1/device").json()
    assert (found["application"], found["device"]["id"]) == ("suite", str(device.public_id))
    assert Device.objects.count() == 1
    # It is not the device's own: it changes nothing of it, hears no commands and invites nobody.
    for method, path, data in (
        ("patch", "/api/v1/device", {"version": "9"}), ("get", "/api/v1/commands", None),
        ("post", "/api/v1/device/tickets", {"application": "other"}), ("post", "/api/v1/device/seat", {"product": "x"}),
    ):  # fmt: skip
        refused = call(second, method, path, data)
        assert (refused.status_code, refused.json()["code"]) == (403, "not_first")
    # Signed out alone, on the page; the first one stays.
    web.sign_in("ann@example.org")
    assert "suite" in web.client.get(f"/devices/{device.public_id}/").content.decode()
    web.client.post(f"/devices/{device.public_id}/applications/suite/")
    assert call(second, "get", "/api/v1/device").status_code == 401
    assert call(token, "get", "/api/v1/device").status_code == 200


def test_derived_credentials_go_with_the_device(app: Any, connected: Any) -> None:
    """P7: disconnected by whatever way, both end."""
    for way in ("page", "itself", "again"):
        token, device = connected(machine="m" * 20)
        second = derived(token, "m" * 20)[1].json()["credential"]
        assert call(second, "get", "/api/v1/device").status_code == 200
        if way == "page":
            connecting.disconnect(device)
        elif way == "itself":
            assert call(token, "delete", "/api/v1/device").status_code == 200
        else:
            connected(machine="m" * 20)
        assert call(second, "get", "/api/v1/device").status_code == 401
        assert call(token, "get", "/api/v1/device").status_code == 401


@pytest.mark.parametrize("wrong", [{"machine": "n" * 20}, {"application": "other"}, {"ticket": "twt_" + "A" * 43}])
def test_tickets_are_for_one_application_on_one_computer(connected: Any, wrong: dict[str, str]) -> None:
    """P7: carried elsewhere it is worth nothing, and used up."""
    token, _device = connected(machine="m" * 20)
    _ticket, answer = derived(token, "m" * 20, wrong)
    assert (answer.status_code, answer.json()["code"]) == (410, "ticket_gone")
    assert Credential.objects.count() == 1
    assert Ticket.objects.count() == ("ticket" in wrong)


def test_tickets_are_used_once(connected: Any) -> None:
    """P7: eight tries at once, one wins; and an old one is worth nothing."""
    from django.db import connections
    from django.utils import timezone

    token, _device = connected(machine="m" * 20)
    ticket = call(token, "post", "/api/v1/device/tickets", {"application": "suite"}).json()["ticket"]
    redeem = json.dumps({"ticket": ticket, "application": "suite", "machine": "m" * 20})

    def once(_number: int) -> int:
        try:
            return Client().post(f"{DEVICES}/derived", redeem, content_type="application/json").status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(once, range(8))) == [201] + [410] * 7
    ticket = call(token, "post", "/api/v1/device/tickets", {"application": "third"}).json()["ticket"]
    Ticket.objects.update(expires_at=timezone.now())
    late = json.dumps({"ticket": ticket, "application": "third", "machine": "m" * 20})
    assert Client().post(f"{DEVICES}/derived", late, content_type="application/json").status_code == 410
    assert Credential.objects.count() == 2


def test_signed_out_everywhere(connected: Any) -> None:
    """A6, P2: without the portal statement nobody stays signed in, a device neither; nor in a closed account."""
    token, device = connected()
    subscribe(device.user)
    connecting.seat(device, "vpn")
    ledger.withdraw(device.user, Kind.MARKETING)
    assert call(token, "get", "/api/v1/device").status_code == 200
    ledger.withdraw(device.user, Kind.PORTAL)
    assert call(token, "get", "/api/v1/device").status_code == 401
    assert not Seat.objects.exists()
    token, other = connected("bob@example.org")
    User.objects.filter(pk=other.user_id).update(is_active=False)
    assert call(token, "get", "/api/v1/device").status_code == 401
