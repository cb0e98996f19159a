"""`tunwarden prompts` against the real Varlink face with the fake service behind it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cli.output import Output
from cli.prompts import Desk
from tests.cli.running import daemon, popen, tunwarden
from tests.ipc.fake_service import PROMPT
from tests.ipc.places import MEMBER, ROOT, STRANGER

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set


@pytest.fixture
def folder() -> Iterator[Path]:
    with daemon() as place:
        yield place


def test_list(folder: Path) -> None:
    ended = tunwarden(folder, "prompts", "list", who=STRANGER)
    assert (ended.code, ended.err) == (0, "")
    head, row = ended.out.splitlines()
    assert head.split() == ["ID", "NETWORK", "WHY", "UNTIL", "THEN"]
    assert row.startswith("ab12  “Café \\x1b[31m” on wlan0  The network has no encryption.")
    assert row.endswith("22:14:20  auto_connect") and "\x1b" not in ended.out
    listed = tunwarden(folder, "prompts", "list", "--json", who=STRANGER).json
    assert isinstance(listed, list)
    assert (listed[0]["id"], listed[0]["network"]["verdict"]) == ("ab12", "unsecured")


def test_answer(folder: Path) -> None:
    assert tunwarden(folder, "prompts", "answer", "ab12", "ignore", who=STRANGER).code == 4
    assert tunwarden(folder, "prompts", "answer", "ab12", "ignore", "always", who=MEMBER).code == 4
    assert tunwarden(folder, "prompts", "answer", "ab12", "perhaps", who=MEMBER).code == 2
    ended = tunwarden(folder, "prompts", "answer", "ab12", "connect", "always", who=MEMBER)
    assert (ended.code, ended.out, ended.err) == (0, "Answered.\n", "")
    ended = tunwarden(folder, "prompts", "answer", "ab12", "connect")
    assert (ended.code, ended.err) == (1, "tunwarden: Answer: its time is over.\n")
    assert tunwarden(folder, "prompts", "list").out == "Nothing waits for an answer.\n"


def test_ask_answers_what_waits_and_ends_with_the_input(folder: Path) -> None:
    with popen(folder, "prompts", who=MEMBER) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        try:
            assert process.stdout.readline() == "“Café \\x1b[31m” on wlan0: The network has no encryption.\n"
            assert process.stdout.readline().startswith("  Nothing leaves over it until then. At 22:14:20: the VPN is")
            assert "Type connect or ignore, with always" in process.stdout.readline()
            process.stdin.write("what\nignore always\nignore\n")
            process.stdin.flush()
            last = process.stdout.readline()
            assert last == "“Café \\x1b[31m” on wlan0: answered, the network is used without the VPN.\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(30) == 130
            assert process.stderr.readline() == "Waiting for questions; Ctrl-C ends it.\n"
            assert process.stderr.readline().startswith("connect, ignore, connect always")
            assert process.stderr.readline().startswith("tunwarden: Prompts.Answer: this needs the administrator.")
        finally:
            process.kill()


def test_ask_without_input_is_no_agent_for_long(folder: Path) -> None:
    ended = tunwarden(folder, "prompts", "ask", "--json")
    assert ended.code == 1
    assert json.loads(ended.out)["state"] == "raised"
    assert ended.err.splitlines()[-1] == "tunwarden: nothing more can be typed here, so this ends."


def test_ask_needs_the_right_to_answer(folder: Path) -> None:
    ended = tunwarden(folder, "prompts", who=STRANGER)
    assert (ended.code, ended.out) == (4, "")


def test_a_name_does_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever the daemon did with it."""
    evil = replace(PROMPT, state="withdrawn", network=replace(PROMPT.network, ssid="\x1b[2Jcafe\u202e"))
    Desk("", Output(False))._heard(evil)
    assert capsys.readouterr().out == "“\\x1b[2Jcafe\\u202e” on wlan0: there is nothing to ask any more.\n"


def test_what_was_typed_before_a_question_answers_nothing(folder: Path) -> None:
    """On a terminal: half a line meant for an earlier question must not answer the next."""
    outer, inner = pty.openpty()
    os.write(outer, b"ignore\n")
    with subprocess.Popen(
        [sys.executable, "-m", "cli.main", "--run-folder", str(folder), "prompts"],
        stdin=inner, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT,
        env={"PATH": "/usr/bin", "LANG": "C.UTF-8", "TERM": "dumb"},
    ) as process:  # fmt: skip
        try:
            assert process.stdout is not None
            for _ in range(3):
                process.stdout.readline()
            os.write(outer, b"connect\n")
            assert process.stdout.readline().decode().endswith("answered, the VPN is used.\n")
        finally:
            process.kill()
            os.close(outer)
            os.close(inner)
