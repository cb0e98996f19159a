"""P12, D7: help pages, and whether they helped."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import translation

from portal.accounts.models import User
from portal.support import help_pages
from portal.support.models import Verdict

SLUGS = ["connect", "trusted-networks", "kill-switch", "subscriptions", "devices", "two-steps"]


def test_help(web: Any, app: Any) -> None:
    """P12: six pages for everybody, each with one title, and found by their words."""
    assert [each.slug for each in help_pages.every()] == SLUGS
    listing = web.client.get("/help/").content.decode()
    for slug in SLUGS:
        assert f"/help/{slug}/" in listing
        page = web.client.get(f"/help/{slug}/").content.decode()
        assert page.count("<h1>") == 1 and "<h2>" in page and "Was this helpful?" in page
        assert app.call("get", f"/api/v1/help/{slug}").json()["title"]
    assert web.client.get("/help/nothing/").status_code == 404
    assert app.call("get", "/api/v1/help/nothing").status_code == 404
    for query in ("LOCKDOWN kernel", " kill   switch "):
        found = web.client.get("/help/", {"q": query}).content.decode()
        assert "/help/kill-switch/" in found and "/help/subscriptions/" not in found
        answer = app.call("get", f"/api/v1/help?q={query.replace(' ', '%20')}").json()
        assert [each["slug"] for each in answer][:1] == ["kill-switch"]
    assert "0 pages found" in web.client.get("/help/", {"q": "xyzzy"}).content.decode()
    wrong = web.client.get("/help/", {"q": "<script>alert(1)</script>\0"}).content.decode()
    assert "<script>alert" not in wrong


def test_help_in_languages(web: Any, monkeypatch: Any, tmp_path: Path) -> None:
    """P12: the reader's language page by page, otherwise English; HTML in a page is text; no language is a path."""
    for language, name, text in (
        ("en", "10-one.md", "# One\n\nEnglish <b>words</b> [x](javascript:alert)\n"),
        ("en", "20-two.md", "# Two\n\nMore\n"),
        ("de", "10-one.md", "# Eins\n\nDeutsch\n"),
    ):
        (tmp_path / language).mkdir(exist_ok=True)
        (tmp_path / language / name).write_text(text)
    monkeypatch.setattr(help_pages, "FOLDER", tmp_path)
    help_pages._of.cache_clear()
    try:
        german = web.client.get("/help/", headers={"Accept-Language": "de-AT"}).content.decode()
        assert "Eins" in german and "Two" in german and 'lang="de"' in german
        english = web.client.get("/help/one/", headers={"Accept-Language": "../../etc"}).content.decode()
        assert "English &lt;b&gt;words" in english and 'href="javascript' not in english
    finally:
        help_pages._of.cache_clear()


def shape(markdown: str) -> dict[str, list[str]]:
    """What a translation leaves as it is."""
    return {
        "blocks": [f"{each.type} {each.tag}" for each in help_pages.MARKDOWN.parse(markdown) if each.type != "inline"],
        "code": sorted(re.findall(r"`[^`]*`|^```.*?^```", markdown, re.M | re.S)),
        "links": sorted(re.findall(r"\]\(([^)]*)\)", markdown)),
        # Stars that show are a mistake.
        "strong": re.findall("</?strong>|[*]{2}", help_pages.MARKDOWN.render(markdown)),
    }


@pytest.mark.parametrize("code", [code for code, _name in settings.LANGUAGES if code != "en"])
def test_every_page_in_every_language(code: str) -> None:
    """P12, P14: the same pages with the same headings, commands and links; no paragraph is left in English."""
    with translation.override("en"):
        english = help_pages.every()
    with translation.override(code):
        own = help_pages.every()
    assert [each.slug for each in own] == [each.slug for each in english]
    assert {each.language for each in own} == {code}
    left = {line for each in english for line in each.markdown.splitlines() if line[:1].isalpha()}
    for one, other in zip(own, english, strict=True):
        assert shape(one.markdown) == shape(other.markdown), one.slug
        assert one.title and "\n" not in one.title
        assert not left & set(one.markdown.splitlines())


def test_was_this_helpful(web: Any, new_user: Callable[..., User]) -> None:
    """D7, P12: once a visitor and page, however often; another answer takes its place; nobody can be recognised."""
    from django.test import Client

    def say(client: Any, **data: str) -> int:
        return int(client.post("/help/connect/verdict/", data).status_code)

    assert [say(web.client, helpful="yes"), say(web.client, helpful="yes")] == [302, 302]
    assert list(Verdict.objects.values_list("helpful", flat=True)) == [True]
    assert say(web.client, helpful="no", comment="More  about\ttrains") == 302
    assert list(Verdict.objects.values_list("helpful", "comment")) == [(False, "More about trains")]
    assert say(web.client, helpful="perhaps") == 400
    assert say(web.client, helpful="yes", comment="a\0b") == 400
    assert say(web.client, helpful="yes", comment="a" * 1001) == 400
    assert say(Client(), helpful="yes") == 302
    user = new_user()
    for client in (Client(), Client()):
        client.force_login(user)
        assert say(client, helpful="yes") == 302
    assert Verdict.objects.count() == 3
    web.client.post("/help/devices/verdict/", {"helpful": "yes"})
    assert len(set(Verdict.objects.values_list("voter", flat=True))) == 4
    assert web.client.post("/help/nothing/verdict/", {"helpful": "yes"}).status_code == 404


def test_helpful_by_the_interface(app: Any, new_user: Callable[..., User]) -> None:
    path = "/api/v1/help/connect/verdict"
    assert app.call("put", path, {"helpful": True}).status_code == 401
    app.sign_in(new_user().email)
    for helpful in (True, False):
        assert app.call("put", path, {"helpful": helpful, "comment": "x"}).status_code == 200
    assert list(Verdict.objects.values_list("helpful", flat=True)) == [False]
    assert app.call("put", "/api/v1/help/nothing/verdict", {"helpful": True}).status_code == 404


def test_votes_are_limited(web: Any) -> None:
    """P12: a machine without cookies is a new visitor each time: sixty an hour from one address."""
    from django.test import Client

    said = [Client().post("/help/connect/verdict/", {"helpful": "no"}).status_code for _each in range(62)]
    assert (said.count(302), said.count(429)) == (60, 2)
    assert Verdict.objects.count() == 60
