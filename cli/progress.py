"""A line on the terminal that says what is being waited for; nothing in a pipe, nothing with `--json`."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import Self

from cli.output import Output, safe

FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"
FRAME_S = 0.1
CLEAR = "\r\x1b[K"


class Progress:
    """`with Progress(out) as step: step("Connecting")`. Drawn by a thread, for whoever waits is waiting."""

    def __init__(self, out: Output) -> None:
        self.visible = sys.stderr.isatty() and not out.as_json and os.environ.get("TERM") != "dumb"
        self._text = ""
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        if self.visible:
            import threading  # only here: `status` starts without it

            self._done = threading.Event()
            self._thread = threading.Thread(target=self._draw, daemon=True)
            self._thread.start()
        return self

    def __call__(self, text: str) -> None:
        """What is going on now."""
        self._text = safe(text)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.visible:
            self._done.set()
            self._thread.join()
            sys.stderr.write(CLEAR)
            sys.stderr.flush()

    def _draw(self) -> None:
        encoding = sys.stderr.encoding or "ascii"
        frames = FRAMES if encoding.lower().startswith("utf") else "|/-\\"
        count = 0
        while not self._done.wait(FRAME_S):
            seconds = int(time.monotonic() - self._begun)
            wide = (os.get_terminal_size(sys.stderr.fileno()).columns or 80) - 10
            sys.stderr.write(f"{CLEAR}{frames[count % len(frames)]} {self._text[: max(wide, 10)]} ({seconds} s)")
            sys.stderr.flush()
            count += 1
