"""A running development portal, and Debian's real Chromium to use it with (driven by Playwright)."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, Locator, Page

TOP = Path(__file__).parent.parent.parent
CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="chromium missing: apt-get install chromium")
PATIENCE = 60
STARTING = 240  # seconds, for what migrates a database or loads a browser while other tests keep every processor busy
ADMIN = "admin@portal.example"
PASSWORD = "Blue7kettle"


@contextmanager
def held_address() -> Iterator[str]:
    """An address on loopback that no other socket of this machine is given before its server listens, nor after.

    A server that reuses addresses (SO_REUSEADDR, as all here do) may bind what is bound but not listened at.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{held.getsockname()[1]}"


def listens(address: str) -> bool:
    host, _colon, number = address.rpartition(":")
    with socket.socket() as asking:
        return asking.connect_ex((host, int(number))) == 0


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=20):
            return True
    except OSError:
        return False


def until(true: Callable[[], Any], process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + STARTING
    while not true():
        assert time.monotonic() < end and (process is None or process.poll() is None), "it never came"
        time.sleep(0.1)


@dataclass(frozen=True)
class Site:
    """Of `portal/deploy/development`: its origin, the folder of its database and mails."""

    origin: str
    state: Path

    def rows(self, query: str, *values: object) -> list[Any]:
        with closing(sqlite3.connect(self.state / "portal.sqlite3", timeout=20)) as connection:
            return connection.execute(query, values).fetchall()

    def mails(self) -> list[str]:
        """Their sources, the newest last."""
        files = sorted((self.state / "mail").glob("*"), key=lambda each: each.stat().st_mtime_ns)
        return [each.read_text(encoding="utf-8") for each in files]


def said(site: Site, pattern: str) -> str:
    """What the development server printed last of this."""
    return str(re.findall(pattern, site.state.with_name("said").read_text(encoding="utf-8"))[-1])


def password_of(site: Site) -> str:
    """The demo's administrator, as the development server told when it began."""
    return said(site, r"password: (\S+)")


def ask(site: Site, path: str, data: dict[str, Any], token: str = "", form: bool = False) -> tuple[int, Any]:
    """An application's request: the status, and what was answered."""
    sent = urllib.parse.urlencode(data) if form else json.dumps(data)
    headers = {"Content-Type": "application/x-www-form-urlencoded" if form else "application/json"}
    headers |= {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(site.origin + path, sent.encode(), headers)) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as err:
        with err:
            return err.code, json.load(err)


GRANT = "urn:ietf:params:oauth:grant-type:device_code"


def begun(site: Site) -> dict[str, str]:
    status, code = ask(site, "/identity/o/api/device/code", {"client_id": "tunwarden"}, form=True)
    assert status == 200, code
    return dict(code)


def polled(site: Site, code: dict[str, str]) -> tuple[int, Any]:
    data = {"client_id": "tunwarden", "grant_type": GRANT, "device_code": code["device_code"]}
    return ask(site, "/identity/o/api/token", data, form=True)


def press(page: Page, button: Locator) -> None:
    """Sends a form, and waits for the page that is the answer: a click alone may return before the old one is gone."""
    with page.expect_navigation():
        button.click()


def type_in(page: Page, email: str, password: str = PASSWORD) -> None:
    """On the page of sign-in, and not further."""
    page.fill("#id_login", email)
    page.fill("#id_password", password)
    press(page, page.locator("main button[type=submit]"))


def inside(page: Page) -> None:
    page.wait_for_url("**/subscriptions/")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One for a module's tests: each uses accounts of its own."""
    state = tmp_path_factory.mktemp("site") / "state"
    command = ["/bin/sh", "portal/deploy/development", sys.executable]
    with held_address() as address, held_address() as events, state.with_name("said").open("wb") as log:
        environment = {"PATH": os.environ["PATH"], "PORTAL_STATE": str(state), "PORTAL_ADDRESS": address}
        environment["PORTAL_EVENTS_PORT"] = events.rpartition(":")[2]
        process = subprocess.Popen(command, cwd=TOP, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            until(lambda: answers(f"http://{address}/accounts/login/"), process)
            yield Site(f"http://{address}", state)
        finally:
            os.killpg(process.pid, signal.SIGTERM)  # the session of its own: each of the site's processes
            process.wait(PATIENCE)


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Not longer than a module: its loop runs in this thread, and the other tests of this process have their own."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"], timeout=STARTING * 1000
        )
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Somebody with a browser of his own, and what its console complained of: blocked resources, failing scripts."""

    page: Page
    context: BrowserContext
    complaints: list[str]


@pytest.fixture
def visit(chromium: Browser, site: Site) -> Iterator[Callable[..., Visitor]]:
    """Opens a browser; the options are Playwright's (viewport, color_scheme, locale, java_script_enabled...)."""
    opened: list[Visitor] = []

    def visit(**options: Any) -> Visitor:
        context = chromium.new_context(base_url=site.origin, **options)
        context.set_default_timeout(PATIENCE * 1000)
        visitor = Visitor(context.new_page(), context, [])
        visitor.page.on("console", lambda said: visitor.complaints.append(said.text) if said.type == "error" else None)
        visitor.page.on("pageerror", lambda err: visitor.complaints.append(str(err)))
        opened.append(visitor)
        return visitor

    yield visit
    for each in opened:
        each.context.close()
