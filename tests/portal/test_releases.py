"""P10, D5: the file of a release: its headers, ranges and checksum; and how staff uploads it."""

from __future__ import annotations

import hashlib
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client

from portal.accounts.models import User
from portal.downloads import serving
from portal.downloads.models import Architecture, Grant, Package, Release
from portal.subscriptions.models import Plan, Product, Subscription
from tests.portal.releases import DATA, ann, body, files, later, link_of, release, suite

__all__ = ["ann", "files", "suite"]  # fixtures

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
