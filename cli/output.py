"""What reaches the terminal: colour only there, nothing that could steer it, JSON on demand."""

from __future__ import annotations

import json
import os
import sys
import unicodedata
from collections.abc import Sequence

COLOURS = {"red": "31;1", "green": "32", "yellow": "33", "dim": "2", "bold": "1"}
# Control, format (bidi overrides, zero width), surrogate, private and unassigned; line and paragraph separators.
UNSAFE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def safe(text: str) -> str:
    """The text with everything escaped that could move the cursor, change colours or reorder the line."""
    return "".join(char if unicodedata.category(char) not in UNSAFE else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


class Output:
    """Where a command writes. With `as_json`, `line` is silent and `data` speaks; without, the other way round."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def line(self, text: str = "") -> None:
        if not self.as_json:
            print(text, flush=True)

    def data(self, value: object) -> None:
        """One JSON value on one line."""
        if self.as_json:
            print(json.dumps(value), flush=True)

    def note(self, text: str) -> None:
        """For people, never for a pipe."""
        print(text, file=sys.stderr, flush=True)

    def paint(self, text: str, colour: str) -> str:
        """The text, made safe, in colour where there is colour."""
        shown = safe(text)
        return f"\x1b[{COLOURS[colour]}m{shown}\x1b[0m" if self._colour else shown

    def table(self, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Columns as wide as their widest cell; cells are made safe."""
        shown = [[safe(cell) for cell in row] for row in rows]
        widths = [max(_width(cell) for cell in column) for column in zip(head, *shown, strict=True)]
        for number, row in enumerate([list(head), *shown]):
            cells = [cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)]
            text = "  ".join(cells).rstrip()
            self.line(self.paint(text, "dim") if number == 0 else text)


def _width(text: str) -> int:
    """Columns on a terminal: East Asian wide characters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) != 0 for char in text)
