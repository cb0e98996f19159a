"""P10, B2, D1-D6, M2: releases, whom they are offered to, refusals, links, ranges, QR codes, mails, staff."""

from __future__ import annotations

import hashlib
import re
import shutil
import stat
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.core import mail
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client, RequestFactory

from portal.accounts.models import User
from portal.devices import connecting
from portal.downloads import links, offers, serving, visitor
from portal.downloads.models import Architecture, Channel, Grant, Package, Platform, Release
from portal.subscriptions import redemption, sharing
from portal.subscriptions.models import Plan, Product, Subscription, Term

DATA = bytes(range(256)) * 5000  # more than one chunk
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


# --- links ------------------------------------------------------------------------------------------------------------


def test_links(web: Any, app: Any, ann: User) -> None:
    """P10, D2: signed; they work without signing in, for the account they were made for."""
    found = release(Product.objects.get())
    web.sign_in(ann.email)
    app.sign_in(ann.email)
    path = link_of(web, found)
    assert body(Client().get(path)) == DATA
    said = app.call("post", f"/api/v1/downloads/releases/{found.pk}/link").json()
    assert body(Client().get(urlsplit(said["url"]).path)) == DATA
    assert (said["size"], said["sha256"]) == (len(DATA), hashlib.sha256(DATA).hexdigest())


def test_wrong_links(web: Any, ann: User, monkeypatch: Any) -> None:
    """P10: changed, of another use, expired: each with its reason, nothing sent."""
    found, other = release(Product.objects.get()), release(Product.objects.get(), package="rpm")
    web.sign_in(ann.email)
    path = link_of(web, found)
    token = path.split("/")[-2]

    def said(token: str) -> tuple[int, str]:
        answer = Client().get(f"/downloads/get/{token}/")
        return answer.status_code, str(answer.context["error"].code)

    invalid = (403, "link_invalid")
    rest = token.partition(":")[2]
    assert said(f"{other.pk}-{ann.pk}:{rest}") == invalid
    assert said(f"{found.pk}-{ann.pk + 1}:{rest}") == invalid
    assert said(token[:-1] + ("A" if token[-1] != "A" else "B")) == invalid
    assert said("x") == said("x:y:z") == said("%00") == invalid
    from django.core.signing import TimestampSigner

    assert said(TimestampSigner(salt="another use").sign(f"{found.pk}-{ann.pk}")) == invalid
    for value in ("x", "1-x", "-1-1", f"{found.pk}", f"{found.pk}-{ann.pk}-1", "9" * 19 + "-1", "999-999", "٣-٣"):
        assert said(TimestampSigner(salt="portal.downloads.link").sign(value)) == invalid
    release(Product.objects.get(), version="3.2")
    assert said(token) == (403, "by_support")  # looked at again when it is opened
    monkeypatch.setattr(settings, "DOWNLOAD_LINK_HOURS", 0)
    assert said(token) == (410, "link_expired")


def test_links_are_bound_to_their_account(web: Any, ann: User, new_user: Callable[..., User]) -> None:
    """P10: another account's session does not fit; the rights of its own are looked at when it is opened."""
    found = release(Product.objects.get())
    web.sign_in(ann.email)
    path = link_of(web, found)
    stranger = Client()
    stranger.force_login(new_user("eve@example.org"))
    answer = stranger.get(path)
    assert (answer.status_code, answer.context["error"].code) == (403, "not_holder")
    later(own(ann), timedelta(days=400))
    assert Client().get(path).context["error"].code == "not_active"
    later(own(ann), timedelta(days=-400))
    assert body(Client().get(path)) == DATA
    User.objects.filter(pk=ann.pk).update(is_active=False)
    assert Client().get(path).context["error"].code == "link_invalid"
    ann.delete()
    assert Client().get(path).context["error"].code == "link_invalid"


def test_link_by_mail(door: Any, ann: User) -> None:
    """P10, D2: to the account's e-mail, or to the one that is typed."""
    found = release(Product.objects.get())
    door.sign_in(ann.email)

    def send(to: str) -> int:
        if door.name == "api":
            path = f"/api/v1/downloads/releases/{found.pk}/mail"
            return int(door.call("post", path, {"email": to}).status_code)
        return int(door.client.post(f"/downloads/releases/{found.pk}/", {"email": to}).status_code)

    good = 200 if door.name == "api" else 302
    assert [send(each) for each in ("", "Tablet@Example.org")] == [good, good]
    assert [each.to for each in mail.outbox] == [[ann.email], ["tablet@example.org"]]
    assert [send(each) for each in ("no e-mail", "a@b.example\nBcc: c@d.example", "ö@example.org")] == [400, 400, 400]
    assert len(mail.outbox) == 2
    link = re.findall(r"https?://\S+/downloads/get/\S+", mail.outbox[-1].body)[0]
    assert hashlib.sha256(DATA).hexdigest() in mail.outbox[-1].body
    assert body(Client().get(urlsplit(link).path)) == DATA


def test_mails_are_limited(door: Any, ann: User, monkeypatch: Any) -> None:
    """P10: by account, also when the account's e-mail never was confirmed: then there is none."""
    monkeypatch.setattr(links, "PER_ACCOUNT", 2)
    found = release(Product.objects.get())
    door.sign_in(ann.email)

    def send() -> tuple[int, str]:
        if door.name == "api":
            answer = door.call("post", f"/api/v1/downloads/releases/{found.pk}/mail", {"email": "x@example.org"})
            return answer.status_code, answer.json().get("code", "")
        answer = door.client.post(f"/downloads/releases/{found.pk}/", {"email": "x@example.org"})
        return answer.status_code, answer.context["error"].code if answer.status_code != 302 else ""

    assert [send()[1] for _try in range(3)] == ["", "", "too_many_tries"]
    assert send()[0] == 429
    assert len(mail.outbox) == 2
    ann.emailaddress_set.update(verified=False)  # type: ignore[attr-defined]
    assert send() == (400, "email_unconfirmed")


@pytest.mark.skipif(shutil.which("zbarimg") is None or shutil.which("rsvg-convert") is None, reason="zbar-tools")
def test_qr_code_is_read(web: Any, ann: User, tmp_path: Path) -> None:
    """P10, D2: a camera reads the link to the file."""
    found = release(Product.objects.get())
    web.sign_in(ann.email)
    page = web.client.get(f"/downloads/releases/{found.pk}/").content.decode()
    svg = re.findall(r"<svg.*?</svg>", page, re.DOTALL)[0]
    (tmp_path / "code.svg").write_text(svg)
    picture = tmp_path / "code.png"
    subprocess.run(
        ["rsvg-convert", "--background-color=white", "-w", "600", "-o", picture, tmp_path / "code.svg"],
        check=True, timeout=60,
    )  # fmt: skip
    read = subprocess.run(["zbarimg", "--quiet", "--raw", picture], capture_output=True, text=True, timeout=60)
    assert body(Client().get(urlsplit(read.stdout.strip()).path)) == DATA


def test_stores(web: Any, app: Any, ann: User) -> None:
    """P10, D3: the button, the QR code and the link of a store's release lead to the store."""
    found = release(Product.objects.get(), "ios", "store")
    web.sign_in(ann.email)
    app.sign_in(ann.email)
    assert web.client.get(f"/downloads/releases/{found.pk}/start/")["Location"] == "https://store.example/app"
    assert "<svg" in web.client.get(f"/downloads/releases/{found.pk}/").content.decode()
    said = app.call("post", f"/api/v1/downloads/releases/{found.pk}/link").json()
    assert said == {"url": "https://store.example/app", "expires_at": None, "size": 0, "sha256": ""}


# --- the file ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def path(web: Any, ann: User) -> str:
    found = release(Product.objects.get())
    web.sign_in(ann.email)
    return link_of(web, found)


def test_headers_of_a_file(path: str) -> None:
    """P10: a name of ours, a type of ours that nobody guesses, and the checksum."""
    import base64

    answer = Client().get(path)
    assert answer["Content-Disposition"] == 'attachment; filename="suite-3.1-linux.deb"'
    assert answer["Content-Type"] == "application/vnd.debian.binary-package"
    assert answer["X-Content-Type-Options"] == "nosniff"
    assert answer["Accept-Ranges"] == "bytes"
    assert answer["Content-Length"] == str(len(DATA))
    assert answer["ETag"] == f'"{hashlib.sha256(DATA).hexdigest()}"'
    assert answer["Repr-Digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(DATA).digest()).decode()}:"
    assert body(answer) == DATA
    head = Client().head(path, headers={"Range": "bytes=0-9"})
    assert (head.status_code, head["Content-Length"], head.content) == (200, str(len(DATA)), b"")
    for method in ("post", "put", "delete"):
        assert getattr(Client(), method)(path).status_code == 405


SIZE = len(DATA)


RANGES = [
    ("bytes=0-0", 0, 0), ("bytes=10-19", 10, 19), ("bytes=1000-", 1000, SIZE - 1), ("bytes=-5", SIZE - 5, SIZE - 1),
    (f"bytes=5-{SIZE * 9}", 5, SIZE - 1), (f"bytes=-{SIZE * 9}", 0, SIZE - 1), ("BYTES=3-4", 3, 4),
    (f"bytes=0-{300 * 1024}", 0, 300 * 1024), (f"bytes={SIZE - 1}-", SIZE - 1, SIZE - 1),
]  # fmt: skip


def test_ranges(path: str) -> None:
    """RFC 9110, 14: one range is sent as 206."""
    for asked, first, last in RANGES:
        answer = Client().get(path, headers={"Range": asked})
        assert answer.status_code == 206, asked
        assert answer["Content-Range"] == f"bytes {first}-{last}/{SIZE}"
        assert answer["Content-Length"] == str(last - first + 1)
        assert body(answer) == DATA[first : last + 1]


def test_ranges_that_are_none(path: str) -> None:
    """RFC 9110, 14.2: malformed, of another unit or several: the whole; behind the end: 416 with the size."""
    whole = (
        "bytes=9-3", "bytes=-", "bytes=", "bytes=a-b", "bytes 0-1", "chars=0-1", "bytes=0-1,5-6", "bytes=--1", "0-1",
        "bytes=1-2-3", "bytes=" + "9" * 19 + "-", "bytes=٣-٤", "bytes=0x1-2",
    )  # fmt: skip
    for asked in whole:
        answer = Client().get(path, headers={"Range": asked})
        assert (answer.status_code, answer["Content-Length"]) == (200, str(SIZE)), asked
        answer.close()
    for asked in (f"bytes={SIZE}-", f"bytes={SIZE}-{SIZE + 5}", "bytes=-0", "bytes=" + "9" * 18 + "-"):
        answer = Client().get(path, headers={"Range": asked})
        assert (answer.status_code, answer["Content-Range"], answer.content) == (416, f"bytes */{SIZE}", b""), asked
    assert serving.parse_range("bytes=0-", 1) == (0, 0)
    with pytest.raises(serving.Unsatisfiable):
        serving.parse_range("bytes=0-", 0)


def test_resumed_downloads(path: str) -> None:
    """RFC 9110, 13: a range only of the same file; otherwise the whole. Preconditions come first."""
    first = Client().get(path, headers={"Range": "bytes=0-99"})
    etag, date = first["ETag"], first["Last-Modified"]

    def again(**headers: str) -> int:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = Client().get(path, headers={"Range": "bytes=100-"} | sent)
        answer.close()
        return int(answer.status_code)

    assert again(If_Range=etag) == 206
    assert again(If_Range=date) == 206
    assert again(If_Range='"other"') == 200
    assert again(If_Range=f"W/{etag}") == 200  # a weak one never fits
    assert again(If_Range="Thu, 01 Jan 1970 00:00:00 GMT") == 200
    assert again(If_Range="nonsense") == 200
    assert again(If_None_Match=etag) == 304
    assert again(If_None_Match='"other"') == 206
    assert again(If_Match=etag) == 206
    assert again(If_Match='"other"') == 412
    assert again(If_Unmodified_Since="Tue, 01 Jan 1980 00:00:00 GMT") == 412
    rest = body(Client().get(path, headers={"Range": "bytes=100-", "If-Range": etag}))
    assert body(first) + rest == DATA


def test_simultaneous_ranges(path: str) -> None:
    """As download managers do: many parts at once make the file."""
    from django.db import connections

    step = SIZE // 16

    def part(number: int) -> bytes:
        try:
            last = SIZE - 1 if number == 15 else (number + 1) * step - 1
            return body(Client().get(path, headers={"Range": f"bytes={number * step}-{last}"}))
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        assert b"".join(pool.map(part, range(16))) == DATA


def test_files_are_closed(path: str) -> None:
    """Also when a download is broken off before its first byte."""
    import gc
    import warnings

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        answer = Client().get(path)
        answer.close()
        del answer
        gc.collect()
    assert [str(each.message) for each in seen if issubclass(each.category, ResourceWarning)] == []


def test_proxy_sends_the_file(path: str, monkeypatch: Any) -> None:
    """With `releases_accel` nginx sends it; the rights are looked at here, and the name is ours."""
    monkeypatch.setattr(settings, "RELEASES_ACCEL", "/releases-internal/")
    answer = Client().get(path)
    assert re.fullmatch(r"/releases-internal/[0-9a-f]{32}", answer["X-Accel-Redirect"])
    assert (answer.content, answer["X-Content-Type-Options"]) == (b"", "nosniff")
    later(Subscription.objects.get(), timedelta(days=400))
    assert "X-Accel-Redirect" not in Client().get(path)


# --- staff ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def staff(web: Any) -> Client:
    web.client.force_login(User.objects.create_superuser("staff@example.org", "Blue7kettle"))
    client: Client = web.client
    return client


def form(**fields: Any) -> dict[str, Any]:
    return {
        "product": Product.objects.get().pk, "platform": "linux", "architecture": "x86_64", "package": "deb",
        "version": "3.1", "channel": "stable", "language": "", "store_url": "", "allowed_countries": "",
        "denied_countries": "", "published": "on", "file": SimpleUploadedFile("../../evil\r\n.html", DATA, "text/html"),
    } | fields  # fmt: skip


ADD = "/staff/downloads/release/add/"


def test_staff_uploads(staff: Client, suite: Plan, files: Path) -> None:
    """P10: the checksum is computed here, the name on the disk is random, nobody else reads it, nothing is replaced."""
    assert staff.post(ADD, form()).status_code == 302
    made = Release.objects.get()
    assert (made.sha256, made.size) == (hashlib.sha256(DATA).hexdigest(), len(DATA))
    (kept,) = files.iterdir()
    assert re.fullmatch(r"[0-9a-f]{32}", kept.name) and kept.name == made.file.name
    assert kept.read_bytes() == DATA
    assert (stat.S_IMODE(kept.stat().st_mode), stat.S_IMODE(files.stat().st_mode)) == (0o600, 0o700)
    assert made.filename == "suite-3.1-linux-x86_64.deb"
    change = f"/staff/downloads/release/{made.pk}/change/"
    assert staff.get(change).status_code == 200
    other = form(version="6.6", file=SimpleUploadedFile("x", b"other"), denied_countries="CN")
    assert staff.post(change, other).status_code == 302
    made.refresh_from_db()
    assert (made.version, made.sha256, made.denied_countries) == ("3.1", hashlib.sha256(DATA).hexdigest(), "CN")
    with pytest.raises(ValueError, match="signed links"):
        _address = made.file.url
    assert staff.post(f"/staff/downloads/release/{made.pk}/delete/", {"post": "yes"}).status_code == 302
    assert list(files.iterdir()) == []


WRONG: list[dict[str, Any]] = [
    {"version": "3.1/../.."}, {"version": "v3"}, {"version": "1.2.3.4.5"}, {"version": ""},
    {"denied_countries": "China"}, {"allowed_countries": "fr"}, {"platform": "amiga"}, {"package": "sh"},
    {"architecture": "m68k"}, {"language": "xx"}, {"file": ""}, {"store_url": "https://store.example/"},
    {"package": "store", "file": "", "store_url": "http://store.example/"},
    {"package": "store", "file": "", "store_url": "javascript:alert(1)"},
    {"package": "store", "file": ""}, {"package": "store", "store_url": "https://store.example/"},
]  # fmt: skip


def test_wrong_releases(staff: Client, suite: Plan, files: Path) -> None:
    """P10: said in the form, and nothing is kept."""
    for fields in WRONG:
        assert staff.post(ADD, form(**fields)).status_code == 200, fields
    assert not Release.objects.exists()
    assert not files.exists()


def test_size_limit_and_twins(staff: Client, suite: Plan, files: Path, monkeypatch: Any) -> None:
    assert staff.post(ADD, form()).status_code == 302
    assert staff.post(ADD, form()).status_code == 200  # the same package of the same version
    monkeypatch.setattr(settings, "RELEASE_MAX_BYTES", len(DATA) - 1)
    answer = staff.post(ADD, form(version="3.2"))
    assert "larger than" in answer.content.decode()
    assert (Release.objects.count(), len(list(files.iterdir()))) == (1, 1)


def test_support_gives_an_older_version(staff: Client, ann: User) -> None:
    """P10, D5: who gave it, and why, stays."""
    found = release(Product.objects.get(), version="2.11")
    path = "/staff/downloads/grant/add/"
    assert staff.post(path, {"release": found.pk, "user": ann.pk, "reason": ""}).status_code == 200
    assert staff.post(path, {"release": found.pk, "user": ann.pk, "reason": "ticket 9"}).status_code == 302
    made = Grant.objects.get()
    assert made.by is not None
    assert (made.by.email, made.reason) == ("staff@example.org", "ticket 9")


def test_lists_are_complete() -> None:
    """Each package has a known type, and none that a browser would run."""
    kinds = {Release(package=each).content_type for each in Package}
    assert kinds and not any(each.startswith(("text/", "image/")) or "html" in each for each in kinds)
    assert set(Architecture.values) == {"any", "x86_64", "arm64", "x86"}
