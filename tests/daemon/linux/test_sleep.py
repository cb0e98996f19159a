"""Suspend and resume (T5): the conversation with the logind stand-in over a real bus, and what goes wrong in it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import selectors
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dbus_fast import Message, Variant
from dbus_fast.aio import MessageBus
from structlog.testing import capture_logs

from daemon.linux import sleep
from lab.bus import SOCKET, BusClient, start_bus
from lab.hosts import Host
from lab.logind_stand_in import MANAGER, NAME, PATH, LogindStandIn
from tests.daemon.linux.sleep_watched import aside, descriptors, run, until, watching

pytestmark = pytest.mark.netns

MOCK = "org.freedesktop.DBus.Mock"
REFUSE = "raise dbus.exceptions.DBusException('no', name='org.freedesktop.DBus.Error.AccessDenied')"


@pytest.fixture
def host() -> Iterator[Host]:
    with Host("laptop") as host:
        yield host


@pytest.fixture
def logind(host: Host) -> Iterator[LogindStandIn]:
    """The stand-in on the host's own system bus."""
    start_bus(host)
    stand_in = LogindStandIn(host)
    try:
        stand_in.start()
        yield stand_in
    finally:
        stand_in.close()


# --- as it should be --------------------------------------------------------------------------------------------------


def test_sleep_waits_until_it_may_begin(host: Host, logind: LogindStandIn) -> None:
    async def work() -> None:
        async with watching(host) as watched:
            for night in (1, 2, 3):
                assert await aside(logind.wait_lock)
                assert [who for who, _ in logind.delays()] == ["tunwarden"]
                going = asyncio.create_task(aside(logind.suspend, 20.0))
                told = await watched.until(*(True, False) * (night - 1), True)
                assert logind.delays(), "logind still waits"
                assert not going.done()
                told.ready()
                assert await going
                await aside(logind.resume)
                await watched.until(*(True, False) * night)

    run(work)


def test_an_old_permission_does_not_release_the_next_lock(host: Host, logind: LogindStandIn) -> None:
    """The loop was late: logind had slept and woken up without it."""

    async def work() -> None:
        async with watching(host) as watched:
            assert await aside(logind.wait_lock)
            assert not await aside(logind.suspend, 0.2)
            told = await watched.until(True)
            await aside(logind.resume)
            (await watched.until(True, False)).ready()
            assert await aside(logind.wait_lock)
            told.ready()
            told.ready()
            await asyncio.sleep(0.1)
            assert len(logind.delays()) == 1

    run(work)


def test_nothing_is_left_behind(host: Host, logind: LogindStandIn) -> None:
    """No descriptor for each night, and none at the end of the watch; the lock goes with it."""

    async def work() -> None:
        at_first = descriptors()
        async with watching(host) as watched:
            assert await aside(logind.wait_lock)
            after_start = descriptors()
            for night in range(1, 11):
                going = asyncio.create_task(aside(logind.suspend, 20.0))
                (await watched.until(*(True, False) * (night - 1), True)).ready()
                assert await going
                await aside(logind.resume)
                await watched.until(*(True, False) * night)
                assert await aside(logind.wait_lock)
            await until(lambda: descriptors() <= after_start)
        await until(lambda: descriptors() <= at_first)
        await until(lambda: not logind.delays())

    run(work)


def test_the_watch_ends_while_the_lock_is_on_its_way(host: Host, logind: LogindStandIn) -> None:
    """At every await of the conversation: whoever has got the descriptor closes it."""

    async def work() -> None:
        address = f"unix:path={host.path(SOCKET)}"
        owner = (await aside(logind.client.call, sleep.BUS, sleep.BUS_PATH, f"{sleep.BUS}.GetNameOwner", "s", NAME))[0]
        at_first = descriptors()
        for turns in range(60):
            fetching = asyncio.create_task(sleep._inhibit(address, owner))
            for _ in range(turns):
                await asyncio.sleep(0.0003)
                if fetching.done():
                    break
            fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                os.close(await fetching)
        await until(lambda: descriptors() <= at_first)
        await until(lambda: not logind.delays())

    run(work)


def test_nobody_wakes_up_while_nothing_happens(host: Host, logind: LogindStandIn) -> None:
    looks = 0

    class Counting(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> Any:
            nonlocal looks
            looks += 1
            return super().select(timeout)

    async def work() -> None:
        async with watching(host):
            assert await aside(logind.wait_lock)
            await asyncio.sleep(0.5)
            before = looks
            await asyncio.sleep(2)
            assert looks - before <= 2, "this sleep's own end, and nothing else"

    with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(Counting())) as runner:
        runner.run(work())


# --- logind and the bus come and go -----------------------------------------------------------------------------------


def test_logind_comes_later(host: Host) -> None:
    start_bus(host)
    logind = LogindStandIn(host)

    async def work() -> None:
        async with watching(host) as watched:
            await asyncio.sleep(0.3)
            await aside(logind.start)
            assert await aside(logind.wait_lock)
            assert watched.said == []
            await aside(logind.prepare, True)
            await watched.until(True)

    try:
        run(work)
    finally:
        logind.close()


def test_the_bus_comes_later_and_is_restarted(host: Host) -> None:
    async def work() -> None:
        async with watching(host) as watched:
            await asyncio.sleep(0.3)
            for night in (1, 2):
                bus, logind = start_bus(host), LogindStandIn(host)
                try:
                    await aside(logind.start)
                    assert await aside(logind.wait_lock)
                    await aside(logind.prepare, True)
                    await watched.until(*(True, False) * (night - 1), True)
                finally:
                    logind.close()
                bus.kill()
                host.path(SOCKET).unlink()
                await watched.until(*(True, False) * night)  # nobody would ever say that we are awake

    run(work)


def test_logind_dies_while_the_machine_sleeps(host: Host, logind: LogindStandIn) -> None:
    """A machine that is held because it sleeps must not be held for ever."""

    async def work() -> None:
        async with watching(host) as watched:
            assert await aside(logind.wait_lock)
            await aside(logind.prepare, True)
            await watched.until(True)
            logind.kill()
            await watched.until(True, False)
            await aside(logind.start)
            assert await aside(logind.wait_lock), "the next one is asked for a lock again"
            await aside(logind.prepare, True)
            await watched.until(True, False, True)

    run(work)


def test_a_start_while_the_machine_is_about_to_sleep(host: Host, logind: LogindStandIn) -> None:
    """The signal went before we listened; the property tells."""
    logind.prepare(True)

    async def work() -> None:
        async with watching(host) as watched:
            told = await watched.until(True)
            assert await aside(logind.wait_lock)
            told.ready()
            assert await aside(logind.suspend)

    run(work)


def test_awake_is_no_news_to_who_was_awake(host: Host, logind: LogindStandIn) -> None:
    async def work() -> None:
        async with watching(host) as watched:
            assert await aside(logind.wait_lock)
            await aside(logind.prepare, False)
            await aside(logind.prepare, True)
            await watched.until(True)

    run(work)


# --- refusals and lies ------------------------------------------------------------------------------------------------


def test_logind_refuses_the_lock(host: Host, logind: LogindStandIn) -> None:
    """Sleep is not delayed, but told."""
    logind.client.call(NAME, PATH, f"{MOCK}.AddMethod", "sssss", MANAGER, "Inhibit", "ssss", "h", REFUSE)

    async def work() -> None:
        with capture_logs() as logs:
            async with watching(host) as watched:
                await until(lambda: any("will not wait" in each["event"] for each in logs))
                await aside(logind.prepare, True)
                (await watched.until(True)).ready()
                await aside(logind.prepare, False)
                await watched.until(True, False)
        assert any("AccessDenied" in each.get("error", "") for each in logs)

    run(work)


def test_a_logind_that_does_not_answer_is_heard_later(
    host: Host, logind: LogindStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sleep, "TIMEOUT", 0.3)
    process = logind.process
    assert process is not None
    process.send(signal.SIGSTOP)

    async def work() -> None:
        with capture_logs() as logs:
            async with watching(host) as watched:
                await until(lambda: any("does not say" in each["event"] for each in logs))
                process.send(signal.SIGCONT)
                await aside(logind.prepare, True)
                await watched.until(True)

    run(work)


def test_a_strangers_signal_is_not_believed(host: Host, logind: LogindStandIn) -> None:
    """To all, and to us alone; whoever may send a signal may say that it is logind's."""

    async def work() -> None:
        async with watching(host) as watched:
            assert await aside(logind.wait_lock)
            stranger = await MessageBus(bus_address=watched.address).connect()
            names = await stranger.call(
                Message(sleep.BUS, sleep.BUS_PATH, sleep.BUS, "ListNames", signature="", body=[])
            )
            for name in (None, *(name for name in names.body[0] if name.startswith(":"))):
                signalled = Message.new_signal(PATH, MANAGER, "PrepareForSleep", "b", [True])
                signalled.destination = name
                await stranger.send(signalled)
            await asyncio.sleep(0.3)
            assert watched.said == []
            stranger.disconnect()
            await aside(logind.prepare, True)  # the control: from logind, the same signal is believed
            await watched.until(True)

    run(work)


def test_nobody_but_root_is_logind(host: Host) -> None:
    start_bus(host)
    client = BusClient(host)
    impostor = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "/usr/bin/python3", "-m", "dbusmock")
    host.start(*impostor, "--system", "--template", "logind")

    async def work() -> None:
        with capture_logs() as logs:
            async with watching(host) as watched:
                await aside(client.wait_owned, NAME)
                await until(lambda: any("not believed" in each["event"] for each in logs))
                emit = "org.freedesktop.DBus.Mock.EmitSignal"
                body = [Variant("b", True)]
                await aside(client.call, NAME, PATH, emit, "sssav", MANAGER, "PrepareForSleep", "b", body)
                await asyncio.sleep(0.3)
                assert watched.said == []

    try:
        run(work)
    finally:
        client.close()


def test_descriptors_that_nobody_asked_for_are_closed(
    host: Host, logind: LogindStandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection that fetches the lock takes descriptors: strangers' are not kept, and the lock still comes."""
    process, close = logind.process, sleep._close
    assert process is not None
    closed: list[int] = []

    def counting(some: list[int]) -> None:
        closed.extend(some)
        close(some)

    monkeypatch.setattr(sleep, "_close", counting)

    async def work() -> None:
        address = f"unix:path={host.path(SOCKET)}"
        stranger = await MessageBus(bus_address=address, negotiate_unix_fd=True).connect()

        async def call(member: str, *arguments: str) -> Any:
            signature = "s" * len(arguments)
            ask = Message(sleep.BUS, sleep.BUS_PATH, sleep.BUS, member, signature=signature, body=[*arguments])
            return (await stranger.call(ask)).body[0]

        before = set(await call("ListNames"))
        owner = await call("GetNameOwner", NAME)
        process.send(signal.SIGSTOP)  # so that the connection lives while we talk to it
        fetching = asyncio.create_task(sleep._inhibit(address, owner))
        async with asyncio.timeout(10):
            while not (fresh := set(await call("ListNames")) - before):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        at_first = descriptors()
        for _ in range(20):
            for kind in (Message.new_signal("/x", "x.x", "X", "h", [0]), Message("x.x", "/x", "x.x", "X")):
                kind.destination, kind.signature, kind.body = next(iter(fresh)), "h", [0]
                kind.unix_fds = [nothing.fileno()]
                await stranger.send(kind)
        await until(lambda: len(closed) == 40)
        assert descriptors() == at_first
        process.send(signal.SIGCONT)
        lock = await fetching
        assert logind.delays()
        os.close(lock)
        stranger.disconnect()

    with Path("/dev/null").open("rb") as nothing:
        run(work)
