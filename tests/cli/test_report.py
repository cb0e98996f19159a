"""`tunwarden trace` and `tunwarden report`, against the real Varlink face."""

from __future__ import annotations

import os
import pty
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.running import daemon, popen, tunwarden
from tests.ipc.places import MEMBER, STRANGER, public_folder

pytestmark = pytest.mark.netns  # needs root: other users ask


@pytest.fixture
def folder() -> Iterator[Path]:
    with daemon() as place:
        yield place


def test_trace(folder: Path) -> None:
    assert tunwarden(folder, "trace", "status", who=STRANGER).out == "No trace is written.\n"
    trace = tunwarden(folder, "trace", "on", "--minutes", "5", "--hide-names", "--json").json
    assert isinstance(trace, dict)
    assert (trace["on"], trace["hide_names"], trace["until"]) == (True, True, 1_700_000_300)
    shown = tunwarden(folder, "trace", "status", who=MEMBER).out
    assert "names and addresses are hidden" in shown and "in /var/lib/tunwarden/trace" in shown
    assert "4.1 kB in /var/lib/tunwarden/trace" in tunwarden(folder, "trace", "off").out
    for words in (("on",), ("off",)):
        assert tunwarden(folder, "trace", *words, who=MEMBER).code == 4
    for wrong in ("0", "1441", "-1", "x"):
        assert tunwarden(folder, "trace", "on", "--minutes", wrong).code == 2


def test_report_is_one_file_of_the_callers(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "report.txt"
    ended = tunwarden(folder, "report", str(file), "--yes")
    assert (ended.code, ended.err) == (0, "")
    assert [line.split()[0] for line in ended.out.splitlines()[:3]] == ["PART", "Log", "Doctor"]
    assert "nothing was sent" in ended.out
    text = file.read_text()
    assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o600, 0)
    assert "=== Log: The last lines.\n\n12:00 info \\x1b[31mstate phase=idle\n" in text
    assert "=== Doctor: " in text
    ended = tunwarden(folder, "report", str(file), "--yes")
    assert (ended.code, "File exists" in ended.err, file.read_text()) == (1, True, text)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nothing")
    assert tunwarden(folder, "report", str(link), "--yes").code == 1
    assert not (tmp_path / "nothing").exists()


def test_report_without_root_has_what_everybody_may_see(folder: Path) -> None:
    with public_folder() as place:
        os.chown(place, STRANGER.uid, STRANGER.gid)
        ended = tunwarden(folder, "report", str(place / "mine"), "--yes", who=STRANGER)
        assert ended.code == 0, ended
        text = (place / "mine").read_text()
        assert ((place / "mine").stat().st_uid, (place / "mine").stat().st_mode & 0o777) == (STRANGER.uid, 0o600)
    for part in ("Note", "Status", "Settings", "Profiles", "Doctor"):
        assert f"=== {part}: " in text
    assert "Made without root" in text and "12:00 info" not in text


def test_report_hides_names_when_asked_to(folder: Path) -> None:
    shown = tunwarden(folder, "report", "--show", who=STRANGER).out
    assert "Café" in shown and "198.51.100.7:51820" in shown
    assert "\x1b" not in shown
    hidden = tunwarden(folder, "report", "--show", "--hide-names", who=STRANGER).out
    for name in ("Café", "436166c3a9", "198.51.100.7"):
        assert name not in hidden
    assert "<network 1>" in hidden and re.search("<address [0-9]+>:51820", hidden)


def test_report_as_json_and_without_a_daemon(folder: Path) -> None:
    parts = tunwarden(folder, "report", "--json").json
    assert isinstance(parts, list) and [part["name"] for part in parts] == ["Log", "Doctor"]
    with public_folder() as nowhere:
        ended = tunwarden(nowhere, "report", "--show")
        assert ended.code == 0
        assert "=== Daemon: " in ended.out and "systemctl start tunwarden" in ended.out


def test_report_asks_first(folder: Path, tmp_path: Path) -> None:
    ended = tunwarden(folder, "report", str(tmp_path / "x"))
    assert (ended.code, "--yes writes the file" in ended.err) == (1, True)
    for answer, written in (("n", False), ("\n", False), ("y", True)):
        outer, inner = pty.openpty()
        process = popen(folder, "report", str(tmp_path / "asked"), stdin=inner)
        os.close(inner)
        os.write(outer, f"{answer}\n".encode())
        out, err = process.communicate(timeout=60)
        os.close(outer)
        assert "Write this to" in out
        assert ((tmp_path / "asked").exists(), process.returncode) == (written, 0 if written else 1), err
