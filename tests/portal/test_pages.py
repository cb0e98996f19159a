"""The pages: headers, no foreign resources, who may see what, and what browsers and readers of screens need."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from portal.accounts.models import Phone, User
from portal.downloads.models import Release
from portal.subscriptions import redemption
from portal.subscriptions.models import Plan, Product

PUBLIC = [
    "/accounts/login/", "/accounts/signup/", "/accounts/password/reset/", "/accounts/password/reset/done/",
    "/legal/privacy/", "/legal/portal/", "/legal/marketing/", "/nothing/",
    "/help/", "/help/?q=kill", "/help/trusted-networks/",
]  # fmt: skip
PRIVATE = [
    "/subscriptions/", "/account/", "/account/consents/", "/account/delete/", "/accounts/email/",
    "/accounts/password/change/", "/accounts/2fa/", "/accounts/2fa/totp/activate/", "/accounts/sessions/",
    "/accounts/logout/", "/accounts/reauthenticate/", "/support/", "/support/new/",
]  # fmt: skip
VOID = {"meta", "link", "input", "img", "br", "hr", "source", "wbr", "col"}


class Page(HTMLParser):
    """A page's elements, and whether they close in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.open:
            while (last := self.open.pop()) != tag:
                if last not in ("p", "li", "option", "tr", "td", "th"):
                    self.wrong.append(f"{last} is open where {tag} ends")
        else:
            self.wrong.append(f"{tag} ends and never began")

    def of(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.found if tag in tags]


@pytest.fixture
def every_page(web: Any, new_user: Callable[..., User]) -> list[tuple[str, Any]]:
    """Each page as it is first seen, and those with errors on them."""
    seen = [(path, web.client.get(path)) for path in PUBLIC]
    seen.append(("wrong sign-up", web.client.post("/accounts/signup/", {})))
    seen.append(("wrong sign-in", web.client.post("/accounts/login/", {"login": "x", "password": ""})))
    for _try in range(4):
        last = web.sign_in("ann@example.org", "Red7kettle").raw
    seen.append(("captcha", last))
    user = new_user("bob@example.org")
    web.sign_in(user.email)
    web.confirm_password()
    user.phone = Phone.objects.create(user=user, number="+4915123456789")  # an app as second step comes after one
    suite = Product.objects.create(slug="suite", name="Suite")
    plan = Plan.objects.create(product=suite, slug="suite-year", name="One year", days=365, seats=2)
    own, _outcome = redemption.redeem(user, redemption.make(plan, 1, "")[0])
    own.shares.create(email="ann@example.org", digest="x")
    own.taken.create(user=user, device="laptop")
    seen += [(path, web.client.get(path)) for path in (*PRIVATE, f"/subscriptions/{own.pk}/")]
    store = {"platform": "ios", "package": "store", "store_url": "https://store.example/"}
    app = Release.objects.create(product=suite, version="3.1", published=True, **store)
    downloads = ("/downloads/", "/downloads/suite/", f"/downloads/releases/{app.pk}/", "/downloads/get/x/")
    seen += [(path, web.client.get(path)) for path in downloads]
    seen.append(("wrong code", web.client.post("/subscriptions/", {"code": "x"})))
    seen.append(("wrong share", web.client.post(f"/subscriptions/{own.pk}/", {"email": "x"})))
    # A redirect would be no page.
    pages = (200, 400, 403, 404)
    assert {name: response.status_code for name, response in seen if response.status_code not in pages} == {}
    return seen


def test_headers(every_page: list[tuple[str, Any]]) -> None:
    """A strict content security policy on each page, no frames, no referrer to others, no guessing of types."""
    for name, response in every_page:
        policy = dict(part.strip().split(" ", 1) for part in response.headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["script-src"] == policy["style-src"] == "'self'", name
        assert "unsafe" not in response.headers["Content-Security-Policy"], name
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'" and policy["form-action"] == "'self'", name
        assert response.headers["X-Frame-Options"] == "DENY", name
        assert response.headers["X-Content-Type-Options"] == "nosniff", name
        assert response.headers["Referrer-Policy"] == "same-origin", name


def test_nothing_inline_and_nothing_foreign(every_page: list[tuple[str, Any]]) -> None:
    """The policy would block it, and nobody else learns who visits."""
    for name, response in every_page:
        page = Page(response.content.decode())
        for script in page.of("script"):
            assert script.get("src", "").startswith("/static/") or script.get("type") == "application/json", name
        assert not page.of("style", "iframe", "object", "embed"), name
        for tag, attributes in page.found:
            assert "style" not in attributes, (name, tag)
            assert not [key for key in attributes if key.startswith("on")], (name, tag)
            if tag in ("img", "link", "script", "audio", "source", "form"):
                where = attributes.get("src") or attributes.get("href") or attributes.get("action") or ""
                assert not re.match(r"(?i)(https?:)?//", where), (name, where)


def test_structure(every_page: list[tuple[str, Any]]) -> None:
    """One h1, a title, a language, unique ids, a name for each field and image (WCAG 1.1.1, 1.3.1, 2.4.2, 4.1.2)."""
    for name, response in every_page:
        text = response.content.decode()
        page = Page(text)
        assert page.wrong == [] and page.open == [], (name, page.wrong, page.open)
        assert len(page.of("h1")) == 1, name
        assert re.search(r"<title>\s*\S.*?</title>", text, re.DOTALL), name
        assert page.of("html")[0]["lang"] == "en", name
        ids = [attributes["id"] for _tag, attributes in page.found if "id" in attributes]
        assert len(ids) == len(set(ids)), (name, sorted(ids))
        labelled = {attributes.get("for") for attributes in page.of("label")}
        for field in page.of("input", "select", "textarea"):
            if field.get("type") in ("hidden", "submit"):
                continue
            assert field.get("id") in labelled or field.get("aria-label"), (name, field)
            for described in field.get("aria-describedby", "").split():
                assert described in ids, (name, field)
        assert all("alt" in image for image in page.of("img")), name
        # Each form that changes something carries its token.
        for form in re.findall(r"(?s)<form[^>]*method=\"post\".*?</form>", text):
            assert "csrfmiddlewaretoken" in form, name


def patterns(resolver: URLResolver, prefix: str = "") -> Iterator[tuple[str, URLPattern]]:
    for each in resolver.url_patterns:
        if isinstance(each, URLResolver):
            yield from patterns(each, prefix + str(each.pattern))
        else:
            yield prefix + str(each.pattern), each


def test_strangers_see_only_what_is_meant_for_them(web: Any) -> None:
    """Every address of our own apps, asked without an account: sign in first, unless it is listed here."""
    public = {"home", "text", "captcha-image", "captcha-audio", "language", "signed_link"}
    public |= {"help", "help_page", "verdict", "qr"}
    values = {"int": "1", "uuid": str(uuid4())}
    checked, wrong = 0, []
    for route, pattern in patterns(get_resolver()):
        module = pattern.callback.__module__
        if not module.startswith("portal.") or route.startswith(("api/", "_allauth/", "identity/")):
            continue
        if pattern.name in public or module == "portal.accounts.social_urls":  # doors, see test_quick_sign_in_doors
            continue
        path = "/" + re.sub(r"<(?:(\w+):)?\w+>", lambda found: values.get(found[1], "x"), route)
        for method in ("get", "post"):
            response = getattr(web.client, method)(path)
            door = "/staff/login/" if path.startswith("/staff/") else "/accounts/login/"
            if response.status_code != 302 or not response.headers["Location"].startswith(door):
                wrong.append((path, pattern.name, method, response.status_code))
        checked += 1
    assert wrong == []
    assert checked >= 12


def test_staff_has_no_door_of_its_own(web: Any, new_user: Callable[..., User]) -> None:
    """Django's own form would ask for no captcha, no statement and no second step. Others than staff get no further."""
    user = new_user()
    answer = web.client.post("/staff/login/", {"username": user.email, "password": "Blue7kettle"})
    assert answer.headers["Location"].startswith("/accounts/login/")
    assert not web.signed_in()
    web.sign_in(user.email)
    assert web.client.get("/staff/login/").status_code == 403
    user.is_staff = user.is_superuser = True
    user.save()
    assert web.client.get("/staff/").status_code == 200


def test_interface_needs_a_token(app: Any) -> None:
    """Every operation of /api/v1, asked without one: 401, unless the document says otherwise."""
    document = app.call("get", "/api/v1/openapi.json").json()
    asked = 0
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if "security" not in operation:
                continue
            body = None if method == "get" else {"code": "x"}
            response = app.call(method, path.replace("{kind}", "portal").replace("{number}", "1"), body)
            assert response.status_code == 401, (method, path)
            assert response.headers["Content-Type"] == "application/problem+json"
            assert response.json()["code"] == "not_signed_in"
            asked += 1
    assert asked >= 9


def contrast(one: str, other: str) -> float:
    def light(colour: str) -> float:
        full = colour if len(colour) == 7 else "#" + "".join(char * 2 for char in colour[1:])
        parts = [int(full[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(one), light(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast() -> None:
    """WCAG 1.4.3 and 1.4.11, in the light and the dark scheme: 4.5 for text, 3 for borders and focus."""
    style = (Path(__file__).parent.parent.parent / "portal/static/portal/style.css").read_text()
    schemes = [
        dict(re.findall(r"--([\w-]+): (#[0-9a-f]+)", block))
        for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(schemes) == 2 and contrast("#000000", "#ffffff") == 21
    for colours in schemes:
        for ground in (colours["ground"], colours["panel"]):
            for ink in ("text", "quiet", "accent", "bad", "good"):
                assert contrast(colours[ink], ground) >= 4.5, (ink, ground)
            for edge in ("line", "focus"):
                assert contrast(colours[edge], ground) >= 3, (edge, ground)
        assert contrast(colours["on-accent"], colours["accent"]) >= 4.5
