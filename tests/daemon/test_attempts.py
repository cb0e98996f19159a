"""One attempt lives at a time, however fast they are asked for, and each one answers or is replaced."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from typing import Any

import pytest

from daemon import attempts as module
from daemon.attempts import Attempts
from policies.states import Cause, Event, TunnelClosed, TunnelDown, TunnelUp
from tests.daemon.fake_host import FakeHost
from tests.daemon.profiles_for_tests import OFFICE


class Here:
    def __init__(self) -> None:
        self.fake, self.events, self.told = FakeHost(), list[Event](), list[str]()
        self.attempts = Attempts(self.fake.host.tunnel, self.events.append, self.told.append)

    async def until(self, number: int) -> Event:
        async with asyncio.timeout(20):
            while len(self.events) < number:  # noqa: ASYNC110 - a plain list is what the callback fills
                await asyncio.sleep(0.001)
        return self.events[number - 1]


def test_up_then_lost() -> None:
    async def check() -> None:
        here = Here()
        here.attempts.open(1, OFFICE, 20.0)
        assert isinstance(await here.until(1), TunnelUp)
        here.fake.died.set()
        assert await here.until(2) == TunnelDown(1, Cause.TUNNEL_LOST)
        assert here.told == ["keep the tunnel up: it fell silent"]

    asyncio.run(check())


@pytest.mark.parametrize(
    "refuses, limit, cause, told",
    [
        ({"open"}, 20.0, Cause.TUNNEL_FAILED, "open: refused"),
        ({"established"}, 20.0, Cause.TUNNEL_FAILED, "established: refused"),
        (set(), 0.01, Cause.SERVER_UNREACHABLE, "shake hands: no answer within 0.01 s"),
    ],
)
def test_never_up(refuses: set[str], limit: float, cause: Cause, told: str) -> None:
    async def check() -> None:
        here = Here()
        here.fake.refuses, here.fake.answers = refuses, False
        here.attempts.open(1, OFFICE, limit)
        assert await here.until(1) == TunnelDown(1, cause)
        assert here.told == [told]

    asyncio.run(check())


@pytest.mark.parametrize("error", [None, ZeroDivisionError()])
def test_closing_always_answers(error: Exception | None, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check() -> None:
        here = Here()
        here.fake.refuses = {"close"}
        if error is not None:

            async def broken(self: object) -> None:
                raise error

            monkeypatch.setattr(type(here.fake.host.tunnel), "close", broken)
        here.attempts.close(4)
        assert await here.until(1) == TunnelClosed(4)
        await here.attempts.abandon()

    asyncio.run(check())


@pytest.mark.parametrize("seed", range(20))
def test_a_storm_of_attempts_runs_one_at_a_time(seed: int) -> None:
    """FakeHost fails when two run at once. A replaced attempt may be anywhere: not begun, opening, up, tidying up."""

    async def check() -> None:
        here, dice = Here(), random.Random(seed)
        for number in range(60):
            if dice.random() < 0.4:
                here.attempts.close(number)
            else:
                here.attempts.open(number, OFFICE, 20.0)
            for _ in range(dice.choice([0, 0, 0, 1, 2, 5])):
                await asyncio.sleep(0)
        here.attempts.open(99, OFFICE, 20.0)
        async with asyncio.timeout(20):
            while not any(isinstance(event, TunnelUp) and event.attempt == 99 for event in here.events):  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert here.told == []
        assert here.fake.tunnels == 1
        await here.attempts.abandon()
        assert here.fake.tunnels == 1, "abandoned, not closed"

    asyncio.run(check())


def test_a_swallowed_cancellation_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CANCEL_AGAIN_S", 0.02)

    async def check() -> None:
        here = Here()
        deaf = True

        async def dead(self: object) -> Any:
            nonlocal deaf
            while True:
                try:
                    await asyncio.Event().wait()
                except asyncio.CancelledError:
                    if not deaf:
                        raise
                    deaf = False

        monkeypatch.setattr(type(here.fake.host.tunnel), "dead", dead)
        here.attempts.open(1, OFFICE, 20.0)
        await here.until(1)
        here.attempts.close(1)
        assert await here.until(2) == TunnelClosed(1)

    asyncio.run(check())


def test_an_attempt_that_was_replaced_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each kept the one before it, with all that it held: 18 KiB each time that a tunnel was lost."""

    async def check() -> None:
        here = Here()
        watched = weakref.WeakSet[Held]()

        async def dead() -> None:
            held = Held()
            watched.add(held)
            await asyncio.Event().wait()

        monkeypatch.setattr(here.fake.host.tunnel, "dead", dead)
        for number in range(1, 21):
            here.attempts.open(number, OFFICE, 20.0)
            assert isinstance(await here.until(number), TunnelUp)
        here.attempts.close(21)
        assert isinstance(await here.until(21), TunnelClosed)
        gc.collect()
        assert len(watched) <= 1

    asyncio.run(check())


class Held:
    """What an attempt holds."""
