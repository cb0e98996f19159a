"""I6: what is logged reaches journald with its fields, or standard error; and never with a secret."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ipc.places import ROOT

KEY = "yAnz5TF+lXXJte14tji3zlMNq+hd2rYUIgJBgB3fBmk="
SCRIPT = f"""
import logging, os, sys
from daemon import logs
logs.JOURNAL = sys.argv[1]
logs.configure()
import structlog
log = structlog.get_logger()
log.debug("unseen")
log.info("state", phase="blocked", cause=None, note="PrivateKey = {KEY}")
log.warning("two\\nlines", password="hunter2-hunter2")
try:
    raise ValueError("key {KEY}")
except ValueError:
    log.exception("failed", attempt=3)
logging.getLogger("tunwarden.ipc").warning("asked by %d", 7)
logging.getLogger("tunwarden.ipc").debug("unseen")
logging.getLogger("somebody").debug("unseen")
log.error("odd", **{{"with space": object}})
print("\\n".join(logs.recent), file=sys.stdout)
"""


def fields(datagram: bytes) -> dict[str, str]:
    found = {}
    while datagram:
        head, _, rest = datagram.partition(b"\n")
        name, sign, value = head.partition(b"=")
        if not sign:  # a value of several lines: its length, then itself
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size + 1 :]
        found[name.decode()] = value.decode()
        datagram = rest
    return found


def run(tmp_path: Path, journal: bool) -> tuple[str, str, list[dict[str, str]]]:
    place = tmp_path / "journal"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener, (tmp_path / "stderr").open("w+") as err:
        listener.bind(str(place))
        listener.setblocking(False)
        about = os.fstat(err.fileno())
        env = {"PATH": "/usr/bin", "JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}" if journal else "1:1"}
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT, str(place)], cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=err, text=True
        )
        err.seek(0)
        told = err.read()
        assert done.returncode == 0, told
        got = []
        while True:
            try:
                got.append(fields(listener.recv(1 << 20)))
            except BlockingIOError:
                return done.stdout, told, got


@pytest.mark.parametrize("journal", [True, False])
def test_what_is_told(tmp_path: Path, journal: bool) -> None:
    recent, err, got = run(tmp_path, journal)
    everything = recent + err + str(got)
    for secret in (KEY, "hunter2", "unseen"):
        assert secret not in everything
    for told in ("phase=blocked", "asked by 7", "attempt=3", "<key>"):
        assert told in recent and told in (str(got) if journal else err)
    if not journal:
        assert got == []
        assert [line.split(" level=")[1].split()[0] for line in err.splitlines() if " level=" in line] == [
            "info", "warning", "error", "warning",
        ]  # fmt: skip
        return
    assert "could not be logged" in err, "what cannot be rendered is said, and stops nobody"
    first, second, third, fourth = got
    assert first["MESSAGE"].startswith("event=state ")
    assert (first["PRIORITY"], first["SYSLOG_IDENTIFIER"], first["TUNWARDEN_PHASE"]) == ("6", "tunwardend", "blocked")
    assert "TUNWARDEN_CAUSE" not in first
    assert (second["PRIORITY"], second["TUNWARDEN_PASSWORD"]) == ("4", "<secret>")
    assert "\n" not in second["MESSAGE"]
    assert third["PRIORITY"] == "3"
    assert third["TUNWARDEN_EXCEPTION"].startswith("Traceback (most recent call last):\n  File")
    assert (fourth["PRIORITY"], fourth["TUNWARDEN_LOGGER"]) == ("4", "tunwarden.ipc")


def test_a_journal_that_does_not_listen(tmp_path: Path) -> None:
    """Then standard error, which is a stream of the journal, has the line with its priority."""
    code = SCRIPT.replace("logs.JOURNAL = sys.argv[1]", "logs.JOURNAL = '/nowhere/at/all'")
    with (tmp_path / "stderr").open("w+") as err:
        about = os.fstat(err.fileno())
        env = {"PATH": "/usr/bin", "JOURNAL_STREAM": f"{about.st_dev}:{about.st_ino}"}
        subprocess.run(
            [sys.executable, "-c", code, "x"], cwd=ROOT, env=env, check=True, stdout=subprocess.DEVNULL, stderr=err
        )
        err.seek(0)
        lines = err.read().splitlines()
    assert [line[:3] for line in lines] == ["<6>", "<4>", "<3>", "<4>", "an "]
