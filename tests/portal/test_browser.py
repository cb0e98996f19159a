"""In real Chromium: what only a page's script does (A15-A18), and that the strict policy breaks nothing."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).parent.parent.parent
PROGRAMS = ("chromium", "chromedriver")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"{', '.join(MISSING)} missing: apt-get install chromium-driver")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # the WebDriver specification's name of a reference
PATIENCE = 60


def free_address() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=20):
            return True
    except OSError:
        return False


def until(true: Any, process: subprocess.Popen[bytes] | None = None) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end and (process is None or process.poll() is None), "it never came"
        time.sleep(0.1)


class Browser:
    """The few WebDriver commands that are needed (W3C WebDriver)."""

    def __init__(self, address: str, profile: Path) -> None:
        self.driver = f"http://{address}"
        options = {"args": ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        made = self.send("POST", "/session", {"capabilities": {"alwaysMatch": wanted}})
        self.driver += f"/session/{made['sessionId']}"

    def send(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.driver + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as response:
                return json.load(response)["value"]
        except urllib.error.HTTPError as err:
            raise AssertionError(err.read().decode()) from err

    def go(self, url: str) -> None:
        self.send("POST", "/url", {"url": url})

    def find(self, selector: str) -> str:
        return str(self.send("POST", "/element", {"using": "css selector", "value": selector})[ELEMENT])

    def click(self, selector: str) -> None:
        self.send("POST", f"/element/{self.find(selector)}/click", {})

    def type(self, selector: str, text: str) -> None:
        self.send("POST", f"/element/{self.find(selector)}/value", {"text": text})

    def ask(self, script: str) -> Any:
        return self.send("POST", "/execute/sync", {"script": f"return {script}", "args": []})

    def complaints(self) -> list[str]:
        """What the console says of blocked resources and failing scripts."""
        log = self.send("POST", "/se/log", {"type": "browser"})
        return [each["message"] for each in log if each["level"] == "SEVERE"]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A running development portal: its origin, and its database."""
    address = free_address()
    environment = {"PATH": os.environ["PATH"], "PORTAL_STATE": str(tmp_path / "state"), "PORTAL_ADDRESS": address}
    command = ["/bin/sh", "portal/deploy/development", sys.executable]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=TOP, env=environment, **quiet)
    try:
        until(lambda: answers(f"http://{address}/accounts/login/"), process)
        yield f"http://{address}", tmp_path / "state/portal.sqlite3"
    finally:
        process.terminate()
        process.wait(PATIENCE)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    address = free_address()
    command = ["chromedriver", f"--port={address.split(':')[1]}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    opened: Browser | None = None
    try:
        until(lambda: answers(f"http://{address}/status"), process)
        opened = Browser(address, tmp_path / "profile")
        yield opened
    finally:
        if opened is not None:
            opened.send("DELETE", "")
        process.terminate()
        process.wait(PATIENCE)


def accounts(database: Path) -> set[str]:
    connection = sqlite3.connect(database, timeout=20)
    try:
        return {row[0] for row in connection.execute("SELECT email FROM accounts_user")}
    finally:
        connection.close()


def test_sign_up(site: tuple[str, Path], browser: Browser) -> None:
    """A15-A18: Create is off until the box is ticked; the statement is a dialog; Accept makes the account."""
    origin, database = site
    browser.go(f"{origin}/accounts/signup/")
    browser.type("#id_email", "ann@example.org")
    browser.type("#id_password1", "Blue7kettle")
    browser.type("#id_password2", "Blue7kettle")
    browser.ask("document.getElementById('id_country').value = 'FR'")
    assert browser.ask("document.getElementById('create').disabled") is True
    browser.click("#id_privacy")
    assert browser.ask("document.getElementById('create').disabled") is False
    browser.click("#id_privacy")
    assert browser.ask("document.getElementById('create').disabled") is True
    browser.click("#id_privacy")
    assert browser.ask("document.getElementById('id_marketing').checked") is False
    browser.click("#create")
    assert browser.ask("document.getElementById('statement').open") is True
    browser.click("#statement-decline")
    assert browser.ask("document.getElementById('statement').open") is False
    assert browser.ask("location.pathname") == "/accounts/signup/"
    assert accounts(database) == {"admin@portal.example"}
    browser.click("#create")
    browser.click("#statement-accept")
    until(lambda: browser.ask("location.pathname") == "/subscriptions/")
    assert accounts(database) == {"admin@portal.example", "ann@example.org"}
    assert browser.complaints() == []


def test_privacy_policy_opens_beside(site: tuple[str, Path], browser: Browser) -> None:
    """A15: in a window of its own, so that what was typed stays."""
    origin, _database = site
    browser.go(f"{origin}/accounts/signup/")
    browser.type("#id_email", "ann@example.org")
    browser.click('form a[href="/legal/privacy/"]')
    until(lambda: len(browser.send("GET", "/window/handles")) == 2)
    assert browser.ask("document.getElementById('id_email').value") == "ann@example.org"


@pytest.mark.parametrize("width", [320, 1280])
def test_pages_fit(site: tuple[str, Path], browser: Browser, width: int) -> None:
    """WCAG 1.4.10: nothing has to be scrolled sideways, on a phone either; and the console is silent."""
    origin, _database = site
    device = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    command = {"cmd": "Emulation.setDeviceMetricsOverride", "params": device}
    browser.send("POST", "/goog/cdp/execute", command)
    for path in ("/accounts/login/", "/accounts/signup/", "/accounts/password/reset/", "/legal/privacy/"):
        browser.go(origin + path)
        assert browser.ask("window.innerWidth") == width
        assert browser.ask("document.documentElement.scrollWidth") <= width, path
    assert browser.complaints() == []
