"""P14: 29 languages, whole: our strings, the libraries' on our pages, what is accepted; Arabic from right to left."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from babel.messages.catalog import Catalog, Message
from babel.messages.pofile import read_po
from django.conf import settings
from django.urls import URLPattern, URLResolver, get_resolver
from django.utils import translation
from django.utils.translation import to_locale, trans_real

from portal.accounts.management.commands import compile_translations
from portal.accounts.models import User
from portal.consents.models import Kind, Statement

LOCALES = Path(settings.LOCALE_PATHS[0])
OTHERS = [code for code, _name in settings.LANGUAGES if code != "en"]
# Of the help pages that the portal follows.
SEEDS = "id cs da de et en es es-mx it lv lt nl nb pl pt-br pt ro fi sv tr el ru ar vi th ko ja zh-hant fr"
BORROWED = ("lt", "th", "vi")  # their catalogues also have strings of libraries that lack the language
LEFT_ALONE = ("/accounts/logout/", "/language/", "/staff/")


def catalogue(code: str) -> Catalog:
    with (LOCALES / to_locale(code) / "LC_MESSAGES/django.po").open("rb") as file:
        return read_po(file)


def messages(code: str) -> dict[tuple[Any, Any], Message]:
    return {
        (each.context, each.id if isinstance(each.id, str) else each.id[0]): each for each in catalogue(code) if each.id
    }


def test_every_language_of_the_seeds_is_offered() -> None:
    assert {code for code, _name in settings.LANGUAGES} == set(SEEDS.split())


def test_the_template_is_what_the_source_says(tmp_path: Path) -> None:
    """xgettext over the whole portal finds no string that the template lacks, and none that is gone."""
    import shutil
    import subprocess
    import sys

    if shutil.which("xgettext") is None:
        pytest.skip("xgettext missing: apt-get install gettext")
    left_out = shutil.ignore_patterns("*.mo", "__pycache__", "tmp*")  # also catalogues that are being made
    shutil.copytree(LOCALES.parent, tmp_path / "portal", ignore=left_out)
    for folder in (tmp_path / "portal/locale").iterdir():
        if folder.name != "en":
            shutil.rmtree(folder)
    command = [
        sys.executable,
        "-m",
        "portal",
        "makemessages",
        "--locale",
        "en",
        "--no-wrap",
        "--no-location",
        "--no-obsolete",
    ]
    environment = {
        "PATH": "/usr/bin:/bin",
        "PYTHONPATH": str(tmp_path),
        "PORTAL_DEBUG": "true",
        "PORTAL_CONFIG": "/dev/null",
    }
    subprocess.run(command, cwd=tmp_path / "portal", env=environment, check=True, capture_output=True)
    with (tmp_path / "portal/locale/en/LC_MESSAGES/django.po").open("rb") as file:
        fresh = {str(each.id) for each in read_po(file) if each.id}
    assert fresh == {str(each.id) for each in catalogue("en") if each.id}


def placeholders(text: str) -> Counter[str]:
    """What a translation must keep: %(name)s, {name}, tags and their attributes."""
    return Counter(re.findall(r"%\(\w+\)[sd]|%[sd%]|\{\w*\}|</?[a-z][^>]*>", text))


@pytest.mark.parametrize("code", OTHERS)
def test_our_own_strings(code: str) -> None:
    """Each is there, none is fuzzy, and each keeps its placeholders; each plural form of the language is given."""
    wanted, given = messages("en"), messages(code)
    forms = catalogue(code).num_plurals
    wrong = []
    for key, source in wanted.items():
        found = given.get(key)
        if found is None or found.fuzzy:
            wrong.append(("missing", key))
            continue
        texts = found.string if isinstance(found.string, tuple) else (found.string,)
        if len(texts) != (forms if isinstance(source.id, tuple) else 1) or not all(texts):
            wrong.append(("empty", key))
            continue
        allowed = [placeholders(each) for each in ((source.id,) if isinstance(source.id, str) else source.id)]
        for text in texts:
            # "one" may be said without its number.
            if placeholders(text) not in allowed and not (len(texts) > 1 and placeholders(text) <= allowed[-1]):
                wrong.append(("placeholders", key))
    assert wrong == []
    assert set(given) <= set(wanted) or code in BORROWED, "left over"


class Asked:
    """Records what is asked of gettext."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: set[str] = set()
        real = {name: getattr(trans_real, name) for name in ("gettext", "pgettext", "ngettext")}

        def gettext(message: Any) -> Any:
            self._add(str(message))
            return real["gettext"](message)

        def ngettext(one: Any, many: Any, number: Any) -> Any:
            self._add(str(one))
            return real["ngettext"](one, many, number)

        def pgettext(context: Any, message: Any) -> Any:
            self._add(f"{context}\x04{message}")
            return real["pgettext"](context, message)

        monkeypatch.setattr(translation._trans, "gettext", gettext, raising=False)
        monkeypatch.setattr(translation._trans, "ngettext", ngettext, raising=False)
        monkeypatch.setattr(translation._trans, "pgettext", pgettext, raising=False)

    def _add(self, key: str) -> None:
        if key.strip():
            self.keys.add(key.replace("\r\n", "\n").replace("\r", "\n"))


def has(code: str, key: str) -> bool:
    """Whether the language says it itself, or the one that it is a kind of (es-mx: es); not whether English does."""
    english = trans_real.translation("en")._catalog._catalogs
    for each in {code, code.split("-")[0] if code in ("es-mx", "pt-br") else code}:
        for one in trans_real.translation(each)._catalog._catalogs:
            if not any(one is other for other in english) and (key in one or (key, 0) in one):
                return True
    return False


def without_parameters(patterns: list[Any], prefix: str = "/") -> Iterator[str]:
    for each in patterns:
        path = prefix + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from without_parameters(each.url_patterns, path)
        elif isinstance(each, URLPattern) and "<" not in path and "^" not in path and "\\" not in path:
            yield path


def seen(client: Any, code: str) -> Iterator[tuple[str, Any]]:
    """Every page that can be reached, and then every form sent empty: what that ends is not missed any more."""
    paths = without_parameters(get_resolver().url_patterns)
    waiting = sorted(path for path in paths if not path.startswith(("/api", "/_allauth")))
    done, forms = set[str](), []
    while waiting:
        path = waiting.pop(0)
        if path in done or path.startswith(LEFT_ALONE):
            continue
        done.add(path)
        response = client.get(path, headers={"Accept-Language": code})
        if response.status_code not in (200, 404) or "text/html" not in response.get("Content-Type", ""):
            continue
        yield path, response
        text = response.content.decode()
        waiting += [link for link in re.findall(r'href="(/[^"#?]*)"', text) if not link.startswith("/static/")]
        if 'method="post"' in text:
            forms.append(path)
    for path in forms:
        sent = client.post(path, {}, headers={"Accept-Language": code})
        if sent.status_code in (200, 400) and "text/html" in sent.get("Content-Type", ""):
            yield f"{path} sent empty", sent


def test_no_string_of_a_page_is_english(
    web: Any, new_user: Callable[..., User], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of Django, django-allauth and the captcha: where they lack a language, our catalogue has them."""
    asked = Asked(monkeypatch)
    pages = [path for path, _response in seen(web.client, "ar")]
    user = new_user("bob@example.org", language="ar")
    web.headers = {"Accept-Language": "ar"}
    web.sign_in(user.email)
    web.confirm_password()
    for path, response in seen(web.client, "ar"):
        pages.append(path)
        assert '<html lang="ar" dir="rtl"' in response.content.decode(), path
    assert len(pages) > 40, "the crawl has seen them"
    assert len(asked.keys) > 150
    missing = {code: sorted(key for key in asked.keys if not has(code, key)) for code in OTHERS}
    assert {code: keys for code, keys in missing.items() if keys} == {}


@pytest.mark.parametrize("code", OTHERS)
def test_texts_to_accept(code: str) -> None:
    """Each statement in each language: people accept what they can read."""
    assert {each.kind for each in Statement.objects.filter(version=1, language=code)} == set(Kind.values)


def test_a_choice_is_kept(web: Any, new_user: Callable[..., User]) -> None:
    """In the browser, and in the account of who is signed in; nothing else is a language; nobody is led elsewhere."""
    answer = web.client.post("/language/", {"language": "de", "next": "/accounts/login/"})
    assert (answer.status_code, answer["Location"]) == (302, "/accounts/login/")
    assert '<html lang="de"' in web.client.get("/accounts/login/").content.decode()
    assert web.client.post("/language/", {"language": "fr", "next": "https://evil.example/"})["Location"] == "/"
    user = new_user()
    web.sign_in(user.email)
    web.client.post("/language/", {"language": "ar", "next": "/account/"})
    user.refresh_from_db()
    assert user.language == "ar"
    web.client.post("/language/", {"language": "xx", "next": "/account/"})
    user.refresh_from_db()
    assert user.language == "ar"
    assert web.client.get("/language/").status_code == 405


def test_compiled_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "xx/LC_MESSAGES"
    folder.mkdir(parents=True)
    (folder / "django.po").write_text('msgid ""\nmsgstr ""\n\nmsgid "a"\nmsgstr "b"\n', encoding="utf-8")
    monkeypatch.setattr(settings, "LOCALE_PATHS", [tmp_path])
    (source,) = compile_translations.sources()
    assert compile_translations.compile_one(source)
    assert not compile_translations.compile_one(source)
    assert b"b" in source.with_suffix(".mo").read_bytes()
