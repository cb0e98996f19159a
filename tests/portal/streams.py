"""The events process: a real uvicorn on loopback, and streams that are read line by line."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TOP = Path(__file__).parent.parent.parent


PATIENCE = 25.0  # seconds; the machine may be busy
STARTING = 120.0  # seconds, for a process that loads Django beside other tests


@dataclass
class Process:
    """The events process."""

    address: tuple[str, int]
    pid: int
    patience: float = PATIENCE
    connections: list[http.client.HTTPConnection] = field(default_factory=list)

    def request(self, method: str, path: str, token: str = "", **headers: str) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection(*self.address, timeout=self.patience)
        self.connections.append(connection)
        sent = {"Host": "testserver", **headers} | ({"Authorization": f"Bearer {token}"} if token else {})
        connection.request(method, path, headers=sent)
        return connection.getresponse()

    def hang_up(self) -> None:
        for each in self.connections:
            each.close()
        self.connections.clear()

    def stream(self, token: str, last: str = "") -> Stream:
        response = self.request("GET", "/api/v1/events", token, **({"Last-Event-ID": last} if last else {}))
        assert response.status == 200, response.read()
        return Stream(response, self.connections[-1])

    def refused(self, *arguments: str, **headers: str) -> tuple[int, str]:
        response = self.request(*arguments, **headers)
        return response.status, json.loads(response.read())["code"]


@dataclass
class Stream:
    response: http.client.HTTPResponse
    connection: http.client.HTTPConnection

    def next(self, comments: bool = False) -> dict[str, str] | None:
        """The next event, or with `comments` also the next comment; None at the end."""
        found: dict[str, str] = {}
        until = time.monotonic() + PATIENCE
        while line := self.response.readline().decode():
            assert time.monotonic() < until, "nothing but comments"
            name, _colon, value = line.rstrip("\n").partition(":")
            if comments and line.startswith(":"):
                return {"comment": value.strip()}
            if line == "\n" and "event" in found:
                return found
            if name:
                found[name] = value.removeprefix(" ")
        return None

    def close(self) -> None:
        self.response.close()
        self.connection.close()


@contextmanager
def uvicorn(**environment: str) -> Iterator[Process]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(64)
        address = listening.getsockname()
        command = [sys.executable, "-m", "uvicorn", "portal.asgi:application", "--fd", str(listening.fileno())]
        command += ["--log-level", "warning", "--timeout-graceful-shutdown", "20"]
        process = subprocess.Popen(
            command, cwd=TOP, env=os.environ | environment, pass_fds=[listening.fileno()],
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    made = Process(address, process.pid, STARTING)
    try:
        assert made.refused("GET", "/") == (404, "not_found")  # it waits in the backlog until the process is ready
        made.patience = PATIENCE
        yield made
    finally:
        made.hang_up()
        process.terminate()
        try:
            process.wait(STARTING)
        finally:
            process.kill()
        assert process.stderr is not None
        with process.stderr:
            log = process.stderr.read()
        assert "Traceback" not in log, log
