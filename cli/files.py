"""Files that people name: read and written as whoever runs this. The daemon never sees a path (E7)."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def read_text(file: str, longest: int) -> str:
    """The content of a file; `-` is the standard input. Raises OSError, also for what is too long or no UTF-8."""
    if file == "-":
        raw = sys.stdin.buffer.read(longest + 1)
    else:
        with Path(file).open("rb") as source:
            raw = source.read(longest + 1)
    if len(raw) > longest:
        raise OSError(f"{file}: longer than {longest} bytes")
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise OSError(f"{file}: not a text in UTF-8") from None


def write_new(file: Path, text: str) -> None:
    """A new file, for its owner alone; never over another one, nor through a link. Raises OSError."""
    opened = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(opened, "w", encoding="utf-8", errors="backslashreplace") as target:
        target.write(text)
