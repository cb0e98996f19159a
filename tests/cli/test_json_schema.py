"""I3: the documented schema of `--json` is current, and what the program prints fits it."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from cli.json_schema import OUTPUTS, schema
from cli.leak_probes import Verdict
from cli.leak_test import Result, _tell
from cli.output import Output
from tests.cli.running import daemon, tunwarden
from tests.cli.test_leak_test import EACH, packet
from tests.cli.test_panic_reset import CLOSED, PYTHON, in_namespace
from tests.ipc.places import ROOT, STRANGER, public_folder

pytestmark = pytest.mark.netns

VALIDATE = """
import json, sys
from jsonschema import Draft202012Validator
whole, values = json.load(sys.stdin)
wrong = []
for name, value in values:
    part = {"$defs": whole["$defs"], "allOf": [whole["commands"][name]]}
    Draft202012Validator.check_schema(part)
    wrong += [f"{name}: {error.message[:300]}" for error in Draft202012Validator(part).iter_errors(value)]
print(json.dumps(wrong))
"""


def wrong(values: list[tuple[str, object]]) -> list[str]:
    text = json.dumps([schema(), values])
    done = subprocess.run(["/usr/bin/python3", "-I", "-c", VALIDATE], input=text, capture_output=True, text=True)
    if "No module named 'jsonschema'" in done.stderr:
        pytest.skip("python3-jsonschema is missing: run lab/install-missing")
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_the_schema_that_is_checked_in_is_current() -> None:
    current = json.loads((ROOT / "docs/cli.schema.json").read_text())
    assert current == schema(), "run: .venv/bin/python -m cli.json_schema > docs/cli.schema.json"


def test_what_is_printed_fits(tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text("colour = 1\n[wifi]\nsecured = 'maybe'\n")
    good = tmp_path / "known"
    good.write_text('{"ssid": "a"}\n')
    calls: dict[str, tuple[str, ...]] = {
        "status": (), "connect": ("home", "--wait"), "disconnect": (), "networks": (), "known list": (),
        "known add": ("Home",), "known edit": ("Home", "--no-learn"), "known forget": ("Home",),
        "known import": (str(good),), "prompts list": (), "profiles list": (), "profiles import": ("home", "-"),
        "profiles show": ("home",), "profiles login": ("home",), "profiles remove": ("home",),
        "killswitch": ("off",), "lockdown": ("on",), "settings get": (),
        "settings set": ("wifi.secured", "ignore"), "settings reset": ("wifi.secured",), "settings export": (),
        "settings import": (str(tmp_path / "bad.toml"),), "settings check": (str(tmp_path / "bad.toml"),),
        "servers": (), "servers import": ("home", "-"), "servers remove": ("home",), "servers favourite": ("add", "a"),
        "split list": (), "split add": ("4711",), "split remove": ("4711",),
        "trace": ("on",), "report": (), "doctor": (), "traffic": (),
    }  # fmt: skip
    # Streams, which test_commands.py and others read.
    elsewhere = {"watch", "reconnect", "portal-login", "prompts ask", "split run"}
    elsewhere |= {"leak-test", "panic-reset"}  # below
    assert calls.keys() | elsewhere | {"error"} == OUTPUTS.keys()
    printed: list[tuple[str, object]] = []
    with daemon() as folder:
        for name, more in calls.items():
            # Also a user name and a password: two lines.
            ended = tunwarden(folder, *name.split(), *more, "--json", stdin="[Interface]\nTable = off\n")
            printed.append((name, ended.json))
            assert not (isinstance(ended.json, dict) and "error" in ended.json), (name, ended)
        printed.append(("traffic", tunwarden(folder, "traffic", "--by", "network", "--json").json))
        printed.append(("error", tunwarden(folder, "lockdown", "off", "--json").json))
        printed.append(("error", tunwarden(folder, "connect", "--json", who=STRANGER).json))
    with public_folder() as nowhere:
        printed.append(("error", tunwarden(nowhere, "status", "--json").json))
    assert wrong(printed) == []


def test_what_leak_test_prints_fits(capsys: pytest.CaptureFixture[str]) -> None:
    frames = tuple(packet(each) for each in EACH[:2])
    results = [Result(each, verdict, "why", frames) for each in EACH for verdict in Verdict]
    results += [Result(replace(EACH[0], link="wlan0"), Verdict.KEPT, "")]
    for protection in ("wanted", "not wanted", "unknown"):
        for why in (None, "no link"):
            _tell(Output(True), ["wlan0"], results, why, protection)
    values = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(values) == 6
    assert wrong([("leak-test", value) for value in values]) == []
    assert wrong([("leak-test", {**values[0], "protection": "perhaps"})]) != []


def test_what_panic_reset_prints_fits() -> None:
    done = in_namespace(f"{CLOSED}{PYTHON} panic-reset --yes --json; echo no | {PYTHON} panic-reset --json")
    reset, refused = (json.loads(line) for line in done.stdout.splitlines())
    assert refused == {"error": "not-confirmed"}
    assert wrong([("panic-reset", reset), ("error", refused)]) == []
    assert wrong([("panic-reset", {**reset, "open": None})]) != []


def test_what_does_not_fit_is_seen() -> None:
    """The control."""
    found = wrong([("status", {"state": "idle"}), ("killswitch", {"on": "yes"}), ("networks", {}), ("error", {})])
    assert {each.partition(":")[0] for each in found} == {"status", "killswitch", "networks", "error"}
