"""docs/portal-security.md: every requirement of ASVS 4.0.3 level 2 once, and each test it names is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
DOCUMENT = HERE.parent.parent / "docs/portal-security.md"
ROW = re.compile(r"^\| (\d+\.\d+\.\d+) \| ([^|]+) \| ([^|]+) \|$", re.MULTILINE)
# The numbers of level 2 in each section, from OWASP's table of 4.0.3. What was deleted, or is of level 3, is not here.
LEVEL_2 = {
    "1.1": "1-7", "1.2": "1-4", "1.4": "1 4 5", "1.5": "1-4", "1.6": "1-4", "1.7": "1-2", "1.8": "1-2", "1.9": "1-2",
    "1.10": "1", "1.11": "1-2", "1.12": "2", "1.14": "1-6",
    "2.1": "1-12", "2.2": "1-3", "2.3": "1-3", "2.4": "1-6", "2.5": "1-7", "2.6": "1-3", "2.7": "1-6", "2.8": "1-7",
    "2.9": "1-3", "2.10": "1-4",
    "3.1": "1", "3.2": "1-4", "3.3": "1-4", "3.4": "1-5", "3.5": "1-3", "3.7": "1",
    "4.1": "1 2 3 5", "4.2": "1-2", "4.3": "1-3",
    "5.1": "1-5", "5.2": "1-8", "5.3": "1-10", "5.4": "1-3", "5.5": "1-4",
    "6.1": "1-3", "6.2": "1-6", "6.3": "1-2", "6.4": "1-2",
    "7.1": "1-4", "7.2": "1-2", "7.3": "1 3 4", "7.4": "1-3",
    "8.1": "1-4", "8.2": "1-3", "8.3": "1-8",
    "9.1": "1-3", "9.2": "1-4",
    "10.2": "1-2", "10.3": "1-3",
    "11.1": "1-8",
    "12.1": "1-3", "12.2": "1", "12.3": "1-6", "12.4": "1-2", "12.5": "1-2", "12.6": "1",
    "13.1": "1 3 4 5", "13.2": "1 2 3 5 6", "13.3": "1-2", "13.4": "1-2",
    "14.1": "1-4", "14.2": "1-6", "14.3": "2-3", "14.4": "1-7", "14.5": "1-4",
}  # fmt: skip


def numbers(text: str) -> list[int]:
    first, dash, last = text.partition("-")
    return list(range(int(first), int(last) + 1)) if dash else [int(each) for each in text.split()]


def rows() -> list[tuple[str, str, str]]:
    return [(found[0], found[1], found[2]) for found in ROW.findall(DOCUMENT.read_text(encoding="utf-8"))]


def test_every_requirement_once() -> None:
    """In the order of the standard, and nothing that is not in it."""
    wanted = [f"{section}.{each}" for section, found in LEVEL_2.items() for each in numbers(found)]
    assert [each[0] for each in rows()] == wanted
    lines = DOCUMENT.read_text(encoding="utf-8").splitlines()
    assert len([line for line in lines if re.match(r"\| \d", line)]) == len(wanted)


def test_each_is_shown_or_says_why_not() -> None:
    """A test that exists; or what is configured; or why it is not met."""
    tests = {
        f"{file.name}::{node.name}"
        for file in HERE.glob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    for number, words, shown in rows():
        assert 1 <= len(words.split()) <= 10, number
        if shown.startswith("`"):
            assert shown.strip("`") in tests, (number, shown)
        else:
            assert re.fullmatch(r"(by configuration|not met): \S.+", shown), (number, shown)
