"""The lessons about imported configurations, for OpenVPN: E1, E2, E6, E7, and what fuzzing finds."""

from __future__ import annotations

import inspect
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipc import interface
from policies.openvpn import OPTIONS, OpenVPNProfile, Remote, render
from policies.openvpn_directives import DIRECTIVES
from policies.profiles import from_json, parse, to_json
from policies.profiles_errors import ProfileError
from policies.redact import without_secrets
from tests.policies.openvpn_texts import HEAD, NAMES, TAIL, VALID, block, corpus, with_line

# What may stand in what openvpn is given, beside lines inside blocks.
LINE = re.compile(r'([a-z0-9-]+)(?: "[ !#-\[\]-~]*")*')
BLOCK = re.compile(r"</?(?:ca|cert|extra-certs|key|crl-verify|peer-fingerprint|tls-auth|tls-crypt|tls-crypt-v2)>")
CONTENT = re.compile(
    r"-----(?:BEGIN|END) [A-Za-z0-9 -]+-----|[A-Za-z0-9+/]{1,64}={0,2}|[0-9A-F]{2}(?::[0-9A-F]{2}){31}"
)
OWN = OPTIONS.keys() | {"data-ciphers", "auth-user-pass", "key-direction"}


def check_rendered(profile: OpenVPNProfile) -> None:
    """Nothing but what the lists above allow."""
    inside = ""
    for line in render(profile):
        assert len(line) < 255
        if inside:
            assert line == f"</{inside}>" or CONTENT.fullmatch(line), line
            inside = "" if line.startswith("</") else inside
        elif BLOCK.fullmatch(line):
            inside = line[1:-1]
        else:
            found = LINE.fullmatch(line)
            assert found, line
            assert found[1] in OWN
    assert not inside


SCRIPTS = ("up", "down", "plugin", "route-up", "route-pre-down", "tls-verify", "ipchange", "auth-user-pass-verify",
           "client-connect", "client-disconnect", "learn-address", "iproute", "script-security 2\nup")  # fmt: skip
PLACES = {
    "a line of its own": "{} /bin/x",
    "with dashes": "--{} /bin/x",
    "behind a comment that is none": "verb 3\n{} /bin/x",
    "as an option of setenv": "setenv opt {} /bin/x",
    "in a connection": "<connection>\nremote 192.0.2.7\n{} /bin/x\n</connection>",
    "behind the end of a block": "<ca>\nx\n</ca>\n{} /bin/x",
    "quoted": "'{}' /bin/x",
    "behind a carriage return": "verb 3\r\n{} /bin/x",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("script", SCRIPTS)
def test_e1_a_directive_that_runs_something(script: str, place: str) -> None:
    with pytest.raises(ProfileError):
        parse("home", with_line(place.format(script)))


@pytest.mark.parametrize("script", SCRIPTS)
def test_e1_inside_a_block_it_is_no_directive(script: str) -> None:
    """Text in a block that is no key is left out, whatever it says."""
    text = VALID.replace("<ca>\n", f"<ca>\n{script} /bin/x\n")
    profile = parse("home", text)[0]
    assert isinstance(profile, OpenVPNProfile)
    assert profile == parse("home", VALID)[0]
    check_rendered(profile)


@pytest.mark.parametrize(
    "line", ["dhcp-option DNS 10.0.0.1\x00up", "verb 3\x00", "auth SHA256\x00\nup /x", "\x00up /x"]
)
def test_e1_nul(line: str) -> None:
    with pytest.raises(ProfileError):
        parse("home", with_line(line))


NEWLINES = ("\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\\n", '"\nup "/x')


@pytest.mark.parametrize("newline", NEWLINES)
def test_e2_a_newline_in_a_field(newline: str) -> None:
    """Whoever makes a profile by hand, or has the store changed, gets no line of his own."""
    whole = parse("home", corpus("firewall-export"))[0]
    assert isinstance(whole, OpenVPNProfile)
    evil = f"x{newline}up /bin/x"
    with pytest.raises(ProfileError):
        Remote(evil)
    for name in OPTIONS:
        with pytest.raises(ProfileError):
            OpenVPNProfile("home", whole.remotes, whole.ca, whole.certificates, whole.key_label, whole.key,
                           options=((name, evil),))  # fmt: skip
    others: list[dict[str, object]] = [
        {"fingerprints": (evil,)}, {"key_label": evil}, {"name": evil}, {"wrap": evil}, {"key_label": evil},
        *([{"user": evil}, {"password": evil}] if not evil.isprintable() else []),  # a backslash is not refused there
    ]  # fmt: skip
    for fields in others:
        values: dict[str, Any] = {"name": "home", "key_label": whole.key_label, **fields}
        with pytest.raises(ProfileError):
            OpenVPNProfile(remotes=whole.remotes, ca=whole.ca, certificates=whole.certificates, key=whole.key, **values)
    with pytest.raises(ProfileError):
        from_json(to_json(whole).replace('"subject"', f'"subject{newline.encode("unicode_escape").decode()}up"'))


@pytest.mark.parametrize(
    "line",
    [
        "ca /etc/shadow", "cert ./x", "key ~/x", "tls-auth ta.key", "tls-crypt x", "tls-crypt-v2 x", "crl-verify x dir",
        "extra-certs x", "auth-user-pass /tmp/x", "config /tmp/x", "askpass x", "pkcs12 x", "secret x", "dh x", "cd /",
        "status x", "log x", "writepid x", "tmp-dir /tmp", "capath /tmp", "replay-persist x", "static-challenge x 1",
    ],
)  # fmt: skip
def test_e6_no_file_is_named(line: str) -> None:
    """What was checked is what is used: everything is in the text, nothing is read again later."""
    with pytest.raises(ProfileError):
        parse("home", with_line(line))


def test_e6_what_is_kept_is_what_is_rendered() -> None:
    for name in NAMES:
        profile = parse("home", corpus(name))[0]
        assert isinstance(profile, OpenVPNProfile)
        kept = from_json(to_json(profile))
        assert isinstance(kept, OpenVPNProfile)
        assert list(render(kept)) == list(render(profile))


def test_e7_the_interface_takes_content() -> None:
    """No method about profiles has an argument that could be a path, a program or a directive."""
    for name in ("import_profile", "set_login", "show_profile", "remove_profile"):
        arguments = inspect.signature(getattr(interface.Service, name)).parameters.keys() - {"self", "caller"}
        assert arguments <= {"name", "text", "user", "password"}


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/b", "", ".x", "-x", "a\nb", "x" * 65])
def test_e7_a_name_is_no_path(name: str) -> None:
    with pytest.raises(ProfileError):
        parse(name, VALID)


# --- fuzzing ----------------------------------------------------------------------------------------------------------

WORDS = st.sampled_from(sorted(DIRECTIVES)) | st.sampled_from(
    ["<ca>", "</ca>", "<key>", "<connection>", "</connection>"]
)
VALUES = st.sampled_from(
    ["1", "no", "server", "AES-256-GCM", "192.0.2.1", "vpn.example", "tun", "[inline]", "SHA256", "opt", "up", "/bin/x"]
) | st.text(max_size=8)
LINES = st.lists(st.tuples(WORDS, st.lists(VALUES, max_size=3)), max_size=8)


@given(LINES, st.sampled_from(["\n", "\r\n"]))
def test_directives_of_any_kind(lines: list[tuple[str, list[str]]], end: str) -> None:
    """No exception but the typed one; and of whatever is taken, nothing outside the lists is rendered."""
    text = HEAD + end.join(" ".join([word, *values]) for word, values in lines) + end + TAIL
    taken(text)


@given(st.sampled_from(NAMES), st.data())
def test_files_that_were_damaged(name: str, data: st.DataObject) -> None:
    text = corpus(name)
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, min(len(text), start + 200)))
    taken(text[:start] + data.draw(st.text(max_size=20)) + text[end:])


@given(st.text())
def test_any_text(text: str) -> None:
    taken(text)
    taken("client\n" + text)


def taken(text: str) -> None:
    try:
        profile = parse("home", text)[0]
    except ProfileError:
        return
    if isinstance(profile, OpenVPNProfile):
        check_rendered(profile)
        assert from_json(to_json(profile)) == profile


def test_the_check_of_what_is_rendered_sees_something() -> None:
    """The control."""
    profile = parse("home", with_line("auth SHA256") + block("tls-crypt"))[0]
    assert isinstance(profile, OpenVPNProfile)
    check_rendered(profile)
    object.__setattr__(profile, "options", (("up", "/bin/x"),))
    with pytest.raises(AssertionError):
        check_rendered(profile)
    object.__setattr__(profile, "options", (("auth", 'SHA256"\nup "/bin/x'),))
    with pytest.raises(AssertionError):
        check_rendered(profile)


# --- logs and reports -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_file_in_a_report_has_no_secrets(name: str) -> None:
    text = corpus(name)
    told = without_secrets(text)
    for tag in ("key", "tls-auth", "tls-crypt", "tls-crypt-v2", "auth-user-pass"):
        _, begin, rest = text.replace("\r", "").partition(f"<{tag}>\n")
        for line in rest.partition(f"</{tag}>")[0].splitlines() if begin else ():
            assert not line or line.startswith(("#", "-----")) or line not in told
    assert "remote " in told


@pytest.mark.parametrize(
    "line",
    [
        'password "Auth" "hush hush"', 'username "Auth" hush', 'password "Auth" "a\\"hush"', "auth-token hush,ping 10",
        "'PUSH_REPLY,auth-token hush,ping 10'", "auth-token-user hush",
    ],
)  # fmt: skip
def test_what_openvpn_is_told_is_taken_out(line: str) -> None:
    told = without_secrets(f"before {line} after")
    assert "hush" not in told
    assert told.startswith("before ")
    assert told.endswith(" after")
