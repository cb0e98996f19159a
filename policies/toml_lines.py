"""Where each key of a TOML document stands: `tomllib` reads the values but forgets the lines.

Only for documents that `tomllib` has accepted, so this scanner finds its way and does not judge.
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right

Path = tuple[str | int, ...]  # keys, and the positions within arrays: ("known", 0, "bssids", 2)

_BLANK = re.compile(r"(?:[ \t\r\n]+|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\r\n]*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'  # a multi-line string may end in two quotes of its own
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Path, int]:
    """The 1-based line on which each table, key and array element begins. `text` must be valid TOML."""
    return _Scanner(text).scan()


def line_of(lines: dict[Path, int], path: Path) -> int:
    """The line of `path`, or of what would have contained it when it is missing; 1 for the document."""
    while path and path not in lines:
        path = path[:-1]
    return lines.get(path, 1)


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[Path, int] = {}
        self._lengths: dict[Path, int] = {}  # of the arrays of tables met so far

    def scan(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip(_BLANK):
            if self._text.startswith("[", self._at):
                table = self._header()
            else:
                self._assignment(table)
        return self._lines

    def _skip(self, pattern: re.Pattern[str]) -> str:
        """Step over what matches; the character that comes next, empty at the end."""
        if match := pattern.match(self._text, self._at):
            self._at = match.end()
        return self._text[self._at : self._at + 1]

    def _note(self, path: Path) -> None:
        # The first mention counts: `[wifi.criteria]` mentions `wifi` too.
        self._lines.setdefault(path, bisect_right(self._newlines, self._at - 1) + 1)

    def _header(self) -> Path:
        array = self._text.startswith("[[", self._at)
        self._at += 2 if array else 1
        path: Path = ()
        parts = self._key()
        for position, part in enumerate(parts):
            path += (part,)
            self._note(path)
            if array and position == len(parts) - 1:
                self._lengths[path] = self._lengths.get(path, 0) + 1
            if path in self._lengths:
                path += (self._lengths[path] - 1,)
                self._note(path)
        self._at += 2 if array else 1
        return path

    def _assignment(self, table: Path) -> None:
        begin = self._at
        parts = self._key()
        end, self._at = self._at, begin
        for part in parts:
            table += (part,)
            self._note(table)
        self._at = end + 1  # past the equals sign
        self._value(table)

    def _key(self) -> list[str]:
        parts = []
        while True:
            if self._skip(_SPACE) in ("'", '"'):
                begin = self._at
                self._skip(_STRING)
                parts.append(tomllib.loads(f"key = {self._text[begin : self._at]}")["key"])
            else:
                begin = self._at
                self._skip(_BARE_KEY)
                parts.append(self._text[begin : self._at])
            if self._skip(_SPACE) != ".":
                return parts
            self._at += 1

    def _value(self, path: Path) -> None:
        match self._skip(_SPACE):
            case "[":
                self._array(path)
            case "{":
                self._inline_table(path)
            case "'" | '"':
                self._skip(_STRING)
            case _:
                self._skip(_SCALAR)

    def _array(self, path: Path) -> None:
        self._at += 1
        position = 0
        while self._skip(_BLANK) not in ("]", ""):
            self._note((*path, position))
            self._value((*path, position))
            position += 1
            if self._skip(_BLANK) == ",":
                self._at += 1
        self._at += 1

    def _inline_table(self, path: Path) -> None:
        self._at += 1
        while self._skip(_BLANK) not in ("}", ""):
            self._assignment(path)
            if self._skip(_BLANK) == ",":
                self._at += 1
        self._at += 1
