"""Logins to a captive portal over a real loop in front of FakeHost (N12)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from daemon import login as module
from daemon.service import DaemonService
from ipc.access import Caller, Transport
from ipc.errors import Error, ServiceError
from ipc.structs import LoginState
from policies.facts import Internet, Reach
from policies.states import Phase, Target
from tests.daemon.fake_host import CAFE, LOGIN_DNS, WLAN, FakeHost
from tests.daemon.test_loop import Running, impatient, running

assert impatient

SETTINGS = """
[wifi]
unsecured = "auto_connect"
"""
URL = "http://portal.example/login"
CAPTIVE = Internet(Reach.PORTAL, "probe", URL)
Told = AsyncGenerator[LoginState, None]


class Place:
    def __init__(self, here: Running, service: DaemonService, process: int) -> None:
        self.here, self.service, self.loop, self.fake, self.process = here, service, here.loop, here.fake, process

    async def found(self, internet: Internet | None) -> None:
        """What an explorer has found out about the café."""
        self.loop._find(lambda facts: replace(facts, internet={"wlan0": internet} if internet else {}))
        self.loop.post(module.Changed())
        await self.here.turn()

    def log_in(self, process: int | None = -1, transport: Transport = Transport.SOCKET) -> Told:
        own = self.process if process == -1 else process
        return self.service.portal_login(Caller(0, frozenset({0}), os.getpid(), transport, own))

    async def phase(self, wanted: Phase) -> None:
        async with asyncio.timeout(20):
            while self.loop.state.phase is not wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    @property
    def tree(self) -> tuple[frozenset[str], int]:
        """What both layers let pass for a login."""
        policies = self.fake.kernel.values()
        (one,) = {(each.tree, each.tree_dns) for each in policies if each is not None}
        return one


@asynccontextmanager
async def captive(folder: Path) -> AsyncIterator[Place]:
    async with running(folder, SETTINGS, fake=FakeHost()) as here:
        service = DaemonService(here.loop, "1.2.3")
        here.loop._on_change = service.publish
        here.loop._explorers = (here.loop.logins,)  # the test itself says what is behind the link
        process = os.pidfd_open(os.getpid())
        place = Place(here, service, process)
        try:
            place.fake.answers = False
            place.fake.links, place.fake.wifi = (WLAN,), {"wlan0": CAFE}
            await here.hint("links", "wifi")
            await place.found(CAPTIVE)
            await place.phase(Phase.PORTAL)
            assert place.tree == (frozenset(), 0)
            yield place
        finally:
            os.close(process)


def run(folder: Path, check: Callable[[Place], Coroutine[None, None, None]]) -> None:
    async def inside() -> None:
        async with captive(folder) as place:
            await check(place)

    asyncio.run(inside())


async def refused(told: Told) -> ServiceError:
    with pytest.raises(ServiceError) as caught:
        await asyncio.wait_for(anext(told), 20)
    return caught.value


async def next_of(told: Told) -> LoginState:
    return await asyncio.wait_for(anext(told), 20)


async def ended(place: Place) -> None:
    async with asyncio.timeout(20):
        while place.loop.logins._became is not None:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    assert place.tree == (frozenset(), 0)


def test_n12_it_opens_after_the_tree_stands_and_closes_before_it_goes(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        told = place.log_in()
        begun = await next_of(told)
        assert (begun.state, begun.url) == ("begun", URL)
        assert place.tree == (frozenset({"wlan0"}), LOGIN_DNS)
        assert place.fake.order("tree", "no tree") == ["tree"]
        assert place.fake.asked.index(("tree", (place.process, ("wlan0",)))) < last(place, "firewall")
        closing = len(place.fake.asked)
        await told.aclose()
        await ended(place)
        after = [what for what, _ in place.fake.asked[closing:]]
        assert after.index("firewall") < after.index("no tree")

    run(tmp_path, check)


@pytest.mark.parametrize("layer", ["firewall", "routes"])
def test_n12_a_layer_that_refuses_to_open_leaves_both_closed(tmp_path: Path, layer: str) -> None:
    async def check(place: Place) -> None:
        place.fake.refuses = {layer}
        told = place.log_in()
        with contextlib.suppress(ServiceError):
            await next_of(told)
        opened = {name: policy.tree for name, policy in place.fake.kernel.items() if policy and policy.tree}
        assert opened == {}, "neither layer is wider than it was"
        assert not place.fake.leaks
        await told.aclose()
        place.fake.refuses = set()
        await ended(place)
        assert "no tree" in place.fake.order("no tree")

    run(tmp_path, check)


@pytest.mark.parametrize("layer", ["firewall", "routes"])
def test_n12_a_layer_that_refuses_to_close_ends_the_tree_all_the_same(tmp_path: Path, layer: str) -> None:
    """Nobody bears the mark any more, and the other layer closes at once."""

    async def check(place: Place) -> None:
        told = place.log_in()
        assert (await next_of(told)).state == "begun"
        closing = len(place.fake.asked)
        place.fake.refuses = {layer}
        await told.aclose()
        async with asyncio.timeout(20):
            while place.loop.logins._became is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        assert "no tree" in [what for what, _ in place.fake.asked[closing:]]
        assert not place.fake.leaks
        (other,) = {"firewall", "routes"} - {layer}
        policy = place.fake.kernel[other]
        assert policy is not None and policy.tree == frozenset()
        place.fake.refuses = set()
        async with asyncio.timeout(20):
            while any(each is None or each.tree for each in place.fake.kernel.values()):  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    run(tmp_path, check)


def last(place: Place, what: str) -> int:
    return max(at for at, (asked, _) in enumerate(place.fake.asked) if asked == what)


def test_n12_it_ends_when_the_portal_is_open_and_a_tunnel_is_made(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        place.fake.answers = True
        told = place.log_in()
        await next_of(told)
        await place.found(Internet(Reach.INTERNET, "probe"))
        done = await next_of(told)
        assert done.state == "done"
        assert place.tree == (frozenset(), 0)
        await place.phase(Phase.CONNECTED)
        hangs = asyncio.ensure_future(anext(told))
        await ended(place)
        assert ("no tree", module.PATIENCE_S) in place.fake.asked, "what runs may end by itself"
        assert not hangs.done(), "whoever listens hangs up"
        hangs.cancel()
        await asyncio.wait([hangs])

    run(tmp_path, check)


def test_n12_it_expires(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        portal = place.loop.settings.portal.model_copy(update={"login_timeout": 0.2})
        place.loop.configuration.take(place.loop.settings.model_copy(update={"portal": portal}))
        await place.found(CAPTIVE)
        told = place.log_in()
        await next_of(told)
        assert (await next_of(told)).state == "expired"
        assert place.tree == (frozenset(), 0)
        assert place.loop.state.phase is Phase.PORTAL
        await told.aclose()
        await ended(place)

    run(tmp_path, check)


@pytest.mark.parametrize("how", ["carrier", "another association", "disconnect"])
def test_n12_it_is_withdrawn_with_the_network(tmp_path: Path, how: str) -> None:
    async def check(place: Place) -> None:
        told = place.log_in()
        await next_of(told)
        match how:
            case "carrier":
                place.fake.links = (replace(WLAN, carrier=False, carrier_changes=2),)
                await place.here.hint("links")
            case "another association":
                place.fake.links = (replace(WLAN, carrier_changes=3),)
                await place.here.hint("links")
            case _:
                await place.service.disconnect(Caller(0, frozenset({0}), 1, Transport.SOCKET))
        assert (await next_of(told)).state == "withdrawn"
        assert place.tree == (frozenset(), 0)
        await told.aclose()
        await ended(place)

    run(tmp_path, check)


def test_n12_a_look_that_finds_nothing_closes_it_for_the_moment(tmp_path: Path) -> None:
    """Whether there still is a portal is not known: only while it is, the tree may pass."""

    async def check(place: Place) -> None:
        told = place.log_in()
        await next_of(told)
        waits = asyncio.ensure_future(anext(told))
        await place.found(None)
        assert place.tree == (frozenset(), 0)
        await place.found(CAPTIVE)
        await place.phase(Phase.PORTAL)
        assert place.tree == (frozenset({"wlan0"}), LOGIN_DNS)
        assert not waits.done()
        waits.cancel()
        await asyncio.wait([waits])
        await told.aclose()
        await ended(place)

    run(tmp_path, check)


def test_n12_who_is_refused(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        for process, transport in ((None, Transport.SOCKET), (None, Transport.DBUS)):
            told = place.log_in(process, transport)
            assert (await refused(told)).error is Error.NOT_NOW
        first = place.log_in()
        await next_of(first)
        assert "somebody logs in already" in (await refused(place.log_in())).why
        assert place.tree == (frozenset({"wlan0"}), LOGIN_DNS), "the first one goes on"
        await first.aclose()
        await ended(place)
        await place.found(Internet(Reach.INTERNET, "probe"))
        assert "no captive portal" in (await refused(place.log_in())).why
        assert place.tree == (frozenset(), 0)

    run(tmp_path, check)


def test_n12_where_it_cannot_be_kept_apart_nothing_is_opened(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        place.fake.refuses = {"tree"}
        error = await refused(place.log_in())
        assert (error.error, error.why) == (Error.NOT_NOW, "tree: refused.")
        await ended(place)
        assert not [policy for what, policy in place.fake.asked if what == "firewall" and getattr(policy, "tree", None)]
        place.fake.refuses = set()
        told = place.log_in()
        assert (await next_of(told)).state == "begun", "another one may try"
        await told.aclose()

    run(tmp_path, check)


def test_n12_the_portal_may_be_gone_when_the_tree_stands(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        told = place.log_in()
        begins = asyncio.ensure_future(anext(told))
        await asyncio.sleep(0)
        place.loop._find(lambda facts: replace(facts, internet={"wlan0": Internet(Reach.INTERNET, "probe")}))
        place.loop.post(module.Changed())
        with pytest.raises(ServiceError, match="no captive portal"):
            await asyncio.wait_for(begins, 20)
        await ended(place)
        assert place.fake.order("tree", "no tree")[-1] == "no tree"

    run(tmp_path, check)


def test_n12_whoever_hangs_up_while_it_begins_leaves_nothing(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        for turns in range(12):
            told = place.log_in()
            begins = asyncio.ensure_future(anext(told))
            for _ in range(turns):
                await asyncio.sleep(0)
            begins.cancel()
            await asyncio.wait([begins])
            await told.aclose()
            await ended(place)
        assert place.loop.decision.target is Target.PROTECTED

    run(tmp_path, check)


def test_n12_what_an_earlier_daemon_left_is_tidied_up_once_and_first(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        told = place.log_in()
        await next_of(told)
        assert place.fake.order("tidy", "tree") == ["tidy", "tree"]
        assert place.fake.order("firewall", "tidy")[0] == "firewall", "after the first decision"
        await told.aclose()
        await ended(place)

    run(tmp_path, check)


def test_n12_the_end_of_the_daemon_ends_the_tree(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        told = place.log_in()
        await next_of(told)
        await place.loop.logins.abandon()
        await ended(place)
        assert place.fake.order("tree", "no tree")[-1] == "no tree"

    run(tmp_path, check)
