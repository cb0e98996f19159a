from __future__ import annotations

import pytest

from policies.settings import Settings, parse_settings
from policies.settings_toml import MAX_BYTES
from tests.policies.settings_texts import problems

SYNTAX = {
    "no value": ("a = 1\nb = \n", 2, 5),
    "end of the file": ("a = 1\nb = [1,\n", 2, 8),
    "end, no newline": ("a = 1\nb =", 2, 4),
    "twice": ("[wifi]\n[wifi]", 2, 6),
    "control character": ('a = "\x01"', 1, 6),
    "open string": ('\na = "x\n', 2, 7),
    "carriage returns": ("a = 1\r\nb\r\n", 2, 2),
    "endless number": (f"a = {'1' * 5000}", 1, 0),
    "deep": (f"a = {'[' * 5000}", 1, 0),
    "dots": (f"a = 1\n{'a.' * 70}b = 1", 2, 0),
    "lone surrogate": ("a = 1\nb = '\ud800'", 2, 0),
    "mebibyte": (f"a = 1\n#{'x' * MAX_BYTES}", 1, 0),
    "a byte too many": (f"#{'é' * (MAX_BYTES // 2)}", 1, 0),
}


@pytest.mark.parametrize("text, line, column", SYNTAX.values(), ids=SYNTAX.keys())
def test_not_toml(text: str, line: int, column: int) -> None:
    (found,) = problems(text)
    assert (found.line, found.column, found.key) == (line, column, "")
    assert str(found).startswith(f"t.toml:{line}:{column}: " if column else f"t.toml:{line}: ")
    assert "at line" not in found.problem and str(found).isprintable() and len(str(found)) < 300


def test_the_largest_file_is_read() -> None:
    assert parse_settings("#" + "x" * (MAX_BYTES - 1)) == Settings()


def test_dots_in_comments_and_values_are_no_keys() -> None:
    assert parse_settings("# " + "." * 500 + "\n[wired]\naction = 'ignore' # " + "..." * 100) == Settings()


def test_keys_that_look_like_addresses_are_counted_all_the_same() -> None:
    for key in ('"1.1.1.1/8".', '"1.1.1.1/8".a.', "'1.1.1.1/8'.1."):
        (found,) = problems(key * 100_000 + "a = 1" if len(key) * 100_000 < MAX_BYTES else key * 50_000 + "a = 1")
        assert "more than 64 dots" in found.problem
