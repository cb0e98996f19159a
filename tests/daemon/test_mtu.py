"""The loop and the tunnel's MTU (T7): when it is looked for, what is kept of it, and what is left alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address, ip_interface
from pathlib import Path

import pytest

from daemon import mtu
from daemon.mtu import Source, is_settled
from policies.facts import Endpoint, Tunnel
from policies.firewall import TUNNEL_IFNAME
from policies.openvpn import OpenVPNProfile
from policies.profiles import Profile, parse
from policies.states import Event, Phase, Reconnect
from tests.daemon.fake_host import WLAN
from tests.daemon.profiles_for_tests import OFFICE
from tests.daemon.test_loop import SETTINGS, Running, impatient, running
from tests.policies.openvpn_texts import VALID

__all__ = ["impatient"]


@asynccontextmanager
async def connected(tmp_path: Path, passes: int, own: int = 1420, uplink: int = 1500) -> AsyncIterator[Running]:
    """At the café, with a tunnel; what is larger than `passes` gets lost in it."""
    async with running(tmp_path, SETTINGS) as here:
        here.fake.mtus = {TUNNEL_IFNAME: own, "wlan0": uplink}
        here.fake.passes = passes
        driver = here.fake.host.tunnel
        opened = driver.open

        async def open(profile: Profile) -> Tunnel:
            tunnel = await opened(profile)
            return replace(tunnel, addresses=(*tunnel.addresses, ip_interface("2001:db8::2/128")))

        setattr(driver, "open", open)  # noqa: B010  for this one, the checker has a word against it
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        yield here


async def found(here: Running, mtu: int) -> None:
    await here.until(lambda loop: loop.mtus.mtu == mtu and loop.mtus.source is Source.SEARCH)
    await here.turn()  # the search itself has ended then, too
    assert here.fake.mtus[TUNNEL_IFNAME] == mtu


@pytest.mark.parametrize(
    "passes, uplink, expected", [(1500, 1500, 1420), (1330, 1500, 1328), (1500, 1400, 1320), (1290, 1400, 1280)]
)
def test_it_is_looked_for_once_and_set(tmp_path: Path, passes: int, uplink: int, expected: int) -> None:
    async def work() -> None:
        async with connected(tmp_path, passes, uplink=uplink) as here:
            await found(here, expected)
            assert "mtu" not in here.loop.warnings
            await here.hint("links")
            await here.hint("wifi")
            ((resolvers, tried),) = [detail for what, detail in here.fake.asked if what == "search mtu"]
            assert resolvers == OFFICE.resolvers
            assert tried[0] == 1420 - (1500 - uplink)

    asyncio.run(work())


def test_a_way_too_narrow_for_ipv6_is_told(tmp_path: Path) -> None:
    async def work() -> None:
        async with connected(tmp_path, 1210) as here:
            await found(here, 1280)
            assert "IPv6" in here.loop.warnings["mtu"]
            here.fake.passes = 1500
            await here.at_home()
            await here.until(lambda loop: "mtu" not in loop.warnings)

    asyncio.run(work())


def test_nobody_answers_and_nothing_changes(tmp_path: Path) -> None:
    async def work() -> None:
        async with connected(tmp_path, 0) as here:
            await here.until(lambda _: "search mtu" in [what for what, _ in here.fake.asked])
            await asyncio.sleep(0)
            assert (here.loop.mtus.mtu, here.loop.mtus.source) == (1420, Source.DEFAULT)
            assert not here.fake.order("set mtu")

    asyncio.run(work())


def test_it_holds_for_a_new_tunnel_and_is_tried_upwards_after_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        async with connected(tmp_path, 1330) as here:
            await found(here, 1328)
            here.fake.passes = 0
            here.fake.mtus[TUNNEL_IFNAME] = 1420  # a new link
            attempt = here.loop.state.attempt
            here.loop.post(Reconnect())
            await here.until(lambda loop: loop.state.attempt > attempt and loop.state.phase is Phase.CONNECTED)
            await found(here, 1328)
            monkeypatch.setattr(mtu, "HOLDS_S", 0.0)
            here.fake.passes = 1500
            here.fake.mtus[TUNNEL_IFNAME] = 1420
            here.loop.post(Reconnect())
            await found(here, 1420)

    asyncio.run(work())


def test_connections_that_stall_have_it_looked_for_again(tmp_path: Path) -> None:
    async def work() -> None:
        async with connected(tmp_path, 1500) as here:
            await found(here, 1420)
            here.fake.passes, here.fake.stalls = 1330, 1
            assert here.loop.mtus.look(100.0)
            await here.turn()
            await found(here, 1328)
            assert not here.loop.mtus.look(200.0), "those were seen"
            here.fake.stalls = 2
            assert not here.loop.mtus.look(101.0), "not so soon"
            assert here.loop.mtus.look(200.0)

    asyncio.run(work())


def test_what_was_found_on_a_way_that_was_left_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Callable[[], Awaitable[Event]]] = []

    async def later(run: Callable[[], Awaitable[Event]]) -> None:
        held.append(run)

    async def work() -> None:
        async with connected(tmp_path, 1500) as here:
            await found(here, 1420)
            monkeypatch.setattr(here.loop.mtus, "_command", later)
            here.fake.passes = 1330
            here.fake.links = (replace(WLAN, gateways=(ip_address("192.0.2.9"),)),)
            await here.hint("links")
            await here.until(lambda _: bool(held))
            here.fake.links = (WLAN,)
            await here.hint("links")
            await held[0]()
            assert here.loop.mtus.mtu == here.fake.mtus[TUNNEL_IFNAME] == 1420

    asyncio.run(work())


def test_a_link_that_refuses_is_told(tmp_path: Path) -> None:
    async def work() -> None:
        async with running(tmp_path, SETTINGS) as here:
            here.fake.mtus, here.fake.passes = {TUNNEL_IFNAME: 1420}, 1330
            here.fake.refuses.add("set mtu")
            await here.at_the_cafe()
            await here.until(lambda loop: "mtu" in loop.warnings)
            assert here.loop.state.phase is Phase.CONNECTED
            assert "set mtu: refused" in here.loop.warnings["mtu"]

    asyncio.run(work())


def test_what_is_left_alone() -> None:
    udp, tcp = (Endpoint(OFFICE.peers[0].addresses[0], 443, protocol) for protocol in ("udp", "tcp"))
    openvpn, _ = parse("office", VALID)
    assert isinstance(openvpn, OpenVPNProfile)
    assert not is_settled(OFFICE, udp)
    assert is_settled(replace(OFFICE, mtu=1400), udp)
    assert not is_settled(openvpn, udp)
    assert is_settled(openvpn, tcp)
    assert is_settled(replace(openvpn, options=(*openvpn.options, ("tun-mtu", "1400"))), udp)
