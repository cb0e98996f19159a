"""Callers that talk nonsense, too much or without the right to: protection stands, and others are answered."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lab.probes import exit_address
from lab.subject import PROFILE, Subject
from lab.topology import Laboratory
from tests.netns.bad_input import FILE, NAME, connected, worked

__all__ = ["connected"]
pytestmark = pytest.mark.netns


def raw(subject: Subject, name: str = "tunwarden.sock") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    sock.connect(str(subject.lab.laptop.path(f"/run/tunwarden/{name}")))
    return sock


def call(method: str, **parameters: object) -> bytes:
    return json.dumps({"method": f"{NAME}.{method}", "parameters": parameters}).encode() + b"\0"


NONSENSE = (
    b"\0", b"garbage\0", b"[]\0", b'{"method": 1}\0', b"\xff\xfe\0", b"[" * 60_000 + b"\0",
    call("Manager.Explode"), call("Manager.Connect", profile=1), call("Manager.Connect", profile="\0"),
    call("Manager.SetLockdown", on="yes"), call("Manager.SetKillSwitch"), call("Manager.Connect", x=1),
    call("Networks.AddKnown", ssid_hex="zz"), call("Networks.AddKnown", ssid_hex="00" * 33),
    call("Networks.AddKnown", ssid="x", action="open"),
    call("Networks.AddKnown", ssid="x", security="open", action="ignore"),
    call("Networks.ForgetKnown", ssid_hex="q"), call("Profiles.Remove", name="../../etc/passwd"),
    call("Profiles.Import", name="x", text=5), call("Profiles.Import", name="x", text="\ud800"),
)  # fmt: skip


def test_abuse_over_the_socket(connected: Subject, sealed: Any) -> None:
    """Each abuser gets an error or a closed connection; protection is what it was, and the next one is served."""
    before = connected.status()
    abusers: list[socket.socket] = []
    with sealed():
        for message in NONSENSE:
            with raw(connected) as abuser:
                abuser.sendall(message)
                answer = abuser.recv(65536)
                assert b'"error"' in answer or answer == b"", (message[:60], answer)
        with raw(connected) as abuser, pytest.raises(OSError):  # more than any message may have
            for _ in range(64):
                abuser.sendall(b"x" * 65536)
            raise OSError  # it may also be read to its end, and refused
        for _ in range(40):  # half a message, and never the rest
            abusers.append(raw(connected))
            abusers[-1].sendall(b'{"method": "' + b"x" * 100)
        for _ in range(8):  # ask for ever, never read
            abuser = raw(connected, "read.sock")
            abuser.setblocking(False)
            abusers.append(abuser)
            watch = json.dumps({"method": f"{NAME}.Manager.Watch", "more": True}).encode() + b"\0"
            flood = watch if len(abusers) % 2 else call("Manager.GetStatus") * 2000
            try:
                while abuser.send(flood):
                    pass
            except OSError:
                pass
        most = 0.0
        for _ in range(100):
            begun = worked(connected)
            status = connected.status()
            most = max(most, worked(connected) - begun)
        assert most < 2.0, "the next one is served before all that the abusers want is done"
        assert (status.state, status.since, status.profile) == (before.state, before.since, before.profile)
        for abuser in abusers:
            abuser.close()


def test_a_storm_of_commands(connected: Subject, sealed: Any) -> None:
    """Reconnect, connect, switches, from many at once: it settles, with one tunnel, and never opened."""
    lab = connected.lab
    errors: list[Exception] = []

    def shout(number: int) -> None:
        try:
            with connected.client(30) as client:
                for turn in range(6):
                    client.reconnect()
                    client.connect(PROFILE)
                    client.set_lockdown((number + turn) % 2 == 0)
        except Exception as err:
            errors.append(err)

    with sealed():
        shouting = [threading.Thread(target=shout, args=(number,)) for number in range(4)]
        for each in shouting:
            each.start()
        for each in shouting:
            each.join()
        assert errors == []
        connected.wait("connected", 25)
    assert exit_address(lab.laptop, lab.plan.internet4) == lab.plan.server4
    assert len(lab.laptop.run("pidof", "wireguard-go", check=False).stdout.split()) <= 1


AS_NOBODY = """
import json, socket, sys
found = {}
for name in ("tunwarden.sock", "read.sock"):
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.settimeout(10)
    try:
        sock.connect("/run/tunwarden/" + name)
    except OSError as err:
        found[name] = type(err).__name__
        continue
    answers = {}
    for method, parameters in json.loads(sys.argv[1]):
        sock.sendall(json.dumps({"method": method, "parameters": parameters}).encode() + b"\\0")
        answer = b""
        while not answer.endswith(b"\\0"):
            answer += sock.recv(65536)
        answers[method.split("Daemon1.")[1]] = json.loads(answer[:-1]).get("error", "")
    found[name] = answers
print(json.dumps(found))
"""
CHANGES: tuple[tuple[str, dict[str, object], str], ...] = (  # Varlink's name, its parameters, D-Bus's arguments
    ("Manager.Connect", {}, "string:"),
    ("Manager.Disconnect", {}, ""),
    ("Manager.Reconnect", {}, ""),
    ("Manager.SetKillSwitch", {"on": False}, "boolean:false"),
    ("Manager.SetLockdown", {"on": True}, "boolean:true"),
    ("Networks.AddKnown", {"ssid": "Cafe Guest", "action": "disconnect"}, ""),
    ("Networks.ForgetKnown", {"ssid_hex": "41"}, "string:41 boolean:false"),
    ("Profiles.Import", {"name": "x", "text": "[Interface]"}, "string:x string:y"),
    ("Profiles.Remove", {"name": PROFILE}, f"string:{PROFILE}"),
)


def test_e8_nobody_may_look_and_change_nothing(connected: Subject, sealed: Any) -> None:
    """E8: the user `nobody`, on both sockets and on the bus, tries every method."""
    lab = connected.lab
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--")
    calls = [[f"{NAME}.{method}", parameters] for method, parameters, _ in CHANGES]
    with sealed():
        before = connected.status()
        out = lab.laptop.run(*nobody, "/usr/bin/python3", "-I", "-c", AS_NOBODY, json.dumps(calls)).stdout
        found = json.loads(out)
        assert found["tunwarden.sock"] == "PermissionError"
        assert set(found["read.sock"].values()) == {f"{NAME}.Error.NotPermitted"}, found
        for method, _, arguments in CHANGES:
            if method == "Networks.AddKnown":
                arguments = "string:x string: string: string:disconnect string:" + " boolean:false" * 3
            asked = lab.laptop.run(
                *nobody, "dbus-send", "--system", "--print-reply", f"--dest={NAME}", "/org/tunwarden/Daemon1",
                f"{NAME}.{method}", *arguments.split(), check=False,
            )  # fmt: skip
            assert f"{NAME}.Error.NotPermitted" in asked.stderr, (method, asked)
        answer = lab.laptop.run(
            *nobody, "dbus-send", "--system", "--print-reply", f"--dest={NAME}", "/org/tunwarden/Daemon1",
            f"{NAME}.Manager.GetStatus",
        )  # fmt: skip
        assert "connected" in answer.stdout
        now = connected.status()
        assert (now.state, now.since, now.lockdown, now.kill_switch) == ("connected", before.since, False, True)


def test_a_second_daemon_is_refused(connected: Subject, sealed: Any) -> None:
    lab = connected.lab
    assert connected.process is not None
    status = Path(f"/proc/{connected.process.pid}/status").read_text()
    inner = next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid"))
    with sealed():
        for _ in range(2):
            second = lab.laptop.run(lab.python, "-I", "-m", "daemon", check=False)
            assert (second.returncode, second.stderr) == (1, f"tunwardend: already running as process {inner}\n")
        assert connected.status().protected


def test_a_place_that_is_taken_does_not_end_protection(lab: Laboratory, sealed: Any) -> None:
    """Something else stands where the socket belongs: the network is guarded, and the bus still answers."""
    lab.laptop.run("mkdir", "-p", "/run/tunwarden/tunwarden.sock")
    lab.laptop.write(FILE, "version = 'one'")
    process = lab.laptop.start(lab.python, "-I", "-m", "daemon")
    process.wait_output("ready")
    with sealed("eth0"):
        lab.plug()
        assert lab.networkmanager is not None
        answer = lab.networkmanager.client.call(NAME, "/org/tunwarden/Daemon1", f"{NAME}.Manager.GetStatus")
        assert "is not a socket" in str(answer)
        lab.laptop.run("rmdir", "/run/tunwarden/tunwarden.sock")
        subject = Subject(lab, None)
        deadline = time.monotonic() + 30
        while not lab.laptop.listens("/run/tunwarden/tunwarden.sock"):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        subject.wait(lambda status: not any("is not a socket" in each for each in status.warnings))
