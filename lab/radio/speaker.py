"""A TCP connection that speaks all the time, and knows when it was interrupted."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from itertools import pairwise

from lab.radio.laboratory import PATIENCE, wait_for


class Speaker:
    """Says a byte and waits for its echo, again and again; begins anew when the connection ends.

    `with Speaker(server) as speaker:` returns after the first answers. `interrupted`: how many connections ended.
    """

    def __init__(self, server: tuple[str, int]) -> None:
        self.answered: list[float] = []  # by the monotonic clock
        self.interrupted = 0
        self._server, self._over = server, threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Speaker:
        self._thread.start()
        self.wait(20)
        return self

    def _run(self) -> None:
        while not self._over.is_set():
            with suppress(OSError), socket.create_connection(self._server, PATIENCE) as connection:
                try:
                    while not self._over.wait(0.005):
                        connection.sendall(b"?")
                        if not connection.recv(1):
                            raise ConnectionResetError
                        self.answered.append(time.monotonic())
                except OSError:
                    self.interrupted += 1
                    raise

    def wait(self, answers: int) -> None:
        """For so many more. Raises LabError."""
        enough = len(self.answered) + answers
        wait_for(lambda: len(self.answered) >= enough, "the connection speaks")

    def silence(self, since: float) -> float:
        """The longest time without an answer from then until the last one, seconds."""
        times = [since, *(each for each in self.answered if each > since)]
        return max(after - before for before, after in pairwise(times))

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE)
