"""The lessons about what is imported and what is asked, for WireGuard and the interface: E1, E2, E6, E7.

OpenVPN's are in test_openvpn_lessons.py.
"""

from __future__ import annotations

import json
import re

import pytest

from ipc.describe import methods
from policies.profiles import from_json, to_json
from policies.profiles_errors import ProfileError
from policies.wireguard import to_conf
from policies.wireguard_conf import ALLOWED, SCRIPTS
from policies.wireguard_reader import parse_wireguard
from tests.policies.wireguard_texts import GOLDEN, GOLDEN_NAMES, INTERFACE, OTHER, PEER, PRIVATE, PUBLIC, VALID

PLACES = {
    "in the interface": INTERFACE + "{}\n" + PEER,
    "in the peer": VALID + "{}\n",
    "before all": "{}\n" + VALID,
    "behind a comment that is none": INTERFACE + "# note\n{}\n" + PEER,
    "in a section of its own": VALID + "[Interface]\n{}\n",
    "with spaces": INTERFACE + "  \t{}  \n" + PEER,
    "behind a carriage return": INTERFACE + "MTU = 1400\r\n{}\r\n" + PEER,
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("script", [*SCRIPTS, "postup", "POSTUP", "Exec", "plugin", "up", "route-pre-down"])
def test_e1_a_directive_that_runs_something(place: str, script: str) -> None:
    """The whole file is refused. The control: without that line it is taken."""
    with pytest.raises(ProfileError) as error:
        parse_wireguard("home", place.format(f"{script} = /bin/x"))
    assert "/bin/x" not in str(error.value)
    parse_wireguard("home", place.format("# a note").replace("[Interface]\n# a note", ""))


def test_e1_what_is_stored_and_rendered_holds_only_the_directives_that_are_allowed() -> None:
    """SaveConfig, Table, FwMark and ListenPort are taken, and go no further."""
    said = "SaveConfig = true\nTable = auto\nFwMark = 0x1\nListenPort = 51820\n"
    profile, notices = parse_wireguard("home", INTERFACE + said + PEER)
    assert {notice.directive for notice in notices} >= {"SaveConfig", "FwMark", "ListenPort"}
    kept = from_json(to_json(profile))
    for text in (to_conf(profile), to_conf(kept)):  # type: ignore[arg-type]
        names = {line.partition(" = ")[0] for line in text.splitlines() if " = " in line}
        assert names <= {"PrivateKey", "Address", "DNS", "MTU", *ALLOWED["peer"]}


NEWLINES = ("\n", "\r\n", "\r", "\0", "\x0b", "\x0c", "\x1c", "\x85", "\u2028")
FIELDS = {"Address": "10.0.0.2/32", "DNS": "10.0.0.1", "Endpoint": "192.0.2.1:51820", "AllowedIPs": "0.0.0.0/0, ::/0"}


@pytest.mark.parametrize("newline", NEWLINES, ids=repr)
@pytest.mark.parametrize("field", FIELDS)
def test_e2_a_newline_in_a_field_of_the_text(field: str, newline: str) -> None:
    """Whatever any program could take for a line's end: what follows is refused, never carried along."""
    with pytest.raises(ProfileError):
        parse_wireguard("home", VALID.replace(FIELDS[field], f"{FIELDS[field]}{newline}PostUp = /bin/x", 1))


@pytest.mark.parametrize("newline", NEWLINES, ids=repr)
def test_e2_a_newline_in_a_field_of_the_store(newline: str) -> None:
    """The store is root's; a value in it that could become a directive is damage all the same."""
    stored = json.loads(to_json(parse_wireguard("home", VALID + "\n")[0]))
    count = 0

    def spoilt(value: object) -> list[object]:
        """The value with each of its strings spoilt in turn."""
        if isinstance(value, str):
            return [value + newline + "PostUp = /bin/x"]
        if isinstance(value, list):
            return [[*value[:at], each, *value[at + 1 :]] for at, old in enumerate(value) for each in spoilt(old)]
        if isinstance(value, dict):
            return [{**value, key: each} for key, old in value.items() for each in spoilt(old)]
        return []

    for each in spoilt(stored):
        count += 1
        with pytest.raises(ProfileError, match="damaged"):
            from_json(json.dumps(each))
    assert count >= 8, "the control: strings were found"


@pytest.mark.parametrize(
    "line",
    ["PrivateKey = /etc/shadow", "PrivateKey = @key", "PresharedKey = ./psk", "PublicKey = file:///x",
     "Endpoint = /run/x.sock", "include = /etc/x", "PrivateKeyFile = /x"],
)  # fmt: skip
def test_e6_no_file_is_named(line: str) -> None:
    """What was checked is what is used: all is in the text, nothing is read again later."""
    name = line.partition(" = ")[0]
    text = re.sub(rf"^{name} = .*$", line, VALID, flags=re.MULTILINE)
    if text == VALID:
        text = f"{VALID}{line}\n" if name == "PresharedKey" else f"{INTERFACE}{line}\n{PEER}"
    with pytest.raises(ProfileError) as error:
        parse_wireguard("home", text)
    assert PRIVATE not in str(error.value) and OTHER not in str(error.value) and PUBLIC not in str(error.value)


@pytest.mark.parametrize("name", GOLDEN_NAMES)
def test_e6_what_is_kept_is_what_is_used(name: str) -> None:
    profile, _ = parse_wireguard("home", (GOLDEN / f"{name}.conf").read_text())
    assert from_json(to_json(profile)) == profile


# Which processes are meant, by their program's file: compared with what runs, never opened or run by the daemon.
NAMED = {("Split.AddProgram", "path"), ("Split.RemoveProgram", "path")}
SUSPICIOUS = re.compile(r"path|(?<!pro)file|folder|dir|command|program|script|exec|shell|url|socket|argv|env")


def test_e7_methods_take_content_never_a_path_or_a_program() -> None:
    """A new argument that could name something has to be thought about here."""
    for method in methods().values():
        for field in method.parameters:
            where = (f"{method.interface}.{method.name}", field.name)
            if field.type.base == "string" and where not in NAMED:
                assert not SUSPICIOUS.search(field.name), where
                assert field.longest or field.choices, where


@pytest.mark.parametrize(
    "name", ["../x", "/etc/x", "a/b", "", ".", "..", ".x", "-x", "a\nb", "a\0b", "x" * 65, "$(id)"]
)
def test_e7_a_name_is_no_path(name: str) -> None:
    """A profile's name becomes a file's name."""
    with pytest.raises(ProfileError):
        parse_wireguard(name, VALID)
