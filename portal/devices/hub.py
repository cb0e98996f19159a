"""Who listens, and what they are to be told: one for the events process.

Something woke us (PostgreSQL's NOTIFY, or two seconds on SQLite): the database is asked once for all whom it may
concern, in a thread that gives its connection back. An idle stream holds none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar
from uuid import UUID

import psycopg
from django.conf import settings
from django.db import DatabaseError, connection, connections
from django.utils import timezone

from portal import signing
from portal.devices import commands
from portal.devices.changes import CHANNEL
from portal.devices.models import Credential, Device

POLL = 2.0  # seconds, on SQLite, and on PostgreSQL while the listening connection is broken
SWEEP = 60.0  # seconds: then everybody is looked at, whatever was or was not heard
THREADS = 4
log = logging.getLogger(__name__)
T = TypeVar("T")
Told = tuple[int, str]  # the command's number, and its signed token


class Full(Exception):
    """As many streams as are allowed are open."""


@dataclass(eq=False)
class Stream:
    """One open request. The queue brings commands; None ends it."""

    credential: int
    device: int
    audience: UUID
    last: int | None = None  # Last-Event-ID
    told: set[int] = field(default_factory=set)
    queue: asyncio.Queue[list[Told] | None] = field(default_factory=asyncio.Queue)


@dataclass(frozen=True)
class Found:
    """What the database said: who is still connected, and the new commands of each."""

    alive: set[int]
    new: dict[int, list[Told]]


def in_thread(work: Callable[[], T]) -> T:
    """Runs on a thread of the pool, and keeps no connection."""
    try:
        return work()
    finally:
        connections.close_all()


def look(streams: list[Stream], sweep: bool) -> Found:
    """For these streams. Raises DatabaseError."""
    keys = [each.credential for each in streams]
    alive = set(
        Credential.objects.filter(pk__in=keys, device__user__is_active=True).values_list("pk", flat=True).iterator()
    )
    living = {each.device: each for each in streams if each.credential in alive}
    if sweep:
        Device.objects.filter(pk__in=living).update(last_seen_at=timezone.now())
    new: dict[int, list[Told]] = {}
    fresh = []
    for command in commands.waiting().filter(device__in=list(living)):
        stream = living[command.device_id]
        # What came before Last-Event-ID has arrived, unless it was never sent: numbers are not given out in order.
        before = stream.last is not None and command.pk <= stream.last and command.delivered_at is not None
        if command.pk in stream.told or before:
            continue
        new.setdefault(stream.credential, []).append((command.pk, commands.signed(command, stream.audience)))
        fresh.append(command.pk)
    if fresh:
        commands.delivered(fresh)
    return Found(alive, new)


class Hub:
    def __init__(self) -> None:
        self.streams: dict[int, Stream] = {}
        self.threads = ThreadPoolExecutor(THREADS, thread_name_prefix="events")
        self._woken: set[int] = set()
        self._sweep = False
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.threads, in_thread, work)

    def open(self, stream: Stream) -> None:
        """A device has one: a newer one ends the older. Raises Full."""
        former = self.streams.pop(stream.credential, None)
        if former is not None:
            former.queue.put_nowait(None)
        if len(self.streams) >= settings.EVENT_STREAMS:
            raise Full
        self.streams[stream.credential] = stream
        self.wake([stream.credential])

    def close(self, stream: Stream) -> None:
        if self.streams.get(stream.credential) is stream:
            del self.streams[stream.credential]

    def wake(self, streams: Iterable[int], sweep: bool = False) -> None:
        self._woken |= set(streams)
        self._sweep = self._sweep or sweep
        if self._woken:
            self._wake.set()

    def start(self) -> None:
        source = self._listen if connection.vendor == "postgresql" else self._poll
        self._tasks = [asyncio.create_task(each()) for each in (self._tell, source, self._sweeping)]

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        for task in self._tasks:
            with contextlib.suppress(asyncio.CancelledError):
                await task
        for stream in self.streams.values():
            stream.queue.put_nowait(None)
        self.threads.shutdown(wait=False, cancel_futures=True)

    async def _tell(self) -> None:
        """One look at a time, for everybody who was woken meanwhile."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            woken, self._woken = self._woken, set()
            sweep, self._sweep = self._sweep, False
            streams = [self.streams[each] for each in woken if each in self.streams]
            if not streams:
                continue
            try:
                found = await self.in_thread(lambda streams=streams, sweep=sweep: look(streams, sweep))  # type: ignore[misc]
            except (DatabaseError, signing.SigningError) as err:
                log.warning("devices cannot be told: %s", err)
                await asyncio.sleep(POLL)
                self.wake(woken, sweep)
                continue
            for stream in streams:
                if self.streams.get(stream.credential) is not stream:
                    continue
                if stream.credential not in found.alive:
                    self.close(stream)
                    stream.queue.put_nowait(None)
                elif new := found.new.get(stream.credential):
                    stream.told |= {number for number, _token in new}
                    stream.queue.put_nowait(new)

    async def _sweeping(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            self.wake(self.streams, sweep=True)

    async def _poll(self) -> None:
        while True:
            await asyncio.sleep(POLL)
            self.wake(self.streams)

    async def _listen(self) -> None:
        """While the connection is broken, it is polled."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(**parameters(), autocommit=True) as listening:
                    await listening.execute(f"LISTEN {CHANNEL}")
                    self.wake(self.streams)  # whatever was said before we listened
                    async for said in listening.notifies():
                        self._heard(said.payload)
            except (psycopg.Error, OSError) as err:
                log.warning("PostgreSQL does not tell of changes: %s", err)
            self.wake(self.streams)
            await asyncio.sleep(POLL)

    def _heard(self, payload: str) -> None:
        self.wake([each.credential for each in self.streams.values() if str(each.device) == payload])


def parameters() -> dict[str, Any]:
    """How to reach the database, for a connection of our own."""
    kept = settings.DATABASES["default"]
    found = {"host": kept["HOST"], "port": kept["PORT"], "user": kept["USER"], "password": kept["PASSWORD"]}
    return {"dbname": kept["NAME"], "application_name": "portal events", **{k: v for k, v in found.items() if v}}
