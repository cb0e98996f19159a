"""A client that asks for much at once must not cost the service its place on the bus (see dbus_writer_guard.py)."""

from __future__ import annotations

import asyncio

import pytest
from dbus_fast import ErrorType, Message, MessageFlag, MessageType
from dbus_fast.aio import MessageBus

from ipc import dbus_calls, dbus_queue
from ipc.access import Caller, Transport
from ipc.dbus_objects import Objects
from ipc.dbus_writer_guard import guard
from ipc.interface import NAME, PATH
from tests.ipc.places import until
from tests.ipc.test_dbus import MANAGER, Place, connection, in_place, watch_signals

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set

CALLS = 500
REPLY = 30_000  # bytes


async def pipelined(guest: MessageBus, count: int, member: str = "GetVersion") -> list[Message | None]:
    guard(guest)  # the guest floods, too
    calls = [Message(destination=NAME, path=PATH, interface=MANAGER, member=member) for _ in range(count)]
    return await asyncio.wait_for(asyncio.gather(*(guest.call(call) for call in calls)), 30)


def test_e13_many_large_answers_at_once() -> None:
    async def check(here: Place) -> None:
        here.service.padding = "x" * REPLY
        replies = await pipelined(here.guest, CALLS)
        assert all(reply and len(reply.body[0]) > REPLY for reply in replies)
        assert here.face.problem is None

    in_place(check)


def test_e13_many_signals_in_one_turn() -> None:
    async def check(here: Place) -> None:
        seen = await watch_signals(here.guest)
        for count in range(400):
            here.service.change(since=count, warnings=("x" * 30_000,))
            if count % 40 == 0:
                await asyncio.sleep(0)
        await until(lambda: any(one.get("Since") == 399 for one in seen))
        assert here.face.problem is None

    in_place(check)


@pytest.mark.parametrize("guarded", [True, False])
def test_the_guard_is_what_saves_us(guarded: bool) -> None:
    """The control: signals from the bare library's writer, faster than the bus reads, end its connection.

    When the case without the guard starts to fail, dbus-fast is mended and dbus_writer_guard.py can go.
    """

    async def check(here: Place) -> None:
        async with connection(here.bus) as sender:
            signals = [Message.new_signal("/x", "org.example.X", "Large", "s", ["x" * 30_000]) for _ in range(400)]
            if guarded:
                guard(sender)
                sent = [sender.send(large) for large in signals]
                assert await asyncio.wait_for(asyncio.gather(*sent), 30) == [None] * 400
                assert sender.connected
                return
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)  # of the future that got lost
            with pytest.raises(OSError):
                for large in signals:
                    sender.send(large)
            with pytest.raises(BlockingIOError):
                await sender.wait_for_disconnect()

    in_place(check)


def test_e13_a_flood_without_wanting_answers_holds_nobody_up() -> None:
    async def check(here: Place) -> None:
        async with connection(here.bus) as flooder:
            guard(flooder)
            for count in range(5_000):
                flooder.send(
                    Message(
                        destination=NAME, path=PATH, interface=MANAGER, member="GetStatus",
                        flags=MessageFlag.NO_REPLY_EXPECTED, serial=count + 1000,
                    )
                )  # fmt: skip
            for _ in range(5):
                async with asyncio.timeout(20):
                    assert (await here.send(MANAGER, "GetVersion")).body == ["9.8.7"]

    in_place(check)


def test_e13_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus_queue, "PENDING_CALLS", 10)

    async def check(here: Place) -> None:
        replies = await pipelined(here.guest, 200)
        refused = [reply for reply in replies if reply and reply.message_type is MessageType.ERROR]
        assert {reply.error_name for reply in refused} <= {ErrorType.LIMITS_EXCEEDED.value}
        assert 0 < len(refused) < 200
        assert (await here.send(MANAGER, "GetVersion")).body == ["9.8.7"]

    in_place(check)


def test_e13_large_arguments_that_wait_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dbus_queue, "PENDING_BYTES", 3_000)

    async def check(here: Place) -> None:
        calls = [
            Message(
                destination=NAME, path=PATH, interface=f"{NAME}.Diagnostics", member="CheckSettings", signature="s",
                body=["x" * 1_000],
            )
            for _ in range(20)
        ]  # fmt: skip
        replies = await asyncio.gather(*(here.guest.call(call) for call in calls))
        kinds = [reply.message_type for reply in replies if reply]
        assert kinds.count(MessageType.METHOD_RETURN) >= 3
        assert kinds.count(MessageType.ERROR) > 0
        assert (await here.send(f"{NAME}.Diagnostics", "CheckSettings", "s", "x" * 2_999)).body[0]

    in_place(check)


def test_an_answer_that_is_too_long_is_an_error() -> None:
    async def check(here: Place) -> None:
        here.service.padding = "x" * (1 << 20)
        assert (await here.send(MANAGER, "GetVersion")).error_name == ErrorType.LIMITS_EXCEEDED.value

    in_place(check)


def test_an_answer_the_bus_cannot_carry_is_an_error() -> None:
    async def check(here: Place) -> None:
        here.service.padding = "\ud800"
        assert (await here.send(MANAGER, "GetVersion")).message_type is MessageType.ERROR
        here.service.padding = ""
        assert (await here.send(MANAGER, "GetVersion")).body == ["9.8.7"]

    in_place(check)


def test_one_senders_many_calls_do_not_delay_anothers_one() -> None:
    order: list[str] = []

    async def identify(name: str) -> Caller:
        return Caller(0, frozenset(), 1, Transport.DBUS)

    async def answer(call: Message, wanted: dbus_calls.Target, caller: Caller) -> Message:
        order.append(call.sender or "")
        return Message.new_method_return(call)

    async def send(reply: Message) -> None:
        pass

    async def check() -> None:
        queue = dbus_queue.Queue(lambda call: dbus_calls.target(call, Objects()), identify, answer, send)
        for sender in [":1.1"] * 100 + [":1.2"]:
            call = Message(path=PATH, interface=MANAGER, member="GetVersion", sender=sender, serial=1)
            assert queue.put(call) is None
        await until(lambda: not queue._senders)
        assert len(order) == 101
        assert order.index(":1.2") < 5

    asyncio.run(check())


def test_who_left_is_forgotten() -> None:
    async def check(here: Place) -> None:
        async with connection(here.bus) as guest:
            for _ in range(50):
                guest.send(Message(destination=NAME, path=PATH, interface=MANAGER, member="GetStatus", serial=99))
            await asyncio.sleep(0)
        assert (await here.send(MANAGER, "GetVersion")).body == ["9.8.7"]
        await until(lambda: _senders(here) == 0)

    in_place(check)


def _senders(here: Place) -> int:
    import gc

    return sum(len(queue._senders) for queue in gc.get_objects() if isinstance(queue, dbus_queue.Queue))
