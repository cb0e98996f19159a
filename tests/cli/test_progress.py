"""What is shown while something is waited for: on a terminal the step, in a pipe the reasons, with --json nothing."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.progress import CLEAR, FRAMES
from tests.cli.running import daemon, tunwarden
from tests.ipc.places import ROOT

pytestmark = pytest.mark.netns  # the daemon's socket wants root's folder


@pytest.fixture
def folder() -> Iterator[Path]:
    with daemon() as place:
        yield place


def on_a_terminal(folder: Path, *words: str, **env: str) -> tuple[str, int]:
    """What is drawn on standard error, and the exit code."""
    outer, inner = pty.openpty()
    command = [sys.executable, "-m", "cli.main", "--run-folder", str(folder), *words]
    environment = {"PATH": "/usr/bin", "LANG": "C.UTF-8", "TERM": "xterm", **env}
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=inner, cwd=ROOT, env=environment) as process:
        os.close(inner)
        shown = b""
        while True:
            try:
                part = os.read(outer, 65536)
            except OSError:  # how a terminal says that the other side has gone
                break
            shown += part
        process.wait(60)
    os.close(outer)
    return shown.decode(), process.returncode


def test_a_terminal_shows_the_step_and_is_left_clean(folder: Path) -> None:
    shown, code = on_a_terminal(folder, "connect", "slow", "--wait", "--timeout", "2")
    assert code == 5
    assert any(f"{CLEAR}{frame} Connecting to the VPN: No answer." in shown for frame in FRAMES)
    drawn, _, after = shown.rpartition(CLEAR)
    assert drawn and "not connected after 2 s" in after and "Connecting" not in after


def test_a_dumb_terminal_gets_lines(folder: Path) -> None:
    shown, code = on_a_terminal(folder, "connect", "slow", "--wait", "--timeout", "1", TERM="dumb")
    assert (code, "\x1b" in shown) == (5, False)
    assert shown.splitlines()[0] == "No answer."


def test_a_pipe_gets_the_reasons_and_json_nothing(folder: Path) -> None:
    ended = tunwarden(folder, "connect", "slow", "--wait", "--timeout", "1")
    assert (ended.code, ended.err.splitlines()[0], "\x1b" in ended.err) == (5, "No answer.", False)
    ended = tunwarden(folder, "connect", "slow", "--wait", "--timeout", "1", "--json")
    assert (ended.code, "No answer." in ended.err, "\x1b" in ended.err) == (5, False, False)
    assert isinstance(ended.json, dict) and ended.json["state"] == "connecting"
