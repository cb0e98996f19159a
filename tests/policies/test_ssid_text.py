from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.classify import ssid_text

TEXTS = [
    (b"", ""),
    (b"Home", "Home"),
    (b"My Home", "My Home"),
    ("Café ☕ 日本 שלום".encode(), "Café ☕ 日本 שלום"),
    ("📶".encode(), "📶"),
    (b"\x1b[31mred\x1b]0;t\x07", "\\x1b[31mred\\x1b]0;t\\x07"),
    (b"a\0b", "a\\x00b"),
    (b"a\nb\r\tc\x7f", "a\\x0ab\\x0d\\x09c\\x7f"),
    ("\x85\x9b31m".encode(), "\\xc2\\x85\\xc2\\x9b31m"),  # C1: some terminals take U+009B for an escape sequence
    ("a\u202egnp.exe".encode(), "a\\xe2\\x80\\xaegnp.exe"),  # right-to-left override
    ("\u2066x\u2069".encode(), "\\xe2\\x81\\xa6x\\xe2\\x81\\xa9"),
    ("a\u200bb\ufeff\u00ad".encode(), "a\\xe2\\x80\\x8bb\\xef\\xbb\\xbf\\xc2\\xad"),  # zero width, BOM, soft hyphen
    ("a\u00a0b\u3000".encode(), "a\\xc2\\xa0b\\xe3\\x80\\x80"),  # spaces that are no spaces
    ("a\u2028b".encode(), "a\\xe2\\x80\\xa8b"),
    ("\u3164\u2800".encode(), "\\xe3\\x85\\xa4\\xe2\\xa0\\x80"),  # a letter and a symbol drawn as nothing
    ("❤\ufe0f".encode(), "❤\\xef\\xb8\\x8f"),  # variation selectors are invisible
    ("\U000e0041".encode(), "\\xf3\\xa0\\x81\\x81"),  # tag characters
    ("\ue000".encode(), "\\xee\\x80\\x80"),  # private use
    ("\u0301a\u0301".encode(), "\\xcc\\x81a\u0301"),  # a leading mark would cling to the text before it
    (b"\xff\xfe", "\\xff\\xfe"),
    (b"Caf\xe9 \xc3\xa9", "Caf\\xe9 é"),  # Latin-1 and UTF-8 in one
    (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),  # a surrogate in UTF-8 is invalid
    (b"a\\x00", "a\\\\x00"),
    (b"$(id)`id`'\"%s", "$(id)`id`'\"%s"),
]


@pytest.mark.parametrize("ssid, text", TEXTS, ids=[repr(ssid) for ssid, _ in TEXTS])
def test_ssid_text(ssid: bytes, text: str) -> None:
    assert ssid_text(ssid) == text


def back(text: str) -> bytes:
    """Undo `ssid_text`."""
    ssid, rest = b"", text
    while rest:
        if rest.startswith("\\x"):
            ssid, rest = ssid + bytes.fromhex(rest[2:4]), rest[4:]
        else:
            char = rest[1] if rest.startswith("\\") else rest[0]
            ssid, rest = ssid + char.encode(), rest[2 if rest.startswith("\\") else 1 :]
    return ssid


CHARS = st.one_of(st.characters(max_codepoint=0x24F), st.sampled_from("\\x\u202e\u200d\u0301📶é\ufffd\u2028 0"))


@given(st.binary(max_size=32) | st.text(CHARS, max_size=16).map(lambda text: text.encode("utf-8", "ignore")))
def test_ssid_text_is_safe_and_tells_all_names_apart(ssid: bytes) -> None:
    text = ssid_text(ssid)
    assert text.isprintable()  # no control, no format character, no space but the plain one
    assert back(text) == ssid
    assert len(text) <= 4 * len(ssid)
