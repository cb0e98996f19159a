"""Completion of what the daemon knows: in real shells at a terminal, with names that try to do something."""

from __future__ import annotations

import os
import pty
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from cli import completion_values
from cli.completion import SHELLS
from cli.completion_values import KINDS, MEANT, values
from cli.grammar import commands, program
from ipc.structs import KnownNetwork
from policies.classify import ssid_text
from tests.cli.running import daemon, tunwarden
from tests.ipc.fake_service import KNOWN
from tests.ipc.places import STRANGER, public_folder

HOSTILE = (
    "$(touch owned)", "`touch owned`", "a; touch owned", "a & touch owned #", "x' $(touch owned) '",
    'x" `touch owned` "',
    "a|touch owned", "a > owned", "${IFS}touch${IFS}owned", "!touch owned", "*", "[a-z]*", "a b  c", "{a,b}", "a:b",
    "Caf\u00e9", "$HOME", "a=$(touch owned)", "(touch owned)", "%self", "^a^b", "a\\tb",
)  # fmt: skip

# Stands for the program: says the name when it is asked for names, else notes its words.
FAKE = """\
#!/bin/sh
case "$*" in
    "completion --values known") cat '{folder}/name'; echo ;;
    completion*) ;;
    *) printf '%s\\0' "$@" >'{folder}/words.new' && mv '{folder}/words.new' '{folder}/words' ;;
esac
"""
START = {
    "bash": ("bash", "--norc", "--noprofile", "-i"),
    "zsh": ("zsh", "-f", "-i"),
    "fish": ("fish", "--no-config", "-i"),
}
LOAD = {
    "bash": ". ./tunwarden.bash",
    "zsh": "autoload -Uz compinit && compinit -u -d ./dump && . ./tunwarden.zsh && setopt noautomenu",
    "fish": "source tunwarden.fish",
}


class Terminal:
    """A shell at a terminal of its own."""

    def __init__(self, shell: str, folder: Path) -> None:
        self._folder = folder
        env = {"PATH": f"{folder}/bin:/usr/bin:/bin", "HOME": str(folder), "TERM": "dumb", "LANG": "C.UTF-8"}
        self._pid, self._fd = pty.fork()
        if self._pid == 0:
            os.chdir(folder)
            os.execvpe(START[shell][0], START[shell], env)
        self._said = b""

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def wait(self, file: str, keys: str = "") -> str:
        """The content of a file that a command makes; `keys` are typed again while it does not come."""
        path, end, again = self._folder / file, time.monotonic() + 25, time.monotonic() + 5
        while not path.exists() or not path.read_text():
            assert time.monotonic() < end, self._said.decode(errors="replace")[-2000:]
            if keys and time.monotonic() > again:
                self.type(keys)
                again += 5
            if select.select([self._fd], [], [], 0.05)[0]:
                self._said += os.read(self._fd, 65536)
        return path.read_text()

    def listen(self, seconds: float) -> None:
        """Take what the shell says, until it is silent for so long."""
        while select.select([self._fd], [], [], seconds)[0]:
            self._said += os.read(self._fd, 65536)

    def close(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._fd)


@contextmanager
def at_terminal(shell: str, folder: Path) -> Iterator[Terminal]:
    terminal = Terminal(shell, folder)
    try:
        yield terminal
    finally:
        terminal.close()


@pytest.mark.parametrize("shell", START)
def test_e3_a_name_is_completed_as_it_is_and_runs_nothing(shell: str, tmp_path: Path) -> None:
    """The key is pressed, the line sent: the program gets exactly that name, and nothing that it says is run."""
    if shutil.which(START[shell][0]) is None:
        pytest.skip(f"{shell} is missing: run lab/install-missing")
    (tmp_path / "bin").mkdir()
    name, words = tmp_path / "name", tmp_path / "words"
    fake = tmp_path / "bin" / "tunwarden"
    fake.write_text(FAKE.format(folder=tmp_path))
    fake.chmod(0o755)
    (tmp_path / f"tunwarden.{shell}").write_text("\n".join(SHELLS[shell](program())) + "\n")
    name.write_text("unused")
    with at_terminal(shell, tmp_path) as terminal:
        terminal.type(f"{LOAD[shell]}; echo ready > loaded\r")
        terminal.wait("loaded", "\r")
        for hostile in HOSTILE:
            name.write_text(hostile)
            words.unlink(missing_ok=True)
            terminal.listen(0.1)
            terminal.type("tunwarden known forget \t\r")
            assert terminal.wait("words").split("\0") == ["known", "forget", hostile, ""]
            assert not (tmp_path / "owned").exists(), hostile


def test_values_come_from_the_daemon() -> None:
    with daemon() as folder:
        for kind, wanted in (
            ("profiles", ["home"]), ("known", ["Corp-*", "Home"]), ("prompts", ["ab12"]),
            ("settings", ["protection.lockdown", "protection.lan_subnets", "wifi.secured"]),
        ):  # fmt: skip
            ended = tunwarden(folder, "completion", "--values", kind, who=STRANGER)
            assert (ended.code, ended.out.splitlines(), ended.err) == (0, wanted, "")


SPOILT = (b"a\nb", b"a\0b", b"\x1b[31m", b"~/x", b"-rf", b" x", b"x ", b"", b"\xff", b"a\\b", b"\xe2\x80\xae")


@pytest.mark.parametrize("ssid", SPOILT)
def test_e3_a_name_that_would_not_come_back_as_it_is_stands_in_hexadecimal(
    ssid: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Here:
        def __init__(self, *_: object, **__: object) -> None: ...
        def __enter__(self) -> Here:
            return self

        def __exit__(self, *_: object) -> None: ...
        def list_known(self, start: int) -> tuple[KnownNetwork, ...]:
            both = (replace(KNOWN, ssid=ssid_text(ssid), ssid_hex=ssid.hex()), KNOWN)
            return both[start:]

    monkeypatch.setattr(completion_values, "Client", Here)
    assert values("known", "/nowhere") == [each for each in (ssid.hex(), "Home") if each]


def test_without_a_daemon_there_are_none_and_nothing_is_said() -> None:
    with public_folder() as nowhere:
        for kind in KINDS:
            ended = tunwarden(nowhere, "completion", "--values", kind)
            assert (ended.code, ended.out, ended.err) == (0, "", "")


def test_every_place_that_the_daemon_can_fill_is_known() -> None:
    """A table that names a place which no command has any more is wrong."""
    places = {(each.path[0], part.metavar) for each in commands(program()) if each.path for part in each.arguments}
    for command, metavar in MEANT:
        assert (command, metavar) in places or (not command and metavar in {name for _, name in places})


def test_no_shell_is_named(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "cli.main", "completion"], capture_output=True, text=True, check=False)
    assert done.returncode != 0 and "bash, zsh, fish" in done.stderr
