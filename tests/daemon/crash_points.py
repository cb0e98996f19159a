"""Kills a process at its first, second, third ... file operation and shows what was left. Used by scripts of tests.

The operation at which it dies is not done; a write of more than 16 bytes is done by half (less than that, a kernel
copies in one go). What comes after never runs, as with SIGKILL.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

OPERATIONS = (
    "open", "write", "pwrite", "ftruncate", "fsync", "fchmod", "fchown", "rename", "unlink", "symlink", "mkdir",
    "close",
)  # fmt: skip


def crashes(act: Callable[[], Any]) -> Iterator[int]:
    """Yields after each crash with the number of the operation it died at, and last, after a run to the end, with 0.

    Prepare the files anew before each step of the iteration.
    """
    number = 0
    while True:
        number += 1
        child = os.fork()
        if child == 0:
            _arm(number)
            act()
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status == 0:
            yield 0
            return
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, status
        yield number


def _arm(deadly: int) -> None:
    count = 0

    def armed(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def operation(*args: Any, **options: Any) -> Any:
            nonlocal count
            count += 1
            if count == deadly:
                if name in ("write", "pwrite") and len(args[1]) > 16:
                    real(args[0], bytes(args[1])[: len(args[1]) // 2], *args[2:])
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **options)

        return operation

    for name in OPERATIONS:
        setattr(os, name, armed(name, getattr(os, name)))
