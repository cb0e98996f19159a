"""In real Chromium: what only a page's script does (A15-A18), and that the strict policy breaks nothing."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.portal.browsing import ADMIN, Site, Visitor, chromium, needs_chromium, site, visit

assert chromium and site and visit
pytestmark = needs_chromium


def accounts(site: Site) -> set[str]:
    return {row[0] for row in site.rows("SELECT email FROM accounts_user")}


def test_sign_up(site: Site, visit: Callable[..., Visitor]) -> None:
    """A15-A18: Create is off until the box is ticked; the statement is a dialog; Accept makes the account."""
    ann = visit()
    page = ann.page
    page.goto("/accounts/signup/")
    page.fill("#id_email", "ann@example.org")
    page.fill("#id_password1", "Blue7kettle")
    page.fill("#id_password2", "Blue7kettle")
    page.select_option("#id_country", "FR")
    create, dialog = page.locator("#create"), page.locator("#statement")
    assert create.is_disabled()
    page.check("#id_privacy")
    assert create.is_enabled()
    page.uncheck("#id_privacy")
    assert create.is_disabled()
    page.check("#id_privacy")
    assert not page.is_checked("#id_marketing")
    create.click()
    assert dialog.is_visible()
    page.click("#statement-decline")
    assert dialog.is_hidden()
    assert page.url.endswith("/accounts/signup/")
    assert accounts(site) == {ADMIN}
    create.click()
    page.click("#statement-accept")
    page.wait_for_url("**/subscriptions/")
    assert accounts(site) == {ADMIN, "ann@example.org"}
    assert ann.complaints == []


def test_privacy_policy_opens_beside(visit: Callable[..., Visitor]) -> None:
    """A15: in a window of its own, so that what was typed stays."""
    ann = visit()
    ann.page.goto("/accounts/signup/")
    ann.page.fill("#id_email", "ann@example.org")
    with ann.context.expect_page() as opened:
        ann.page.click('form a[href="/legal/privacy/"]')
    opened.value.wait_for_url("**/legal/privacy/")
    assert ann.page.input_value("#id_email") == "ann@example.org"


@pytest.mark.parametrize("width", [320, 1280])
def test_pages_fit(visit: Callable[..., Visitor], width: int) -> None:
    """WCAG 1.4.10: nothing has to be scrolled sideways, on a phone either; and the console is silent."""
    somebody = visit(viewport={"width": width, "height": 800})
    for path in ("/accounts/login/", "/accounts/signup/", "/accounts/password/reset/", "/legal/privacy/"):
        somebody.page.goto(path)
        assert somebody.page.evaluate("document.documentElement.scrollWidth") <= width, path
    assert somebody.complaints == []


def test_no_country_by_chance(visit: Callable[..., Visitor]) -> None:
    """A16: where the browser says no country, none is chosen, and Create waits for one."""
    ann = visit(locale="ar")
    ann.page.goto("/accounts/signup/")
    assert ann.page.evaluate("document.documentElement.dir") == "rtl"
    assert ann.page.input_value("#id_country") == ""
    assert not ann.page.eval_on_selector("#id_country", "select => select.checkValidity()")
