"""NetworkManager or the bus fails, or somebody else speaks in its name."""

from __future__ import annotations

import asyncio
import signal
import statistics
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from daemon.linux.networkmanager import NetworkManager
from lab.bus import SOCKET, BusClient, start_bus
from lab.hosts import Host
from lab.networkmanager_stand_in import MANAGER, NAME, WIFI, NetworkManagerStandIn
from tests.daemon.linux.test_networkmanager import (
    AT_HOME,
    CAFE,
    HOME,
    IN_CAFE,
    MACS,
    address,
    aside,
    host,
    run,
    stand_in,
    watching,
)

__all__ = ["host", "stand_in"]


@pytest.mark.netns
def test_networkmanager_dies_and_comes_back(host: Host, stand_in: NetworkManagerStandIn) -> None:
    """Object paths start anew: what was remembered of the first one must not be used with the second."""
    stand_in.associating()
    stand_in.associated(HOME)

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)
            await aside(stand_in.kill)
            await watched.until({})
            again = await asyncio.to_thread(start_again, host)
            try:
                await aside(again.associating)
                await watched.until({})
                await aside(again.associated, CAFE)
                await watched.until(IN_CAFE)
            finally:
                await aside(again.close)

    run(work)


def start_again(host: Host) -> NetworkManagerStandIn:
    """Another stand-in on the bus that is there already."""
    again = NetworkManagerStandIn(host)
    host.start("/usr/bin/python3", "-m", "dbusmock", "--system", "--template", "networkmanager")
    again.ready(*MACS)
    return again


@pytest.mark.netns
def test_networkmanager_hangs(host: Host, stand_in: NetworkManagerStandIn) -> None:
    stand_in.associating()
    stand_in.associated(HOME)

    async def work() -> None:
        async with watching(host, patience=0.1) as watched:
            await watched.until(AT_HOME)
            stand_in._process.send(signal.SIGSTOP)
            try:
                start = time.monotonic()
                assert await watched.source.read() == {}
                assert time.monotonic() - start < 10
            finally:
                # nsenter stops itself with its program; stopped for ever it would keep the host's end waiting.
                stand_in._process._wrapper.send_signal(signal.SIGCONT)
            await watched.until(AT_HOME)  # it announces nothing: the source itself asks again

    run(work)


@pytest.mark.netns
def test_the_bus_comes_late_and_is_restarted(host: Host) -> None:
    async def work() -> None:
        async with watching(host) as watched:
            await watched.until({})
            for point, wanted in ((HOME, AT_HOME), (CAFE, IN_CAFE)):
                bus = await asyncio.to_thread(start_bus, host)
                stand_in = await asyncio.to_thread(start_again, host)
                await aside(stand_in.associating)
                await aside(stand_in.associated, point)
                await watched.until(wanted)
                await aside(stand_in.close)
                await aside(bus.kill)
                await watched.until({})
                await aside(host.run, "rm", "-f", SOCKET)

    run(work)


@pytest.mark.netns
def test_a_networkmanager_that_is_not_roots_is_not_believed(host: Host) -> None:
    start_bus(host)
    nobody = ("setpriv", "--reuid", "nobody", "--regid", "nogroup", "--clear-groups")
    host.start(*nobody, "/usr/bin/python3", "-m", "dbusmock", "--system", "--template", "networkmanager")
    impostor = NetworkManagerStandIn(host)

    async def work() -> None:
        await aside(impostor.ready, *MACS)
        await aside(impostor.associating)
        await aside(impostor.associated, HOME)
        with capture_logs() as logs:
            async with watching(host) as watched:
                await watched.quiet()
                assert await watched.source.read() == {}
        assert [entry["log_level"] for entry in logs] == ["error"]

    try:
        run(work)
    finally:
        impostor.close()


@pytest.mark.netns
def test_signals_of_others_are_not_heard(host: Host, stand_in: NetworkManagerStandIn) -> None:
    """Any process may send a signal to one connection alone, past all match rules."""
    stand_in.associating()
    stand_in.associated(HOME)

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)
            await watched.quiet()
            session: Any = watched.source._session
            stranger = await asyncio.to_thread(BusClient, host)
            try:
                await aside(send_to, stranger, session._bus.unique_name)
                await watched.quiet()
                assert await watched.source.read() == AT_HOME
            finally:
                await aside(stranger.close)

    run(work)


def send_to(stranger: BusClient, destination: str) -> None:
    from dbus_fast import Message, MessageType

    forged = (
        ("org.freedesktop.DBus", "/org/freedesktop/DBus", "NameOwnerChanged", "sss", [NAME, ":1.1", ":1.99"]),
        (f"{NAME}.Device", WIFI, "StateChanged", "uuu", [30, 100, 0]),
        (NAME, MANAGER, "DeviceRemoved", "o", [WIFI]),
    )
    for interface, path, member, signature, body in forged:
        message = Message(destination, path, interface, member, MessageType.SIGNAL, signature=signature, body=body)

        async def send(message: Message = message) -> None:
            await stranger._bus.send(message)

        stranger._wait(send())


@pytest.mark.netns
def test_without_a_watch_there_are_no_answers(host: Host, stand_in: NetworkManagerStandIn) -> None:
    async def work() -> None:
        source = NetworkManager(address(host))
        assert await source.read() == {}
        async with watching(host) as watched:
            await watched.until({})
            source = watched.source
        assert await source.read() == {}

    run(work)


@pytest.mark.netns
def test_a_signal_is_answered_within_the_budget(host: Host, stand_in: NetworkManagerStandIn) -> None:
    """From the signal to the facts: 5 ms in the plan; 0.8 were measured with a stand-in written in Python."""
    stand_in.associating()
    stand_in.associated(HOME)

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)
            times = []
            for _ in range(30):
                start = time.perf_counter()
                assert await watched.source.read() == AT_HOME
                times.append(time.perf_counter() - start)
            assert statistics.median(times) < 0.02, times

    run(work)
