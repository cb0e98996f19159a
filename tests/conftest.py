"""Fixtures of every test, and the marker `netns` of those that need the network laboratory."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Generator, Iterator

import hypothesis
import pytest

from lab.topology import Laboratory

PROGRAMS = (
    "unshare", "nsenter", "setpriv", "ip", "nft", "dnsmasq", "wg", "wireguard-go", "dbus-daemon", "tcpdump", "udhcpc",
)  # fmt: skip
# A shell's background job ignores SIGINT, and so would every program that a test starts and then interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
# No test asserts how long something takes: bench/ does.
hypothesis.settings.register_profile("tunwarden", deadline=None)
hypothesis.settings.load_profile("tunwarden")

_failed = pytest.StashKey[bool]()
_counter = itertools.count(1)


def why_no_namespaces() -> str | None:
    """Why this machine cannot run the laboratory; None when it can."""
    if os.name != "posix" or os.uname().sysname != "Linux":
        return "the network laboratory needs Linux"
    if os.geteuid() != 0:
        return "the network laboratory needs root"
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"the network laboratory misses {', '.join(missing)}: run lab/install-missing"
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("netns")]
    if marked and (why := why_no_namespaces()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=why))
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"skipping {len(marked)} tests: {why}", yellow=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        item.stash[_failed] = True
    return report


def next_seed() -> int:
    """A seed no other laboratory of this test run has, the same in the next run."""
    worker = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return int(worker) * 1000 + next(_counter)


@pytest.fixture
def lab(request: pytest.FixtureRequest) -> Iterator[Laboratory]:
    """A fresh laboratory, about 0.4 s. When the test fails, all its logs are kept and the path is printed."""
    with Laboratory(next_seed()) as laboratory:
        yield laboratory
        if request.node.stash.get(_failed, False):
            print(f"the laboratory's logs are kept in {laboratory.keep_logs()}")
