"""P13: the signed list of servers, and who edits it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from django.conf import settings
from django.test import Client

from policies.server_lists import parse_servers
from portal import signing
from portal.accounts.models import User
from portal.subscriptions import redemption
from portal.subscriptions.models import Plan
from portal.vpn import servers
from portal.vpn.models import Serial, Server
from tests.portal.signed import KEY, command, connected, keys, pinned, vpn

__all__ = ["keys", "vpn"]  # fixtures


def server(name: str, host: str, tier: str = "premium", **fields: Any) -> Server:
    values = {"country": "SE", "city": "Malmö", "public_key": KEY, "tags": "p2p everyday"} | fields
    made = Server(name=name, host=host, tier=tier, **values)
    made.full_clean()
    made.save()
    return made


def listed(client: Client, path: str = "/api/v1/servers") -> Any:
    """The list, after its signature was verified as a daemon does: over the bytes."""
    answer = client.get(path)
    assert answer.status_code == 200
    signature = base64.urlsafe_b64decode(answer["X-Signature-Ed25519"] + "==")
    pinned()[0].verify(signature, answer.content)
    assert answer["X-Key-Id"] == signing.public_keys()[0]["kid"]
    return answer


def test_server_list(vpn: Plan, new_user: Callable[..., User]) -> None:
    """P13: premium sees all, free only the free ones; daemons can read it; inactive ones are in none."""
    ann, bob = new_user(), new_user("bob@example.org")
    redemption.redeem(ann, redemption.make(vpn, 1, "")[0])
    server("se-1", "198.51.100.1", "free")
    server("se-2", "2001:db8::2")
    server("se-3", "198.51.100.3", active=False)
    premium = listed(connected(ann)[1]).json()
    free = listed(connected(bob)[1])
    assert [each["name"] for each in premium["servers"]] == ["se-1", "se-2"]
    assert [each["name"] for each in free.json()["servers"]] == ["se-1"]
    assert listed(Client(), "/api/v1/servers/free").content == free.content
    assert (premium["type"], premium["plan"], premium["version"]) == ("vpn-servers", "premium", 1)
    assert premium["issued_at"] <= time.time() < premium["expires_at"]
    assert premium["expires_at"] - premium["issued_at"] == settings.SERVER_LIST_HOURS * 3600
    # The layout is docs/servers.md's; protocol and plan are the portal's own.
    assert {each.pop("protocol") for each in premium["servers"]} == {"wireguard"}
    assert [each.pop("plan") for each in premium["servers"]] == ["free", "premium"]
    read = parse_servers(json.dumps({"version": 1, "servers": premium["servers"]}))
    assert [str(each.endpoints[0].address) for each in read.servers] == ["198.51.100.1", "2001:db8::2"]
    assert (read.servers[0].city, read.servers[0].tags) == ("Malmö", ("p2p", "everyday"))


def serial() -> int:
    return int(listed(Client(), "/api/v1/servers/free").json()["serial"])


def test_serial_rises_with_each_change() -> None:
    """P13: a new server, a changed one, one that is removed, also many at once; never down, not even by a backup."""
    seen = [serial()]
    one = server("se-1", "198.51.100.1", "free")
    seen.append(serial())
    one.city = "Lund"
    one.save()
    seen.append(serial())
    server("se-2", "198.51.100.2")
    seen.append(serial())
    Server.objects.all().delete()
    seen.append(serial())
    assert seen == sorted(set(seen))
    assert serial() == seen[-1]
    # From a backup of long ago the number rises above the present time's, so daemons accept the list.
    Serial.objects.update(number=1)
    server("se-1", "198.51.100.1", "free")
    assert serial() >= seen[1]
    Serial.objects.update(number=2**40)
    one = Server.objects.get()
    one.save()
    assert serial() == 2**40 + 1


def test_serials_of_simultaneous_changes() -> None:
    """P13: ten at once are ten steps."""
    from django.db import connections

    Serial.objects.update_or_create(pk=1, defaults={"number": 2**40})

    def change(number: int) -> None:
        try:
            server(f"se-{number}", f"198.51.100.{number}", "free")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(change, range(1, 11)))
    assert serial() == 2**40 + 10
    assert len(listed(Client(), "/api/v1/servers/free").json()["servers"]) == 10


def test_unchanged_lists_are_not_sent_again(monkeypatch: Any) -> None:
    """P13: If-None-Match; a change, another key or another hour is another list."""
    hour = time.time() // 3600 * 3600 + 60
    monkeypatch.setattr(servers.time, "time", lambda: hour)
    one = server("se-1", "198.51.100.1", "free")
    first = listed(Client(), "/api/v1/servers/free")

    def again() -> int:
        return int(Client().get("/api/v1/servers/free", headers={"If-None-Match": first["ETag"]}).status_code)

    assert again() == 304
    assert Client().get("/api/v1/servers/free", headers={"If-None-Match": '"other"'}).status_code == 200
    one.city = "Lund"
    one.save()
    assert again() == 200
    first = listed(Client(), "/api/v1/servers/free")
    assert again() == 304
    command("rotate")
    assert again() == 200
    listed(Client(), "/api/v1/servers/free")
    first = listed(Client(), "/api/v1/servers/free")
    monkeypatch.setattr(servers.time, "time", lambda: hour + 3600)
    assert again() == 200


WRONG = [
    ("name", "fastest"), ("name", "a b"), ("name", "ö"), ("name", "-x"), ("name", "x\ny"), ("name", ""),
    ("country", "se"), ("country", "ZZ"), ("country", "S"), ("city", "a\u200bb"), ("city", "a\nb"), ("city", ""),
    ("tags", "a a"), ("tags", "a,b"), ("tags", "1 2 3 4 5 6 7 8 9"), ("tags", "x" * 33),
    ("host", "vpn.example"), ("host", "0.0.0.0"), ("host", "127.0.0.1"), ("host", "224.0.0.1"),
    ("host", "fe80::1"), ("host", "255.255.255.255"), ("host", "10.1"),
    ("port", "0"), ("port", "65536"), ("port", "x"), ("public_key", "x"), ("public_key", "A" * 43 + "="),
    ("protocol", "pptp"), ("tier", "gold"),
]  # fmt: skip


def test_staff_edits_servers(web: Any) -> None:
    """P13: in the admin, each field validated: what daemons would refuse is never saved."""
    web.client.force_login(User.objects.create_superuser("staff@example.org", "Blue7kettle"))
    good = {
        "name": "se-1", "country": "SE", "city": "Malmö", "tags": "p2p", "host": "198.51.100.1", "port": "51820",
        "public_key": KEY, "protocol": "wireguard", "tier": "free", "active": "on",
    }  # fmt: skip
    path = "/staff/vpn/server/add/"
    for field, value in WRONG:
        wrong = web.client.post(path, good | {field: value})
        assert wrong.status_code == 200, (field, value)
        assert set(wrong.context["adminform"].form.errors) == {field}, (field, value)
    assert not Server.objects.exists()
    assert web.client.post(path, good).status_code == 302
    assert web.client.post(path, good | {"name": "se-2"}).status_code == 200  # the same endpoint
    assert listed(Client(), "/api/v1/servers/free").json()["servers"][0]["name"] == "se-1"


def test_customers_edit_no_servers(web: Any, new_user: Callable[..., User]) -> None:
    web.client.force_login(new_user())
    assert web.client.post("/staff/vpn/server/add/", {}).status_code == 302
    assert web.client.get("/staff/vpn/server/").status_code == 302
