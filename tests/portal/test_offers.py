"""P10, B2, D1-D6, M2: which releases are offered to whom, and to whom they are refused."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client, RequestFactory

from portal.accounts.models import User
from portal.devices import connecting
from portal.downloads import offers, visitor
from portal.downloads.models import Channel, Grant, Platform, Release
from portal.subscriptions import sharing
from portal.subscriptions.models import Plan, Product
from tests.portal.releases import DATA, ann, files, later, own, release, suite

__all__ = ["ann", "files", "suite"]  # fixtures

MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"
AGENTS = {
    "windows": "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/131.0.0.0 Safari/537.36",
    "windows on ARM, Firefox": "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "mac, Chrome": f"{MAC} Chrome/131.0.0.0 Safari/537.36",
    "mac, Firefox": "Mozilla/5.0 (Macintosh; Intel Mac OS X 10.15; rv:132.0) Gecko/20100101 Firefox/132.0",
    "mac or iPad, Safari": f"{MAC} Version/17.6 Safari/605.1.15",
    "iPad, Chrome, desktop site": f"{MAC} CriOS/131 Version/11.1.1 Safari/605.1.15",
    "iPad, Firefox, desktop site": f"{MAC} FxiOS/132.0 Safari/605.1.15",
    "iPad, mobile site": "Mozilla/5.0 (iPad; CPU OS 17_6 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "iPhone": "Mozilla/5.0 (iPhone; CPU iPhone OS 17_6 like Mac OS X) AppleWebKit/605.1.15 Mobile/15E148",
    "android": "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 Chrome/131.0.0.0 Mobile Safari/537.36",
    "chromebook": "Mozilla/5.0 (X11; CrOS x86_64 14541.0.0) AppleWebKit/537.36 Chrome/131.0.0.0 Safari/537.36",
    "linux": "Mozilla/5.0 (X11; Linux x86_64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "linux on ARM": "Mozilla/5.0 (X11; Linux aarch64; rv:132.0) Gecko/20100101 Firefox/132.0",
    "something else": "curl/8.5.0",
    "nothing": "",
}  # fmt: skip

# --- what is offered --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "agent, hints, platforms, architecture",
    [
        ("windows", {}, ["windows"], "x86_64"),
        ("windows", {"platform": "Windows", "arch": "arm", "bitness": "64"}, ["windows"], "arm64"),
        ("windows", {"platform": "Windows", "arch": "x86", "bitness": "32"}, ["windows"], "x86"),
        ("mac, Chrome", {"platform": "macOS", "arch": "arm", "bitness": "64"}, ["macos"], "arm64"),
        ("mac, Chrome", {}, ["macos"], None),
        ("mac, Firefox", {}, ["macos"], None),
        ("mac or iPad, Safari", {}, ["macos", "ios"], None),
        ("iPad, Chrome, desktop site", {}, ["ios", "macos"], None),
        ("iPad, Firefox, desktop site", {}, ["ios", "macos"], None),
        ("iPad, mobile site", {}, ["ios"], None),
        ("iPhone", {}, ["ios"], None),
        ("android", {}, ["android"], None),
        ("android", {"platform": "Android"}, ["android"], None),
        ("chromebook", {}, ["android"], "x86_64"),
        ("chromebook", {"platform": "Chrome OS"}, ["android"], "x86_64"),
        ("linux", {}, ["linux"], "x86_64"),
        ("linux on ARM", {}, ["linux"], "arm64"),
        ("something else", {}, [], None),
        ("nothing", {}, [], None),
        ("windows", {"platform": "<script>", "arch": "ÿ", "bitness": "64"}, ["windows"], "x86_64"),
    ],
)
def test_platform_of_the_visitor(agent: str, hints: dict[str, str], platforms: list[str], architecture: Any) -> None:
    """P10, D3: client hints before the user agent; an iPad that claims to be a Mac may be both."""
    names = {"platform": "Sec-CH-UA-Platform", "arch": "Sec-CH-UA-Arch", "bitness": "Sec-CH-UA-Bitness"}
    headers = {"User-Agent": AGENTS[agent]} | {names[key]: f'"{value}"' for key, value in hints.items()}
    seen = visitor.of(RequestFactory().get("/", headers=headers))
    assert ([str(each) for each in seen.platforms], seen.architecture) == (platforms, architecture)


def everything(product: Product) -> None:
    for platform, package, architecture in (
        ("windows", "exe", "x86_64"), ("windows", "exe", "arm64"), ("windows", "msi", "x86_64"),
        ("macos", "dmg", "any"), ("macos", "pkg", "any"), ("linux", "deb", "x86_64"), ("linux", "rpm", "x86_64"),
        ("linux", "deb", "arm64"), ("android", "apk", "any"), ("ios", "store", "any"),
    ):  # fmt: skip
        release(product, platform, package, architecture=architecture)
    release(product, "windows", "exe", architecture="x86_64", version="4.0-beta.1", channel="beta")


DEFAULTS = {
    "windows": [("windows", "exe", "x86_64")],
    "mac, Chrome": [("macos", "dmg", "any")],
    "mac or iPad, Safari": [("macos", "dmg", "any"), ("ios", "store", "any")],
    "iPad, Chrome, desktop site": [("ios", "store", "any"), ("macos", "dmg", "any")],
    "iPhone": [("ios", "store", "any")],
    "android": [("android", "apk", "any")],
    "linux": [("linux", "deb", "x86_64"), ("linux", "rpm", "x86_64")],
    "linux on ARM": [("linux", "deb", "arm64")],
    "something else": [],
}


def test_default_and_other_downloads(web: Any, ann: User) -> None:
    """P10, D1, D2, D3: the default of the visitor's platform, and all others, beta versions among them."""
    everything(Product.objects.get())
    web.sign_in(ann.email)
    for agent, expected in DEFAULTS.items():
        answer = web.client.get("/downloads/suite/", headers={"User-Agent": AGENTS[agent]})
        shown, page = answer.context["offers"], answer.content.decode()
        assert [(each.platform, each.package, each.architecture) for each in shown.default] == expected, agent
        assert len(shown.other) == 11 - len(expected)
        assert all(f"/downloads/releases/{each.pk}/start/" in page for each in shown.default)
        assert all(f"/downloads/releases/{each.pk}/" in page for each in shown.other)
        assert ("An iPad may say that it is a Mac" in page) == (len({each.platform for each in shown.default}) == 2)
        assert all(each.sha256 in page for each in shown.default)
        assert answer["Accept-CH"] == answer["Critical-CH"] == visitor.HINTS
        assert {"User-Agent", "Sec-CH-UA-Arch"} <= set(re.split(r",\s*", answer["Vary"]))


def test_default_and_other_downloads_of_applications(app: Any, ann: User) -> None:
    """P10: the same by the API."""
    everything(Product.objects.get())
    app.sign_in(ann.email)
    for agent, expected in DEFAULTS.items():
        app.headers = {"User-Agent": AGENTS[agent]}
        found = app.call("get", "/api/v1/downloads/suite").json()
        default = [(each["platform"], each["package"], each["architecture"]) for each in found["default"]]
        assert (default, len(found["other"]), found["refused"]) == (expected, 11 - len(expected), []), agent


def test_an_application_names_its_platform(app: Any, ann: User) -> None:
    """P10: by the API, whatever its headers are."""
    everything(Product.objects.get())
    app.sign_in(ann.email)
    found = app.call("get", "/api/v1/downloads/suite?platform=windows&architecture=arm64").json()
    assert [(each["package"], each["architecture"]) for each in found["default"]] == [("exe", "arm64")]
    assert app.call("get", "/api/v1/downloads/suite?platform=amiga").status_code == 422
    assert app.call("get", "/api/v1/downloads/nothing").status_code == 404


def test_language_of_the_default(web: Any, ann: User) -> None:
    """P10: the page's own language, or the one for all."""
    product = Product.objects.get()
    german = release(product, "windows", "exe", language="de")
    english = release(product, "windows", "exe", language="en")
    web.sign_in(ann.email)
    for language, expected in (("de-AT", german), ("en", english), ("fr", english)):
        headers = {"User-Agent": AGENTS["windows"], "Accept-Language": language}
        assert web.client.get("/downloads/suite/", headers=headers).context["offers"].default == [expected]
    everyone = release(product, "windows", "exe")
    headers = {"User-Agent": AGENTS["windows"], "Accept-Language": "fr"}
    assert web.client.get("/downloads/suite/", headers=headers).context["offers"].default == [everyone]


def test_versions_in_their_order() -> None:
    versions = ["0.9", "1.0-alpha.2", "1.0-alpha.10", "1.0-beta", "1", "1.0.1", "1.2", "1.10", "2.0-rc.1", "2.0"]
    found = [Release(version=each) for each in versions[::-1]]
    assert [each.version for each in sorted(found, key=Release.order)] == versions


# --- refusals ---------------------------------------------------------------------------------------------------------


def refusal(door: Any, found: Release) -> tuple[int, str]:
    """(status, code) at each way to the release; they must agree."""
    if door.name == "api":
        said = {
            (answer.status_code, answer.json().get("code", ""))
            for answer in (
                door.call("post", f"/api/v1/downloads/releases/{found.pk}/link"),
                door.call("post", f"/api/v1/downloads/releases/{found.pk}/mail", {"email": ""}),
            )
        }
    else:
        said = set()
        for answer in (
            door.client.get(f"/downloads/releases/{found.pk}/"),
            door.client.post(f"/downloads/releases/{found.pk}/", {"email": ""}),
            door.client.get(f"/downloads/releases/{found.pk}/start/"),
        ):
            code = answer.context["error"].code if answer.context and answer.context.get("error") else ""
            said.add((answer.status_code if code else 200, code))
            assert not code or answer.context["error"].messages[0] in answer.content.decode()
    assert len(said) == 1, said
    return said.pop()


def test_refused_without_an_active_subscription(door: Any, ann: User) -> None:
    """P10, D4: while active and in grace; expired, the page says so."""
    found = release(Product.objects.get())
    door.sign_in(ann.email)
    assert refusal(door, found)[0] == 200
    later(own(ann), timedelta(days=366))
    assert refusal(door, found)[0] == 200
    later(own(ann), timedelta(days=7))
    assert refusal(door, found) == (403, "not_active")


def test_refused_without_a_free_seat(door: Any, ann: User) -> None:
    """P10, B2: while seats remain; and again when one is freed."""
    found = release(Product.objects.get())
    door.sign_in(ann.email)
    seats = [sharing.take_seat(ann, own(ann), f"device {number}") for number in range(2)]
    assert refusal(door, found) == (409, "no_seat")
    sharing.release_seat(ann, seats[0].pk)
    assert refusal(door, found)[0] == 200


def test_refused_by_region(door: Any, ann: User) -> None:
    """P10, D6: by the country of the account; the page lists it with the reason."""
    product = Product.objects.get()
    android = release(product, "android", "apk", denied_countries="CN IN")
    local = release(product, "linux", "deb", allowed_countries="FR BE")
    door.sign_in(ann.email)
    for country, expected in (("FR", (200, 200)), ("CN", (403, 403)), ("DE", (200, 403)), ("", (200, 403))):
        User.objects.filter(pk=ann.pk).update(country=country)
        said = [refusal(door, each) for each in (android, local)]
        assert tuple(status for status, _code in said) == expected
        assert {code for status, code in said if status == 403} <= {"region"}
    User.objects.filter(pk=ann.pk).update(country="CN")
    if door.name == "api":
        refused = door.call("get", "/api/v1/downloads/suite").json()["refused"]
        assert sorted(each["code"] for each in refused) == ["region", "region"]
    else:
        page = door.client.get("/downloads/suite/", headers={"User-Agent": AGENTS["android"]}).content.decode()
        assert page.count("This package is not available in your country.") == 2


def test_older_versions_by_support(door: Any, ann: User, new_user: Callable[..., User]) -> None:
    """P10, D5: only the newest, unless support gave this account an older one."""
    product = Product.objects.get()
    old, new = release(product, version="2.11"), release(product, version="3.1")
    release(product, version="4.0-beta", channel=Channel.BETA)
    release(product, version="9.0", published=False)
    door.sign_in(ann.email)
    assert refusal(door, new)[0] == 200
    assert refusal(door, old) == (403, "by_support")
    Grant.objects.create(release=old, user=new_user("bob@example.org"), reason="ticket 7")
    assert refusal(door, old) == (403, "by_support")
    Grant.objects.create(release=old, user=ann, reason="ticket 8")
    assert refusal(door, old)[0] == 200
    # Who was given it still has the newest as the default.
    seen = visitor.Visitor((Platform.LINUX,))
    assert offers.of(ann, product, seen).default == [new]
    new.published = False
    new.save()
    Grant.objects.all().delete()
    assert refusal(door, old)[0] == 200


def test_refused_to_who_is_not_the_holder(door: Any, suite: Plan, ann: User, new_user: Callable[..., User]) -> None:
    """P10, B2, B4, B5: nobody without it; whom it is shared with, unless the product is never shared."""
    found = release(suite.product)
    bob = new_user("bob@example.org")
    door.sign_in(bob.email)
    assert refusal(door, found) == (403, "not_holder")
    own(ann).shares.create(email=bob.email, digest="x", recipient=bob)
    assert refusal(door, found)[0] == 200
    sharing.take_seat(ann, own(ann), "one"), sharing.take_seat(bob, own(ann), "two")
    assert refusal(door, found) == (409, "no_seat")
    Product.objects.update(shareable=False)
    assert refusal(door, found) == (403, "not_holder")
    if door.name == "web":
        page = door.client.get("/downloads/suite/")
        assert (page.status_code, page.context["error"].code) == (403, "not_holder")
        assert "write to support" in page.content.decode()


def test_unpublished_releases_do_not_exist(web: Any, app: Any, ann: User) -> None:
    found = release(Product.objects.get(), published=False)
    web.sign_in(ann.email)
    app.sign_in(ann.email)
    for path in ("", "start/"):
        assert web.client.get(f"/downloads/releases/{found.pk}/{path}").status_code == 404
    assert app.call("post", f"/api/v1/downloads/releases/{found.pk}/link").status_code == 404
    assert Client().get(f"/downloads/releases/{found.pk}/").status_code == 302  # to sign in
    assert Client().post(f"/api/v1/downloads/releases/{found.pk}/link").status_code == 401


def test_a_device_uses_the_seat_it_has(ann: User) -> None:
    """P10: an update needs no second seat; a device without one is refused when all are taken."""
    found = release(Product.objects.get())
    key = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
    clients = []
    for number in range(3):
        computer = connecting.Computer("laptop", "linux", "3.1", f"machine-{number}", key)
        _device, token = connecting.connect(ann, computer, "suite" if number < 2 else "")
        clients.append(Client(headers={"Authorization": f"Bearer {token}"}))
    said = [client.post(f"/api/v1/downloads/releases/{found.pk}/link") for client in clients]
    assert [answer.status_code for answer in said] == [200, 200, 409]
    assert said[0].json()["sha256"] == hashlib.sha256(DATA).hexdigest()
