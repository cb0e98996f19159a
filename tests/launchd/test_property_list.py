"""The property list says what the systemd unit says; what is wrong with one is noticed before launchd ignores it."""

from __future__ import annotations

import plistlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.__main__ import PATH
from tests.launchd.scripts import LAUNCHD, TOP, property_list

KEYS = property_list.property_list()
GOOD = property_list.to_xml(KEYS)
TWICE = b"\t<key>Umask</key>\n\t<integer>0</integer>\n\t<key>Umask</key>"


def unit() -> dict[str, list[str]]:
    """The keys of [Service] in systemd/tunwarden.service, each with its values in order."""
    text = (TOP / "systemd/tunwarden.service").read_text()
    service = text.partition("[Service]\n")[2].partition("\n[Install]")[0]
    found: dict[str, list[str]] = {}
    for key, value in re.findall(r"^(\w+)=(.*)$", service, re.MULTILINE):
        found.setdefault(key, []).append(value)
    return found


def seconds(text: str) -> float:
    return float(text.removesuffix("ms")) / 1000 if text.endswith("ms") else float(text)


def test_the_unit_states_the_same_facts() -> None:
    facts, said = property_list.FACTS, unit()
    assert said["ExecStart"] == [" ".join(["/usr/lib/tunwarden/bin/python", *facts.arguments])]
    assert [int(value, 8) for value in said["UMask"]] == [facts.umask]
    assert (said["Restart"] == ["always"]) is facts.restarts_always
    assert [seconds(value) for value in said["RestartSec"]] == [facts.restart_s]
    assert [seconds(value) for value in said["TimeoutStopSec"]] == [facts.stop_s]
    assert (said["KillMode"] == ["process"]) is facts.children_outlive
    assert said["LimitNOFILE"] == [str(facts.open_files)]
    assert said["LimitCORE"] == [str(facts.core_bytes)]
    assert not {"Environment", "EnvironmentFile", "PassEnvironment", "User", "WorkingDirectory"} & set(said)


def test_the_daemon_has_that_path() -> None:
    assert property_list.FACTS.path == PATH


def test_it_is_well_and_decimal() -> None:
    assert property_list.problems(GOOD) == []
    assert b"<key>Umask</key>\n\t<integer>63</integer>" in GOOD
    assert plistlib.loads(GOOD) == KEYS
    assert set(KEYS) == set(property_list.SCHEMA)


@pytest.mark.parametrize(
    "key, value, told",
    [
        ("Label", "org.tunwarden.Daemon1", "Label must be 'org.tunwarden.daemon'"),
        ("Umask", 77, "Umask is 115 in octal"),  # octal digits in a decimal place
        ("Umask", "077", "Umask must be an integer"),
        ("Umask", 0o22, "Umask is 022 in octal"),
        ("Umask", True, "Umask must be an integer"),
        ("RunAtLoad", 1, "RunAtLoad must be True"),
        ("RunAtLoad", "true", "RunAtLoad must be True"),
        ("KeepAlive", False, "KeepAlive must be True"),
        ("KeepAlive", {"SuccessfulExit": False}, "KeepAlive must be True"),
        ("ThrottleInterval", 0.5, "ThrottleInterval must be an integer from 1 to 10"),
        ("ThrottleInterval", 60, "ThrottleInterval must be an integer from 1 to 10"),
        ("ExitTimeOut", 0, "ExitTimeOut must be an integer from 1 to 60"),
        ("ExitTimeOut", True, "ExitTimeOut must be an integer"),
        ("ProgramArguments", "/Library/tunwarden/bin/python", "ProgramArguments must be a list of texts"),
        ("ProgramArguments", [], "ProgramArguments must be a list of texts"),
        ("ProgramArguments", ["python", "-I"], "ProgramArguments its program must be an absolute path"),
        ("ProgramArguments", ["/a/../b", "-I"], "ProgramArguments its program must be an absolute path"),
        ("ProgramArguments", ["/bin/sh", "-c", "x"], "ProgramArguments must not start a shell"),
        ("ProgramArguments", ["/Library/tunwarden/bin/python", "-m", "daemon"], "must run Python isolated"),
        ("EnvironmentVariables", {"PATH": "/usr/local/bin"}, "EnvironmentVariables PATH must be"),
        (
            "EnvironmentVariables",
            {"PATH": PATH, "PYTHONPATH": "/tmp"},
            "EnvironmentVariables has no use for PYTHONPATH",
        ),
        ("UserName", "nobody", "UserName must be 'root'"),
        ("SoftResourceLimits", {"NumberOfFiles": 256, "Core": 0}, "NumberOfFiles must be an integer from 1024"),
        ("SoftResourceLimits", [], "SoftResourceLimits must be a dictionary"),
        ("HardResourceLimits", {}, "HardResourceLimits lacks Core"),
        ("StandardErrorPath", "tunwardend.log", "StandardErrorPath must be an absolute path"),
        ("StandardErrorPath", "/var/log/a\nb", "StandardErrorPath has characters that do not print"),
        ("ProcessType", "Background", "ProcessType must be 'Interactive'"),
        ("Sockets", {}, "has no use for Sockets"),  # a key that launchd knows, and we do not
    ],
)
def test_a_wrong_value_is_told_by_its_key(key: str, value: object, told: str) -> None:
    found = property_list.problems(property_list.to_xml({**KEYS, key: value}))
    assert len(found) == 1
    assert told in found[0]


@pytest.mark.parametrize("key", sorted(KEYS))
def test_a_missing_key_is_told(key: str) -> None:
    rest = {name: value for name, value in KEYS.items() if name != key}
    assert property_list.problems(property_list.to_xml(rest)) == [f"lacks {key}"]


@pytest.mark.parametrize(
    "damage, told",
    [
        (lambda good: b"", "no property list"),
        (lambda good: good[: len(good) // 2], "no property list"),
        (lambda good: good + b"<plist>", "no property list"),
        (lambda good: good.replace(b"</dict>", b"", 1), "no property list"),  # what plistutil takes for a good one
        (lambda good: good.replace(b"<true/>", b"<yes/>"), ""),
        (lambda good: b"<plist version='1.0'><array/></plist>", "no dictionary"),
        (lambda good: plistlib.dumps(KEYS, fmt=plistlib.FMT_BINARY), "no property list"),
        (lambda good: good.replace(b"\t<key>Umask</key>", TWICE), "said twice"),
        (lambda good: good.replace(b"<dict>", b"<dict><!-- ours -->", 1), "hidden"),
        (lambda good: good.replace(b"63", b"077"), ""),  # launchd reads 77
        (lambda good: good.replace(b"63", b"0x3f"), ""),
    ],
)  # fmt: skip
def test_a_damaged_file_is_refused(damage: object, told: str) -> None:
    assert callable(damage)
    content = damage(GOOD)
    assert content != GOOD
    found = property_list.problems(content)
    assert found
    assert told in found[0]


def test_as_a_program(tmp_path: Path) -> None:
    script = (sys.executable, "-I", str(LAUNCHD / "property_list.py"))

    def call(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([*script, *arguments], capture_output=True, check=False, timeout=60)

    printed = call()
    assert (printed.returncode, printed.stdout) == (0, GOOD)
    file = tmp_path / "x.plist"
    file.write_bytes(printed.stdout)
    assert call("--check", str(file)).returncode == 0
    file.write_bytes(GOOD.replace(b"<integer>63<", b"<integer>18<"))
    wrong = call("--check", str(file))
    assert (wrong.returncode, wrong.stderr.decode()) == (
        1, f"{file}: Umask is 022 in octal: others could read what root writes (63 is 077)\n",
    )  # fmt: skip
    assert call("--check", str(tmp_path / "none")).returncode == 1
    assert call("--chekc").returncode == 2
