"""What the documents name exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

TOP = Path(__file__).parent.parent
DOCUMENTS = [TOP / "README.md", TOP / "SECURITY.md", *TOP.glob("docs/*.md"), *TOP.glob("[a-z]*/README.md")]


def written_tests() -> set[str]:
    return {
        name
        for file in (TOP / "tests").rglob("test_*.py")
        for name in (file.name, *re.findall(r"^ *(?:async )?def (test_\w+)", file.read_text(), re.M))
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(TOP)))
def test_documents_name_tests_and_files_that_exist(document: Path) -> None:
    text = document.read_text()
    named = set(re.findall(r"`(test_\w+(?:\.py)?)`", text))
    assert named <= written_tests()
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (document.parent / target).exists(), target


def test_security_names_every_lesson() -> None:
    """One row a lesson, and each has a test that is called after it, but L6, which the boot tier holds."""
    text = (TOP / "docs/security.md").read_text()
    there = written_tests()
    for number in range(1, 20):
        assert re.search(rf"^\| L{number} ", text, re.M), number
        assert number == 6 or any(name.startswith(f"test_l{number}_") for name in there), number
