"""The daemon starts quickly and stays small, because it imports little. (Figures are in bench/, not judged here.)"""

from __future__ import annotations

import subprocess
import sys

from tests.ipc.places import ROOT

WHOLE = "import sys, daemon.__main__, daemon.linux.host, daemon.linux.systemd\n"


def run(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True).stdout


def test_what_is_not_imported() -> None:
    loaded = set(run(WHOLE + "print(*sorted(name for name, module in sys.modules.items() if module))").split())
    assert loaded.isdisjoint(
        {"_ssl", "ssl", "_hashlib", "unittest", "argparse", "http.client", "rich", "twisted", "pyroute2"}
        | {"importlib.metadata", "multiprocessing", "pickle"}
    )
    assert {"asyncio", "pydantic", "dbus_fast.aio", "daemon.linux.wireguard_kernel"} <= loaded


def test_hashes_work_all_the_same() -> None:
    assert run(WHOLE + "import hashlib; print(hashlib.sha256(b'').hexdigest()[:8])") == "e3b0c442\n"


def test_what_was_imported_before_is_left_alone() -> None:
    before = "import ssl, hashlib, unittest.mock\n"
    after = "import ssl as s; print(s.create_default_context and unittest.mock.Mock() and sys.modules['ssl'] is ssl)"
    assert run(before + WHOLE + after) == "True\n"


def test_no_empty_stand_in_outlives_the_import() -> None:
    assert run(
        WHOLE + "from unittest import mock; import argparse, pickle; print(pickle.loads(pickle.dumps(mock.__name__)))"
    ) == ("unittest.mock\n")
