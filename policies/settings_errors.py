"""What is wrong with a settings file: where, what, and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from policies.redact import without_secrets
from policies.toml_lines import Path


@dataclass(frozen=True, slots=True)
class Problem:
    """One error of a file. `line` and `column` are 1-based; column 0 means the whole line, key "" the whole file."""

    file: str
    line: int
    key: str
    problem: str
    allowed: str = ""
    column: int = 0

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.column else f"{self.file}:{self.line}"
        what = f"{self.key}: {self.problem}" if self.key else self.problem
        return f"{place}: {what}; allowed: {self.allowed}" if self.allowed else f"{place}: {what}"


class SettingsError(ValueError):
    """A text that cannot become settings, with every problem, in the order of its lines. One line each as text."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Wrong(Exception):
    def __init__(self, problem: str, allowed: str) -> None:
        self.problem, self.allowed = problem, allowed


def dotted(path: Path) -> str:
    """The key as one would write it; positions are left out, the line tells them."""
    keys = [part for part in path if isinstance(part, str)]
    return ".".join(key if re.fullmatch(r"[A-Za-z0-9_-]{1,64}", key) else quoted(key) for key in keys)


def quoted(value: object) -> str:
    """A value for a message: one line of printable ASCII, of bounded length."""
    if isinstance(value, str):
        shown = without_secrets(value)  # somebody may have put a key into the wrong place
        return ascii(shown) if len(shown) <= 64 else ascii(shown[:64]) + "..."
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value) if abs(value) < 10**15 else "a large number"
    if isinstance(value, dict):
        return "a table"
    return "an array" if isinstance(value, list) else "a date or time"
