"""Help: Markdown files in help/<language>/, shown as pages; a language without a page shows the English one.

Each file is named NN-slug.md (NN: its place in the list) and begins with `# Title`. HTML in it is shown as text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from html import unescape
from pathlib import Path

from django.utils.crypto import salted_hmac
from django.utils.translation import get_language
from markdown_it import MarkdownIt

from portal.support.models import Verdict

FOLDER = Path(__file__).parent / "help"
MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")
MOST_QUERY = 100


@dataclass(frozen=True)
class Help:
    slug: str
    language: str
    title: str
    markdown: str
    html: str

    @property
    def words(self) -> str:
        """All of it as one line of text."""
        return unescape(" ".join(re.sub(r"<[^>]*>", " ", self.html).split()))


@cache
def _of(language: str) -> dict[str, Help]:
    found = {}
    for file in sorted((FOLDER / language).glob("[0-9][0-9]-*.md")):
        first, _, rest = file.read_text(encoding="utf-8").partition("\n")
        slug = file.stem[3:]
        found[slug] = Help(slug, language, first.removeprefix("# ").strip(), rest.strip(), MARKDOWN.render(rest))
    return found


def languages() -> list[str]:
    return sorted(each.name for each in FOLDER.iterdir() if each.is_dir())


def every() -> list[Help]:
    """Each page in the language of the reader, as far as it is translated."""
    language = (get_language() or "en").lower()
    return list((_of("en") | _of_known(language.split("-")[0]) | _of_known(language)).values())


def _of_known(language: str) -> dict[str, Help]:
    # What a browser sends is no path: only names of folders that are there.
    return _of(language) if language in languages() else {}


def page(slug: str) -> Help | None:
    return next((each for each in every() if each.slug == slug), None)


def search(query: str) -> list[Help]:
    """Pages that have every word of it, those with one in the title first."""
    asked = query[:MOST_QUERY].casefold().split()
    found = [each for each in every() if all(word in f"{each.title} {each.words}".casefold() for word in asked)]
    return sorted(found, key=lambda each: not any(word in each.title.casefold() for word in asked))


def excerpt(found: Help, query: str) -> str:
    """The words around the first place where one of the query is."""
    text = found.words
    asked = query[:MOST_QUERY].casefold().split()
    at = min((place for word in asked if (place := text.casefold().find(word)) >= 0), default=0)
    begin = max(0, text.rfind(" ", 0, max(0, at - 60)) + 1)
    end = begin + 160
    words = text[begin:end].rsplit(" ", 1)[0] if end < len(text) else text[begin:]
    return f"{'… ' if begin else ''}{words}{' …' if end < len(text) else ''}"


def vote(found: Help, who: str, helpful: bool, comment: str = "") -> None:
    """One a visitor and page; another one takes its place.

    `who` is the account or the session. It is kept as an HMAC with the page's name: nobody can see which pages one
    visitor voted on.
    """
    voter = salted_hmac("portal.support.verdict", f"{found.slug}\0{who}", algorithm="sha256").hexdigest()
    values = {"page": found.slug, "language": found.language, "helpful": helpful, "comment": comment}
    Verdict.objects.bulk_create(
        [Verdict(voter=voter, **values)],
        update_conflicts=True,
        unique_fields=["voter"],
        update_fields=list(values),
    )
