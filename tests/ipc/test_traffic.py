"""Traffic on both faces: the same values, a throttled stream, and nothing on the bus for those who did not ask."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from dbus_fast import Message, MessageType, Variant
from dbus_fast.aio import MessageBus

from daemon.accounting import Accounting
from daemon.allowance import Allowances
from daemon.traffic import TOLD_S, TrafficTeller
from ipc.errors import Error, ServiceError
from ipc.structs import Traffic
from ipc.values import plain
from policies.settings_tables import Allowance
from tests.daemon.test_accounting import TUNNEL
from tests.daemon.test_allowance import Bench
from tests.ipc import test_dbus
from tests.ipc.fake_service import TRAFFIC, USAGE
from tests.ipc.places import MEMBER

NAME = "org.tunwarden.Daemon1"
FACE = f"{NAME}.Traffic"


def unwrapped(value: object) -> object:
    """D-Bus values as plain ones."""
    if isinstance(value, Variant):
        return unwrapped(value.value)
    if isinstance(value, dict):
        return {name: unwrapped(inner) for name, inner in value.items()}
    return [unwrapped(inner) for inner in value] if isinstance(value, list) else value


def test_the_bus_tells_the_same() -> None:
    async def check(here: test_dbus.Place) -> None:
        reply = await here.send(FACE, "GetTraffic", "")
        wanted = json.loads(json.dumps(plain(TRAFFIC)).replace("null", '""'))  # D-Bus has no null
        assert unwrapped(reply.body[0]) == wanted
        reply = await here.send(FACE, "GetUsage", "sss", "hour", "", "")
        assert [line["rx_bytes"].value for line in reply.body[0]] == [each.rx_bytes for each in USAGE["hour"]]
        reply = await here.send(FACE, "GetUsage", "sss", "fortnight", "", "")
        assert reply.error_name == f"{NAME}.Error.InvalidArgument"

    test_dbus.in_place(check)


def test_the_signal_goes_to_who_asked() -> None:
    async def check(here: test_dbus.Place) -> None:
        async with test_dbus.connection(here.bus) as other:
            asked, bystander = heard_by(here.guest), heard_by(other)
            call = Message(destination=NAME, path="/org/tunwarden/Daemon1", interface=FACE, member="FollowTraffic")
            reply = await asyncio.wait_for(here.guest.call(call), 20)
            assert reply is not None and reply.message_type is MessageType.METHOD_RETURN, reply and reply.body
            for rate in (1_250_000, 2_500_000):
                signal = await asyncio.wait_for(asked.get(), 20)
                assert (signal.member, signal.body[0]["rx_rate"].value) == ("Moved", rate)
            assert bystander.empty()

    test_dbus.in_place(check)


def heard_by(bus: MessageBus) -> asyncio.Queue[Message]:
    """The signals of our interface that come to this connection."""
    heard: asyncio.Queue[Message] = asyncio.Queue()

    def handler(message: Message) -> None:
        if message.message_type is MessageType.SIGNAL and message.interface == FACE:
            heard.put_nowait(message)

    bus.add_message_handler(handler)
    return heard


def teller(tmp_path: Path) -> tuple[Bench, TrafficTeller]:
    bench = Bench(tmp_path / "traffic.db", Allowance(limit=1000))
    accounting: Accounting = bench.accounting
    allowances: Allowances = bench.allowances
    return bench, TrafficTeller(accounting, allowances)


def test_what_follows_is_new_and_not_more_than_once_a_second(tmp_path: Path) -> None:
    async def check() -> None:
        bench, tells = teller(tmp_path)
        stream: AsyncGenerator[Traffic, None] = tells.follow()
        first = await anext(stream)
        began = time.monotonic()
        waits = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(2.2 * TOLD_S)
        assert not waits.done(), "nothing has changed"
        bench.use(600)
        bench.use(100)
        second = await waits
        assert time.monotonic() - began >= TOLD_S
        assert [each.rx_bytes for each in first.today if each.way == "tunnel"] == [0]
        assert [each.rx_bytes + each.tx_bytes for each in second.today if each.way == "tunnel"] == [700]
        assert second.rx_rate > 0 and second.allowance.used == 700
        await stream.aclose()
        await bench.accounting.end()

    asyncio.run(check())


def test_usage_in_words(tmp_path: Path) -> None:
    async def check() -> None:
        bench, tells = teller(tmp_path)
        bench.use(100)
        bench.kernel.counts[TUNNEL.ifindex] = bench.kernel.counts[TUNNEL.ifindex].plus(
            bench.kernel.counts[TUNNEL.ifindex]
        )
        (day,) = tells.usage("day", None, None)  # what was counted until this moment is in it
        assert (day.name, day.way, day.rx_bytes) == ("2026-11-22", "tunnel", 100)
        (network,) = tells.usage("network", "2026-11-22", "2026-11-22")
        assert (network.name, network.kind, network.ssid_hex) == ("Cafe", "wifi", b"Cafe".hex())
        (profile,) = tells.usage("profile", "2026-11-01", None)
        assert profile.name == "office"
        (minute,) = tells.usage("minute", "2026-11-22", "2026-11-22")
        (hour,) = tells.usage("hour", None, None)
        assert minute.start % 60 == 0 and hour.start % 3600 == 0 and 0 <= minute.start - hour.start < 3600
        assert tells.usage("minute", None, "2026-11-21") == tells.usage("network", "2026-11-23", None) == ()
        assert tells.usage("day", "0001-01-01", "9999-12-31") == (day,)
        for wrong in ("yesterday", "2026-13-01", "1"):
            with pytest.raises(ServiceError) as caught:
                tells.usage("day", wrong, None)
            assert caught.value.error is Error.INVALID_ARGUMENT
        await bench.accounting.end()

    asyncio.run(check())


def test_a_member_may_grant_and_a_stranger_may_not() -> None:
    async def check(here: test_dbus.Place) -> None:
        code, _, err = await here.dbus_send(MEMBER, f"{FACE}.GrantAllowance")
        assert code == 0, err

    test_dbus.in_place(check)
