"""Tests of this folder run in a virtual machine with real Wi-Fi, all of a file in one boot; their reports come back.

The same file is collected twice: here, where each test only waits for its report, and in the machine, where pytest
runs it. A failure there is a failure here, with its traceback.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.processes import LabError
from lab.radio.machine import RadioMachine, why_no_machine

INSIDE = "TUNWARDEN_RADIO"  # set in the machine
TIME_LIMIT = 1500  # seconds, for building the image, booting and all tests of a file
TOP = Path(__file__).parents[2]

_machines = pytest.StashKey[dict[str, "Reports | str"]]()  # by file; why there is none


class Reports:
    """Boots the machine, runs these tests in it and reads one JSON line for each report."""

    def __init__(self, names: list[str]) -> None:
        tests = " ".join(map(shlex.quote, names))
        # Without the conftest.py of all tests: the machine has only what the daemon and these tests need.
        only = "-p no:cacheprovider --confcutdir=tests/radio"
        command = f"export {INSIDE}=1; python3 -m pytest {only} -q {tests}"
        self._machine = RadioMachine(command).__enter__()
        self._read: list[dict[str, object]] = []
        self._offset = 0
        self._deadline = time.monotonic() + TIME_LIMIT

    def of(self, name: str) -> Iterator[dict[str, object]]:
        """The reports of one test: setup, call, teardown. Raises LabError when the machine dies before."""
        seen = 0
        while True:
            for report in self._read[seen:]:
                seen += 1
                if report["nodeid"] == name:
                    yield report
                    if report["when"] == "teardown":
                        return
            if not self._more():
                if not self._machine.running and not self._more():
                    raise LabError(f"the machine ended before {name}\n{self._machine.told()}")
                if time.monotonic() > self._deadline:
                    raise LabError(f"no report of {name} in time\n{self._machine.told()}")
                time.sleep(0.1)

    def _more(self) -> bool:
        whole, newline, _ = self._machine.read("reports")[self._offset :].rpartition("\n")
        self._offset += len(whole) + len(newline)
        self._read += [json.loads(line) for line in whole.splitlines()]
        return bool(whole)

    def close(self) -> None:
        self._machine.__exit__()


def _mine(item: pytest.Item) -> bool:
    return item.get_closest_marker("radio") is not None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if _mine(item)]
    why = why_no_machine() if os.environ.get("RADIO") else "the radio tier takes minutes: make test-radio runs it"
    if INSIDE not in os.environ and why:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if not _mine(item) or INSIDE in os.environ or item.get_closest_marker("skip"):
        return None
    hook, config = item.ihook, item.config
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    machines = config.stash.setdefault(_machines, {})
    file = item.nodeid.split("::")[0]
    try:
        if file not in machines:
            machines[file] = "the machine did not start: see the first test"
            machines[file] = Reports([each.nodeid for each in item.session.items if each.nodeid.split("::")[0] == file])
        reports = machines[file]
        if isinstance(reports, str):
            raise LabError(reports)
        for data in reports.of(item.nodeid):
            report = config.hook.pytest_report_from_serializable(config=config, data=data)
            hook.pytest_runtest_logreport(report=report)
    except (LabError, OSError, ValueError, subprocess.SubprocessError) as err:
        report = pytest.TestReport(item.nodeid, item.location, {}, "failed", str(err), "call")
        hook.pytest_runtest_logreport(report=report)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """In the machine: pass it on. The longest of them is a few kilobytes, so a line is written at once."""
    if INSIDE in os.environ:
        plain = {**report._to_json(), "$report_type": "TestReport"}
        with Path("/outside/reports").open("a", encoding="utf-8") as file:
            file.write(json.dumps(plain) + "\n")


def pytest_sessionfinish(session: pytest.Session) -> None:
    for machine in session.config.stash.get(_machines, {}).values():
        if isinstance(machine, Reports):
            machine.close()
