"""The table of lessons in README.md is what the tests are called."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROW = re.compile(r"\| E(\d+) \| .* \| (.*) \|")


def test_every_lesson_has_its_tests_where_the_table_says() -> None:
    text = (HERE / "README.md").read_text()
    rows = {int(number): places for number, places in ROW.findall(text)}
    assert sorted(rows) == list(range(1, 15))
    before: list[str] = []
    for number, places in sorted(rows.items()):
        files = re.findall(r"`([\w/.]+)`", places)
        if places.startswith("the same two"):
            files = [*before[:2], *files]
        before = files
        assert files, number
        for file in files:
            assert f"def test_e{number}_" in (HERE / file).read_text(), f"{file} has no test of E{number}"
