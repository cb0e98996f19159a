"""What is wrong with the text of a profile, or worth knowing of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Notice:
    """A directive that was ignored or changed, or a consequence worth knowing, and why. Line 0 is the whole file."""

    line: int
    directive: str
    reason: str


class ProfileError(ValueError):
    """A text that cannot become a profile: `line` (1-based, 0 for the whole), `directive`, `problem`, `remedy`.

    Never carries a value, so never a key.
    """

    def __init__(self, line: int, directive: str, problem: str, remedy: str) -> None:
        super().__init__(f"line {line}: {directive}: {problem}; {remedy}")
        self.line, self.directive, self.problem, self.remedy = line, directive, problem, remedy
