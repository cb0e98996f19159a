"""The text of a settings file -> the document in it, or where it is no TOML."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from policies.settings_errors import Problem, SettingsError

MAX_BYTES = 1 << 20
MAX_DOTS = 64  # on one line; tomllib takes minutes for a key of 100,000 parts
_SINGLE_DOT = re.compile(r"(?<!\.)\.(?!\.)")
_SUBNET4 = re.compile(r"""["'][0-9.]{7,15}/[0-9]{1,2}["']""")


def parse_toml(text: str, file: str) -> dict[str, Any]:
    problem = _unfit(text)
    try:
        if not problem:
            return tomllib.loads(text)
    except RecursionError:
        problem = (1, 0, "nested too deeply")
    except tomllib.TOMLDecodeError as error:
        problem = _syntax_problem(str(error), text)
    except ValueError:  # a number of thousands of digits
        problem = (1, 0, "a value is out of range")
    line, column, what = problem
    raise SettingsError([Problem(file, line, "", what, column=column)])


def _unfit(text: str) -> tuple[int, int, str] | None:
    """What must not even reach the parser, as (line, column, problem)."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError as error:
        return text.count("\n", 0, error.start) + 1, 0, "not valid UTF-8"
    if size > MAX_BYTES:
        return 1, 0, f"the file has {size} bytes; at most {MAX_BYTES} are allowed"
    for number, line in enumerate(text.split("\n"), 1):
        # An array of addresses may stand on one line: with their slashes they are no keys.
        if line.count(".") > MAX_DOTS and len(_SINGLE_DOT.findall(_SUBNET4.sub("0", line))) > MAX_DOTS:
            return number, 0, f"more than {MAX_DOTS} dots on a line"
    return None


def _syntax_problem(message: str, text: str) -> tuple[int, int, str]:
    """(line, column, problem) of a message of tomllib, which ends in its place."""
    lines = text.replace("\r\n", "\n").split("\n")
    if len(lines) > 1 and not lines[-1]:
        lines.pop()
    if place := re.search(r" \(at line ([0-9]+), column ([0-9]+)\)$", message):
        return int(place[1]), int(place[2]), f"not TOML: {message[: place.start()][:200]}"
    message = re.sub(r" \(at [^()]*\)$", "", message)
    return len(lines), len(lines[-1]) + 1, f"not TOML: {message[:200]} (at the end of the file)"
