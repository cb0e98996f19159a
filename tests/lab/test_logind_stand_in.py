"""The stand-in does what logind would: locks that are file descriptors, the property, and the signal."""

from __future__ import annotations

import asyncio
import os
import time

import pytest
from dbus_fast import Message, MessageType
from dbus_fast.aio import MessageBus

from lab.bus import SOCKET
from lab.logind_stand_in import MANAGER, NAME, PATH
from lab.topology import Laboratory

pytestmark = pytest.mark.netns

BUS, BUS_PATH = "org.freedesktop.DBus", "/org/freedesktop/DBus"


def test_a_lock_delays_sleep_until_it_is_closed(lab: Laboratory) -> None:
    logind = lab.add_logind()
    heard: list[bool] = []

    async def hold() -> None:
        bus = await MessageBus(bus_address=f"unix:path={lab.laptop.path(SOCKET)}", negotiate_unix_fd=True).connect()

        def hear(message: Message) -> None:
            if message.message_type is MessageType.SIGNAL and message.member == "PrepareForSleep":
                heard.append(message.body[0])

        bus.add_message_handler(hear)
        rule = f"type='signal',sender='{NAME}',interface='{MANAGER}'"
        await bus.call(Message(BUS, BUS_PATH, BUS, "AddMatch", signature="s", body=[rule]))
        body = ["sleep", "a test", "to see", "delay"]
        reply = await bus.call(Message(NAME, PATH, MANAGER, "Inhibit", signature="ssss", body=body))
        assert logind.delays() == [("a test", "to see")]
        assert not await asyncio.to_thread(logind.suspend, 0.3)
        os.close(reply.unix_fds[0])
        assert await asyncio.to_thread(logind.suspend)
        await asyncio.to_thread(logind.resume)
        await bus.call(Message(BUS, BUS_PATH, BUS, "GetId"))  # signals before this have come
        bus.disconnect()

    asyncio.run(hold())
    assert heard == [True, True, False]


def test_nobody_holds_a_lock(lab: Laboratory) -> None:
    logind = lab.add_logind()
    assert logind.suspend()
    begun = time.monotonic()
    assert not logind.wait_lock(0.1)
    assert time.monotonic() - begun >= 0.1


def test_its_crash_takes_the_name_away(lab: Laboratory) -> None:
    logind = lab.add_logind()
    logind.kill()
    assert not logind.client.owned(NAME)
    logind.start()
    assert logind.delays() == []
