"""In real Chromium, on the development server as it starts: each flow from its first page to what it leaves behind."""

from __future__ import annotations

import hashlib
import re
import secrets
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value, yield_hotp_counters_from_time

from tests.portal.axe import judged
from tests.portal.browsing import (
    ADMIN,
    PASSWORD,
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

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

assert chromium and site and visit
pytestmark = needs_chromium
NUMBER = "+4915123456789"
Visit = Callable[..., Visitor]


def joined(site: Site, email: str) -> str:
    """A new account; test_browser.py makes one by the page."""
    data = {"email": email, "password": PASSWORD, "country": "FR", "privacy": True, "portal_statement": "1"}
    status, answer = ask(site, "/_allauth/app/v1/auth/signup", data)
    assert status == 200, answer
    return email


def sign_in(page: Page, email: str) -> None:
    page.goto("/accounts/login/")
    type_in(page, email)


def sign_out(page: Page) -> None:
    page.goto("/accounts/logout/")
    page.click("main button[type=submit]")
    page.wait_for_url("**/accounts/login/")


def scanned(shown: Locator, tmp_path: Path) -> str:
    """What a camera reads in a part of the page."""
    reader = shutil.which("zbarimg")
    if reader is None:
        pytest.skip("zbarimg missing: apt-get install zbar-tools")
    shown.screenshot(path=tmp_path / "code.png")
    command = [reader, "--quiet", "--raw", "-Sdisable", "-Sqrcode.enable", str(tmp_path / "code.png")]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


def test_sign_in(site: Site, visit: Visit) -> None:
    """P2: to the page that was asked for; a wrong password is told, and signs nobody in."""
    ann = visit()
    joined(site, "in@example.org")
    ann.page.goto("/devices/")
    ann.page.wait_for_url("**/accounts/login/?next=/devices/")
    type_in(ann.page, "in@example.org", "Wrong7kettle")
    assert ann.page.locator("[role=alert], ul.errorlist").first.is_visible()
    type_in(ann.page, "in@example.org")
    ann.page.wait_for_url("**/devices/")
    sign_out(ann.page)
    assert "/accounts/login/" in (ann.page.goto("/account/") or pytest.fail()).url
    assert ann.complaints == []


def test_statement(site: Site, visit: Visit) -> None:
    """A18, A20: taken back, it is asked at the next sign-in; Decline signs nobody in and stores nothing."""
    held = "SELECT count(*) FROM consents_consent c JOIN accounts_user u ON u.id = c.user_id WHERE u.email = ?"
    ann = visit()
    page = ann.page
    sign_in(page, joined(site, "statement@example.org"))
    inside(page)
    page.goto("/account/consents/")
    page.get_by_role("button", name="Withdraw: Portal statement").click()
    page.wait_for_url("**/accounts/login/")
    before = site.rows(held, "statement@example.org")
    type_in(page, "statement@example.org")
    page.wait_for_url("**/accounts/statement/")
    assert judged(page) == []
    page.click("button[name=decline]")
    page.wait_for_url("**/accounts/login/")
    assert site.rows(held, "statement@example.org") == before
    assert "/accounts/login/" in (page.goto("/account/") or pytest.fail()).url
    sign_in(page, "statement@example.org")
    page.wait_for_url("**/accounts/statement/")
    page.get_by_role("button", name="Accept").click()
    inside(page)
    assert site.rows(held, "statement@example.org") == [(before[0][0] + 1,)]
    assert ann.complaints == []


def test_captcha(site: Site, visit: Visit) -> None:
    """M5: after three failures; a wrong answer brings a new image, the right one lets in."""
    ann = visit()
    page, image = ann.page, ann.page.locator("img.captcha")
    joined(site, "captcha@example.org")
    page.goto("/accounts/login/")
    for _ in range(3):
        assert image.count() == 0
        type_in(page, "captcha@example.org", "Wrong7kettle")
    keys = []
    for right in (False, True):
        page.fill("#id_login", "captcha@example.org")
        page.fill("#id_password", PASSWORD)
        assert image.evaluate("image => image.decode().then(() => image.naturalWidth)") == 200
        keys.append(page.input_value("input[name=captcha_key]"))
        [(answer,)] = site.rows("SELECT response FROM captcha_captchastore WHERE hashkey = ?", keys[-1])
        assert right or judged(page) == []
        page.fill("#id_captcha_answer", answer if right else "wrong")
        press(page, page.locator("main button[type=submit]"))
    inside(page)
    assert keys[0] != keys[1]
    assert ann.complaints == []


def sms(site: Site) -> str:
    """The code of the last message, which development prints."""
    return said(site, rf"SMS to {re.escape(NUMBER)}: ([0-9]{{6}})")


def once_more(page: Page) -> None:
    """Sensitive actions want the password again."""
    page.wait_for_url("**/accounts/reauthenticate/**")
    page.fill("#id_password", PASSWORD)
    page.get_by_role("button", name="Confirm").click()


def by_app(page: Page, secret: str, button: str) -> None:
    """Types what the app shows; once more when the half minute ended meanwhile."""
    here = page.url
    for _ in range(2):
        page.fill("#id_code", format_hotp_value(hotp_value(secret, next(iter(yield_hotp_counters_from_time())))))
        press(page, page.get_by_role("button", name=button, exact=True))
        if page.url != here:
            return


def test_two_steps(site: Site, visit: Visit, tmp_path: Path) -> None:
    """A22-A26: SMS first, then the app, whose QR code a camera reads; a recovery code in place of the phone."""
    ann = visit()
    page = ann.page
    sign_in(page, joined(site, "steps@example.org"))
    inside(page)
    page.goto("/development/mail/")  # the second step needs a confirmed e-mail
    page.locator("section", has_text="steps@example.org").locator("a").first.click()
    page.get_by_role("button", name="Confirm").click()
    inside(page)
    page.goto("/accounts/2fa/")
    page.get_by_role("link", name="Turn on").click()
    once_more(page)
    page.fill("#id_phone", NUMBER)
    page.get_by_role("button", name="Send the code").click()
    page.wait_for_url("**/phone/verify/")
    assert judged(page) == []
    page.fill("#id_code", sms(site))
    page.get_by_role("button", name="Confirm").click()
    page.wait_for_url("**/recovery-codes/")
    assert judged(page) == []
    recovery = page.locator("ul.codes code").first.inner_text()
    sign_out(page)

    type_in(page, "steps@example.org")
    page.wait_for_url("**/login/code/confirm/")
    assert judged(page) == []
    page.fill("#id_code", sms(site))
    page.click("form.box button")
    inside(page)

    page.goto("/accounts/2fa/")
    page.get_by_role("link", name="Set up an app").click()
    once_more(page)
    secret = page.locator("form.box code").inner_text()
    assert judged(page) == []
    assert f"secret={secret}" in scanned(page.locator("img.qr"), tmp_path)
    by_app(page, secret, "Turn on")
    page.wait_for_url("**/accounts/2fa/")
    assert judged(page) == []
    sign_out(page)
    type_in(page, "steps@example.org")
    page.wait_for_url("**/2fa/authenticate/")
    assert judged(page) == []
    by_app(page, secret, "Sign in")
    inside(page)
    sign_out(page)
    type_in(page, "steps@example.org")
    page.fill("#id_code", recovery)
    page.get_by_role("button", name="Sign in", exact=True).click()
    inside(page)
    assert ann.complaints == []


def test_subscription_and_download(site: Site, visit: Visit, tmp_path: Path) -> None:
    """B1, P8, P10: a code makes a subscription, whose package comes by the button and, elsewhere, by the QR code."""
    ann = visit(device_scale_factor=2)
    page = ann.page
    sign_in(page, joined(site, "load@example.org"))
    inside(page)
    page.fill("#id_code", said(site, r"code for VPN: Premium, one year: (\S+)").lower())
    press(page, page.get_by_role("button", name="Add"))
    assert "365 days left" in page.inner_text("main")
    page.get_by_role("link", name="Download VPN").click()
    with page.expect_download() as started:
        page.get_by_role("link", name=re.compile("^Download for Linux.*deb")).click()
    saved = started.value.path().read_bytes()
    page.get_by_role("link", name=re.compile("^QR code.*deb")).click()
    assert page.locator("code.hash").inner_text() == hashlib.sha256(saved).hexdigest()
    link = scanned(page.locator(".qr"), tmp_path)
    assert link.startswith(site.origin + "/downloads/get/")
    with urllib.request.urlopen(link) as elsewhere:
        assert elsewhere.read() == saved == b"a sample, not VPN 3.1\n"
    assert ann.complaints == []


def test_device_code(site: Site, visit: Visit, tmp_path: Path) -> None:
    """P7, RFC 8628: the code typed as it comes, allowed, exchanged; another by its QR code and sign-in, denied."""
    ann = visit(device_scale_factor=2)
    page = ann.page
    sign_in(page, joined(site, "device@example.org"))
    inside(page)
    code = begun(site)
    page.goto("/devices/")
    page.fill("#id_code", code["user_code"].lower().replace("-", " "))
    page.get_by_role("button", name="Continue").click()
    assert page.locator("strong.code").inner_text() == code["user_code"]
    page.get_by_role("button", name="Allow").click()
    page.get_by_role("heading", name="Allowed").wait_for()
    status, token = polled(site, code)
    assert status == 200, token
    status, made = ask(site, "/api/v1/devices", body(name="The old router"), token["access_token"])
    assert status == 201, made
    page.goto("/devices/")
    page.get_by_role("link", name="The old router").click()
    press(page, page.get_by_role("button", name="Turn lockdown on"))
    assert "Waiting for the device" in page.inner_text("table")

    other = begun(site)
    screen, phone = visit(device_scale_factor=2), visit(viewport={"width": 360, "height": 780})
    screen.page.goto(f"/devices/code/{other['user_code']}/qr.svg")
    link = scanned(screen.page.locator("svg"), tmp_path)
    assert link == other["verification_uri_complete"]
    phone.page.goto(link)
    type_in(phone.page, "device@example.org")
    phone.page.get_by_role("button", name="Deny").click()
    phone.page.get_by_role("heading", name="Denied").wait_for()
    assert polled(site, other) == (400, {"error": "access_denied"})
    assert ann.complaints == phone.complaints == []


def test_ticket(site: Site, visit: Visit) -> None:
    """P12: a request with a file; staff answers, the answer comes by mail and on the page; then it is closed."""
    log = f"captive portal: waiting {secrets.token_hex(8)}\n".encode()
    ann, staff = visit(), visit()
    page = ann.page
    sign_in(page, joined(site, "ticket@example.org"))
    inside(page)
    page.goto("/support/new/")
    page.fill("#id_subject", "No tunnel in the hotel")
    page.fill("#id_text", "It waits for the hotel's page.")
    page.set_input_files("#id_files", {"name": "tunwarden.log", "mimeType": "text/plain", "buffer": log})
    page.get_by_role("button", name="Send").click()
    page.wait_for_url(re.compile(r"/support/\d+/"))
    ticket = page.url
    with page.expect_download() as started:
        page.get_by_role("link", name="tunwarden.log").click()
    assert started.value.path().read_bytes() == log

    staff.page.goto(f"/staff/support/ticket/{ticket.rstrip('/').rsplit('/', 1)[1]}/change/")
    type_in(staff.page, ADMIN, password_of(site))
    staff.page.fill("#id_answer", "Open the hotel's page first.")
    staff.page.click("input[name=_save]")
    staff.page.wait_for_url("**/staff/support/ticket/")
    page.goto(ticket)
    assert "Open the hotel's page first." in page.inner_text("article.from-support")
    mailed = [each for each in site.mails() if "\nTo: ticket@example.org\n" in each]
    assert "Open the hotel's page first." in mailed[-1]
    page.get_by_role("button", name="Close the request").click()
    page.get_by_role("button", name="Open it again").wait_for()
    assert ann.complaints == []
