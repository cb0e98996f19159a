"""P11, B8: the list of devices, names, the limit, disconnecting, last seen and the country."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from portal.accounts.models import User
from portal.devices import connecting
from portal.devices.models import Device
from portal.subscriptions import sharing
from portal.subscriptions.models import Seat
from tests.portal.laptop import DEVICES, body, call, exchange, subscribe


@pytest.fixture
def connected(app: Any, new_user: Callable[..., User]) -> Callable[..., tuple[str, Device]]:
    return lambda email="ann@example.org", **fields: exchange(app, new_user, email, **fields)


def test_the_same_computer_again(connected: Any) -> None:
    """P11: stays one device with the name its owner gave it; its former credential is void."""
    first, device = connected(machine="m" * 20)
    connecting.rename(device, "Kitchen")
    second, again = connected(machine="m" * 20, version="2.0")
    assert (again.pk, again.name, again.version, Device.objects.count()) == (device.pk, "Kitchen", "2.0", 1)
    assert call(first, "get", "/api/v1/device").json()["code"] == "device_unknown"
    assert call(second, "get", "/api/v1/device").status_code == 200
    # In another account it is another device.
    _token, other = connected("bob@example.org", machine="m" * 20)
    assert other.pk != device.pk and other.machine != device.machine


def test_list_and_names(web: Any, app: Any, connected: Any) -> None:
    """P11: name, platform, version, last seen, country of the address; no two look alike."""
    connected()
    connected(platform="macos", version="2.1")
    app.sign_in("ann@example.org")
    found = app.call("get", DEVICES).json()
    assert [(each["name"], each["platform"], each["country"]) for each in found] == [
        ("Laptop", "linux", ""), ("Laptop (2)", "macos", "")
    ]  # fmt: skip
    web.sign_in("ann@example.org")
    page = web.client.get("/devices/").content.decode()
    unknown = "the country of its address is not known"
    for words in ("Laptop (2)", "macOS", "version 2.1", "Last seen just now", unknown):
        assert words in page
    Device.objects.update(last_seen_at=timezone.now() - timedelta(hours=2))
    assert "Last seen 2\xa0hours ago" in web.client.get("/devices/").content.decode()


def rename(door: Any, device: Device, name: str) -> tuple[int, str]:
    if door.name == "api":
        answer = door.call("patch", f"{DEVICES}/{device.public_id}", {"name": name})
        return answer.status_code, answer.json().get("code", "")
    response = door.client.post(f"/devices/{device.public_id}/rename/", {"name": name})
    return (200, "") if response.status_code == 302 else (response.status_code, response.context["error"].code)


def test_rename(door: Any, connected: Any) -> None:
    """P11: the seat has the new name too; a name that is taken, empty or deceiving is refused."""
    user = User.objects.create_user("x@example.org")
    _token, one = connected()
    _token, other = connected()
    subscribe(one.user)
    connecting.seat(one, "vpn")
    door.sign_in(one.user.email)
    assert rename(door, one, "Kitchen")[0] == 200
    one.refresh_from_db()
    assert (one.name, one.seat.device) == ("Kitchen", "Kitchen")
    assert rename(door, other, "Kitchen") == (409 if door.name == "api" else 400, "name_taken")
    assert rename(door, other, "a\u200bb") == (400, "name_invalid")
    assert rename(door, other, "")[1] in ("name_invalid", "malformed")
    other.refresh_from_db()
    assert other.name == "Laptop (2)"
    assert user.devices.count() == 0


def test_disconnect_one(door: Any, connected: Any) -> None:
    """P11: its credential ends at once and its seat is free; the subscription and the others stay."""
    token, one = connected()
    other_token, other = connected()
    vpn = subscribe(one.user)
    connecting.seat(one, "vpn")
    assert vpn.seats_left() == 1
    door.sign_in(one.user.email)
    if door.name == "api":
        assert door.call("delete", f"{DEVICES}/{one.public_id}").status_code == 200
    else:
        assert door.client.post(f"/devices/{one.public_id}/disconnect/").status_code == 302
    assert call(token, "get", "/api/v1/device").status_code == 401
    assert call(other_token, "get", "/api/v1/device").status_code == 200
    assert list(Device.objects.all()) == [other]
    assert vpn.seats_left() == 2


def test_disconnect_others(door: Any, connected: Any) -> None:
    """P11: all but one; those of other accounts stay."""
    kept = connected()[1]
    connected()
    connected()
    stranger = connected("bob@example.org")[1]
    door.sign_in(kept.user.email)
    if door.name == "api":
        assert door.call("delete", f"{DEVICES}/{kept.public_id}/others").json() == {"count": 2}
    else:
        assert door.client.post(f"/devices/{kept.public_id}/others/").status_code == 302
    assert set(Device.objects.all()) == {kept, stranger}


def test_what_belongs_to_others(web: Any, app: Any, connected: Any) -> None:
    """P11: neither seen nor changed: there is no such thing."""
    _token, device = connected()
    connected("eve@example.org")
    web.sign_in("eve@example.org")
    app.sign_in("eve@example.org")
    at = f"/devices/{device.public_id}/"
    assert web.client.get(at).status_code == 404
    for action in ("rename/", "command/", "disconnect/", "others/", "applications/vpn/"):
        data = {"name": "x", "command": "connect"}
        assert web.client.post(at + action, data).status_code == 404
    at = f"{DEVICES}/{device.public_id}"
    for method, path, data in (
        ("patch", at, {"name": "x"}), ("delete", at, None), ("delete", f"{at}/others", None),
        ("delete", f"{at}/applications/vpn", None), ("delete", f"{at}/applications/%00", None),
        ("get", f"{at}/commands", None),
        ("post", f"{at}/commands", {"command": "connect"}), ("delete", f"{DEVICES}/{uuid.uuid4()}", None),
    ):  # fmt: skip
        answer = app.call(method, path, data)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    device.refresh_from_db()
    assert device.name == "Laptop" and not device.commands.exists() and device.credentials.exists()
    assert "Laptop" not in web.client.get("/devices/limit/").content.decode()


def test_over_the_limit(web: Any, app: Any, connected: Any) -> None:
    """P11, Z9: every seat taken: said so, with the devices that have them and the page to choose on; then it goes."""
    _token, one = connected()
    subscribe(one.user, seats=2)
    connecting.seat(one, "vpn")
    connected(product="vpn", name="Phone")
    app.sign_in(one.user.email)
    answer = app.call("post", DEVICES, body(name="Third", product="vpn"))
    assert (answer.status_code, answer.json()["code"]) == (409, "no_seat")
    assert [each["name"] for each in answer.json()["devices"]] == ["Laptop", "Phone"]
    assert answer.json()["manage"] == "http://testserver/devices/limit/"
    assert Device.objects.count() == 2
    web.sign_in(one.user.email)
    assert "Every seat is taken" in web.client.get("/devices/limit/").content.decode()
    page = web.client.post(f"/devices/{one.public_id}/disconnect/", {"from": "limit"}, follow=True).content.decode()
    assert "A seat is free" in page and "Phone" in page
    answer = app.call("post", DEVICES, body(name="Third", product="vpn"))
    assert (answer.status_code, answer.json()["device"]["seat"]) == (201, "vpn")


def test_a_seat_taken_meanwhile_is_freed(connected: Any) -> None:
    """P11: whoever disconnects a device had read it before it took a seat."""
    _token, one = connected()
    vpn = subscribe(one.user, seats=2)
    read = Device.objects.get(pk=one.pk)
    connecting.seat(one, "vpn")
    assert vpn.seats_left() == 1
    connecting.disconnect(read)
    assert vpn.seats_left() == 2


def test_seats_are_not_given_twice(new_user: Callable[..., User]) -> None:
    """P11: ten computers at once for three seats."""
    from django.core.exceptions import ValidationError
    from django.db import connections

    user = new_user()
    subscribe(user, seats=3)

    def once(number: int) -> str:
        try:
            computer = connecting.Computer(**body(name=f"Computer {number}"))
            return connecting.connect(user, computer, "vpn")[0].name
        except ValidationError as err:
            return str(err.code)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(6) as pool:
        said = list(pool.map(once, range(10)))
    assert said.count("no_seat") == 7
    assert (Device.objects.count(), Seat.objects.count()) == (3, 3)


def test_free_and_freed_seats(connected: Any) -> None:
    """P11: without a subscription a device is connected and has no seat; with one it takes a seat when it asks."""
    token, device = connected(product="vpn")
    assert device.seat is None
    assert call(token, "post", "/api/v1/device/seat", {"product": "vpn"}).json() == {"product": ""}
    vpn = subscribe(device.user, seats=1)
    assert call(token, "post", "/api/v1/device/seat", {"product": "vpn"}).json() == {"product": "vpn"}
    assert call(token, "post", "/api/v1/device/seat", {"product": "vpn"}).json() == {"product": "vpn"}
    assert vpn.taken.count() == 1
    other, _device = connected()
    answer = call(other, "post", "/api/v1/device/seat", {"product": "vpn"})
    assert (answer.status_code, answer.json()["code"]) == (409, "no_seat")
    sharing.release_seat(device.user, vpn.taken.get().pk)
    device.refresh_from_db()
    assert device.seat is None
    assert call(other, "post", "/api/v1/device/seat", {"product": "vpn"}).status_code == 200


def test_too_many_devices(app: Any, connected: Any, monkeypatch: Any) -> None:
    """P11, Z13: an account has no more than so many devices."""
    monkeypatch.setattr("portal.devices.connecting.MOST_DEVICES", 2)
    connected()
    _token, last = connected()
    app.sign_in(last.user.email)
    answer = app.call("post", DEVICES, body())
    assert (answer.status_code, answer.json()["code"], len(answer.json()["devices"])) == (409, "too_many_devices", 2)
    connecting.disconnect(last)
    assert app.call("post", DEVICES, body()).status_code == 201


def test_last_seen_and_country(connected: Any, settings_of: Any, tmp_path: Any) -> None:
    """P11: by the local database, else by a trusted proxy's header, else unknown; never by what a client writes."""
    from django.conf import settings
    from django.utils import timezone

    token, device = connected()
    long_ago = timezone.now() - timezone.timedelta(days=3)  # type: ignore[attr-defined]

    def country(address: str, **headers: str) -> str:
        Device.objects.filter(pk=device.pk).update(last_seen_at=long_ago, country="")
        forwarded = {"X-Forwarded-For": address}
        assert call(token, "get", "/api/v1/device", **headers, **forwarded).status_code == 200
        device.refresh_from_db()
        assert (timezone.now() - device.last_seen_at).total_seconds() < 600
        return device.country

    header = {"CF-IPCountry": "fr"}
    assert country("192.0.2.7", **header) == ""
    with settings_of(settings, "COUNTRY_HEADER", "CF-IPCountry"):
        assert country("192.0.2.7", **header) == ""  # no proxy is trusted, so anybody could have written it
        with settings_of(settings, "ALLAUTH_TRUSTED_PROXY_COUNT", 1):
            assert country("192.0.2.7", **header) == "FR"
            assert country("192.0.2.7", **{"CF-IPCountry": "XX"}) == ""
            assert country("192.0.2.7", **{"CF-IPCountry": "<b>"}) == ""
    (tmp_path / "geoip").write_text("# comment\n3221225984,3221226239,DE\n3325256704,3325256959,??\n")
    (tmp_path / "geoip6").write_text("2001:db8::,2001:db8:0:ffff:ffff:ffff:ffff:ffff,SE\n")
    with settings_of(settings, "GEOIP", tmp_path), settings_of(settings, "ALLAUTH_TRUSTED_PROXY_COUNT", 1):
        assert country("192.0.2.7", **header) == "DE"
        assert country("192.0.3.7") == ""
        assert country("::ffff:192.0.2.9") == "DE"
        assert country("2001:db8:0:1::5") == "SE"
        assert country("2001:db9::5") == ""


def test_after_an_update(connected: Any) -> None:
    token, device = connected()
    key = base64.b64encode(b"k" * 32).decode()
    assert call(token, "patch", "/api/v1/device", {"version": "2.0", "wireguard_key": key}).status_code == 200
    device.refresh_from_db()
    assert (device.version, device.wireguard_key) == ("2.0", key)
    assert call(token, "patch", "/api/v1/device", {"wireguard_key": "x"}).json()["code"] == "key_invalid"


def test_staff_disconnects_a_lost_device(web: Any, connected: Any) -> None:
    token_device = connected()[1]
    subscribe(token_device.user)
    connecting.seat(token_device, "vpn")
    web.client.force_login(User.objects.create_superuser("staff@example.org", "Blue7kettle"))
    assert "Laptop" in web.client.get("/staff/devices/device/").content.decode()
    web.client.post(f"/staff/devices/device/{token_device.pk}/delete/", {"post": "yes"})
    assert not Device.objects.exists() and not Seat.objects.exists()


def test_export_has_the_devices(connected: Any) -> None:
    """P14: what is kept about a device, without secrets."""
    from portal.accounts import export

    token, device = connected()
    text = json.dumps(export.document(device.user))
    assert "Laptop" in text and device.wireguard_key in text
    assert token not in text and connecting.digest(token) not in text and device.machine not in text
