"""The loop and name resolution: what somebody undid is set anew, and own resolvers follow settings (T6)."""

from __future__ import annotations

import asyncio
from ipaddress import ip_address
from pathlib import Path

import pytest

from daemon import watchers
from policies.resolvers import Manager
from policies.settings import parse_settings
from policies.states import Changed, Event, Phase
from tests.daemon.profiles_for_tests import OFFICE
from tests.daemon.test_loop import SETTINGS, Running, impatient, running

__all__ = ["impatient"]

OWN = f'{SETTINGS}\n[dns]\nmanager = "file"\nresolvers = ["192.0.2.53"]\n'


async def take(here: Running, text: str) -> None:
    async def change() -> Event:
        here.loop.configuration.take(parse_settings(text))
        return Changed()

    await here.loop.command(change)


def resolvers(here: Running) -> tuple[object, ...]:
    assert here.fake.resolvers is not None
    policy = here.fake.kernel["firewall"]
    assert policy is not None
    assert policy.tunnel is not None
    assert policy.tunnel.resolvers == here.fake.resolvers.resolvers, "the firewall lets those be asked that are set"
    return here.fake.resolvers.resolvers


def test_what_somebody_undid_is_set_anew_when_it_is_heard_of(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path) as here:
            await here.at_the_cafe()
            await here.until(Phase.CONNECTED)
            here.fake.resolvers = None
            await here.hint("resolvers")
            assert resolvers(here) == OFFICE.resolvers
            sets = here.fake.order("resolver")
            await here.hint("resolvers")
            assert here.fake.order("resolver") == sets, "nothing was amiss"

    asyncio.run(work())


def test_own_resolvers_follow_the_settings_while_connected(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, OWN) as here:
            await here.at_the_cafe()
            await here.until(Phase.CONNECTED)
            assert resolvers(here) == (ip_address("192.0.2.53"),)
            await take(here, SETTINGS)
            assert resolvers(here) == OFFICE.resolvers
            await take(here, OWN)
            assert resolvers(here) == (ip_address("192.0.2.53"),)
            assert here.fake.host.resolver.manager is Manager.FILE

    asyncio.run(work())


def test_one_that_refuses_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was set for other resolvers before: what failed half-way counts as not set."""
    monkeypatch.setattr(watchers, "AGAIN_S", 0.01)

    async def work() -> None:
        async with running(tmp_path, OWN) as here:
            await here.at_the_cafe()
            await here.until(Phase.CONNECTED)
            here.fake.refuses.add("resolver")
            await take(here, SETTINGS)
            await here.until(lambda loop: loop.state.phase is not Phase.CONNECTED)
            here.fake.refuses.clear()
            await here.until(Phase.CONNECTED)
            assert resolvers(here) == OFFICE.resolvers

    asyncio.run(work())
