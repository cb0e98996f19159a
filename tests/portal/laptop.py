"""A computer that is connected to an account, and what it says."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Callable
from typing import Any

from django.test import Client

DEVICES = "/api/v1/devices"


def body(**fields: Any) -> dict[str, Any]:
    key = base64.b64encode(secrets.token_bytes(32)).decode()
    said = {"name": "Laptop", "platform": "linux", "version": "1.4.0", "machine": secrets.token_hex(16)}
    return said | {"wireguard_key": key} | fields


def call(token: str, method: str, path: str, data: Any = None, **headers: str) -> Any:
    """A device's request."""
    sent = {} if data is None else {"data": json.dumps(data), "content_type": "application/json"}
    return getattr(Client(), method)(path, headers={"Authorization": f"Bearer {token}"} | headers, **sent)


def exchange(app: Any, new_user: Callable[..., Any], email: str, **fields: Any) -> tuple[str, Any]:
    """Signs in as an application and exchanges the session; returns (credential, device)."""
    from portal.accounts.models import User
    from portal.devices.models import Device

    if not User.objects.filter(email=email).exists():
        new_user(email)
    app.token = ""
    app.sign_in(email)
    answer = app.call("post", DEVICES, body(**fields))
    assert answer.status_code == 201, answer.content
    app.token = ""  # used up
    return answer.json()["credential"], Device.objects.get(public_id=answer.json()["device"]["id"])


def subscribe(user: Any, seats: int = 2) -> Any:
    """A year of the VPN."""
    from portal.subscriptions import redemption
    from portal.subscriptions.models import Plan, Product

    product = Product.objects.create(slug="vpn", name="VPN", shareable=False)
    plan = Plan.objects.create(product=product, slug="vpn-year", name="One year", days=365, seats=seats)
    return redemption.redeem(user, redemption.make(plan, 1, "")[0])[0]


def ask(door: Any, device: Any, command: str) -> int:
    if door.name == "api":
        return int(door.call("post", f"/api/v1/devices/{device.public_id}/commands", {"command": command}).status_code)
    response = door.client.post(f"/devices/{device.public_id}/command/", {"command": command})
    return 202 if response.status_code == 302 else int(response.status_code)


def acknowledge(token: str, jti: object, result: str = "done", message: str = "") -> Any:
    return Client().post(
        f"/api/v1/commands/{jti}",
        json.dumps({"result": result, "message": message}),
        content_type="application/json",
        headers={"Authorization": f"Bearer {token}"},
    )


def connect(new_user: Callable[..., Any], email: str, **fields: Any) -> tuple[str, Any]:
    """A connected device, without signing in: (credential, device)."""
    from portal.accounts.models import User
    from portal.devices import connecting

    user = User.objects.filter(email=email).first() or new_user(email)
    device, token = connecting.connect(user, connecting.Computer(**body(**fields)))
    return token, device
