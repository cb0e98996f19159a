from __future__ import annotations

from dataclasses import replace

import pytest

from cli.output import Output, safe
from cli.words import duration, headline, size
from tests.ipc.fake_service import CONNECTED, IDLE


@pytest.mark.parametrize(
    "text, shown",
    [
        ("Café 東京 📶", "Café 東京 📶"),
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb\rc\td", "a\\nb\\rc\\td"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\u200b\u2066\u2028", "\\u200b\\u2066\\u2028"),
        ("\x9b31m\x7f", "\\x9b31m\\x7f"),
        ("\ud800", "\\ud800"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_nothing_steers_the_terminal(text: str, shown: str) -> None:
    assert safe(text) == shown


def test_columns_count_wide_characters(capsys: pytest.CaptureFixture[str]) -> None:
    Output(False).table(("A", "B"), [("東京", "x"), ("e\u0301", "y"), ("abcd", "\x1b")])
    assert capsys.readouterr().out.splitlines() == ["A     B", "東京  x", "e\u0301     y", "abcd  \\x1b"]


PROTECTED = replace(IDLE, **CONNECTED)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "status, colour, words",
    [
        (IDLE, "red", "Not protected: traffic leaves"),
        (PROTECTED, "green", "Protected: connected through home"),
        (replace(PROTECTED, protected=False), "yellow", "State: connected"),
        (replace(PROTECTED, protected=False, blocking=False), "red", "NOT PROTECTED AND NOT BLOCKED"),
        (replace(PROTECTED, state="blocked", protected=False), "yellow", "Blocked: nothing leaves"),
        (replace(PROTECTED, state="blocked", protected=False, blocking=False), "red", "NOT PROTECTED AND NOT BLOCKED"),
        (
            replace(PROTECTED, state="reconnecting", protected=False, blocking=False, kill_switch=False),
            "red",
            "the kill switch is off",
        ),
        (replace(IDLE, lockdown=True), "red", "NOT PROTECTED AND NOT BLOCKED"),
        (replace(IDLE, state="held", blocking=True), "yellow", "Held"),
    ],
)
def test_the_worst_comes_first(status: object, colour: str, words: str) -> None:
    shown = headline(status)  # type: ignore[arg-type]
    assert shown[0] == colour
    assert shown[1].startswith(words) or words in shown[1]


def test_sizes_and_times() -> None:
    assert [size(count) for count in (0, 999, 1000, 999_949, 999_950, 1_500_000, 2 * 10**15)] == [
        "0 B", "999 B", "1.0 kB", "999.9 kB", "1.0 MB", "1.5 MB", "2000.0 TB",
    ]  # fmt: skip
    assert [duration(seconds) for seconds in (-5, 59, 61, 3_600, 90_000)] == [
        "0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h",
    ]  # fmt: skip
