"""E13: whatever one peer does, the others are served, and what it can take of us is bounded."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from contextlib import suppress

import asyncvarlink
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ipc.feed import BACKLOG
from ipc.varlink import Limits
from tests.ipc.places import STRANGER, public_folder, python, until
from tests.ipc.varlink_place import ERROR, NAME, Peer, Place, place, run

pytestmark = pytest.mark.netns  # needs root: other users ask, and owners are set

SMALL = Limits(message_seconds=0.3, send_seconds=0.3, connections=6, connections_per_uid=3)


async def alive(here: Place) -> None:
    """A newcomer is answered promptly."""
    peer = await here.peer()
    begun = time.monotonic()
    assert (await peer.ask("Manager.GetVersion"))["parameters"] == {"version": f"9.8.7{here.service.padding}"}
    assert time.monotonic() - begun < 20
    await peer.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"garbage",
        b"\xff\xfe{\x00}\x00",
        '{"method": "é'.encode("latin-1"),
        b"[]",
        b"null",
        b"{}",
        b'{"method": 1}',
        b'{"method": "x"}',
        b'{"method": "a.b", "parameters": []}',
        b'{"method": "a.B", "oneway": 1}',
        b'{"method": "a.B", "oneway": true, "more": true}',
        b"[" * 60_000,
        b'{"a":' * 10_000,
        b"1" * 5_000,
        b'{"method": "a.B", "parameters": {"x": ' + b"9" * 5_000 + b"}}",
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_what_is_no_call_ends_the_connection_with_a_word(raw: bytes) -> None:
    async def check(here: Place) -> None:
        peer = await here.peer()
        peer.write(raw)
        reply = await peer.receive()
        assert reply["error"] == f"{ERROR}.InvalidArgument"
        assert await peer.ended()
        await alive(here)

    run(check)


@pytest.mark.parametrize("name, longest", [("read.sock", 64 << 10), ("tunwarden.sock", 5 << 18)])
def test_e13_a_message_has_a_longest_size(name: str, longest: int) -> None:
    def call(size: int) -> bytes:
        text = json.dumps({"method": f"{NAME}.Diagnostics.CheckSettings", "parameters": {"text": ""}})
        return text.encode() + b" " * (size - len(text))

    async def check(here: Place) -> None:
        peer = await here.peer(name)
        peer.write(call(longest))
        assert "error" not in await peer.receive()
        peer.write(call(longest + 1))
        assert (await peer.receive())["error"] == f"{ERROR}.InvalidArgument"
        assert await peer.ended()
        endless = await here.peer(name)
        with suppress(OSError):
            for _ in range(64):
                endless.writer.write(b" " * (longest // 8))
                await endless.writer.drain()
        assert await endless.ended()
        await alive(here)

    run(check)


def test_a_profile_of_full_size_passes() -> None:
    async def check(here: Place) -> None:
        peer = await here.peer()
        text = ("x" * 50 + "\n") * ((1 << 20) // 51)
        assert "error" not in await peer.ask("Profiles.Import", name="big", text=text)
        assert here.service.calls[-1][2] == ("big", text)
        reply = await peer.ask("Profiles.Import", name="big", text="x" * ((1 << 20) + 1))
        assert reply["error"] == f"{ERROR}.InvalidArgument"

    run(check)


def test_half_a_message_then_silence() -> None:
    async def check(here: Place) -> None:
        peer = await here.peer()
        peer.writer.write(b'{"method": ')
        await alive(here)
        assert (await peer.receive())["error"] == f"{ERROR}.InvalidArgument"
        assert await peer.ended()
        idle = await here.peer()  # while one that says nothing at all may stay
        await asyncio.sleep(0.5)
        assert "error" not in await idle.ask("Manager.GetVersion")

    run(check, SMALL)


def test_half_a_message_then_the_end() -> None:
    async def check(here: Place) -> None:
        peer = await here.peer()
        peer.writer.write(b'{"method": ')
        peer.writer.write_eof()
        assert await peer.ended()

    run(check, SMALL)


def test_a_call_is_answered_after_the_caller_closed_its_side() -> None:
    async def check(here: Place) -> None:
        peer = await here.peer()
        peer.send("Manager.GetVersion")
        peer.writer.write_eof()
        assert "error" not in await peer.receive()
        assert await peer.ended()

    run(check)


def test_e13_a_flood_holds_nobody_up() -> None:
    async def check(here: Place) -> None:
        flooder = await here.peer()
        call = json.dumps({"method": f"{NAME}.Manager.GetVersion"}).encode() + b"\0"
        count = 20_000
        flood = asyncio.create_task(_write(flooder, call * count))
        read = asyncio.create_task(_replies(flooder, count))
        for _ in range(20):
            await alive(here)
        assert not read.done(), "the flood was over too soon to show anything"
        await flood
        assert await read == count

    run(check)


async def _write(peer: Peer, data: bytes) -> None:
    peer.writer.write(data)
    await peer.writer.drain()


async def _replies(peer: Peer, count: int) -> int:
    for _ in range(count):
        await peer.receive()
    return count


@pytest.mark.parametrize("name", ["tunwarden.sock", "read.sock"])
def test_e13_who_never_reads_is_dropped(name: str) -> None:
    """What waits for it is bounded by the sockets' buffers and one answer, whatever it asks for."""

    async def check(here: Place) -> None:
        here.service.padding = "x" * 200_000
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as deaf:
            deaf.connect(str(here.folder / name))
            deaf.send((json.dumps({"method": f"{NAME}.Manager.GetVersion"}) + "\0").encode() * 500)
            await until(lambda: len(here.service.calls) > 1)
            await alive(here)
            await until(lambda: not here.face._connections)
            assert len(here.service.calls) < 20

    run(check, SMALL)


def test_e13_a_watcher_who_never_reads_is_dropped() -> None:
    async def check(here: Place) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as deaf:
            deaf.connect(str(here.folder / "read.sock"))
            deaf.send((json.dumps({"method": f"{NAME}.Manager.Watch", "more": True}) + "\0").encode())
            other = await here.peer()
            other.send("Manager.Watch", more=True)
            await other.receive()
            count = 0
            async with asyncio.timeout(20):
                while len(here.service.feed._watchers) > 1:
                    count += 1
                    here.service.change(warnings=(f"{count} " + "x" * 10_000,))
                    reply = await other.receive()
                    assert reply["parameters"]["status"]["sequence"] == count + 1  # type: ignore[index]
            await until(lambda: len(here.face._connections) == 1)

    run(check, SMALL)


@pytest.mark.parametrize("size", [10_000, 10], ids=["full buffers", "too many statuses"])
def test_e13_a_slow_watcher_is_dropped_with_a_notice(size: int) -> None:
    """What it then reads has no gap, and ends with the reason and what to do: no silent end."""

    async def check(here: Place) -> None:
        slow = await here.peer()
        slow.send("Manager.Watch", more=True)
        first = await slow.receive()
        slow.writer.transport.pause_reading()  # type: ignore[attr-defined]
        count = 0
        async with asyncio.timeout(20):
            while here.service.feed._watchers:
                count += 1
                here.service.change(warnings=(f"{count} " + "x" * size,))
                if size > 10 or count > 4 * BACKLOG:
                    await asyncio.sleep(0)
        slow.writer.transport.resume_reading()  # type: ignore[attr-defined]
        sequence = first["parameters"]["status"]["sequence"]  # type: ignore[index]
        while "error" not in (reply := await slow.receive()):
            sequence += 1
            assert reply["parameters"]["status"]["sequence"] == sequence  # type: ignore[index]
        assert sequence > 2
        assert reply["error"] == f"{ERROR}.NotNow"
        assert "too slowly" in reply["parameters"]["why"] and "again" in reply["parameters"]["remedy"]  # type: ignore[index]
        assert await slow.ended()

    run(check, Limits(send_seconds=0.3, leave_seconds=20))


def test_e13_a_watcher_who_leaves_is_noticed_whatever_else_it_has_sent() -> None:
    """Nothing is published meanwhile; a call that waits behind the stream hides its end from nobody."""

    async def check(here: Place) -> None:
        for besides in (b"", b"x", VALID, VALID * 50):
            peer = await here.peer()
            peer.send("Manager.Watch", more=True)
            peer.writer.write(besides)
            await peer.receive()
            assert here.service.feed._watchers
            await peer.close()
            await until(lambda: not here.service.feed._watchers and not here.face._connections, 20)

    run(check)


ASK_MANY = """
import json, socket, sys
socks, answers = [], []
for _ in range(int(sys.argv[2])):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    try:
        sock.sendall(b'{"method": "org.tunwarden.Daemon1.Manager.GetVersion"}' + bytes(1))
    except BrokenPipeError:
        pass  # refused already; the answer says why
    socks.append(sock)
    answers.append(json.loads(sock.makefile("rb").read1()[:-1]).get("error", "done").rpartition(".")[2])
print(json.dumps(answers))
"""


def test_e13_one_user_cannot_take_all_connections() -> None:
    async def check(here: Place) -> None:
        assert await python(STRANGER, ASK_MANY, str(here.folder / "read.sock"), "5") == ["done"] * 3 + ["NotNow"] * 2
        await until(lambda: not here.face._connections)
        assert await python(STRANGER, ASK_MANY, str(here.folder / "read.sock"), "3") == ["done"] * 3

    run(check, SMALL)


def test_all_together_have_a_limit_but_root_finds_a_place() -> None:
    async def check(here: Place) -> None:
        asked = await python(STRANGER, ASK_MANY, str(here.folder / "read.sock"), "8")
        assert asked == ["done"] * 6 + ["NotNow"] * 2
        waiting = [await here.peer("read.sock") for _ in range(8)]
        for peer in waiting:
            assert "error" not in await peer.ask("Manager.GetVersion")

    run(check, Limits(connections=6, connections_per_uid=100))


def test_why_asyncvarlinks_own_transport_is_not_used() -> None:
    """The control: it keeps whatever a peer sends without an end. When this fails, it can be looked at again."""

    async def check() -> None:
        with public_folder() as folder:
            path = folder / "s"
            protocols: list[asyncvarlink.VarlinkInterfaceServerProtocol] = []

            def factory() -> asyncvarlink.VarlinkInterfaceServerProtocol:
                protocols.append(asyncvarlink.VarlinkInterfaceServerProtocol(asyncvarlink.VarlinkInterfaceRegistry()))
                return protocols[-1]

            server = await asyncvarlink.create_unix_server(factory, path)
            _, writer = await asyncio.open_unix_connection(str(path))
            writer.write(b"x" * (4 << 20))
            await writer.drain()
            await until(lambda: len(protocols[0]._recv_buffer) == 4 << 20)
            writer.close()
            await writer.wait_closed()
            server.close()
            await asyncio.wait_for(server.wait_closed(), 20)

    asyncio.run(check())


VALID = json.dumps({"method": f"{NAME}.Manager.GetVersion"}).encode() + b"\0"
PIECES = st.one_of(
    st.binary(max_size=60),
    st.just(VALID),
    st.sampled_from([VALID[:20], VALID[20:], b"\0", b"{}\0", b'{"method":"a.B"}\0']),
    st.builds(
        lambda value: json.dumps(value).encode() + b"\0",
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.sampled_from(["method", "parameters", "more", "oneway", "upgrade", "x"]), inner)
            ),
            max_leaves=8,
        ),
    ),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(PIECES, max_size=8))
def test_any_bytes(pieces: list[bytes]) -> None:
    """Whatever comes in whatever pieces: answers are JSON objects, and the next guest is served."""

    async def main() -> None:
        async with place(SMALL) as here:
            peer = await here.peer()
            with suppress(OSError):
                for piece in pieces:
                    peer.writer.write(piece)
                    await asyncio.sleep(0)
                peer.writer.write_eof()
            with suppress(OSError):
                answers = await asyncio.wait_for(peer.reader.read(), 20)
                for answer in answers.split(b"\0")[:-1]:
                    assert isinstance(json.loads(answer), dict)
            await alive(here)

    asyncio.run(main())


def test_passed_descriptors_are_not_kept() -> None:
    async def check(here: Place) -> None:
        before = _descriptors()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(here.folder / "tunwarden.sock"))
            for _ in range(50):
                socket.send_fds(sock, [VALID], [0] * 100)
            await until(lambda: len(here.service.calls) == 50)
            assert _descriptors() <= before + 3  # this connection, both ends, and which process it is

    run(check)


def _descriptors() -> int:
    assert sys.platform == "linux"
    import os

    return len(os.listdir("/proc/self/fd"))
