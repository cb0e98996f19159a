"""Tells a story on a terminal: chapters, the daemon's states as they change, and the table at the end."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ipc.client import Client, NotRunningError
from ipc.structs import Status

if TYPE_CHECKING:
    from lab.story import Row
    from lab.subject import Subject

COLOURS = {
    "idle": "36", "held": "33", "connecting": "33", "connected": "32", "reconnecting": "33", "blocked": "31",
    "disconnecting": "33",
}  # fmt: skip
MEANING = {
    "idle": "not protected, by choice or by rule",
    "held": "nothing leaves while the network is identified",
    "connecting": "only handshakes with the VPN server leave",
    "connected": "everything goes through the tunnel",
    "reconnecting": "blocked; only handshakes with the VPN server leave",
    "blocked": "nothing leaves",
    "disconnecting": "nothing leaves while the tunnel is taken down",
}


class Narrator:
    """Prints with the seconds since the beginning. Colours only on a terminal."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self._colour = "FORCE_COLOR" in os.environ or (sys.stdout.isatty() and "NO_COLOR" not in os.environ)
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._follower: threading.Thread | None = None
        self._chapters = 0

    def title(self, about: str) -> None:
        """`about`: what is real in this story, and what is not."""
        self._put(self._style("1", "tunwarden: a laptop among networks that cannot be trusted"))
        self._put(about)

    def chapter(self, text: str) -> None:
        self._chapters += 1
        self._put("\n" + self._style("1", f"{self._chapters}. {text}"))

    def line(self, text: str) -> None:
        self._put(f"{self._clock()}  {text}")

    def aside(self, text: str) -> None:
        self._put(f"{self._clock()}  {self._style('2', text)}")

    def command(self, text: str) -> None:
        self._put(f"{self._clock()}  {self._style('1', '$ ' + text)}")

    def quote(self, text: str) -> None:
        for line in text.rstrip().splitlines():
            self._put(f"          {line}")

    def alarm(self, text: str) -> None:
        self._put(f"{self._clock()}  {self._style('1;31', text)}")

    def counted(self, tried: int, answered: int, clear: int, allowed: bool) -> None:
        what = "sent outside a tunnel, as your rule wants" if allowed else "leaked"
        colour = "32" if allowed or not clear else "1;31"
        text = f"{tried} packets tried, {answered} answered, {clear} {what}"
        self._put(f"{self._clock()}  {self._style(colour, text)}")

    # --- the daemon's own word ----------------------------------------------------------------------------------------

    def follow(self, subject: Subject) -> None:
        """Print each state as the daemon publishes it, until `unfollow`."""
        self._client = subject.client()
        self._follower = threading.Thread(target=self._follow, args=(self._client,), daemon=True)
        self._follower.start()

    def unfollow(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.hang_up()
        if self._follower is not None:
            self._follower.join(5)
            self._follower = None
        if client is not None:
            client.close()

    def _follow(self, client: Client) -> None:
        last: tuple[str, str | None] | None = None
        try:
            for status in client.watch():
                if (status.state, status.cause) != last:
                    last = (status.state, status.cause)
                    self._put(f"{self._clock()}  {self._told(status)}")
        except (NotRunningError, OSError):
            return

    def _told(self, status: Status) -> str:
        state = self._style("1;" + COLOURS.get(status.state, "0"), f"{status.state:12}")
        why = f" ({status.cause_text.rstrip('.')})" if status.cause_text else ""
        return f"▸ {state} {MEANING.get(status.state, '')}{why}"

    # --- the end ------------------------------------------------------------------------------------------------------

    def table(self, rows: Sequence[Row], seconds: float) -> int:
        """Print the table; the exit status."""
        self._put("\n" + self._style("1", f"{'phase':34} {'seconds':>8} {'tried':>7} {'answered':>9} {'leaked':>7}"))
        for row in rows:
            shown = "-" if row.allowed else str(row.clear)
            line = f"{row.phase:34} {row.seconds:8.1f} {row.tried:7} {row.answered:9} {shown:>7}"
            self._put(self._style("1;31", line) if row.clear and not row.allowed else line)
        leaked = sum(row.clear for row in rows if not row.allowed)
        tried = sum(row.tried for row in rows if not row.allowed)
        verdict = f"{leaked} of {tried} packets leaked, in {seconds:.0f} s."
        self._put("\n" + self._style("1;31" if leaked else "1;32", verdict))
        return 1 if leaked else 0

    def _clock(self) -> str:
        return self._style("2", f"{time.monotonic() - self._begun:6.2f} s")

    def _style(self, code: str, text: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def _put(self, text: str) -> None:
        with self._lock:
            print(text, flush=True)
