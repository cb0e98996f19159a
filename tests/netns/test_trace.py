"""I6: the trace of the real daemon: through a crash and a restart, and no key of the profile in what it tells."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lab.subject import Subject

pytestmark = pytest.mark.netns

FOLDER = "/var/lib/tunwarden/trace"


def test_a_trace_goes_on_after_a_crash_and_shows_no_key(subject: Subject, sealed: Any) -> None:
    lab = subject.lab
    subject.cli("trace", "on", "--minutes", "30")
    with sealed():
        lab.join("cafe")
        subject.wait("connected", 25)
        subject.kill()
        subject.start(25)
        subject.wait("connected", 25)
    trace = subject.cli_json("trace", "status")
    assert isinstance(trace, dict) and trace["on"]
    folder = lab.laptop.path(FOLDER)
    assert folder.stat().st_mode & 0o777 == 0o700
    lines = (folder / "trace.jsonl").read_text(encoding="utf-8").split("\n")[:-1]  # the last one may be under way
    records = [json.loads(line) for line in lines]
    handled = [each for each in records if each["event"] == "handled"]
    assert {"connecting", "connected"} <= {each["state"]["phase"] for each in handled}
    assert sum(each["event"] == "ready" for each in records) == 1, "the start of the second daemon is in it"
    subject.cli("report", "/run/lab/report", "--yes")
    report = lab.laptop.path("/run/lab/report").read_text(encoding="utf-8")
    assert "=== Trace: " in report and '"event": "handled"' in report
    config = lab.client_config()
    secrets = [line.split(" = ")[1] for line in config.splitlines() if line.startswith(("PrivateKey", "PresharedKey"))]
    assert secrets
    assert subject.process is not None
    everything = report + subject.process.output() + subject.cli("status", "--json")
    everything += "".join(path.read_text(encoding="utf-8") for path in folder.iterdir())
    for secret in secrets:
        assert secret not in everything
    assert '"on": false' in subject.cli("trace", "off", "--json")
