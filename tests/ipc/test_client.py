"""The client library against servers that are absent, silent, or something else."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from ipc.client import Client, NotRunningError, ProtocolError
from ipc.errors import Error, ServiceError
from tests.ipc.places import public_folder


@contextlib.contextmanager
def answering(*answers: bytes | None) -> Iterator[str]:
    """A server that sends these bytes, whatever it is asked; None: it stays silent until the end."""
    with public_folder() as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(str(folder / "tunwarden.sock"))
        server.listen()
        over = threading.Event()

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                for answer in answers:
                    connection.recv(65536)
                    if answer is None:
                        over.wait(10)
                        return
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield str(folder)
        finally:
            over.set()
            thread.join()


def test_nobody_there() -> None:
    with public_folder() as folder:
        with pytest.raises(NotRunningError, match="systemctl start tunwarden"):
            Client(str(folder))
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(folder / "tunwarden.sock"))
            with pytest.raises(NotRunningError):
                Client(str(folder))


def test_a_silent_server() -> None:
    with answering(None) as folder, Client(folder, timeout=0.2) as client:
        begun = time.monotonic()
        with pytest.raises(TimeoutError):
            client.get_version()
        assert time.monotonic() - begun < 20


@pytest.mark.parametrize(
    "answer, error",
    [
        (b"", NotRunningError),
        (b'{"parameters": {"vers', NotRunningError),
        (b"nonsense\0", ProtocolError),
        (b"[]\0", ProtocolError),
        (b"\xff\0", ProtocolError),
        (b'{"parameters": []}\0', ProtocolError),
        (b'{"parameters": {}}\0', ProtocolError),
        (b'{"parameters": {"version": 1}}\0', ProtocolError),
        (b'{"error": "org.varlink.service.MethodNotFound"}\0', ServiceError),
    ],
)
def test_wrong_answers(answer: bytes, error: type[Exception]) -> None:
    with answering(answer) as folder, Client(folder, timeout=20) as client, pytest.raises(error):
        client.get_version()


def test_errors_come_back_as_they_were_raised() -> None:
    fields = {"what": "Profile x", "why": "it is not stored.", "remedy": "Import it."}
    reply = {"error": "org.tunwarden.Daemon1.Error.NoSuchProfile", "parameters": fields}
    with answering(json.dumps(reply).encode() + b"\0") as folder, Client(folder) as client:
        with pytest.raises(ServiceError) as caught:
            client.connect("x")
        assert caught.value.error is Error.NO_SUCH_PROFILE
        assert str(caught.value) == "Profile x: it is not stored. Import it."


def test_a_newer_daemon_may_say_more() -> None:
    known = {
        "ssid": "a", "ssid_hex": "61", "security": "wpa2", "allow_lan": True, "source": "user", "colour": "blue",
        "pattern": False, "exceptions": [], "bssids": [], "gateways": [], "learn": False, "entry": "{}",
    }  # fmt: skip
    reply = json.dumps({"parameters": {"known": [known], "more": 1}}).encode() + b"\0"
    with answering(reply, b'{"parameters": {"known": []}}\0') as folder, Client(folder, timeout=20) as client:
        (one,) = client.all_known()
        assert (one.ssid, one.action) == ("a", None)
