"""Nonsense by a stranger and by root, through a real dbus-daemon: no crash, no growth, no change of state."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import AsyncIterator, Iterator
from functools import reduce

import pytest
from dbus_fast import BusType, Message, MessageFlag, MessageType, Variant
from dbus_fast.aio import MessageBus
from dbus_fast.auth import AuthExternal
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ipc.access import Access
from ipc.dbus_calls import METHODS, STANDARD
from ipc.dbus_values import signature_of
from ipc.dbus_writer_guard import guard
from ipc.interface import NAME, PATH
from ipc.polkit import BUS
from tests.ipc.fuzzing import check_calls, held, peak
from tests.ipc.places import NOBODY, Bus, until
from tests.ipc.test_dbus import MANAGER, PROPERTIES, Place, connection, in_place, place

pytestmark = pytest.mark.netns  # needs root: the name is root's, and strangers ask

FUZZ = settings(max_examples=300, derandomize=True, deadline=None, database=None,
                phases=[Phase.explicit, Phase.generate],  # shrinking would wait for every time-out anew
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip

# --- messages ---------------------------------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20) | st.sampled_from(
    [MANAGER, "State", "home", "", "x" * 3_000, "\x1b[31m", "../../etc/passwd", "$(id)", "true", "\u202e"]
)
BASIC: dict[str, SearchStrategy[object]] = {
    "y": st.integers(0, 255), "b": st.booleans(), "n": st.integers(-(2**15), 2**15 - 1),
    "q": st.integers(0, 2**16 - 1), "i": st.integers(-(2**31), 2**31 - 1), "u": st.integers(0, 2**32 - 1),
    "x": st.integers(-(2**63), 2**63 - 1), "t": st.integers(0, 2**64 - 1), "d": st.floats(allow_nan=False),
    "s": texts, "o": st.sampled_from(["/", PATH, "/a/b"]), "g": st.sampled_from(["", "s", "a{sv}"]),
}  # fmt: skip
kinds = st.recursive(
    st.sampled_from([*BASIC, "v"]),
    lambda inner: (
        inner.map(lambda kind: "a" + kind)
        | st.lists(inner, min_size=1, max_size=3).map(lambda parts: f"({''.join(parts)})")
        | st.tuples(st.sampled_from([*BASIC]), inner).map(lambda pair: f"a{{{pair[0]}{pair[1]}}}")
    ),
    max_leaves=5,
)


def split(kinds: str) -> list[str]:
    """The single types that a signature stands for."""
    found, depth, begun = [], 0, 0
    for at, each in enumerate(kinds):
        depth += (each in "({") - (each in ")}")
        if depth == 0 and each != "a":
            found.append(kinds[begun : at + 1])
            begun = at + 1
    return found


def of(kind: str) -> SearchStrategy[object]:
    """Values of a D-Bus type."""
    if kind == "v":
        return st.sampled_from([*BASIC]).flatmap(lambda each: BASIC[each].map(lambda value: Variant(each, value)))
    if kind.startswith("a{"):
        return st.dictionaries(BASIC[kind[2]], of(kind[3:-1]), max_size=3)
    if kind == "ay":
        return st.binary(max_size=9)
    if kind[0] == "a":
        return st.lists(of(kind[1:]), max_size=4)
    if kind[0] == "(":
        return st.tuples(*(of(part) for part in split(kind[1:-1]))).map(list)
    return BASIC[kind]


LINKS = f"{PATH}/links"
PATHS = [*[PATH] * 6, "/", "/org", LINKS, f"{LINKS}/wlan0", f"{LINKS}/nothing", "/a" * 100]
FLAGS = [*[MessageFlag.NONE] * 3, MessageFlag.NO_REPLY_EXPECTED, MessageFlag.ALLOW_INTERACTIVE_AUTHORIZATION]
RIGHT = [(*key, signature_of(method.parameters)) for key, method in METHODS.items()]
RIGHT += [(*key, expected) for key, expected in STANDARD.items()]


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Most are calls of something that exists, with the right types, wrong ones, or more of them."""
    face, member, expected = draw(st.sampled_from(RIGHT))
    if draw(st.integers(0, 3)) == 0:
        face = draw(st.sampled_from([None, NAME, f"{NAME}.Nothing", f"{NAME}.Network", PROPERTIES, BUS]))
    if draw(st.integers(0, 5)) == 0:
        member = draw(st.sampled_from(["Nothing", "Watch", "Changed", "Get", "NameOwnerChanged", "x" * 255]))
    if draw(st.booleans()):
        expected = "".join(draw(st.lists(kinds, max_size=4)))
    kind = draw(st.sampled_from([MessageType.METHOD_CALL] * 6 + [MessageType.SIGNAL]))
    if kind is MessageType.SIGNAL:
        face = face or MANAGER
    return Message(
        destination=NAME, path=draw(st.sampled_from(PATHS)), interface=face, member=member, message_type=kind,
        flags=draw(st.sampled_from(FLAGS)), signature=expected, body=[draw(of(each)) for each in split(expected)],
    )  # fmt: skip


@contextlib.asynccontextmanager
async def stranger(bus: Bus) -> AsyncIterator[MessageBus]:
    """A connection of the user nobody: the kernel notes who connects at that moment."""
    os.seteuid(NOBODY)
    try:
        guest = MessageBus(bus_address=bus.address, bus_type=BusType.SYSTEM, auth=AuthExternal(NOBODY))
        await guest.connect()
    finally:
        os.seteuid(0)
    try:
        yield guest
    finally:
        if guest.connected:
            guest.disconnect()
        with contextlib.suppress(Exception):
            await guest.wait_for_disconnect()  # type: ignore[no-untyped-call]


@pytest.fixture(params=["stranger", "root"])
def here(request: pytest.FixtureRequest) -> Iterator[tuple[Place, MessageBus, asyncio.Runner, Access]]:
    """One face on one bus for all examples, and who sends them: what he may have at most."""
    with asyncio.Runner() as runner:
        stack = contextlib.AsyncExitStack()

        async def enter() -> tuple[Place, MessageBus]:
            found = await stack.enter_async_context(place())
            sender = (stranger if request.param == "stranger" else connection)(found.bus)
            return found, await stack.enter_async_context(sender)

        found, sender = runner.run(enter())
        guard(sender)
        try:
            yield found, sender, runner, Access.READ if request.param == "stranger" else Access.ADMIN
        finally:
            runner.run(stack.aclose())


def test_e13_whatever_is_sent(
    here: tuple[Place, MessageBus, asyncio.Runner, Access], caplog: pytest.LogCaptureFixture
) -> None:
    """Each call is answered; a stranger changes nothing, and root only with what is well-formed."""
    found, sender, runner, most = here
    state = found.service.feed.status
    sizes: list[tuple[tuple[int, int], int]] = []
    reached: set[str] = set()
    errors: set[str] = set()

    @FUZZ
    @given(st.lists(messages(), min_size=1, max_size=5))
    def offered(sent: list[Message]) -> None:
        async def check() -> None:
            waiting = [sender.call(each) for each in sent if _is_answered(each)]
            for each in sent:
                if not _is_answered(each):
                    await sender.send(each)
            for answer in await asyncio.wait_for(asyncio.gather(*waiting), 20):
                assert answer is not None
                errors.update([answer.error_name] if answer.error_name else [])
            assert found.face.problem is None, "the name is still ours"
            check_calls([call for call in found.service.calls if call[1].pid != 0], most)
            reached.update(function for function, *_ in found.service.calls)
            found.service.calls.clear()
            sizes.append((held(), peak()))

        runner.run(check())

    offered()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "no defect was logged"
    assert len(sizes) >= 300 and len(reached) >= 3 and len(errors) >= 3, "the control: not all is refused at the door"
    assert sizes[-1][1] - sizes[len(sizes) // 4][1] <= 16, "MiB"
    if most is Access.READ:
        assert found.service.feed.status is state
    runner.run(_settled(found, sender, sizes[0][0]))


def _is_answered(message: Message) -> bool:
    return message.message_type is MessageType.METHOD_CALL and not message.flags & MessageFlag.NO_REPLY_EXPECTED


async def _settled(here: Place, sender: MessageBus, before: tuple[int, int]) -> None:
    """A newcomer is served; when the sender has left, with the streams it opened, no more is held than at first."""
    sender.disconnect()
    assert (await here.send(MANAGER, "GetVersion")).body == ["9.8.7"]
    await until(lambda: held()[0] <= before[0] and held()[1] <= before[1], 20)


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("as", [["x"] * 100_000]),
        ("ay", [bytes(4 << 20)]),
        ("a{sv}", [{str(number): Variant("s", "x") for number in range(20_000)}]),
        ("(" * 31 + "s" + ")" * 31, [reduce(lambda inner, _: [inner], range(31), "x")]),
        ("s", ["x" * (8 << 20)]),
    ],
    ids=["strings", "bytes", "dictionary", "deep", "long"],
)
def test_e13_huge_arguments(signature: str, body: list[object]) -> None:
    """Refused by their type or their length, and nothing of them is kept."""

    async def check(here: Place) -> None:
        guard(here.guest)
        before, calls = held(), len(here.service.calls)
        for member in ("Connect", "Nothing"):
            for _ in range(3):
                reply = await here.send(MANAGER, member, signature, *body)
                assert reply.message_type is MessageType.ERROR
        assert len(here.service.calls) == calls
        assert held() == before
        assert (await here.send(MANAGER, "GetVersion")).body == ["9.8.7"]

    in_place(check)


def test_e13_descriptors_do_not_come_with_a_message() -> None:
    """We never agreed to take any, so the bus keeps them; nothing leaks, and the sender's next call is answered."""

    async def check(here: Place) -> None:
        async with connection_with_descriptors(here.bus) as sender:
            ours, theirs = socket.socketpair()
            with ours, theirs:
                before = held()
                for signature, body in (("h", [0]), ("s", ["home"]), ("", [])):
                    message = Message(
                        destination=NAME, path=PATH, interface=MANAGER, member="Connect",
                        signature=signature, body=body, unix_fds=[ours.fileno()],
                    )  # fmt: skip
                    reply = await asyncio.wait_for(sender.call(message), 20)
                    assert reply is not None and reply.message_type is MessageType.ERROR
                assert held() == before
                assert not [name for name, *_ in here.service.calls if name == "connect"]
            message = Message(destination=NAME, path=PATH, interface=MANAGER, member="GetVersion")
            reply = await asyncio.wait_for(sender.call(message), 20)
            assert reply is not None and reply.body == ["9.8.7"]

    in_place(check)


def test_e13_a_message_that_lies_about_its_lengths_never_reaches_us() -> None:
    """dbus-fast reads past the end of it, and may crash (bench/fuzz_ipc.py): the bus hangs up on whoever sends it."""

    async def check(here: Place) -> None:
        calls = len(here.service.calls)
        call = Message(NAME, PATH, MANAGER, "Connect", signature="s", body=["home"], serial=77)
        for at, byte in ((-9, 0xFF), (-8, 0xFF), (-1, 0x41)):
            raw = bytearray(call._marshall(False))
            raw[at] = byte
            async with stranger(here.bus) as liar:
                assert liar._sock is not None
                liar._sock.send(raw)
                with contextlib.suppress(EOFError, OSError):
                    await asyncio.wait_for(liar.wait_for_disconnect(), 20)  # type: ignore[no-untyped-call]
                assert not liar.connected, at
        assert (await here.send(MANAGER, "GetVersion")).body == ["9.8.7"]
        assert "connect" not in [name for name, *_ in here.service.calls[calls:]]
        assert here.face.problem is None

    in_place(check)


@contextlib.asynccontextmanager
async def connection_with_descriptors(bus: Bus) -> AsyncIterator[MessageBus]:
    guest = MessageBus(bus_address=bus.address, bus_type=BusType.SYSTEM, negotiate_unix_fd=True)
    await guest.connect()
    try:
        yield guest
    finally:
        guest.disconnect()
        with contextlib.suppress(Exception):
            await guest.wait_for_disconnect()  # type: ignore[no-untyped-call]
