"""Varlink is given nonsense by somebody who may only read, and by root: no crash, no growth, no change of state."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from ipc.access import Access
from ipc.describe import Field, methods
from ipc.varlink import Limits
from tests.ipc.fuzzing import check_calls, held, peak
from tests.ipc.places import until
from tests.ipc.varlink_place import Place, place

pytestmark = pytest.mark.netns  # needs root: the folder of the sockets is root's

# The same examples in every run: a fuzz test that fails now and then is of no use to anybody.
FUZZ = settings(max_examples=400, derandomize=True, deadline=None, database=None,
                phases=[Phase.explicit, Phase.generate],  # shrinking would wait for every time-out anew
                suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])  # fmt: skip
LIMITS = Limits(message_seconds=0.2)
NAMES = [*methods(), "org.varlink.service.GetInfo", "org.varlink.service.GetInterfaceDescription"]
WORDS = sorted({field.name for method in methods().values() for field in method.parameters} | {"interface", "x", ""})

numbers = (
    st.integers() | st.integers(-(10**40), 10**40) | st.floats() | st.sampled_from([2**63, -(2**63), 2**64, 1e308])
)
OFTEN_READING = [each for each in methods().values() for _ in range(3 if each.access is Access.READ else 1)]
texts = (
    st.text(max_size=20)
    | st.text(st.characters(categories=["Cs"]), min_size=1, max_size=3)  # lone surrogates
    | st.sampled_from(["\0", "a\0b", "x" * 3_000, "\x1b[31m", "../../etc/passwd", "$(id)", "\u202e", "true", "home"])
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
calls = st.fixed_dictionaries(
    {"method": st.sampled_from(NAMES) | texts},
    optional={
        "parameters": st.dictionaries(st.sampled_from(WORDS), values, max_size=5) | values,
        "more": st.booleans() | values, "oneway": st.booleans() | values, "upgrade": st.booleans() | values,
        "x": values,
    },
)  # fmt: skip


@st.composite
def nearly(draw: st.DrawFn) -> dict[str, object]:
    """A call of ours as it should be, but for one argument perhaps."""
    method = draw(st.sampled_from(OFTEN_READING))
    given: dict[str, object] = {field.name: draw(right(field)) for field in method.parameters}
    if draw(st.booleans()):
        given[draw(st.sampled_from([*given, "x"]))] = draw(values)
    if given and draw(st.integers(0, 4)) == 0:
        del given[draw(st.sampled_from([*given]))]
    return {"method": method.wire_name, "parameters": given, "more": method.stream}


def right(field: Field) -> SearchStrategy[object]:
    """What an argument may be."""
    fitting: dict[str, SearchStrategy[object]] = {
        "bool": st.booleans(),
        "int": st.integers(0, 2**63),
        "string": st.sampled_from(field.choices or ["home", "486f6d65", "1", "", "x" * (field.longest or 64)]),
    }
    return fitting[field.type.base] | st.none() if field.type.nullable else fitting[field.type.base]


deep = st.builds(
    lambda opening, depth: opening * depth, st.sampled_from(["[", '{"a":', "[[{", '"']), st.integers(1, 9000)
)
messages: SearchStrategy[bytes] = st.one_of(
    *[nearly().map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass"))] * 3,
    (calls | values).map(lambda value: json.dumps(value).encode("utf-8", "surrogatepass")),
    (calls | values).map(lambda value: json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    deep.map(str.encode),
    st.integers(1, 6_000).map(lambda digits: b'{"method": "a.B", "parameters": {"x": ' + b"9" * digits + b"}}"),
    st.binary(max_size=80),
)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Messages, whole or damaged, cut into pieces wherever it happens."""
    raw = b"\0".join(draw(st.lists(messages, max_size=5))) + draw(st.sampled_from([b"\0", b"\0\0", b""]))
    for _ in range(draw(st.sampled_from([0, 0, 1, 2]))):
        at = draw(st.integers(0, len(raw)))
        raw = raw[:at] + draw(st.sampled_from([b"", b"\0", b"\xff", b"}", b'"', b"\\ud800"])) + raw[at + 1 :]
    cuts = sorted(draw(st.lists(st.integers(0, len(raw)), max_size=3)))
    return [raw[start:end] for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True)]


async def offer(here: Place, name: str, pieces: list[bytes]) -> None:
    """What comes back is JSON objects, each of them a reply or an error, and then the end."""
    peer = await here.peer(name)
    with suppress(OSError):
        for piece in pieces:
            peer.writer.write(piece)
            await asyncio.sleep(0)
        peer.writer.write_eof()
    answers = b""
    with suppress(OSError):
        answers = await asyncio.wait_for(peer.reader.read(), 20)
    for answer in answers.split(b"\0")[:-1]:
        reply = json.loads(answer)
        assert reply.keys() <= {"parameters", "continues", "error"}
    await peer.close()
    here.peers.remove(peer)


@pytest.fixture
def here() -> Iterator[tuple[Place, Callable[[Awaitable[None]], None]]]:
    """One face for all examples of a test, and what runs something beside it."""
    with asyncio.Runner() as runner:
        entered = place(LIMITS)
        found = runner.run(entered.__aenter__())

        async def one(check: Awaitable[None]) -> None:
            await check

        try:
            yield found, lambda check: runner.run(one(check))
        finally:
            runner.run(entered.__aexit__(None, None, None))


@pytest.mark.parametrize(("name", "most"), [("read.sock", Access.READ), ("tunwarden.sock", Access.ADMIN)])
def test_e13_whatever_is_sent(
    here: tuple[Place, Callable[[Awaitable[None]], None]], name: str, most: Access, caplog: pytest.LogCaptureFixture
) -> None:
    """On read.sock nothing changes, whoever asks; on the other one, root's calls arrive only when well-formed."""
    found, run = here
    state = found.service.feed.status
    sizes: list[tuple[tuple[int, int], int]] = []
    reached: set[str] = set()

    @FUZZ
    @given(streams())
    @example([b"\0" * 5_000])
    @example([b'{"method":"org.tunwarden.Daemon1.Manager.GetStatus","parameters":', b"[" * 50_000, b"\0"])
    def offered(pieces: list[bytes]) -> None:
        async def check() -> None:
            await offer(found, name, pieces)
            await until(lambda: not found.face._connections, 20)
            sizes.append((held(), peak()))
            check_calls(found.service.calls, most)
            reached.update(function for function, *_ in found.service.calls)
            found.service.calls.clear()

        run(check())

    offered()
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR], "no defect was logged"
    assert len(sizes) >= 400 and len(reached) >= 3, "the control: not all of it is refused at the door"
    assert sizes[-1][0] == sizes[0][0], "descriptors and tasks are what they were"
    assert sizes[-1][1] - sizes[len(sizes) // 4][1] <= 16, "MiB"
    assert not found.service.feed._watchers and not found.service.agents
    if most is Access.READ:
        assert found.service.feed.status is state
    run(answered(found))


async def answered(here: Place) -> None:
    peer = await here.peer()
    assert (await peer.ask("Manager.GetVersion"))["parameters"] == {"version": "9.8.7"}


def test_e13_the_next_caller_is_served_while_nonsense_waits(
    here: tuple[Place, Callable[[Awaitable[None]], None]],
) -> None:
    """Thirty peers are in the middle of thirty different messages; a call between them is answered."""
    found, run = here
    halves = [b"{", b'{"method":', b'"', b"[" * 9_000, b"\xff" * 60_000, b'{"parameters":{"x":"' + b"y" * 60_000]

    async def check() -> None:
        peers = [await found.peer("read.sock") for _ in range(30)]
        for number, peer in enumerate(peers):
            peer.writer.write(halves[number % len(halves)])
        await answered(found)
        for peer in peers:
            assert (await peer.receive())["error"] == "org.tunwarden.Daemon1.Error.InvalidArgument"
            assert await peer.ended()
        await until(lambda: len(found.face._connections) == 1, 20)

    run(check())
