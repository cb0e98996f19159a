"""T2: what may be said of a tunnel that somebody else brings up."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.external import KEYS, KINDS, ExternalProfile, looks_like_external
from policies.firewall import LOGIN_MARK, MARK, NEVER_MARK, ONLY_MARK
from policies.profiles import from_json, parse, to_json, unresolved, with_addresses, with_login
from policies.profiles_errors import ProfileError
from policies.profiles_reference import reference
from policies.profiles_shown import shown
from tests.daemon.profiles_for_tests import OFFICE
from tests.policies.external_texts import BY_USER, PROFILE, TEXT


def parsed(text: str) -> ExternalProfile:
    profile, _ = parse("office", text)
    assert isinstance(profile, ExternalProfile)
    return profile


def test_what_is_said_is_what_is_kept() -> None:
    assert parsed(TEXT) == PROFILE
    assert from_json(to_json(PROFILE)) == PROFILE and from_json(to_json(BY_USER)) == BY_USER
    assert parsed(TEXT.replace("\n", "\r\n")) == PROFILE
    assert parsed("\ufeff" + TEXT) == PROFILE
    assert unresolved(PROFILE) == {} and with_addresses(PROFILE, {}) == PROFILE
    assert parsed(TEXT.replace("fwmark = 0xca6c", "uid = 977")).external.uid == 977
    assert parsed(TEXT.replace('kind = "wireguard"\n', "")).external.kind == ""
    told = shown(PROFILE)
    assert ("kind", "external") in told and ("link", "wg-office") in told
    assert ("reached by", "packets with the mark 0xca6c") in told and ("server", "[2001:db8::1]:443 tcp") in told
    assert ("reached by", "the user 977") in shown(BY_USER)


def test_what_is_worth_knowing_is_said() -> None:
    _, notices = parse("office", TEXT)
    assert notices == ()
    _, notices = parse("office", '[external]\nkind = "tun"\nendpoints = ["192.0.2.1:1/udp"]\nuid = 0\n')
    assert {(each.line, each.directive) for each in notices} == {(4, "uid"), (0, "kind"), (0, "resolvers")}


def test_nobody_logs_in_to_it() -> None:
    with pytest.raises(ProfileError, match="somebody else's"):
        with_login(PROFILE, "alice", "sesame")


def test_other_files_are_not_taken_for_one() -> None:
    """Only the table's name decides; the control: with it, such a text is read as this kind, and refused."""
    for text in ("[Interface]\n[external]\n", "client\n[external]\n", "externally = 1", '["external"]', ""):
        assert not looks_like_external(text), text
    for text in ("[external]", "# a note\n\n  [ external ]\nlink = 1"):
        assert looks_like_external(text)
        with pytest.raises(ProfileError):
            parse("office", text)


def test_our_own_profiles_are_as_before() -> None:
    assert not looks_like_external(to_json(OFFICE))


LINK, KIND, SERVER, MARKED = 'link = "wg0"\n', 'kind = "tun"\n', 'endpoints = ["192.0.2.1:1/udp"]\n', "fwmark = 1\n"
GOOD = f"[external]\n{LINK}{SERVER}{MARKED}"
# What is added or put in its place; the line and the key of the error, and a word of it.
REFUSED: list[tuple[str, int, str, str]] = [
    (f"[external]\n{SERVER}{MARKED}", 1, "link", "missing"),
    (f"[external]\n{LINK}{MARKED}", 1, "endpoints", "needs to name a server"),
    (f"[external]\n{LINK}endpoints = []\n{MARKED}", 3, "endpoints", "needs to name a server"),
    (f"[external]\n{LINK}{SERVER}", 1, "fwmark", "exactly one"),
    (f"{GOOD}uid = 977\n", 4, "fwmark", "exactly one"),
    (GOOD.replace("fwmark = 1", "fwmark = 0"), 4, "fwmark", "out of range"),
    (GOOD.replace("fwmark = 1", "fwmark = true"), 4, "fwmark", "out of range"),
    (GOOD.replace("fwmark = 1", 'fwmark = "1"'), 4, "fwmark", "out of range"),
    (GOOD.replace("fwmark = 1", "fwmark = [1]"), 4, "fwmark", "out of range"),
    (GOOD.replace("fwmark = 1", "fwmark = 0x100000000"), 4, "fwmark", "out of range"),
    *(
        (GOOD.replace("fwmark = 1", f"fwmark = {mark}"), 4, "fwmark", "own marks")
        for mark in (MARK, LOGIN_MARK, NEVER_MARK, ONLY_MARK)
    ),
    (GOOD.replace("fwmark = 1", "uid = -1"), 4, "uid", "out of range"),
    (GOOD.replace("fwmark = 1", "uid = 4294967295"), 4, "uid", "out of range"),
    (GOOD.replace("fwmark = 1", 'uid = "root"'), 4, "uid", "out of range"),
    (GOOD.replace('"wg0"', "7"), 2, "link", "not a name"),
    (GOOD.replace('"wg0"', '""'), 2, "link", "not a name"),
    (GOOD.replace('"wg0"', '"tunwarden0"'), 2, "link", "tunwarden's own"),
    (GOOD.replace('"wg0"', '"sixteen-letters-"'), 2, "link", "not a link's name"),
    (GOOD.replace('"wg0"', '"wg*"'), 2, "link", "not a link's name"),
    (GOOD.replace('"wg0"', '"$(id)"'), 2, "link", "not a link's name"),
    (GOOD + 'kind = "ethernet"\n', 5, "kind", "no kind of tunnel"),
    (GOOD + 'kind = "veth"\n', 5, "kind", "no kind of tunnel"),
    (GOOD + "up = '/bin/x'\n", 5, "[external]", "unknown key"),
    (GOOD + "[peer]\nkey = 1\n", 5, "file", "more than one table"),
    (f"{GOOD}resolvers = '10.2.0.1'\n", 5, "resolvers", "not a list"),
    (f"{GOOD}resolvers = ['10.2.0.1',\n 'fe80::1%eth0']\n", 6, "resolvers", "no address"),
    (f"{GOOD}resolvers = ['127.0.0.1']\n", 5, "resolvers", "could not reach"),
    (f"{GOOD}resolvers = ['10.2.0.1', '10.2.0.1']\n", 5, "resolvers", "one twice"),
    (f"{GOOD}{LINK}", 5, "file", "no TOML"),
    ("[external]\nlink = [[[", 0, "file", "no TOML"),
    ("[external]\nlink = " + "[" * 100_000, 0, "file", "no TOML"),
    ("[external]\nfwmark = " + "9" * 10_000, 0, "file", "no TOML"),
    ("[external]\n#" + "x" * (1 << 20), 0, "file", "too large"),
]


@pytest.mark.parametrize(
    "text, line, key, problem", REFUSED, ids=[f"{key}-{at}" for at, (_, _, key, _) in enumerate(REFUSED)]
)
def test_refused(text: str, line: int, key: str, problem: str) -> None:
    """With where it stands and what to do. The control: without what is wrong it is taken."""
    with pytest.raises(ProfileError) as error:
        parse("office", text)
    assert problem in error.value.problem and error.value.directive == key and error.value.remedy
    assert error.value.line == line or (line == 0 and key == "file")
    assert parsed(GOOD)


@pytest.mark.parametrize(
    "server",
    ["192.0.2.1", "192.0.2.1:51820", "192.0.2.1:0/udp", "192.0.2.1:65536/udp", "192.0.2.1:1/sctp", "vpn.example:1/udp",
     "2001:db8::1:1/udp", "[192.0.2.1]:1/udp", "[2001:db8::1%eth0]:1/udp", "127.0.0.1:1/udp", "0.0.0.0:1/udp",
     "224.0.0.1:1/udp", "255.255.255.255:1/udp", "[::]:1/udp", "[fe80::1]:1/udp", "[ff02::1]:1/udp", "010.0.0.1:1/udp",
     " 192.0.2.1:1/udp", "192.0.2.1:1/udp ", "192.0.2.1:1/UDP", "", "wireguard", "learn"],
)  # fmt: skip
def test_refused_server(server: str) -> None:
    """Names too: who brings the tunnel up asks for itself, and may be told another address."""
    with pytest.raises(ProfileError, match="endpoints"):
        parse("office", GOOD.replace("192.0.2.1:1/udp", server))


@pytest.mark.parametrize("script", ["up", "PostUp", "plugin", "command", "exec", "include"])
def test_e1_nothing_in_it_runs_anything(script: str) -> None:
    """Every key is one of a list, and none of them names a program."""
    for place in (f'{GOOD}{script} = "/bin/x"\n', f'[external]\n{script} = "/bin/x"\n', f'{script} = "/bin/x"\n{GOOD}'):
        with pytest.raises(ProfileError) as error:
            parse("office", place)
        assert "/bin/x" not in str(error.value)
    assert not KEYS.keys() & {script}


@pytest.mark.parametrize("newline", ["\\n", "\\r", "\\u0000", "\\u2028", "\\u0085"])
@pytest.mark.parametrize("old", ['"wg0"', '"192.0.2.1:1/udp"', '"tun"', '"10.2.0.1"'])
def test_e2_a_newline_in_a_field(old: str, newline: str) -> None:
    """TOML's escapes make one of any text; the control: without it, the text is taken."""
    text = f'{GOOD}{KIND}resolvers = ["10.2.0.1"]\n'
    assert parsed(text)
    for spoilt in (f"{old[:-1]}{newline}{old[-1]}", f"{old[0]}{newline}{old[1:]}"):
        with pytest.raises(ProfileError):
            parse("office", text.replace(old, spoilt))


def test_e2_a_newline_in_a_field_of_the_store() -> None:
    stored, count = json.loads(to_json(PROFILE)), 0
    for key, value in stored.items():
        for spoilt in _spoilt(value):
            count += 1
            with pytest.raises(ProfileError, match="damaged"):
                from_json(json.dumps({**stored, key: spoilt}))
    assert count >= 10, "the control: strings were found"


def _spoilt(value: object) -> list[object]:
    if isinstance(value, str):
        return [value + "\n", "\n" + value]
    if isinstance(value, list):
        return [[*value[:at], each, *value[at + 1 :]] for at, old in enumerate(value) for each in _spoilt(old)]
    return []


def test_e6_what_is_kept_is_what_is_used() -> None:
    """All is in the text: no file is named, nothing is resolved or read again later."""
    assert from_json(to_json(parsed(TEXT))) == parsed(TEXT)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "", ".", "..", "-x", "a\nb", "x" * 65, "$(id)"])
def test_e7_a_name_is_no_path(name: str) -> None:
    with pytest.raises(ProfileError):
        parse(name, GOOD)


WORDS = st.sampled_from(
    [*KEYS, "[external]", "[[external]]", "=", '"', "'''", "[", "]", "{", "}", ",", "\n", "#", "0x1", "1_0", "true",
     "1979-05-27", "nan", "1e9", '"wg0"', '"tun"', '"192.0.2.1:1/udp"', "\\u0000", "\r", "\x00", "é"]
)  # fmt: skip


@given(st.lists(WORDS | st.text(max_size=6), max_size=30))
def test_any_text_is_a_profile_or_a_profile_error(words: list[str]) -> None:
    taken("[external]\n" + " ".join(words))
    taken(GOOD + " ".join(words))


@given(st.integers(0, len(TEXT)), st.integers(0, 40), st.text(max_size=20))
def test_any_damage_is_a_profile_or_a_profile_error(place: int, length: int, more: str) -> None:
    taken(TEXT[:place] + more + TEXT[place + length :])
    stored = to_json(PROFILE)
    try:
        profile = from_json(stored[:place] + more + stored[place + length :])
    except ProfileError:
        return
    assert from_json(to_json(profile)) == profile


def taken(text: str) -> None:
    """No exception but the typed one; what is taken is sound, and is kept as it is."""
    try:
        profile, _ = parse("office", text)
    except ProfileError:
        return
    assert from_json(to_json(profile)) == profile
    if isinstance(profile, ExternalProfile):
        assert (profile.external.fwmark is None) != (profile.external.uid is None) and profile.endpoints


def test_the_reference_names_every_key_and_kind() -> None:
    text = "\n".join(reference())
    assert all(f"`{key}`" in text for key in KEYS) and all(f"`{kind}`" in text for kind in KINDS)
