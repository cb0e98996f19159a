"""The locator must agree with tomllib about what is there, and with the writer about where."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.toml_lines import Path, key_lines, line_of

CASES = {
    "plain": ("a = 1\n\nb = 2", {("a",): 1, ("b",): 3}),
    "comments": ("# a = 0\n  # [x]\na = 1 # b = 2\n", {("a",): 3}),
    "table": ("[a] # [b]\n\nb = 1", {("a",): 1, ("a", "b"): 3}),
    "parent after child": ("[a.b]\nc = 1\n[a]\nd = 2", {("a",): 1, ("a", "b"): 1, ("a", "b", "c"): 2, ("a", "d"): 4}),
    "dotted": ("a.b = 1\na . c.d = 2", {("a",): 1, ("a", "b"): 1, ("a", "c"): 2, ("a", "c", "d"): 2}),
    "quoted": ('"a.b" = 1\n\'c"\'."\\u0064" = 2', {("a.b",): 1, ('c"',): 2, ('c"', "d"): 2}),
    "hash in a key": ('a = 1\n"#" = 2\nb = 3', {("a",): 1, ("#",): 2, ("b",): 3}),
    "array of tables": (
        "[[a]]\nb = 1\n\n[[a]]\n[a.c]\nd = 1\n[[a.e]]\n[[a.e]]\nf = 1",
        {
            ("a",): 1,
            ("a", 0): 1,
            ("a", 0, "b"): 2,
            ("a", 1): 4,
            ("a", 1, "c"): 5,
            ("a", 1, "c", "d"): 6,
            ("a", 1, "e"): 7,
            ("a", 1, "e", 0): 7,
            ("a", 1, "e", 1): 8,
            ("a", 1, "e", 1, "f"): 9,
        },
    ),
    "nested arrays of tables": (
        "[[a]]\n[[a.b]]\n[[a]]\n[[a.b]]",
        {
            ("a",): 1,
            ("a", 0): 1,
            ("a", 0, "b"): 2,
            ("a", 0, "b", 0): 2,
            ("a", 1): 3,
            ("a", 1, "b"): 4,
            ("a", 1, "b", 0): 4,
        },
    ),
    "inline table": (
        "a = {b = 1, c.d = {}, 'e' = [\n2] }\nf = 3",
        {
            ("a",): 1,
            ("a", "b"): 1,
            ("a", "c"): 1,
            ("a", "c", "d"): 1,
            ("a", "e"): 1,
            ("a", "e", 0): 2,
            ("f",): 3,
        },
    ),
    "array": (
        "a = [ # ]\n 1,\n\n '''\n]''', {b = 2},\n]\nc = 3",
        {("a",): 1, ("a", 0): 2, ("a", 1): 4, ("a", 2): 5, ("a", 2, "b"): 5, ("c",): 7},
    ),
    "multi-line strings": (
        'a = """\nb = 1\n\\""" x\n"""""\nc = \'\'\'\n[d]\n\'\'\'\'\'\ne = 1',
        {("a",): 1, ("c",): 5, ("e",): 8},
    ),
    "brackets in strings": ('a = "]}#\\""\nb = [\'#]\', "[" ]\nc = 1', {
        ("a",): 1, ("b",): 2, ("b", 0): 2, ("b", 1): 2, ("c",): 3,
    }),
    "empty strings": ("a = \"\"\nb = ''\nc = \"\"\"\"\"\"\nd = 1", {("a",): 1, ("b",): 2, ("c",): 3, ("d",): 4}),
    "carriage returns": ("a = 1\r\n\r\n[b]\r\nc = 2\r\n", {("a",): 1, ("b",): 3, ("b", "c"): 4}),
    "dates": ("a = 1979-05-27 07:32:00 # x\nb = [07:32:00, 1e5]\nc = 1", {
        ("a",): 1, ("b",): 2, ("b", 0): 2, ("b", 1): 2, ("c",): 3,
    }),
    "nothing": ("", {}),
}  # fmt: skip


@pytest.mark.parametrize("text, expected", CASES.values(), ids=CASES.keys())
def test_lines(text: str, expected: dict[Path, int]) -> None:
    assert paths(tomllib.loads(text)) == expected.keys()  # the case itself is right
    assert key_lines(text) == expected


@pytest.mark.parametrize(
    "path, line",
    [(("a", "b"), 2), (("a", "x"), 1), (("a", 3, "x"), 1), (("x",), 1), ((), 1)],
)
def test_a_missing_key_is_where_its_table_is(path: Path, line: int) -> None:
    assert line_of(key_lines("[a]\nb = 1"), path) == line


def paths(value: Any, path: Path = ()) -> set[Path]:
    found = {path} if path else set()
    if isinstance(value, dict):
        for key, inner in value.items():
            found |= paths(inner, (*path, key))
    if isinstance(value, list):
        for position, inner in enumerate(value):
            found |= paths(inner, (*path, position))
    return found


FRAGMENTS = st.sampled_from(
    [
        "a", "b", "c.d", '"e.f"', "'#'", " = ", "=", "\n", "\n\n", "\r\n", " ", "\t", "# [x] = \"\n", "1", "true",
        "1979-05-27 07:32:00", '""', "''", '"]#}"', '"""\nx = 1\n"""', "'''\n[y]'''", '"\\""', "[", "]", "[[", "]]",
        "{", "}", ",", "{a=1}", "[1,\n2]", "[a]\n", "[[b]]\n", "[[b.c]]\n", "[b.d]\n", "a = 1\n", "b.c = [{d = 1}]\n",
    ]
)  # fmt: skip
STATEMENTS = st.sampled_from(["{} = {}\n", "[{}]\n", "[[{}]]\n", "{} = [{}, {}]\n", "{} = {{ {} = {} }}\n"])


@st.composite
def documents(draw: st.DrawFn) -> str:
    """Often valid TOML: statements filled with fragments."""
    text = ""
    for _ in range(draw(st.integers(0, 8))):
        statement = draw(STATEMENTS)
        text += statement.format(*(draw(FRAGMENTS) for _ in range(statement.count("{}"))))
    return text


@given(st.one_of(documents(), st.lists(FRAGMENTS, max_size=15).map("".join)))
@example("a = [{b = [[]]}, []]")
def test_finds_what_tomllib_finds(text: str) -> None:
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = key_lines(text)
    assert lines.keys() == paths(document)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


KEYS = st.text(st.characters(max_codepoint=0x17F), max_size=6)
SCALARS = st.sampled_from(["1", "true", "'x'", '"\\n#"', '"""\n\n"""', "'''\n[z]\n'''", "[\n\n]", "{}", "1e5"])


@st.composite
def written(draw: st.DrawFn) -> tuple[str, dict[Path, int]]:
    """A document with the line of each of its keys, noted while writing."""
    text, lines = "", {}

    def write(more: str) -> None:
        nonlocal text
        text += more

    for number in range(draw(st.integers(0, 4))):
        table: Path = (f"t{number}",)
        write(draw(st.sampled_from(["", "\n", "# note\n", " \r\n"])))
        lines[table] = text.count("\n") + 1
        if draw(st.booleans()):
            write(f"[[t{number}]]\n")
            table = (*table, 0)
            lines[table] = lines[table[:1]]
        else:
            write(f"[t{number}]\n")
        for key in draw(st.lists(KEYS, unique=True, max_size=4)):
            write(draw(st.sampled_from(["", "\n", "# [a]\n", "\t"])))
            lines[*table, key] = text.count("\n") + 1
            quoted = "".join(char if char.isalnum() else f"\\U{ord(char):08x}" for char in key)
            write(f'"{quoted}" = {draw(SCALARS)}{draw(st.sampled_from(["", " # ] x = 1"]))}\n')
    return text, lines


@given(written())
def test_agrees_with_the_writer(case: tuple[str, dict[Path, int]]) -> None:
    text, lines = case
    tomllib.loads(text)
    assert key_lines(text) == lines
