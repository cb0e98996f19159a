"""What panic-reset does about the next start of the daemon and the next boot, without needing the daemon's code."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

STATE = Path("/var/lib/tunwarden")
MARKER = "panic-reset"  # daemon/panic.py takes it
LOCKDOWN = "lockdown.nft"  # tunwarden-lockdown.service loads it


def leave_marker(state: Path = STATE) -> tuple[bool, str]:
    """Whether the next daemon will know that an administrator opened the machine, and the sentence that says so."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ\n")
    try:
        with _folder(state) as folder:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(MARKER, dir_fd=folder)
            new = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(MARKER, new, 0o600, dir_fd=folder), "w", encoding="ascii") as file:
                file.write(now)
                file.flush()
                os.fsync(file.fileno())
            os.fsync(folder)
    except OSError as error:
        return False, (
            f"Next start of the daemon: {state / MARKER} cannot be written ({error.strerror}), so it may close the "
            "machine again. To prevent that: systemctl disable tunwarden"
        )
    return True, "Next start of the daemon: it stays open, unless the settings file says otherwise or has errors."


def forget_lockdown(state: Path = STATE) -> tuple[bool, str]:
    """Whether the next boot begins open, and the sentence that says so."""
    try:
        with _folder(state) as folder:
            os.unlink(LOCKDOWN, dir_fd=folder)
            os.fsync(folder)
    except FileNotFoundError:
        return True, "Next boot: there were no rules that block from its beginning."
    except OSError as error:
        return False, (
            f"Next boot: {state / LOCKDOWN} cannot be removed ({error.strerror}), so it will block from its beginning. "
            "To prevent that: systemctl disable tunwarden-lockdown"
        )
    return True, "Next boot: the rules that block from its beginning were removed."


@contextlib.contextmanager
def _folder(state: Path) -> Iterator[int]:
    """The state folder, made where it has gone: without it, the early unit believes that the disk has not come yet."""
    with contextlib.suppress(FileExistsError):
        state.mkdir(0o700)
    folder = os.open(state, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield folder
    finally:
        os.close(folder)
