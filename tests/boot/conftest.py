"""The machine of this tier: a container booted by systemd, with the daemon installed by the real `make install`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.container import Container, why_no_container
from tests.boot.machine import PROJECT, WHEELS, Machine

TOP = Path(__file__).parents[2]
OUT_OF_REACH = ("Retrying", "ConnectionError", "ConnectTimeout", "ReadTimeout", "ProxyError", "NameResolutionError")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("boot")]
    if marked and (why := why_no_container()):
        for item in marked:
            item.add_marker(pytest.mark.skip(reason=why))
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"skipping {len(marked)} tests: {why}", yellow=True)


def target_python() -> str:
    """The version that `make install` will run with, such as 3.11: it is not always the one of the tests."""
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run(["/usr/bin/python3", "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All that `make install` asks the package index for, fetched outside: the container has no network.

    pip checks the hashes here and, as `systemd/install` demands it, once more inside.
    """
    folder = tmp_path_factory.mktemp("wheels")
    download = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--require-hashes",
        "--only-binary=:all:", "--python-version", target_python(), "--retries", "1", "--timeout", "20", "-d", folder,
    ]  # fmt: skip
    for lock in (TOP / "requirements.lock", TOP / "systemd" / "build.lock"):
        done = subprocess.run(
            [*download, "-r", lock], capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C"}
        )
        if done.returncode != 0:
            if any(sign in done.stderr for sign in OUT_OF_REACH):
                pytest.skip(f"the package index is out of reach: {done.stderr.strip().splitlines()[-1]}")
            pytest.fail(f"pip download -r {lock.name}: {done.stderr}")
    return folder


@pytest.fixture(scope="module")
def machine(wheels: Path) -> Iterator[Machine]:
    """Booted, installed and booted again, once a file: some 10 s. Its network has a neighbour (machine.py)."""
    with Container("box", {TOP: PROJECT, wheels: WHEELS}) as box:
        machine = Machine(box)
        machine.prepare()
        machine.install()
        machine.reboot()
        yield machine


@pytest.fixture
def fresh(machine: Machine) -> Machine:
    """Running, unprotected, with no profile and the settings of a fresh install."""
    machine.start_over()
    return machine
