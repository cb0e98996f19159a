"""Sockets that systemd listens at for the daemon: sd_listen_fds(3)."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.ipc.places import ROOT

# Turns into the daemon's own interpreter as systemd does: sockets from 3 on, and its own process id.
BECOME = """
import os, sys
descriptors, pid, names, code = sys.argv[1:]
for place, descriptor in enumerate(map(int, descriptors.split()), 100):
    os.dup2(descriptor, place)
for place in range(len(descriptors.split())):
    os.dup2(place + 100, place + 3, inheritable=True)
ours = {"LISTEN_PID": pid or str(os.getpid()), "LISTEN_FDS": str(len(descriptors.split())), "LISTEN_FDNAMES": names}
os.execve(sys.executable, [sys.executable, "-c", code], {"PYTHONPATH": os.getcwd()} | ours)
"""
TELL = """
import json, os
from daemon.linux.systemd import listeners
found = {name: [each.getsockname(), each.fileno(), each.get_inheritable()] for name, each in listeners().items()}
print(json.dumps([found, listeners() == {}, sorted(name for name in os.environ if name.startswith("LISTEN"))]))
"""


def told(folder: Path, names: str, pid: str = "", extra: str = "") -> dict[str, list[object]]:
    """What `listeners` gives: name -> (where, descriptor, whether children get it)."""
    with ExitStack() as stack:
        made = []
        for name in names.split(":"):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.bind(str(folder / f"{len(made)}-{name}"))
            sock.listen()
            made.append(sock.fileno())
        done = subprocess.run(
            [sys.executable, "-c", BECOME, " ".join(map(str, made)), pid, names + extra, TELL],
            cwd=ROOT, check=True, capture_output=True, text=True, pass_fds=made, timeout=60,
        )  # fmt: skip
    found, taken_once, environment = json.loads(done.stdout)
    assert taken_once
    assert environment == []
    assert isinstance(found, dict)
    return found


def test_sockets_by_name(tmp_path: Path) -> None:
    found = told(tmp_path, "tunwarden.sock:read.sock")
    assert found == {
        "tunwarden.sock": [str(tmp_path / "0-tunwarden.sock"), 3, False],
        "read.sock": [str(tmp_path / "1-read.sock"), 4, False],
    }


def test_for_another_process(tmp_path: Path) -> None:
    assert told(tmp_path, "theirs", pid="1") == {}
    assert told(tmp_path, "nobodys", pid="me") == {}


def test_two_with_one_name_and_names_without_a_socket(tmp_path: Path) -> None:
    assert [*told(tmp_path, "a:a", extra=":b:c")] == ["a"]
