"""N6: which saved entries a name stands for. The index is compared with looking at each, the patterns with fnmatch."""

from __future__ import annotations

import fnmatch
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policies.facts import Security
from policies.known import Names, matches, names
from policies.known_network import KnownNetwork
from policies.settings import parse_settings
from policies.settings_errors import SettingsError
from policies.settings_known import known_from_json, known_to_json
from policies.settings_tables import WifiAction

LETTERS = st.sampled_from(b"ab*?")
NAMES = st.lists(st.sampled_from(b"ab"), min_size=1, max_size=8).map(bytes)
PATTERNS = st.lists(LETTERS, min_size=1, max_size=8).map(bytes)


def by_fnmatch(pattern: bytes, name: bytes) -> bool:
    return re.fullmatch(fnmatch.translate(pattern.decode()), name.decode()) is not None


@given(PATTERNS, NAMES)
def test_patterns_are_those_of_fnmatch(pattern: bytes, name: bytes) -> None:
    assert matches(pattern, name) == by_fnmatch(pattern, name)


@pytest.mark.parametrize(
    "pattern, name, whether",
    [
        (b"Corp-*", b"Corp-Berlin", True),
        (b"Corp-*", b"Corp-", True),
        (b"Corp-*", b"corp-Berlin", False),
        (b"Corp-*", b" Corp-Berlin", False),
        (b"Corp-*", b"Corp- ", True),
        (b"Corp-?", b"Corp-", False),
        (b"Caf?", "Café".encode(), False),  # two bytes
        (b"Caf??", "Café".encode(), True),
        (b"[ab]*", b"a", False),  # no classes
        (b"[ab]*", b"[ab]c", True),
        (b"*", b"\xff\n\x00", True),
        (b"a.c", b"abc", False),
        (b"*" * 32, b"a" * 32, True),
    ],
)
def test_matches(pattern: bytes, name: bytes, whether: bool) -> None:
    assert matches(pattern, name) is whether


def test_no_pattern_takes_long() -> None:
    """Nothing grows with the number of stars: this one would take a backtracking matcher for ever."""
    assert not matches(b"a*" * 15 + b"d", b"a" * 3000 + b"c")


def entry(name: bytes, pattern: bool, exceptions: tuple[bytes, ...] = ()) -> KnownNetwork:
    return KnownNetwork(
        ssid=name, pattern=pattern, exceptions=exceptions if pattern else (), action=WifiAction.AUTO_CONNECT
    )


ENTRIES = st.lists(st.builds(entry, PATTERNS, st.booleans(), st.lists(PATTERNS, max_size=2).map(tuple)), max_size=8)


@given(ENTRIES, NAMES | PATTERNS)
@example([entry(b"a*", True), entry(b"aa*", True), entry(b"*a", True), entry(b"*aa", True)], b"a")  # each once
@example([entry(b"*b*", True), entry(b"a*", True)], b"ab")  # as written
def test_the_index_finds_what_looking_at_each_finds(entries: list[KnownNetwork], name: bytes) -> None:
    known = tuple(entries)
    exact = tuple(each for each in known if not each.pattern and each.ssid == name)
    patterns = tuple(
        each
        for each in known
        if each.pattern
        and by_fnmatch(each.ssid, name)
        and not any(by_fnmatch(exception, name) for exception in each.exceptions)
    )
    assert Names(known).find(name) == (exact or patterns)
    assert names(known).find(name) == (exact or patterns)
    assert names(known) is names(known)


def test_another_list_has_another_index() -> None:
    one, two = (entry(b"a", False),), (entry(b"b", False),)
    assert [names(each).find(b"a") for each in (one, two, one)] == [one, (), one]


# --- what cannot be saved, from the file and from anybody -------------------------------------------------------------

FLAWS = {
    "a pattern without accounts": ('pattern = "Corp-*"', "action"),
    "a pattern that asks": ('pattern = "Corp-*"\naction = "prompt"', "action"),
    "a pattern that disconnects": ('pattern = "Corp-*"\naction = "disconnect"', "action"),
    "a pattern that opens the LAN": ('pattern = "Corp-*"\naction = "auto_connect"\nallow_lan = true', "action"),
    "accounts, but any name": ('pattern = "*"\nsecurity = "8021x"', "action"),
    "accounts, two letters": ('pattern = "*a?b*"\nsecurity = "8021x"', "action"),
    "exceptions of a name": ('ssid = "Corp"\nexcept = ["x"]', "except"),
    "a pattern that is none": ("pattern = 5", "pattern"),
    "a pattern with NUL": ('pattern = "a\\u0000*"', "pattern"),
    "a long pattern": (f'pattern = "{"*" * 33}"', "pattern"),
    "an empty pattern": ('pattern = ""', "pattern"),
    "a name and a pattern": ('ssid = "a"\npattern = "Corp-*"\naction = "auto_connect"', ""),
    "no exception": ('pattern = "*"\naction = "auto_connect"\nexcept = []', "except"),
    "no gateway": ('ssid = "a"\ngateways = []', "gateways"),
    "a gateway of a group": ('ssid = "a"\ngateways = ["01:00:00:00:00:01"]', "gateways"),
    "learning in the file": ('ssid = "a"\nlearn = true', "learn"),
    "learning by pattern": ('pattern = "Corp-*"\nsecurity = "8021x"\nlearn = true', "learn"),
    "learning in the open": ('ssid = "a"\nsecurity = "open"\nlearn = true', "learn"),
}


@pytest.mark.parametrize("text, key", FLAWS.values(), ids=FLAWS.keys())
def test_what_cannot_be_saved(text: str, key: str) -> None:
    with pytest.raises(SettingsError) as info:
        parse_settings(f"[[known]]\n{text}")
    assert [each.key for each in info.value.problems][:1] == [f"known.{key}".rstrip(".")]


FIELDS = [
    {"ssid": b"Corp-*", "pattern": True},
    {"ssid": b"*", "pattern": True, "minimum_security": Security.ENTERPRISE},
    {"ssid": b"a\xff*", "pattern": True, "action": WifiAction.AUTO_CONNECT},
    {"ssid": b"a*", "pattern": True, "action": WifiAction.AUTO_CONNECT, "exceptions": (b"\xff",)},
    {"ssid": b"a*", "pattern": True, "action": WifiAction.AUTO_CONNECT, "exceptions": (b"",)},
    {"ssid": b"a", "exceptions": (b"b",)},
    {"ssid": b"a", "gateways": frozenset({b"\x01\0\0\0\0\1"})},
    {"ssid": b"a", "minimum_security": Security.OWE, "learn": True},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_nobody_can_make_what_cannot_be_saved(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="allowed: "):
        KnownNetwork(**fields)  # type: ignore[arg-type]


def test_a_pattern_of_accounts_may_relax() -> None:
    text = '[[known]]\npattern = "Corp-*"\nexcept = ["Corp-Guest*", "*-lab"]\nsecurity = "8021x"\naction = "disconnect"'
    (known,) = parse_settings(text).known
    assert (known.key, known.exceptions, known.can_be_proven) == ((True, b"Corp-*"), (b"Corp-Guest*", b"*-lab"), True)


def test_a_pattern_and_the_name_spelled_like_it_are_two() -> None:
    text = '[[known]]\npattern = "a*"\naction = "auto_connect"\n[[known]]\nssid = "a*"'
    one, two = parse_settings(text).known
    assert Names((one, two)).find(b"a*") == (two,)
    with pytest.raises(SettingsError, match="an earlier entry"):
        parse_settings('[[known]]\npattern = "a*"\naction = "auto_connect"\n' * 2)


MACS = st.frozensets(st.binary(min_size=6, max_size=6).filter(lambda mac: not mac[0] & 1 and any(mac)), max_size=3)
TEXTS = st.text(st.characters(blacklist_characters="\0", codec="utf-8"), min_size=1, max_size=8).map(str.encode)
SAVED = st.one_of(
    st.builds(
        KnownNetwork,
        ssid=st.binary(min_size=1, max_size=32).filter(lambda name: b"\0" not in name),
        minimum_security=st.sampled_from([Security.WPA, Security.WPA3, Security.ENTERPRISE_192]),
        action=st.none() | st.sampled_from(WifiAction),
        profile=st.none() | st.just("home"),
        allow_lan=st.none() | st.booleans(),
        bssids=MACS,
        gateways=MACS,
        learn=st.booleans(),
    ),
    st.builds(
        KnownNetwork,
        ssid=TEXTS,
        pattern=st.just(True),
        exceptions=st.lists(TEXTS, max_size=3).map(tuple),
        action=st.just(WifiAction.AUTO_CONNECT),
        gateways=MACS,
    ),
)


@given(SAVED)
def test_what_is_saved_comes_back(known: KnownNetwork) -> None:
    text = known_to_json(known)
    assert "\n" not in text and text.isascii()
    assert known_from_json(text) == known
