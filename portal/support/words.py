"""What people write: bounds and characters, the same for pages, the interface and mails."""

from __future__ import annotations

import re
import unicodedata

from django.core.exceptions import ValidationError
from django.utils.translation import gettext as _

SUBJECT = 120  # characters
TEXT = 20_000
# Tabs and line ends are the only control characters of a text; halves of surrogate pairs are no characters at all.
NOT_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
# These turn what follows them around: "annexe<U+202E>txt.exe" is not what it seems.
TURNS = re.compile(r"[\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def text(given: str) -> str:
    """Several lines. Raises ValidationError text_missing, text_too_long or text_characters."""
    return _clean(given.replace("\r\n", "\n").replace("\r", "\n"), TEXT)


def line(given: str, most: int = SUBJECT) -> str:
    """One line. Raises the same."""
    cleaned = _clean(given, most)
    if re.search(r"[\n\t\u2028\u2029]", cleaned):
        raise _wrong_characters()
    return cleaned


def _clean(given: str, most: int) -> str:
    cleaned = given.strip()
    if NOT_TEXT.search(cleaned):
        raise _wrong_characters()
    if not any(unicodedata.category(character)[0] not in "ZC" for character in cleaned):
        raise ValidationError(_("Write something first."), "text_missing")
    if len(cleaned) > most:
        raise ValidationError(_("This is too long: %(most)d characters at most."), "text_too_long", {"most": most})
    return cleaned


def _wrong_characters() -> ValidationError:
    return ValidationError(_("There are characters in it that are not text."), "text_characters")


def repaired(given: str, most: int = TEXT) -> str:
    """What a mail brought, made into a text: nobody is there who could correct it."""
    lines = given.replace("\r\n", "\n").replace("\r", "\n")
    return NOT_TEXT.sub("", lines).strip()[:most]


def file_name(given: str) -> str:
    """A name that names one file, on every system, and looks like what it is."""
    bare = re.split(r"[/\\]", given)[-1]
    bare = re.sub(r'[<>:"|?*\s]+', " ", TURNS.sub("", NOT_TEXT.sub("", bare))).strip(". ")
    if len(bare) > 120:
        stem, dot, ending = bare.rpartition(".")
        bare = f"{stem[: 119 - len(ending)]}{dot}{ending}" if dot and len(ending) <= 10 else bare[:120]
    return bare or "file"
