from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from policies.facts import Security
from policies.known_network import KnownNetwork, proves_identity
from policies.settings import parse_settings
from policies.settings_errors import SettingsError
from policies.settings_known import known_from_json, known_to_json
from policies.settings_layout import KNOWN
from policies.settings_tables import WifiAction
from tests.policies.settings_texts import TEXTS, problems

IMITABLE = ("unknown", "open", "owe-transition", "owe", "wep")


@pytest.mark.parametrize("security", [each.value for each in Security])
@pytest.mark.parametrize(
    "key, value, relaxes",
    [
        ("action", "disconnect", True),
        ("action", "ignore", True),
        ("action", "prompt", False),
        ("action", "auto_connect", False),
        ("allow_lan", True, True),
        ("allow_lan", False, False),
    ],
)
def test_nothing_relaxes_protection_where_anybody_can_imitate(
    security: str, key: str, value: object, relaxes: bool
) -> None:
    written = f"'{value}'" if isinstance(value, str) else str(value).lower()
    text = f"[[known]]\nssid = 'x'\nsecurity = '{security}'\n{key} = {written}"
    if relaxes and security in IMITABLE:
        (found,) = problems(text)
        assert (found.line, found.key) == (4, f"known.{key}")
        assert "anybody can imitate" in found.problem and '"wpa"' in found.allowed
        with pytest.raises(ValidationError, match="anybody can imitate"):
            KnownNetwork(ssid=b"x", minimum_security=Security(security), **{key: value})  # type: ignore[arg-type]
    else:
        assert getattr(parse_settings(text).known[0], key) == value


def test_identity_is_proven_by_a_secret_on_both_sides() -> None:
    assert {each.value for each in Security if not proves_identity(each)} == set(IMITABLE)


def test_same_name_with_other_access_points_is_another_network() -> None:
    text = "[[known]]\nssid='a'\nbssids=['02:00:00:00:00:01']\n[[known]]\nssid='a'\nbssids=['02:00:00:00:00:02']"
    assert len(parse_settings(text).known) == 2


@pytest.mark.parametrize(
    "fields, problem",
    [
        ({"ssid": b""}, "0 bytes"),
        ({"ssid": b"a" * 33}, "33 bytes"),
        ({"ssid": b"a\0"}, "NUL"),
        ({"ssid": b"a", "bssids": frozenset({b"short"})}, "5 bytes"),
        ({"ssid": b"a", "profile": "../x"}, "not the name"),
    ],
)
def test_an_unsound_network_cannot_exist(fields: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        KnownNetwork(**fields)  # type: ignore[arg-type]


# --- the store --------------------------------------------------------------------------------------------------------

BSSIDS = st.binary(min_size=6, max_size=6).filter(lambda bssid: not bssid[0] & 1 and any(bssid))
NAMES = st.text(st.sampled_from("aZ09_.-"), max_size=63).map(lambda rest: f"x{rest}")


@st.composite
def known_networks(draw: st.DrawFn) -> KnownNetwork:
    security = draw(st.sampled_from(Security))
    actions = list(WifiAction) if proves_identity(security) else [WifiAction.AUTO_CONNECT, WifiAction.PROMPT]
    return KnownNetwork(
        ssid=draw(st.binary(min_size=1, max_size=32).filter(lambda ssid: b"\0" not in ssid)),
        minimum_security=security,
        action=draw(st.none() | st.sampled_from(actions)),
        profile=draw(st.none() | NAMES),
        allow_lan=draw(st.sampled_from([None, False, True] if proves_identity(security) else [None, False])),
        bssids=draw(st.frozensets(BSSIDS, max_size=3)),
    )


@given(known_networks())
def test_known_networks_survive_the_store(known: KnownNetwork) -> None:
    text = known_to_json(known)
    assert known_from_json(text) == known
    assert "\n" not in text


@pytest.mark.parametrize(
    "text, key, problem",
    [
        ("", "", "not a JSON object"),
        ("[]", "", "not a JSON object"),
        ("[" * 100_000, "", "not a JSON object"),
        ("{}", "known", "without a name"),
        ('{"ssid_hex": "00"}', "ssid_hex", "NUL"),
        ('{"ssid_hex": "61", "more": 1}', "more", "unknown key"),
        ('{"ssid_hex": "61", "security": "wpa9"}', "security", "'wpa9'"),
        ('{"ssid_hex": "61", "security": "open", "action": "disconnect"}', "action", "anybody can imitate"),
        ('{"ssid_hex": "61", "bssids": [null]}', "bssids", "not a hardware address"),
        ('{"ssid_hex": "61", "allow_lan": null}', "allow_lan", "not a truth value"),
    ],
)
def test_a_damaged_store_is_refused(text: str, key: str, problem: str) -> None:
    with pytest.raises(SettingsError) as caught:
        known_from_json(text)
    (found,) = caught.value.problems
    assert found.key == key or (key == "known" and found.key == "")
    assert problem in found.problem


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*KNOWN, "x"]), inner, max_size=5),
    max_leaves=10,
)


@given(TEXTS | JSON.map(json.dumps))
def test_any_stored_text_is_a_network_or_a_settings_error(text: str) -> None:
    try:
        known_from_json(text)
    except SettingsError as error:
        assert error.problems
