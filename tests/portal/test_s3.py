"""P10: releases in an S3-compatible store.

The signatures are compared with the examples that AWS publishes. With PORTAL_TEST_S3="ENDPOINT BUCKET REGION KEY
SECRET" the rest runs against a real server (portal/README.md tells which one it was).
"""

from __future__ import annotations

import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest
from django.core.files.base import ContentFile
from django.core.files.storage import storages
from django.test import Client

from portal import config
from portal.accounts.models import User
from portal.downloads.models import Release
from portal.downloads.s3 import EMPTY, S3, signature
from portal.subscriptions import redemption
from portal.subscriptions.models import Plan, Product

SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
SCOPE = "20130524/us-east-1/s3/aws4_request"
AT = "20130524T000000Z"
HOST = "examplebucket.s3.amazonaws.com"
SERVER = os.environ.get("PORTAL_TEST_S3", "").split()
DATA = bytes(range(256)) * 3000


def test_signature_of_an_address() -> None:
    """The example of "Authenticating Requests: Using Query Parameters"."""
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"AKIAIOSFODNN7EXAMPLE/{SCOPE}",
        "X-Amz-Date": AT,
        "X-Amz-Expires": "86400",
        "X-Amz-SignedHeaders": "host",
    }
    made = signature(SECRET, SCOPE, "GET", "/test.txt", query, {"host": HOST}, "UNSIGNED-PAYLOAD", AT)
    assert made == "aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"


@pytest.mark.parametrize(
    "method, path, query, headers, digest, expected",
    [
        (
            "GET", "/test.txt", {}, {"range": "bytes=0-9"}, EMPTY,
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            "GET", "/", {"lifecycle": ""}, {}, EMPTY,
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            "PUT", "/test%24file.text", {},
            {"date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
            hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
    ],
)  # fmt: skip
def test_signatures_of_requests(
    method: str, path: str, query: dict[str, str], headers: dict[str, str], digest: str, expected: str
) -> None:
    """The examples of "Authenticating Requests: Using the Authorization Header"."""
    every = headers | {"host": HOST, "x-amz-content-sha256": digest, "x-amz-date": AT}
    assert signature(SECRET, SCOPE, method, path, query, every, digest, AT) == expected


def test_settings() -> None:
    """Complete, or refused with what is missing; the secret is in no error."""
    whole = {"s3_endpoint": "https://s3.example", "s3_bucket": "releases", "s3_key": "k", "s3_secret": "very secret"}
    found = config.releases(config.Config(debug=True, **whole))  # type: ignore[arg-type]
    assert found["BACKEND"] == "portal.downloads.s3.S3"
    with pytest.raises(config.ConfigError, match="s3_key") as caught:
        config.releases(config.Config(debug=True, **{**whole, "s3_key": ""}))  # type: ignore[arg-type]
    assert "very secret" not in str(caught.value)
    for wrong in ("ftp://s3.example", "s3.example", "https://s3.example/?x", "https://me:pw@s3.example"):
        with pytest.raises(ValueError, match="s3_endpoint"):
            config.Config(debug=True, s3_endpoint=wrong)


@pytest.fixture
def store(monkeypatch: Any) -> S3:
    if not SERVER:
        pytest.skip("PORTAL_TEST_S3 names no server")
    made = S3(*SERVER)
    monkeypatch.setitem(storages._storages, "releases", made)  # type: ignore[attr-defined]
    monkeypatch.setattr(Release._meta.get_field("file"), "storage", made)
    return made


def fetched(url: str, **headers: str) -> tuple[int, bytes, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as err:
        with err:
            return err.code, b"", err.headers


def test_a_real_store(store: S3) -> None:
    """Kept, found, read, sent with our name and type, also in parts, removed; wrong signatures are refused."""
    assert store.save("a" * 32, ContentFile(DATA)) == "a" * 32
    assert store.exists("a" * 32) and not store.exists("b" * 32)
    with store.open("a" * 32) as file:
        assert file.read() == DATA
    url = store.direct_url("a" * 32, "suite-3.1-linux.deb", "application/vnd.debian.binary-package")
    status, body, headers = fetched(url)
    assert (status, body) == (200, DATA)
    assert headers["Content-Disposition"] == 'attachment; filename="suite-3.1-linux.deb"'
    assert headers["Content-Type"] == "application/vnd.debian.binary-package"
    assert fetched(url, Range="bytes=10-19")[:2] == (206, DATA[10:20])
    assert fetched(url[:-1] + ("0" if url[-1] != "0" else "1"))[0] == 403
    assert fetched(url.replace("suite-3.1", "other"))[0] == 403
    with pytest.raises(OSError, match="refused with 403"):
        S3(*SERVER[:-1], "wrong").save("c" * 32, ContentFile(b"x"))
    with pytest.raises(OSError, match="there is no bucket"):
        S3(SERVER[0], "no-such-bucket", *SERVER[2:]).save("c" * 32, ContentFile(b"x"))
    store.delete("a" * 32)
    assert not store.exists("a" * 32)
    with pytest.raises(FileNotFoundError):
        store.open("a" * 32)


def test_downloads_from_a_real_store(store: S3, web: Any, new_user: Callable[..., User]) -> None:
    """The link's rights are looked at here; then the browser is sent to the store."""
    product = Product.objects.create(slug="suite", name="Suite")
    plan = Plan.objects.create(product=product, slug="suite-year", name="One year", days=365, seats=2)
    ann = new_user()
    redemption.redeem(ann, redemption.make(plan, 1, "")[0])
    fields = {"product": product, "platform": "linux", "package": "deb", "version": "3.1", "published": True}
    found = Release.objects.create(file=ContentFile(DATA, name="x"), **fields)
    assert found.sha256 == hashlib.sha256(DATA).hexdigest()
    web.sign_in(ann.email)
    link = web.client.get(f"/downloads/releases/{found.pk}/start/")["Location"].removeprefix("http://testserver")
    answer = Client().get(link)
    assert answer.status_code == 302
    assert fetched(answer["Location"])[:2] == (200, DATA)
    name = found.file.name or ""
    found.delete()
    assert not store.exists(name)
