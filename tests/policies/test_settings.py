from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import settings as module
from policies.settings import Settings, parse_settings
from policies.settings_errors import SettingsError
from policies.settings_layout import HOMES
from policies.settings_tables import Tunnel, Wifi, WifiAction
from tests.policies.settings_texts import EXPECTED, FULL, TEXTS, problems


def test_every_key() -> None:
    assert parse_settings(FULL) == EXPECTED


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\r\n", "version = 1", "[wifi]\n[tunnel]\n[wifi.criteria]", "links = []"]
)
def test_nothing_said_means_the_defaults(text: str) -> None:
    assert parse_settings(text) == Settings()


def test_the_documented_example_is_valid() -> None:
    """The module's docstring is the administrator's guide; alternatives aside, it can be pasted."""
    example = module.__doc__ or ""
    text = "\n".join(line.strip() for line in example.splitlines() if line.startswith("    "))
    settings = parse_settings(text)
    assert settings.wifi == Wifi() and settings.tunnel == Tunnel(default_profile="home", server="fastest")
    documented = set(re.findall(r"^(\w+) =", text, re.MULTILINE)) | {"ssid_hex"}
    assert documented == {line.split(" =")[0] for line in FULL.splitlines() if " =" in line}


@pytest.mark.parametrize(
    "wifi, unidentified",
    [
        ("", WifiAction.PROMPT),
        ('unsecured = "auto_connect"', WifiAction.AUTO_CONNECT),
        ('unsecured = "ignore"', WifiAction.PROMPT),
        ('unsecured = "ignore"\nunidentified = "ignore"', WifiAction.IGNORE),
        ('unidentified = "auto_connect"', WifiAction.AUTO_CONNECT),
    ],
)
def test_unidentified_is_never_laxer_than_unsecured(wifi: str, unidentified: WifiAction) -> None:
    assert parse_settings(f"[wifi]\n{wifi}").wifi.unidentified is unidentified


def test_retries_may_all_wait_alike() -> None:
    tunnel = parse_settings("[tunnel]\nretry_first = '30s'").tunnel
    assert tunnel.retry_first == tunnel.retry_longest == 30.0


# --- every key of a valid file, broken one at a time ------------------------------------------------------------------

KEYS = [
    (number, match[1])
    for number, line in enumerate(FULL.splitlines(), 1)
    if (match := re.match(r"(\w+) = ", line))
]  # fmt: skip
HEADERS = [(number, line) for number, line in enumerate(FULL.splitlines(), 1) if line.startswith("[")]


def changed(number: int, line: str) -> str:
    lines = FULL.splitlines()
    lines[number - 1] = line
    return "\n".join(lines)


@pytest.mark.parametrize("number, key", KEYS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_misspelt_key_is_found_on_its_line(number: int, key: str, newline: str) -> None:
    text = changed(number, FULL.splitlines()[number - 1].replace(key, f"{key}x", 1)).replace("\n", newline)
    found = [each for each in problems(text) if each.key.split(".")[-1] == f"{key}x"]
    assert [each.line for each in found] == [number]
    assert f'did you mean "{key}"?' in found[0].problem


@pytest.mark.parametrize("number, key", KEYS)
@pytest.mark.parametrize("value", ["[1979-05-27]", "{}", "-7.5", "07:32:00", "''''''", '"""\n\\u0000\n"""'])
def test_a_wrong_value_is_found_on_its_line(number: int, key: str, value: str) -> None:
    found = [each for each in problems(changed(number, f"{key} = {value}")) if each.key.split(".")[-1] == key]
    assert found and {each.line for each in found} == {number}
    assert all(each.allowed for each in found)


@pytest.mark.parametrize("number, header", HEADERS)
def test_a_misspelt_table_is_found_on_its_line(number: int, header: str) -> None:
    name = header.strip("[]").split(".")[-1]
    text = changed(number, header.replace(name, f"{name}x"))
    assert number in {each.line for each in problems(text) if each.key.split(".")[-1] == f"{name}x"}


def test_the_table_covers_every_key() -> None:
    tables = {
        "protection",
        "tunnel",
        "wifi",
        "criteria",
        "wired",
        "cellular",
        "portal",
        "dns",
        "allowance",
        "traffic",
        "split",
        "links",
        "known",
    }
    assert {key for _, key in KEYS} == set(HOMES) - tables


# --- properties -------------------------------------------------------------------------------------------------------

FRAGMENTS = st.sampled_from(
    [
        *FULL.splitlines(keepends=True),
        *"[]='\"{}.\n#,\0é1",
        "'''\n",
        "x = 1\n",
        "[wifi]\n",
        "[[known]]\n",
        "ssid = 'x'\n",
        "wifi.wps = 1\n",
        "known = [{}, 1]\n",
        "links = 3\n",
    ]
)


@given(st.one_of(TEXTS, st.lists(FRAGMENTS, max_size=30).map("".join)))
def test_any_text_is_settings_or_a_settings_error(text: str) -> None:
    check(text)


@given(st.integers(0, len(FULL)), st.integers(0, 12), st.text(st.sampled_from("[]{}='\".#\n, a1\\"), max_size=3))
def test_any_damage_is_settings_or_a_settings_error(place: int, length: int, more: str) -> None:
    check(FULL[:place] + more + FULL[place + length :])


def check(text: str) -> None:
    try:
        parse_settings(text)
    except SettingsError as error:
        assert error.problems
        last = max(1, text.count("\n") + (not text.endswith("\n")))
        for each in error.problems:
            assert 1 <= each.line <= last
            assert len(str(each).splitlines()) == 1
        assert [each.line for each in error.problems] == sorted(each.line for each in error.problems)
