"""The command line starts quickly, because it imports little. (Times are measured in bench/, not judged here.)"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.ipc.places import ROOT

HEAVY = {"asyncio", "pydantic", "dbus_fast", "asyncvarlink", "structlog", "daemon", "pyroute2", "subprocess", "logging"}


@pytest.mark.parametrize("module", ["ipc.client", "cli.status", "cli.connect", "cli.watch", "cli.main"])
def test_what_is_not_imported(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert HEAVY.isdisjoint(json.loads(done.stdout))
