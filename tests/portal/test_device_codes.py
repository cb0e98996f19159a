"""P7: device authorisation (RFC 8628): for who signs in elsewhere, and for devices without a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import jwt
import pytest
from allauth.idp.oidc.models import Token
from django.core.cache import cache
from django.core.management import call_command
from django.test import Client
from PIL import Image, ImageDraw

from portal.accounts.models import Failure, User
from portal.devices import authorisation
from portal.devices.models import Device
from tests.portal.laptop import DEVICES, body

GRANT = "urn:ietf:params:oauth:grant-type:device_code"
PAGE = "/identity/o/device"


@pytest.fixture(autouse=True)
def interval(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The clock that allauth sees: `interval[0] += 6` lets six seconds pass; a slow test lets none pass."""
    import time as real

    began, moved = real.time(), [0.0]

    class Clock:
        @staticmethod
        def time() -> float:
            return began + moved[0]

    monkeypatch.setattr("allauth.idp.oidc.internal.oauthlib.device_codes.time", Clock)
    yield moved


def form(path: str, data: dict[str, str]) -> Any:
    return Client().post(path, urlencode(data), content_type="application/x-www-form-urlencoded")


def begin(**more: str) -> dict[str, Any]:
    answer = form("/identity/o/api/device/code", {"client_id": "tunwarden"} | more)
    assert answer.status_code == 200, answer.content
    return dict(answer.json())


def poll(code: dict[str, Any], **more: str) -> tuple[int, dict[str, Any]]:
    data = {"client_id": "tunwarden", "grant_type": GRANT, "device_code": code["device_code"]} | more
    answer = form("/identity/o/api/token", data)
    return answer.status_code, dict(answer.json())


def answer(web: Any, code: str, action: str) -> Any:
    return web.client.post(PAGE, {"code": code, "action": action})


def test_from_the_code_to_the_device(web: Any, new_user: Callable[..., User], interval: list[float]) -> None:
    """The link leads through sign-in to the question; allowed, the device gets its credential, once."""
    user = new_user()
    code = begin()
    assert code["verification_uri"] == "http://testserver" + PAGE
    assert code["verification_uri_complete"] == f"http://testserver{PAGE}?code={code['user_code']}"
    assert (code["expires_in"], code["interval"]) == (300, 5)
    link = code["verification_uri_complete"].removeprefix("http://testserver")
    to_sign_in = web.client.get(link)
    assert to_sign_in.status_code == 302 and "/accounts/login/" in to_sign_in["Location"]
    data = {"login": user.email, "password": "Blue7kettle", "next": link}
    assert web.client.post("/accounts/login/", data)["Location"] == link
    page = web.client.get(link).content.decode()
    assert code["user_code"] in page and "tunwarden" in page and user.email in page
    assert poll(code) == (400, {"error": "authorization_pending"})
    assert "Allowed" in answer(web, code["user_code"], "allow").content.decode()
    interval[0] += 6
    status, given = poll(code)
    assert (status, given["token_type"], given["scope"]) == (200, "Bearer", "device")
    assert "refresh_token" not in given and Token.objects.count() == 1
    # The token is good for nothing but this, and once.
    bearer = {"Authorization": f"Bearer {given['access_token']}"}
    assert Client().get("/api/v1/device", headers=bearer).status_code == 401
    assert Client().get("/api/v1/subscriptions", headers=bearer).status_code == 401
    wrong = Client().post(DEVICES, body(platform="x"), content_type="application/json", headers=bearer)
    assert wrong.json()["code"] == "platform_invalid"
    made = Client().post(DEVICES, body(), content_type="application/json", headers=bearer)
    assert made.status_code == 201 and Device.objects.get().user == user
    again = Client().post(DEVICES, body(), content_type="application/json", headers=bearer)
    assert again.status_code == 401 and not Token.objects.exists()
    # The code is used up, too.
    interval[0] += 6
    assert poll(code)[1]["error"] == "invalid_grant"
    assert answer(web, code["user_code"], "allow").status_code == 400


def test_one_token_makes_one_device(web: Any, new_user: Callable[..., User], interval: list[float]) -> None:
    """Eight exchanges of one token at once: one wins."""
    from django.db import connections

    web.sign_in(new_user().email)
    code = begin()
    answer(web, code["user_code"], "allow")
    bearer = {"Authorization": f"Bearer {poll(code)[1]['access_token']}"}

    def once(_number: int) -> int:
        try:
            return Client().post(DEVICES, body(), content_type="application/json", headers=bearer).status_code
        finally:
            connections.close_all()

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(once, range(8))) == [201] + [401] * 7
    assert Device.objects.count() == 1


def test_denied(web: Any, new_user: Callable[..., User], interval: list[float]) -> None:
    web.sign_in(new_user().email)
    code = begin()
    assert "Denied" in answer(web, code["user_code"], "deny").content.decode()
    assert poll(code) == (400, {"error": "access_denied"})
    # It cannot be allowed afterwards.
    assert answer(web, code["user_code"], "allow").status_code == 400
    interval[0] += 6
    assert poll(code)[1]["error"] == "access_denied"


def test_slow_down(interval: list[float]) -> None:
    """Asked again within the interval; also by another worker, for the cache is shared."""
    code = begin()
    assert poll(code)[1]["error"] == "authorization_pending"
    assert poll(code)[1]["error"] == "slow_down"
    interval[0] += 6
    assert poll(code)[1]["error"] == "authorization_pending"


def test_expired(web: Any, new_user: Callable[..., User]) -> None:
    """expired_token, as RFC 8628 says; what never was is invalid_grant."""
    web.sign_in(new_user().email)
    code = begin()
    cache.delete(f"allauth.idp.oidc.device_code[{code['device_code']}]")  # as the cache does after expires_in
    assert poll(code)[1]["error"] == "expired_token"
    assert answer(web, code["user_code"], "allow").context["error"].code == "code_wrong"
    assert poll({"device_code": "never-was"})[1]["error"] == "invalid_grant"


def test_wrong_polls() -> None:
    code = begin()
    for more, error in (
        ({"client_id": "nobody"}, "invalid_client"),
        ({"grant_type": "authorization_code"}, "invalid_request"),
        ({"device_code": ""}, "invalid_request"),
        ({"device_code": "x" * 5000}, "invalid_request"),
        ({"device_code": "\x00"}, "invalid_request"),
        ({"client_id": "\x00"}, "invalid_request"),
        ({"device_code": "é"}, "invalid_request"),
    ):
        status, said = poll(code, **more)
        assert (status in (400, 401), said["error"]) == (True, error)


def test_a_code_however_it_is_typed(web: Any, new_user: Callable[..., User]) -> None:
    web.sign_in(new_user().email)
    code = begin()["user_code"]
    bare = code.replace("-", "")
    for text in (code, f" {code} ", code.lower(), bare, code.replace("-", " "), " ".join(bare)):
        assert code in web.client.get(PAGE, {"code": text}).content.decode()


def test_what_is_no_code(web: Any, new_user: Callable[..., User]) -> None:
    web.sign_in(new_user().email)
    for typed in ("ABCDEFGH", "BBBB-BBBB", "\x00", "é" * 8, "B" * 5000, "'\"><script>", "BBBB-BBB"):
        page = web.client.get(PAGE, {"code": typed})
        assert (page.status_code, page.context["error"].code) == (400, "code_wrong")
        assert b"<script>" not in page.content
        Failure.objects.all().delete()  # or the limit would answer


def test_guessing_codes_is_limited(web: Any, new_user: Callable[..., User]) -> None:
    """After three wrong ones of an account even a right one waits; right ones are not counted."""
    web.sign_in(new_user().email)
    right = begin()["user_code"]
    for _look in range(5):
        assert web.client.get(PAGE, {"code": right}).status_code == 200
    said = [web.client.get(PAGE, {"code": f"BBBB-BBB{letter}"}).status_code for letter in "BCDF"]
    assert said == [400, 400, 400, 429]
    assert web.client.get(PAGE, {"code": right}).status_code == 429


def test_beginning_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one is kept for five minutes, so one address has not any number of them."""
    monkeypatch.setattr(authorisation, "CODES_AN_ADDRESS", 3)
    said = [form("/identity/o/api/device/code", {"client_id": "tunwarden"}).status_code for _each in range(5)]
    assert said == [200, 200, 200, 429, 429]


def test_only_a_person_answers(new_user: Callable[..., User]) -> None:
    """A form from elsewhere does not, nor a link that is followed."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(new_user())
    code = begin()
    assert client.post(PAGE, {"code": code["user_code"], "action": "allow"}).status_code == 403
    assert client.get(PAGE, {"code": code["user_code"], "action": "allow"}).status_code == 200
    assert poll(code)[1]["error"] == "authorization_pending"


def test_scopes() -> None:
    """The application may connect a device; nothing else can be asked for in its name."""
    asked = form("/identity/o/api/device/code", {"client_id": "tunwarden", "scope": "openid email"})
    assert (asked.status_code, asked.json()["error"]) == (400, "invalid_scope")


@pytest.mark.skipif(shutil.which("zbarimg") is None, reason="zbarimg reads the image; it is not installed")
def test_qr(tmp_path: Path) -> None:
    """The image is read again, and is the link; anything else is not drawn."""
    code = begin()
    response = Client().get(f"/devices/code/{code['user_code']}/qr.svg")
    assert response["Content-Type"] == "image/svg+xml"
    root = ET.fromstring(response.content)
    side = int(float(root.attrib["viewBox"].split()[2]))
    image = Image.new("L", (side * 10, side * 10), 255)
    pen = ImageDraw.Draw(image)
    path = next(each.attrib["d"] for each in root.iter() if each.tag.endswith("path"))
    squares = re.findall(r"M([\d.]+),([\d.]+)H([\d.]+)V([\d.]+)H[\d.]+z", path)
    assert len(squares) == path.count("M") > 200
    for square in squares:
        left, top, right, bottom = (round(float(each) * 10) for each in square)
        pen.rectangle((left, top, right - 1, bottom - 1), 0)
    image.save(tmp_path / "qr.png")
    command = ["zbarimg", "--quiet", "--raw", str(tmp_path / "qr.png")]
    read = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert read.strip() == code["verification_uri_complete"]
    for wrong in ("x", "bbbb-bbbb", "BBBB-BBBA", "https:%2F%2Fevil.example"):
        assert Client().get(f"/devices/code/{wrong}/qr.svg").status_code == 404


def test_openid_key_is_a_file(tmp_path: Path, settings_of: Any) -> None:  # fmt: skip
    """ID tokens of further applications are signed by a key outside of the database, readable by nobody else."""
    from django.conf import settings

    with settings_of(settings, "SIGNING_KEYS", tmp_path / "keys"):
        assert Client().get("/.well-known/jwks.json").json() == {"keys": []}
        call_command("oidc_key")
        file = authorisation.key_file()
        made = file.read_bytes()
        assert file.stat().st_mode & 0o777 == 0o600
        call_command("oidc_key")
        assert file.read_bytes() == made
        token = jwt.encode({"sub": "7"}, authorisation.OIDCAdapter().get_signing_key().pem, algorithm="RS256")
        key = jwt.PyJWK(Client().get("/.well-known/jwks.json").json()["keys"][0])
        assert jwt.decode(token, key, algorithms=["RS256"]) == {"sub": "7"}
