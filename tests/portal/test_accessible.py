"""WCAG 2.2 AA, judged by axe-core in real Chromium: every page that a visitor and a signed-in person can reach."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Error

from tests.portal.axe import DESKTOP, judged, violations
from tests.portal.browsing import (
    ADMIN,
    Site,
    Visitor,
    ask,
    begun,
    chromium,
    inside,
    needs_chromium,
    password_of,
    polled,
    press,
    said,
    site,
    type_in,
    visit,
)
from tests.portal.laptop import body

assert chromium and site and visit
pytestmark = needs_chromium

LEFT_ALONE = re.compile(r"^/(staff|static|development|api)|/image/|/audio/|\.(json|svg|png)$")


def reached(visitor: Visitor, *starts: str) -> dict[str, list[str]]:
    """What is wrong, by page."""
    waiting, found = list(starts), dict[str, list[str]]()
    while waiting:
        path = waiting.pop(0)
        shape = re.sub(r"(?<=/)([0-9a-f-]{36}|\d+)(?=/)", "N", path)  # of a hundred tickets, one
        if shape in found or LEFT_ALONE.search(path):
            continue
        try:
            response = visitor.page.goto(path)
        except Error as err:  # a file, which is no page
            assert "Download is starting" in str(err), path
            continue
        if response is None or "text/html" not in response.headers.get("content-type", ""):
            continue
        found[shape] = judged(visitor.page)
        links = visitor.page.eval_on_selector_all("a[href^='/']", "all => all.map(each => each.getAttribute('href'))")
        waiting += [link.split("#")[0].split("?")[0] for link in links]
    return found


def bad(found: dict[str, list[str]]) -> dict[str, list[str]]:
    return {path: what for path, what in found.items() if what}


def test_for_visitors(visit: Callable[..., Visitor]) -> None:
    visitor = visit(viewport=DESKTOP)
    found = reached(visitor, "/", "/accounts/login/")
    assert len(found) >= 10 and bad(found) == {}
    assert visitor.complaints == []


def test_signed_in(visit: Callable[..., Visitor], site: Site) -> None:
    """With a subscription, a device that has a command, and a request to support."""
    visitor = visit(viewport=DESKTOP)
    page = visitor.page
    page.goto("/accounts/login/")
    type_in(page, ADMIN, password_of(site))
    inside(page)
    page.fill("#id_code", said(site, r"code for VPN: Premium, one year: (\S+)"))
    press(page, page.get_by_role("button", name="Add"))
    code = begun(site)
    page.goto(f"/identity/o/device?code={code['user_code']}")
    confirming = judged(page)
    page.get_by_role("button", name="Allow").click()
    page.get_by_role("heading", name="Allowed").wait_for()
    status, made = ask(site, "/api/v1/devices", body(product="vpn"), polled(site, code)[1]["access_token"])
    assert status == 201, made
    page.goto(f"/devices/{made['device']['id']}/")
    press(page, page.get_by_role("button", name="Ask for a report"))
    page.goto("/support/new/")
    page.fill("#id_subject", "No tunnel")
    page.fill("#id_text", "It waits.")
    page.get_by_role("button", name="Send").click()
    page.wait_for_url(re.compile(r"/support/\d+/"))
    found = {"confirm a code": confirming} | reached(visitor, "/", "/devices/limit/")
    shapes = {"/devices/N/", "/subscriptions/N/", "/support/N/", "/downloads/releases/N/", "/accounts/2fa/"}
    assert shapes <= found.keys() and bad(found) == {}


def test_axe_sees(visit: Callable[..., Visitor]) -> None:
    """The control: what is wrong is found."""
    visitor = visit()
    visitor.page.goto("/accounts/login/")
    visitor.page.evaluate("document.documentElement.removeAttribute('lang'); document.body.style.color = '#eee'")
    rules = {each.split(":")[0] for each in violations(visitor.page)}
    assert {"html-has-lang", "color-contrast"} <= rules
