"""The status as it changes: one writer (the daemon), any number of watchers, none of whom can hold the writer up."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

from ipc.structs import Status

BACKLOG = 64  # statuses a watcher may be behind before it is dropped


class TooSlowError(Exception):
    """The watcher is so far behind that a gap would follow: it must start again from a snapshot."""


class Feed:
    """Numbers and keeps the present status and hands every change to every watcher."""

    def __init__(self, first: Status) -> None:
        self._status = replace(first, sequence=1)
        self._watchers: set[asyncio.Queue[Status | None]] = set()

    @property
    def status(self) -> Status:
        """The present status."""
        return self._status

    def publish(self, status: Status) -> None:
        """Make `status` the present one; its sequence number is set here. An equal status is not published again."""
        numbered = replace(status, sequence=self._status.sequence)
        if numbered == self._status:
            return
        self._status = replace(numbered, sequence=numbered.sequence + 1)
        for queue in tuple(self._watchers):
            if queue.qsize() < BACKLOG:
                queue.put_nowait(self._status)
            else:
                queue.put_nowait(None)
                self._watchers.discard(queue)

    async def watch(self) -> AsyncGenerator[Status, None]:
        """The present status, then every change without a gap. Raises TooSlowError when the reader falls behind."""
        queue: asyncio.Queue[Status | None] = asyncio.Queue()
        queue.put_nowait(self._status)
        self._watchers.add(queue)
        try:
            while (status := await queue.get()) is not None:
                yield status
            raise TooSlowError
        finally:
            self._watchers.discard(queue)
