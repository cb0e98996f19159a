"""S4: what users set stays beneath what the administrator says, and every value reads back as it is shown."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.own_settings import KEYS, SWITCHES, from_json, from_toml, in_force, text_of, to_json, together, value_of
from policies.settings import Fixed, Settings, parse_files, parse_settings
from policies.settings_errors import SettingsError
from policies.settings_schema import schema
from policies.settings_values import Duration, Size
from policies.settings_words import SENTENCES

NOTHING = Fixed({}, {})
TOP = Path(__file__).parents[2]
MAKE = "run: .venv/bin/tunwarden settings schema > docs/tunwarden.schema.json"
EXAMPLES = {
    "choice": ("auto_connect", "ignore"),
    "boolean": ("true", "false"),
    "time": ("5s", "1m"),
    "size": ("1500kB", "2GB"),
    "name": ("home", "office.2"),
    "list": ("", "100.64.0.0/10, fd00::/48"),
}


def examples(name: str) -> tuple[str, ...]:
    key = KEYS[name]
    if name == "portal.probes":
        return ("http://a.example/x#yes,no", "http://a.example/, http://b.example/x#yes,no")
    if name == "dns.resolvers":
        return ("", "192.0.2.53, 2001:db8::53")
    if isinstance(key.read, Duration):
        return (key.read.shortest, key.read.longest)
    if isinstance(key.read, Size):
        return (key.read.least, *EXAMPLES["size"], key.read.most)
    return tuple(key.allowed.split(", ")) if key.kind in ("choice", "boolean") else EXAMPLES[key.kind]


@pytest.mark.parametrize("name", KEYS)
def test_every_key_is_set_shown_and_read_back(name: str) -> None:
    accepted = 0
    for text in examples(name):
        assert text_of(value_of(KEYS[name], text)) == text
        settings, refused = together(NOTHING, {"tunnel.retry_longest": "5m", name: text})
        assert refused or in_force(settings, name) == text
        accepted += not refused
    assert accepted, "each key has a value that goes together with the defaults of all others"


@pytest.mark.parametrize("name", KEYS)
@pytest.mark.parametrize("text", ["", "maybe so", "True", "-1", "\x00", "'", "8.8.8.0/24", "1", "99h", "x" * 4096])
def test_a_wrong_value_is_an_error_that_says_what_is_allowed(name: str, text: str) -> None:
    try:
        value_of(KEYS[name], text)
    except SettingsError as err:
        (problem,) = err.problems[:1]
        assert problem.key == name
        assert problem.allowed
    else:
        public = (name, text) == ("split.subnets", "8.8.8.0/24")
        assert public or (KEYS[name].kind, text) in (("list", ""), ("name", "1"), ("name", "True"), ("name", "99h"))


@given(st.dictionaries(st.sampled_from(sorted(KEYS)), st.sampled_from([t for each in EXAMPLES.values() for t in each])))
def test_any_values_of_users_are_settings_beneath_the_administrators(own: dict[str, str]) -> None:
    """Whatever users have said: what the administrator says is in force, and all is told of what is not."""
    fixed = parse_files(
        [("a", "[wifi]\nunidentified = 'prompt'\nsecured = 'prompt'\n[tunnel]\nretry_longest = '10s'\n")]
    )
    settings, refused = together(fixed, own)
    assert in_force(settings, "wifi.secured") == "prompt"
    assert in_force(settings, "wifi.unidentified") == "prompt"
    assert in_force(settings, "tunnel.retry_longest") == "10s"
    for name in own.keys() - refused.keys() - fixed.places.keys():
        assert in_force(settings, name) == own[name]
    stricter = {"auto_connect": 0, "prompt": 1, "ignore": 2}
    assert stricter[settings.wifi.unidentified] <= stricter[settings.wifi.unsecured]
    # They are settings that a file could say as well.
    alone = {name: text for name, text in own.items() if name not in refused}
    said = {"wifi.secured": "prompt", "wifi.unidentified": "prompt", "tunnel.retry_longest": "10s"}
    assert together(NOTHING, alone | said) == (settings, {})


@given(st.dictionaries(st.text(max_size=20), st.text(max_size=20)))
def test_the_store_gives_back_what_it_got(own: dict[str, str]) -> None:
    assert from_json(to_json(own)) == own


@pytest.mark.parametrize(
    "text", ["{}", "[]", '{"version": 2, "values": {}}', '{"version": 1, "values": {"a": 1}}', "x"]
)
def test_what_the_store_cannot_have_written(text: str) -> None:
    with pytest.raises(ValueError, match=r"users' settings|Expecting value"):
        from_json(text)


def test_a_text_of_the_layout_becomes_users_settings() -> None:
    text = (
        "version = 1\n[wifi]\nsecured = 'prompt'\nprompt_timeout = '120s'\n[protection]\nlan_subnets = ['10.0.0.0/8']\n"
    )
    assert from_toml(text) == {
        "wifi.secured": "prompt", "wifi.prompt_timeout": "2m", "protection.lan_subnets": "10.0.0.0/8",
    }  # fmt: skip
    for wrong in ("[[known]]\nssid = 'x'", "[[links]]\nname = 'x'\nkind = 'wifi'", "[wifi]\nsecured = 'no'", "[",
                  "[traffic]\nprometheus = '/etc/x.prom'"):  # fmt: skip
        with pytest.raises(SettingsError):
            from_toml(wrong)


def test_the_switches_are_keys_of_their_own() -> None:
    assert set(SWITCHES) < set(KEYS)
    assert in_force(Settings(), "protection.kill_switch") == ""


# --- the schema for editors -------------------------------------------------------------------------------------------


def test_the_schema_that_is_checked_in_is_current() -> None:
    assert json.loads((TOP / "docs/tunwarden.schema.json").read_text()) == schema(), MAKE


def test_every_key_is_described() -> None:
    def keys(table: dict[str, object], path: str = "") -> list[str]:
        found = []
        for name, inner in table["properties"].items():  # type: ignore[attr-defined]
            found.append(f"{path}{name}")
            inner = inner.get("items", inner)
            if "properties" in inner:
                found += keys(inner, f"{path}{name}.")
        return found

    assert set(keys(schema())) == set(SENTENCES)


VALIDATE = """
import json, sys
from jsonschema import Draft202012Validator
schema, documents = json.load(sys.stdin)
Draft202012Validator.check_schema(schema)
validator = Draft202012Validator(schema)
print(json.dumps([validator.is_valid(document) for document in documents]))
"""


def judged(documents: list[object]) -> list[bool]:
    """What the reference implementation says, which is Debian's python3-jsonschema."""
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-c", VALIDATE],
        input=json.dumps([schema(), documents]),
        capture_output=True,
        text=True,
    )
    if "No module named 'jsonschema'" in done.stderr:
        pytest.skip("python3-jsonschema is missing: run lab/install-missing")
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_the_schema_takes_what_the_daemon_takes() -> None:
    import tomllib

    from policies import settings
    from tests.policies.settings_texts import FULL

    example = (settings.__doc__ or "").split("absent.\n\n", 1)[1].split("\n\nTimes are")[0]
    texts = [FULL, "", "\n".join(line.removeprefix("    ") for line in example.splitlines())]
    texts.append("[tunnel]\nconnect_timeout = '1.5s'\n[[known]]\nssid_hex = '0aFF'\nbssids = ['02-00-00-00-00-01']\n")
    for text in texts:
        parse_settings(text)
    assert judged([tomllib.loads(text) for text in texts]) == [True] * len(texts)


WRONG = [
    "colour = 1", "version = 2", "version = '1'", "[wifi]\nunsecurd = 'prompt'", "[wifi]\nsecured = 'disconnect'",
    "[wifi]\nsecured = true", "[wifi.criteria]\nwps = 'yes'", "[tunnel]\nconnect_timeout = 15",
    "[tunnel]\nconnect_timeout = '15'", "[tunnel]\ndefault_profile = '-x'", "[protection]\nkill_switch = 'on'",
    "[protection]\nlan_subnets = ['10.0.0.0']", "protection = 1", "[known]\nssid = 'x'", "[[known]]\nsecurity = 'wpa9'",
    "[[known]]\nssid = ''", "[[known]]\nssid_hex = 'abc'", "[[known]]\nssid = 'x'\nbssids = ['aa:bb']",
    "[[known]]\nssid = 'x'\nlearn = true", "[[links]]\nname = 'a b'\nkind = 'wifi'",
    "[[links]]\nname = 'x'\nkind = 'x'",
    "[[known]]\nssid = 'x'\nbeacon = 'x'\n", "[[known]]\nssid = 'x'\nbeacon_sha256 = 'zz'\n",
]  # fmt: skip


def test_the_schema_refuses_what_the_daemon_refuses() -> None:
    import tomllib

    for text in WRONG:
        with pytest.raises(SettingsError):
            parse_settings(text)
    assert [text for text, ok in zip(WRONG, judged([tomllib.loads(text) for text in WRONG]), strict=True) if ok] == []
