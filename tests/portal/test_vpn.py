"""P13: the signing keys, entitlements that a daemon verifies offline, and the signed list of servers."""

from __future__ import annotations

import base64
import json
import os
import stat
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from policies.server_lists import parse_servers
from portal import signing
from portal.accounts.models import User
from portal.devices import connecting
from portal.devices.models import Device
from portal.subscriptions import redemption
from portal.subscriptions.models import Plan, Product, Subscription, Term
from portal.vpn import servers
from portal.vpn.models import Serial, Server

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


def token(**claims: Any) -> str:
    return signing.sign({"exp": int(time.time()) + 600, **claims}, "test+jwt")


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


def test_keys_are_files_of_the_portal_alone(keys: Path) -> None:
    """P13: outside the database, 0600 in a folder 0700; made once; nothing private is shown."""
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    assert stat.S_IMODE(keys.parent.stat().st_mode) == 0o700
    before = keys.read_bytes()
    shown = command("make") + command("show")
    assert keys.read_bytes() == before
    kept = json.loads(before)
    assert len(kept["current"]) == len(kept["next"]) == 43
    assert kept["current"] not in shown and kept["next"] not in shown
    database = Path(settings.DATABASES["default"]["NAME"]).read_bytes()
    assert kept["current"].encode() not in database and kept["next"].encode() not in database
    keys.chmod(0o640)
    with pytest.raises(signing.SigningError, match="others may read"):
        signing.sign({"exp": 1}, "test+jwt")


def test_without_keys_nothing_is_signed(keys: Path) -> None:
    """P13: an error that says what to do, to the administrator; to applications, that it is not ready."""
    keys.unlink()
    with pytest.raises(signing.SigningError, match="signing_keys make"):
        signing.public_keys()
    with pytest.raises(CommandError, match="signing_keys make"):
        command("rotate")
    for path in ("/api/v1/keys", "/api/v1/servers/free"):
        answer = Client().get(path)
        assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
        assert str(keys.parent) not in answer.content.decode()
    keys.write_text("{}")
    keys.chmod(0o600)
    with pytest.raises(signing.SigningError):
        signing.public_keys()


def test_rotation(keys: Path) -> None:
    """P13: next becomes current, so a daemon that pinned both believes it; old tokens hold until they expire."""
    current, following = signing.public_keys()
    old, listed = token(), b'{"x":1}'
    name, signature = signing.sign_bytes(listed)
    command("rotate")
    assert signing.public_keys()[0] == following
    assert signing.public_keys()[1] not in (current, following)
    assert jwt.get_unverified_header(token())["kid"] == following["kid"]
    signing.verify(old, "test+jwt")
    signing.verify_bytes(listed, name, signature)
    command("rotate")
    signing.verify(old, "test+jwt")
    # The former keys are public ones only, and go when nothing they signed can still be valid.
    kept = json.loads(keys.read_text())
    assert [each["x"] for each in kept["former"]] == [current["x"], following["x"]]
    kept["former"][0]["until"] = time.time() - 1
    keys.write_text(json.dumps(kept))
    with pytest.raises(signing.TokenError):
        signing.verify(old, "test+jwt")
    command("rotate")
    assert current["x"] not in keys.read_text()


def test_stolen_key() -> None:
    """P13: what it signed counts no more, at once."""
    old = token()
    command("rotate", "--stolen")
    with pytest.raises(signing.TokenError):
        signing.verify(old, "test+jwt")


def test_simultaneous_rotation(keys: Path) -> None:
    """P13: each rotation follows from the one before it: no key is skipped, none is lost."""
    with ThreadPoolExecutor(4) as pool:
        said = list(pool.map(lambda _each: command("rotate").split(), range(8)))
    currents = [words[1] for words in said]
    assert len(set(currents)) == 8
    assert len(json.loads(keys.read_text())["former"]) == 8
    assert [each.name for each in keys.parent.iterdir() if each.name.startswith(".")] == []


def test_the_next_key_is_learnt_from_a_signed_statement() -> None:
    """P13: a daemon that was offline while keys rotated checks the new pair with the next key that it had pinned."""
    _current, following = pinned()
    command("rotate")
    answer = Client().get("/api/v1/keys").json()
    header = jwt.get_unverified_header(answer["token"])
    assert (header["typ"], header["kid"]) == ("vpn-keys+jwt", answer["keys"][0]["kid"])
    claims = jwt.decode(answer["token"], following, algorithms=["EdDSA"])
    assert claims["keys"] == answer["keys"]


def forged(header: dict[str, Any], payload: dict[str, Any], key: Ed25519PrivateKey | None = None) -> str:
    def part(of: bytes) -> str:
        return base64.urlsafe_b64encode(of).rstrip(b"=").decode()

    head = part(json.dumps(header).encode()) + "." + part(json.dumps(payload).encode())
    return head + "." + (part(key.sign(head.encode())) if key else "")


def test_forged_tokens() -> None:
    """P13: tampered with, without a signature, with another algorithm or key, for another use, expired: refused."""
    now = int(time.time())
    payload = {"plan": "premium", "exp": now + 60, "iat": now, "aud": "vpn"}
    good = signing.sign(dict(payload), "test+jwt")
    current = signing.keys().current
    kid = signing.kid(current.public_key())
    public = current.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    right = {"alg": "EdDSA", "typ": "test+jwt", "kid": kid}
    assert signing.verify(forged(right, payload, current), "test+jwt", audience="vpn")["plan"] == "premium"
    assert signing.verify(good, "test+jwt", audience="vpn")["plan"] == "premium"
    head, body, signature = good.split(".")
    swapped = base64.urlsafe_b64encode(json.dumps({**payload, "plan": "free"}).encode()).rstrip(b"=").decode()
    attempts = {
        "tampered": f"{head}.{swapped}.{signature}",
        "cut": f"{head}.{body}.{signature[:-4]}",
        "unsigned": f"{head}.{body}.",
        "none": forged({**right, "alg": "none"}, payload),
        "HS256 with the public key": jwt.encode(payload, public, "HS256", {"typ": "test+jwt", "kid": kid}),
        "other key": forged(right, payload, Ed25519PrivateKey.generate()),
        "unknown kid": forged({**right, "kid": "x"}, payload, current),
        "kid of the next key": forged({**right, "kid": signing.public_keys()[1]["kid"]}, payload, current),
        "no kid": forged({"alg": "EdDSA", "typ": "test+jwt"}, payload, current),
        "no typ": forged({"alg": "EdDSA", "kid": kid}, payload, current),
        "other typ": signing.sign(dict(payload), "vpn-cmd+jwt"),
        "own key in the header": forged({**right, "jwk": {"kty": "OKP"}}, payload, current),
        "expired": forged(right, {**payload, "exp": now - 1}, current),
        "never expires": forged(right, {"iat": now, "aud": "vpn"}, current),
        "other audience": forged(right, {**payload, "aud": "mail"}, current),
        "no audience": forged(right, {"exp": now + 60, "iat": now}, current),
        "too long": "a" * 20_000,
        "nothing": "",
        "no token": "a.b.c",
        "not ASCII": "é.é.é",
    }
    for name, attempt in attempts.items():
        with pytest.raises(signing.TokenError):
            signing.verify(attempt, "test+jwt", audience="vpn")
            pytest.fail(name)
    # A token that is for somebody is not for everybody.
    with pytest.raises(signing.TokenError):
        signing.verify(good, "test+jwt")


def test_no_token_outlives_its_key() -> None:
    """P13: every token says when it ends, and that is before a rotated key is forgotten."""
    for exp in ({}, {"exp": int(time.time()) + signing.LONGEST + 60}, {"exp": "never"}):
        with pytest.raises(ValueError, match="exp"):
            signing.sign(dict(exp), "test+jwt")


def test_signed_bytes() -> None:
    """P13: exactly these bytes; a token's signature is none of a list."""
    name, signature = signing.sign_bytes(b'{"a":1}')
    signing.verify_bytes(b'{"a":1}', name, signature)
    for raw, key, said in (
        (b'{"a":1} ', name, signature),
        (b'{"a":1}', "other", signature),
        (b'{"a":1}', name, signature[:-2]),
        (b'{"a":1}', name, signature + "="),
        (b'{"a":1}', name, "\u00e9"),
    ):
        with pytest.raises(signing.TokenError):
            signing.verify_bytes(raw, key, said)
    with pytest.raises(ValueError, match="JSON object"):
        signing.sign_bytes(b"eyJ.eyJ")


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


def test_the_file_is_read_again(keys: Path) -> None:
    """P13: a rotation by another process counts at once; no worker restarts."""
    import subprocess
    import sys

    before = signing.public_keys()
    environment = os.environ | {"PORTAL_KEYS": str(keys.parent)}
    run = [sys.executable, "-m", "portal", "signing_keys", "rotate"]
    subprocess.run(run, env=environment, cwd=Path(__file__).parents[2], check=True, capture_output=True, timeout=120)
    assert signing.public_keys()[0] == before[1]
