"""Countries by their ISO 3166-1 codes, and the one that a locale stands for."""

from __future__ import annotations

from functools import cache

from babel import Locale, UnknownLocaleError
from babel.core import get_global
from django.utils.translation import get_language

# Languages of many countries: Unicode's "likely" one would be a guess about most of their speakers.
WIDESPREAD = frozenset({"ar", "en", "es", "pt", "zh"})


@cache
def codes() -> frozenset[str]:
    names = [str(code) for code in Locale("en").territories]
    # ZZ is "unknown", EU, EZ and UN are unions, XA and XB are for tests, QO is "outlying Oceania".
    others = {"ZZ", "EU", "EZ", "UN", "XA", "XB", "QO"}
    return frozenset(code for code in names if len(code) == 2 and code.isalpha()) - others


def choices() -> list[tuple[str, str]]:
    """(code, name) in the language of the page, by name."""
    try:
        names = Locale.parse(get_language() or "en", sep="-").territories
    except (UnknownLocaleError, ValueError):
        names = Locale("en").territories
    english = Locale("en").territories
    return sorted(((code, names.get(code, english[code])) for code in codes()), key=lambda pair: pair[1])


def of_locale(tag: str) -> str:
    """The country of a locale such as fr-CA, fr_CA.UTF-8 or zh-Hant-TW; empty when it says none."""
    parts = tag.split(".")[0].split("@")[0].replace("_", "-").split("-")
    for part in parts[1:]:
        if len(part) == 2 and part.isascii() and part.upper() in codes():
            return part.upper()
    # es-419 names a region of the world: no country at all.
    if any(part.isdigit() for part in parts[1:]) or parts[0].lower() in WIDESPREAD:
        return ""
    likely = get_global("likely_subtags").get(parts[0].lower())
    country = likely.rsplit("_", 1)[-1] if likely else ""
    return country if country in codes() else ""


def of_header(accept_language: str) -> str:
    """The country of the first locale of an Accept-Language header that says one."""
    weighted = []
    for position, item in enumerate(accept_language[:1000].split(",")):
        tag, _, rest = item.strip().partition(";")
        try:
            weight = float(rest.strip().removeprefix("q=")) if rest else 1.0
        except ValueError:
            weight = 0.0
        weighted.append((-weight, position, tag.strip()))
    return next((found for _, _, tag in sorted(weighted) if (found := of_locale(tag))), "")
