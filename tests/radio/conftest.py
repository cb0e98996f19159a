"""Tests of this folder run in a virtual machine with real Wi-Fi, all of them in one boot; their reports come back.

Each file is collected twice: here, where each test only waits for its report, and in the machine, where pytest
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
from lab.radio.managers import Supplicant
from tests.radio.tier import Tier

INSIDE = "TUNWARDEN_RADIO"  # set in the machine
TIME_LIMIT = 2400  # seconds, for booting and all tests
SLOW = "-o faulthandler_timeout=900"  # seconds; a test that hangs tells where
TOP = Path(__file__).parents[2]

_machine = pytest.StashKey["Reports | str"]()  # or why there is none


class Reports:
    """Boots the machine, runs these tests in it and reads one JSON line for each report."""

    def __init__(self, names: list[str]) -> None:
        tests = " ".join(map(shlex.quote, names))
        # Without the conftest.py of all tests: the machine has only what the daemon and these tests need.
        only = "-p no:cacheprovider --confcutdir=tests/radio"
        command = f"export {INSIDE}=1; python3 -m pytest {only} {SLOW} -q {tests}"
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


def _runs(item: pytest.Item) -> bool:
    return _mine(item) and item.get_closest_marker("skip") is None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if _mine(item)]
    why = why_no_machine() if os.environ.get("RADIO") else "the radio tier is a run of its own: make test-radio"
    if INSIDE not in os.environ and why:
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=why))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item) -> bool | None:
    if not _mine(item) or INSIDE in os.environ or item.get_closest_marker("skip"):
        return None
    hook, config = item.ihook, item.config
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    try:
        if _machine not in config.stash:
            config.stash[_machine] = "the machine did not start: see the first test"
            config.stash[_machine] = Reports([each.nodeid for each in item.session.items if _runs(each)])
        reports = config.stash[_machine]
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
    machine = session.config.stash.get(_machine, None)
    if isinstance(machine, Reports):
        machine.close()


@pytest.fixture(scope="session")
def tier() -> Iterator[Tier]:
    tier = Tier()
    yield tier
    output = tier.subject.process.output() if tier.subject.process else ""
    tier.close()
    assert "Traceback" not in output, output


@pytest.fixture
def supplicant(tier: Tier) -> Iterator[Supplicant]:
    manager = tier.manager("wpa_supplicant")
    assert isinstance(manager, Supplicant)
    yield manager
    manager.leave()
    tier.wait(lambda status: not status.networks)
