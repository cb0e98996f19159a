from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from policies.own_settings import from_toml
from tests.cli.running import daemon, popen, tunwarden
from tests.ipc.places import MEMBER, ROOT, STRANGER, public_folder

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set


@pytest.fixture
def folder() -> Iterator[Path]:
    with daemon() as place:
        yield place


def test_status(folder: Path) -> None:
    ended = tunwarden(folder, "status", who=STRANGER)
    assert (ended.code, ended.err) == (0, "")
    first, *rest = ended.out.splitlines()
    assert first == "Not protected: traffic leaves outside the tunnel."
    assert "  Networks     wlan0 “Café \\x1b[31m”: open, unsecured" in rest
    assert "               eth0 (wired) – traffic passes" in rest
    assert "  Kill switch  on, lockdown off" in rest
    assert "\x1b" not in ended.out


def test_status_as_json(folder: Path) -> None:
    for words in (("--json", "status"), ("status", "--json")):
        status = tunwarden(folder, *words, who=STRANGER).json
        assert isinstance(status, dict)
        assert (status["state"], status["cause"], status["version"]) == ("idle", None, "9.8.7")
        assert status["networks"][0]["reasons"] == [{"code": "open", "text": "The network has no encryption."}]


@pytest.mark.parametrize("env, coloured", [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_colour_is_for_terminals(folder: Path, env: dict[str, str], coloured: bool) -> None:
    outer, inner = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "cli.main", "--run-folder", str(folder), "status"],
        stdout=inner, cwd=ROOT, env={"PATH": "/usr/bin", "LANG": "C.UTF-8", "TERM": "xterm", **env},
    ) as process:  # fmt: skip
        process.wait(30)
    os.close(inner)
    shown = os.read(outer, 65536).decode()
    os.close(outer)
    assert shown.startswith("\x1b[31;1mNot protected" if coloured else "Not protected")
    assert "\x1b[31m”" not in shown  # the network's name does not colour the terminal


def test_a_terminal_without_unicode(folder: Path) -> None:
    ended = tunwarden(folder, "status", env={"LANG": "C", "LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"})
    assert ended.code == 0
    assert "\\u201cCaf\\xe9" in ended.out


def test_connect_and_disconnect(folder: Path) -> None:
    ended = tunwarden(folder, "connect", "--wait", who=MEMBER)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.startswith("Protected: connected through home (198.51.100.7:51820).")
    assert tunwarden(folder, "reconnect", who=MEMBER).code == 0
    ended = tunwarden(folder, "disconnect", who=MEMBER)
    assert (ended.code, ended.out) == (0, "Not protected: traffic leaves outside the tunnel.\n")
    ended = tunwarden(folder, "connect", "home", "--json", who=MEMBER)
    assert isinstance(ended.json, dict)
    assert ended.json["target"] == "protected"


@pytest.mark.parametrize(
    "words, code, error",
    [
        (("connect", "nowhere"), 1, "Profile nowhere: it is not stored. Import it."),
        (("connect", "broken"), 1, "Manager.Connect: the service failed. See its log."),
        (("connect", "slow", "--wait", "--timeout", "0.3"), 5, "not connected after 0.3 s"),
        (("connect", "none", "--wait"), 1, ""),
        (("connect", "--timeout", "-1"), 2, "usage"),
        (("connect", "a", "b"), 2, "usage"),
        (("reconnect",), 1, "Reconnect: there is no connection. Connect first."),
        (("lockdown", "off"), 1, "Lockdown: the settings fix it."),
        (("lockdown", "sideways"), 2, "usage"),
        (("known", "forget", "Nowhere"), 1, "it is not among the saved ones"),
        (("known", "add", "x" * 33), 1, "longer than 32 bytes"),
        (("known",), 2, "usage"),
        (("known", "edit", "Corp-*", "--profile", "x"), 1, "the settings fix it"),
        (("known", "edit", "Nowhere"), 1, "it is not among the saved ones"),
        (("known", "edit", "Home", "--unset", "security"), 2, "usage"),
        (("known", "import", "/nonexistent/file"), 1, "No such file"),
        (("known", "import", "/dev/zero"), 1, "longer than"),
        (("profiles", "import", "home", "/nonexistent/file"), 1, "No such file"),
        (("nothing",), 2, "usage"),
        ((), 2, "usage"),
    ],
)
def test_failures(folder: Path, words: tuple[str, ...], code: int, error: str) -> None:
    ended = tunwarden(folder, *words)
    assert ended.code == code, ended
    assert error in ended.err
    assert "Traceback" not in ended.err


def test_not_permitted(folder: Path) -> None:
    for words in (("connect",), ("disconnect",), ("lockdown", "on"), ("profiles", "remove", "home")):
        ended = tunwarden(folder, *words, who=STRANGER)
        assert ended.code == 4
        assert "Use sudo" in ended.err
        error = tunwarden(folder, *words, "--json", who=STRANGER).json
        assert isinstance(error, dict)
        assert error["error"] == "org.tunwarden.Daemon1.Error.NotPermitted"
    assert tunwarden(folder, "lockdown", "on", who=MEMBER).out == "Lockdown on.\n"
    assert tunwarden(folder, "killswitch", "off", who=MEMBER).code == 4
    assert tunwarden(folder, "killswitch", "off").out == "Kill switch off.\n"
    assert tunwarden(folder, "killswitch", who=STRANGER).out == "Kill switch off.\n"


def test_e14_no_daemon_is_neither_off_nor_a_crash() -> None:
    with public_folder() as folder:
        for command in ("status", "watch", "connect", "disconnect", "networks", "killswitch"):
            ended = tunwarden(folder, command)
            assert ended.code == 3
            assert "is unknown" in ended.err
            assert "systemctl start tunwarden" in ended.err
            assert ended.out == ""
        error = tunwarden(folder, "status", "--json").json
        assert isinstance(error, dict)
        assert error["error"] == "not-running"


def test_networks(folder: Path) -> None:
    ended = tunwarden(folder, "networks", who=STRANGER)
    assert ended.out.splitlines()[1].split() == [
        "wlan0", "Café", "\\x1b[31m", "open", "unsecured", "prompt", "wifi.unsecured", "tunnel", "only",
    ]  # fmt: skip
    assert "wlan0: The network has no encryption." in ended.out
    assert isinstance(tunwarden(folder, "networks", "--json").json, list)


def test_known(folder: Path) -> None:
    corp = "Corp-* pattern 8021x no not Corp-\\x1bGuest*, router 02:00:00:00:00:02, beacon 192.0.2.1:443 settings"
    assert [line.split() for line in tunwarden(folder, "known", "list", who=STRANGER).out.splitlines()[1:]] == [
        corp.split(),
        ["Home", "486f6d65", "wpa2", "ignore", "yes", "learning,", "1", "so", "far", "user"],
    ]
    assert tunwarden(folder, "known", "add", "Home", "--action", "ignore", "--allow-lan", "--pin", "--learn").code == 0
    for name in ("Home", "486f6d65"):
        assert tunwarden(folder, "known", "forget", name).out == "Forgot “Home”.\n"
    known = tunwarden(folder, "known", "list", "--json").json
    assert isinstance(known, list) and [one["pattern"] for one in known] == [True, False]
    assert "1b[31m" not in tunwarden(folder, "known", "list").out


def test_known_edit(folder: Path) -> None:
    """The fake gives back in `profile` what it was asked to change."""
    words = ("--no-learn", "--allow-lan", "--gateway", "02:00:00:00:00:09", "--unset", "action", "--security", "wpa3")
    changed = tunwarden(folder, "known", "edit", "Home", *words, "--json").json
    assert isinstance(changed, dict)
    assert json.loads(changed["profile"]) == {
        "learn": False, "allow_lan": True, "gateways": ["02:00:00:00:00:09"], "action": None, "security": "wpa3",
    }  # fmt: skip
    changed = tunwarden(folder, "known", "edit", "486f6d65", "--no-allow-lan", "--json").json
    assert isinstance(changed, dict) and json.loads(changed["profile"]) == {"allow_lan": False}
    for words, keys in (
        (("--beacon", "192.0.2.1:443"), {"beacon": "192.0.2.1:443"}),
        (("--beacon", "192.0.2.1:443", "--beacon-sha256", "ab"), {"beacon": "192.0.2.1:443", "beacon_sha256": "ab"}),
        (("--unset", "beacon"), {"beacon": None, "beacon_sha256": None}),
        (("--resolver", "192.0.2.53", "--resolver", "2001:db8::53"), {"resolvers": ["192.0.2.53", "2001:db8::53"]}),
        (("--unset", "resolvers"), {"resolvers": None}),
    ):
        changed = tunwarden(folder, "known", "edit", "Home", *words, "--json").json
        assert isinstance(changed, dict) and json.loads(changed["profile"]) == keys


def test_known_add_with_lists(folder: Path) -> None:
    words = ("--pattern", "Corp-*", "--security", "8021x", "--except", "Corp-Guest*")
    assert tunwarden(folder, "known", "add", *words).out == (
        "Saved “Corp-*”, at least 8021x.\nIts beacon is 192.0.2.1:443 with the certificate 01:02.\n"
    )
    assert tunwarden(folder, "known", "add", "Home", "--bssid", "02:00:00:00:00:01").code == 0
    assert tunwarden(folder, "known", "add", "--hex", "486F6D65", "--bssid", "02:00:00:00:00:01").code == 0
    for wrong in (("Home", "--pattern", "H*"), ("--bssid", "02:00:00:00:00:01"), ("Home", "--except", "x", "--pin")):
        assert "known add: " in tunwarden(folder, "known", "add", *wrong).err
    assert "known add: " in tunwarden(folder, "known", "add", "--beacon", "192.0.2.1:443").err


def test_known_export_and_import(folder: Path, tmp_path: Path) -> None:
    exported = tunwarden(folder, "known", "export", who=STRANGER).out
    assert exported == '{"ssid_hex": "486f6d65", "allow_lan": true, "learn": true}\n', "what users saved, and no more"
    file = tmp_path / "networks"
    assert tunwarden(folder, "known", "export", str(file)).out == f"Wrote 1 network to {file}.\n"
    assert (file.read_text(), file.stat().st_mode & 0o777) == (exported, 0o600)
    assert "File exists" in tunwarden(folder, "known", "export", str(file)).err
    assert tunwarden(folder, "known", "import", str(file)).out == "Saved 1 network.\n"
    many = "\n".join(json.dumps({"ssid": f"net {number}"}) for number in range(10_000))
    assert tunwarden(folder, "known", "import", "-", "--json", stdin=many).json == {"imported": 10_000}


@pytest.mark.parametrize(
    "text, error",
    [
        ('{"ssid": "a"}\n\n{"ssid": "b", "acton": "ignore"}', "-:3: acton: unknown key, did you mean"),
        ('{"ssid": "a"}\n{"ssid_hex": "61"}', "-:2: line 1 has the same name"),
        ("nonsense", "-:1: not a JSON object"),
        ('{"ssid": "\\u0000"}', "the name contains a NUL byte"),
        ('{"ssid": "a", "security": "open", "action": "ignore"}', '-:1: action: "ignore" relaxes'),
    ],
)
def test_known_import_refuses_before_it_sends(folder: Path, text: str, error: str) -> None:
    ended = tunwarden(folder, "known", "import", "-", stdin=text)
    assert (ended.code, ended.out) == (1, "")
    assert error in ended.err


def test_profiles(folder: Path, tmp_path: Path) -> None:
    assert "198.51.100.7:51820" in tunwarden(folder, "profiles", "list", who=STRANGER).out
    (tmp_path / "home.conf").write_text("[Interface]\nTable = off\n")
    ended = tunwarden(folder, "profiles", "import", "home", str(tmp_path / "home.conf"))
    assert (ended.code, ended.out.splitlines()[1]) == (0, "  line 2: Table: tunwarden has its own.")
    ended = tunwarden(folder, "profiles", "import", "home", "-", stdin="[Interface]\nPostUp = reboot\n")
    assert ended.code == 1
    assert "PostUp runs a program" in ended.err
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert "not a text" in tunwarden(folder, "profiles", "import", "home", str(tmp_path / "binary")).err
    (tmp_path / "long").write_text("x" * ((1 << 20) + 1))
    assert "longer than" in tunwarden(folder, "profiles", "import", "home", str(tmp_path / "long")).err
    (tmp_path / "full").write_text("\n" * (1 << 18) + "x" * (1 << 19))
    assert tunwarden(folder, "profiles", "import", "home", str(tmp_path / "full")).code == 0
    assert tunwarden(folder, "profiles", "remove", "home").code == 0


def test_settings(folder: Path, tmp_path: Path) -> None:
    rows = [line.split(maxsplit=2) for line in tunwarden(folder, "settings", "get", who=STRANGER).out.splitlines()[1:]]
    assert rows[0] == ["protection.lockdown", "true", "the administrator, /etc/tunwarden/tunwarden.toml:3"]
    assert rows[2] == ["wifi.secured", "prompt", "user"]
    assert [row[0] for row in rows] == ["protection.lockdown", "protection.lan_subnets", "wifi.secured"]
    assert len(tunwarden(folder, "settings", "get", "protection").out.splitlines()) == 3
    shown = tunwarden(folder, "settings", "get", "wifi.secured", who=STRANGER).out
    assert shown.splitlines()[0] == "wifi.secured = prompt"
    assert "  Allowed      auto_connect, prompt, ignore" in shown.splitlines()
    found = tunwarden(folder, "settings", "get", "wifi.secured", "--json").json
    assert isinstance(found, list) and (found[0]["value"], found[0]["default"]) == ("prompt", "ignore")
    assert "there is no setting 'wifi.nothing'" in tunwarden(folder, "settings", "get", "wifi.nothing").err


def test_settings_set_and_reset(folder: Path) -> None:
    assert tunwarden(folder, "settings", "set", "wifi.secured", "ignore").code == 0
    assert tunwarden(folder, "settings", "set", "wifi.secured", "ignore", who=MEMBER).code == 4
    assert tunwarden(folder, "settings", "set", "wifi.secured", "auto_connect", who=MEMBER).code == 0
    ended = tunwarden(folder, "settings", "set", "protection.lockdown", "false")
    assert (ended.code, "fixed in /etc/tunwarden/tunwarden.toml:3" in ended.err) == (1, True)
    assert tunwarden(folder, "settings", "reset", "wifi.secured").code == 0
    assert tunwarden(folder, "settings", "reset", "--all").code == 0
    assert tunwarden(folder, "settings", "reset", "--all", who=MEMBER).code == 4
    for wrong in (("reset",), ("reset", "--all", "wifi.secured"), ("set", "wifi.secured"), ()):
        assert tunwarden(folder, "settings", *wrong).code == 2


def test_settings_export_is_what_import_takes(folder: Path, tmp_path: Path) -> None:
    exported = tunwarden(folder, "settings", "export", who=STRANGER).out
    assert from_toml(exported) == {
        "protection.lan_subnets": "100.64.0.0/10, fd00::/48", "wifi.secured": "prompt",
    }  # fmt: skip
    file = tmp_path / "mine.toml"
    assert tunwarden(folder, "settings", "export", str(file)).out == f"Wrote 2 settings to {file}.\n"
    assert (file.read_text(), file.stat().st_mode & 0o777) == (exported, 0o600)
    assert "File exists" in tunwarden(folder, "settings", "export", str(file)).err
    ended = tunwarden(folder, "settings", "import", str(file))
    assert (ended.code, ended.out) == (0, f"{len(exported.splitlines())} settings set.\n")
    assert tunwarden(folder, "settings", "import", "-", stdin=exported, who=MEMBER).code == 4
    assert "No such file" in tunwarden(folder, "settings", "import", "/nonexistent").err


def test_settings_schema_needs_no_daemon() -> None:
    with public_folder() as nowhere:
        schema = json.loads(tunwarden(nowhere, "settings", "schema").out)
        assert schema == json.loads((ROOT / "docs/tunwarden.schema.json").read_text())


def test_settings_check_needs_no_daemon(tmp_path: Path) -> None:
    with public_folder() as nowhere:
        (tmp_path / "good.toml").write_text("version = 1\n")
        ended = tunwarden(nowhere, "settings", "check", str(tmp_path / "good.toml"))
        assert (ended.code, ended.out) == (0, f"{tmp_path}/good.toml: no errors.\n")
        (tmp_path / "bad.toml").write_text('version = 1\n[wifi]\nsecured = "maybe"\nfoo = 1\n')
        ended = tunwarden(nowhere, "settings", "check", str(tmp_path / "bad.toml"))
        assert ended.code == 1
        assert [line.partition("bad.toml:")[2][:2] for line in ended.out.splitlines()] == ["3:", "4:"]
        problems = tunwarden(nowhere, "settings", "check", str(tmp_path / "bad.toml"), "--json").json
        assert isinstance(problems, list)
        assert [problem["line"] for problem in problems] == [3, 4]
        (tmp_path / "drop-in.toml").write_text("[tunnel]\nretry_first = '5m'\n")
        both = ("settings", "check", str(tmp_path / "good.toml"), str(tmp_path / "drop-in.toml"))
        assert "drop-in.toml:2: tunnel.retry_first: retry_first is longer" in tunwarden(nowhere, *both).out
        (tmp_path / "good.toml").write_text("[tunnel]\nretry_longest = '1h'\n")
        assert tunwarden(nowhere, *both).out == f"{both[2]}, {both[3]}: no errors.\n"


def test_watch(folder: Path) -> None:
    with popen(folder, "watch", "--json", who=STRANGER) as process:
        assert process.stdout is not None
        try:
            first = json.loads(process.stdout.readline())
            assert (first["sequence"], first["state"]) == (1, "idle")
            tunwarden(folder, "connect", "--wait")
            later = [json.loads(process.stdout.readline()) for _ in range(2)]
            assert [(one["sequence"], one["state"]) for one in later] == [(2, "connecting"), (3, "connected")]
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
        finally:
            process.kill()


def test_watch_in_words_and_into_a_pipe_that_closes(folder: Path) -> None:
    with popen(folder, "watch") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert "idle  OPEN  wlan0 “Café \\x1b[31m”: open, unsecured" in process.stdout.readline()
            process.stdout.close()
            tunwarden(folder, "connect")
            assert process.wait(30) == 0
            assert process.stderr.read() == ""
        finally:
            process.kill()


def test_watch_ends_with_the_daemon() -> None:
    with daemon() as folder:
        process = popen(folder, "watch")
        assert process.stdout is not None
        process.stdout.readline()
    with process:
        assert process.wait(30) == 3


def test_help_and_version(folder: Path) -> None:
    ended = tunwarden(folder, "--help")
    assert ended.code == 0
    for command in ("status", "panic-reset"):
        assert command in ended.out
        assert tunwarden(folder, command, "--help").code == 0
    assert "exit codes" in ended.out
    assert tunwarden(folder, "--version").out.startswith("tunwarden ")
