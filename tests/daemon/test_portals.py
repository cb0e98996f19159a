"""N11: when it is looked for portals and for Internet, what that changes, and that nothing else passes meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from daemon import portals
from daemon.host import Announced, HostError
from daemon.inbox import Found, Inboxed
from daemon.portals import PortalExplorer
from policies.decide import decide
from policies.decision import Intent
from policies.facts import Facts, Internet, Link, Reach
from policies.portals import Probe
from policies.profiles import facts as profile_facts
from policies.settings import Settings, parse_settings
from policies.states import Cause, Phase, Target
from tests.daemon.fake_host import CAFE, WLAN
from tests.daemon.profiles_for_tests import OFFICE
from tests.daemon.test_loop import SETTINGS, Running, impatient, run

__all__ = ["impatient"]  # the fixture is for every test here too

PORTAL = Internet(Reach.PORTAL, "probe", "http://portal.example/in")
OPEN, NOTHING = Internet(Reach.INTERNET, "probe"), Internet(Reach.NOTHING, "probe")
ASKS = SETTINGS.replace('unsecured = "auto_connect"', 'unsecured = "prompt"\nprompt_timeout = "1h"')
SLOW = SETTINGS.replace('connect_timeout = "1s"', 'connect_timeout = "5m"')  # an attempt that does not fail by itself

PAUSES = dict(portals.PAUSES)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portals, "PATIENCE_S", 0.05)
    monkeypatch.setattr(portals, "LISTEN_S", 0.01)
    monkeypatch.setattr(portals, "PAUSES", dict.fromkeys(portals.PAUSES, (0.01, 1.0, 0.01)))


def looks(here: Running) -> int:
    return len(here.fake.order("look"))


def reach(here: Running) -> Reach | None:
    found = here.loop.facts.internet.get("wlan0")
    return found.reach if found else None


@asynccontextmanager
async def somebody_to_ask(here: Running) -> Any:
    async def listen() -> None:
        async for _ in here.loop.prompts.listen():
            pass

    task = asyncio.create_task(listen())
    await here.until(lambda loop: loop.facts.agents == 1)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_where_a_tunnel_comes_up_nothing_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portals, "PATIENCE_S", 1000.0)

    async def check(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        await asyncio.sleep(0.05)
        assert looks(here) == 0
        assert not any(getattr(detail, "login", ()) for _, detail in here.fake.asked)

    run(tmp_path, check)


def test_a_portal_ends_the_attempt_and_what_opens_it_connects(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        here.fake.answers, here.fake.internet["wlan0"] = False, PORTAL
        await here.at_the_cafe()
        await here.until(Phase.PORTAL)
        assert here.loop.state.cause is Cause.PORTAL
        assert here.loop.facts.internet == {"wlan0": PORTAL}
        opened = here.fake.order("open")
        before = looks(here)
        await here.until(lambda _: looks(here) > before + 2)
        assert here.fake.order("open") == opened, "no attempt while the portal is in the way"
        for policy in here.fake.looked_through:
            assert policy is not None and (policy.login, policy.cleared) == ({"wlan0"}, frozenset())
        here.fake.answers, here.fake.internet["wlan0"] = True, OPEN
        await here.until(Phase.CONNECTED)
        await here.until(lambda loop: not loop.facts.internet and not loop.facts.probing)
        done = looks(here)
        await asyncio.sleep(0.05)
        assert looks(here) == done, "nobody looks where a tunnel is up"
        assert all(policy is not None and not policy.login for policy in here.fake.kernel.values())

    run(tmp_path, check, SLOW)


def test_between_looks_nothing_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portals, "PAUSES", dict.fromkeys(portals.PAUSES, (1000.0, 1.0, 1000.0)))

    async def check(here: Running) -> None:
        here.fake.answers, here.fake.internet["wlan0"] = False, PORTAL
        await here.at_the_cafe()
        await here.until(Phase.PORTAL)
        await here.until(lambda loop: not loop.facts.probing)
        assert looks(here) == 1
        assert all(policy is not None and not policy.login for policy in here.fake.kernel.values())

    run(tmp_path, check, SLOW)


def test_an_announced_portal_is_looked_at_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portals, "PATIENCE_S", 1000.0)

    async def check(here: Running) -> None:
        here.fake.answers, here.fake.internet["wlan0"] = False, PORTAL
        await here.at_the_cafe()
        await here.until(Phase.CONNECTING)
        await asyncio.sleep(0.05)
        assert looks(here) == 0
        here.fake.announced[WLAN.ifindex] = Announced("https://portal.example/api", "dhcp")
        await here.until(Phase.PORTAL)

    run(tmp_path, check, SLOW)


def test_a_portal_that_networkmanager_met_is_looked_at_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its word alone changes nothing: the look does."""
    monkeypatch.setattr(portals, "PATIENCE_S", 1000.0)

    async def check(here: Running) -> None:
        here.fake.answers = False
        here.fake.internet["wlan0"] = PORTAL
        await here.at_the_cafe()
        await here.until(Phase.CONNECTING)
        await asyncio.sleep(0.05)
        assert looks(here) == 0
        here.fake.wifi = {"wlan0": replace(CAFE, connectivity=Reach.PORTAL)}
        await here.hint("wifi")
        await here.until(Phase.PORTAL)
        assert looks(here) > 0

    run(tmp_path, check, SLOW)


def test_a_failed_attempt_is_a_reason_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portals, "PATIENCE_S", 1000.0)

    async def check(here: Running) -> None:
        here.fake.refuses.add("open")
        here.fake.internet["wlan0"] = OPEN
        await here.at_the_cafe()
        await here.until(lambda _: reach(here) is Reach.INTERNET)
        attempts = len(here.fake.order("open"))
        await here.until(lambda _: len(here.fake.order("open")) > attempts + 2)

    run(tmp_path, check)


def test_with_detection_off_nobody_looks(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        here.fake.refuses.add("open")
        here.fake.announced[WLAN.ifindex] = Announced("https://portal.example/api", "dhcp")
        await here.at_the_cafe()
        await here.until(lambda _: len(here.fake.order("open")) > 5)
        await asyncio.sleep(0.1)
        assert looks(here) == 0

    run(tmp_path, check, SETTINGS.replace("[tunnel]", "[portal]\ndetect = false\n[tunnel]"))


def test_another_network_is_another_search(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        here.fake.answers, here.fake.internet["wlan0"] = False, PORTAL
        await here.at_the_cafe()
        await here.until(Phase.PORTAL)
        await here.at_home()
        await here.until(Phase.IDLE)
        await here.until(lambda loop: not loop.facts.internet and not loop.facts.probing)
        done = looks(here)
        await asyncio.sleep(0.05)
        assert looks(here) == done

    run(tmp_path, check, SLOW)


@pytest.mark.parametrize("how", ["refused", "broken", "endless"])
def test_a_look_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    monkeypatch.setattr(portals, "LOOK_S", 0.02)

    async def check(here: Running) -> None:
        class Broken:
            tries = 0

            def forget(self, ifindex: int) -> None:
                pass

            def announced(self, ifindex: int) -> None:
                return None

            async def look(self, *_: object) -> None:
                self.tries += 1
                match how:
                    case "refused":
                        raise HostError("look", "refused")
                    case "broken":
                        raise RuntimeError("a defect")
                    case _:
                        await asyncio.Event().wait()

            def close(self) -> None:
                pass

        broken = Broken()
        explorer = next(each for each in here.loop._explorers if isinstance(each, PortalExplorer))
        explorer._portals = broken
        here.fake.refuses.add("open")
        await here.at_the_cafe()
        await here.until(lambda _: broken.tries >= (1 if how == "broken" else 3))
        here.fake.refuses.clear()
        await here.until(Phase.CONNECTED)
        await here.until(lambda loop: not loop.facts.probing and not loop.facts.internet)

    run(tmp_path, check)


def test_without_internet_nobody_is_asked(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        here.fake.internet["wlan0"] = NOTHING
        async with somebody_to_ask(here):
            await here.at_the_cafe()
            await here.until(lambda loop: loop.state.cause is Cause.NO_INTERNET)
            assert here.loop.state.phase is Phase.HELD
            await here.until(lambda loop: not loop.prompts.waiting)
            assert all(policy is None or not policy.cleared for policy in here.fake.kernel.values())
            done = looks(here)
            await here.until(lambda _: looks(here) > done + 3)
            assert not here.loop.prompts.waiting
            here.fake.internet["wlan0"] = OPEN
            await here.until(lambda loop: len(loop.prompts.waiting) == 1)
            assert here.loop.prompts.waiting[0].network.internet == "internet"

    run(tmp_path, check, ASKS)


def test_after_an_hour_of_quiet_people_are_asked_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portals, "QUIET_S", 0.1)

    async def check(here: Running) -> None:
        here.fake.internet["wlan0"] = NOTHING
        async with somebody_to_ask(here):
            await here.at_the_cafe()
            await here.until(lambda loop: loop.state.cause is Cause.NO_INTERNET)
            await here.until(lambda loop: len(loop.prompts.waiting) == 1)
            await here.until(lambda loop: not loop.facts.internet)
            done = looks(here)
            await asyncio.sleep(0.05)
            assert looks(here) == done, "and nobody looks any more"

    run(tmp_path, check, ASKS)


def test_where_internet_comes_back_a_tunnel_is_tried_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from daemon.actions import Actions

    monkeypatch.setattr(Actions, "_delay", lambda self, failures: 1000.0)

    async def check(here: Running) -> None:
        here.fake.refuses.add("open")
        here.fake.internet["wlan0"] = NOTHING
        await here.at_the_cafe()
        await here.until(lambda _: reach(here) is Reach.NOTHING)
        await here.until(lambda loop: loop.state.offline == {"wlan0"})
        here.fake.refuses.clear()
        await asyncio.sleep(0.05)
        assert here.loop.state.phase is Phase.BLOCKED
        here.fake.internet["wlan0"] = OPEN
        await here.until(Phase.CONNECTED)

    run(tmp_path, check)


# --- one search, by hand ----------------------------------------------------------------------------------------------


class Looks:
    """Portals whose looks end when the test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.ends: asyncio.Queue[Internet | None] = asyncio.Queue()
        self.forgotten: list[int] = []

    def forget(self, ifindex: int) -> None:
        self.forgotten.append(ifindex)

    def announced(self, ifindex: int) -> Announced | None:
        return None

    async def look(self, link: Link, probes: Sequence[Probe], announced: Announced | None) -> Internet | None:
        self.begun += 1
        return await self.ends.get()

    def close(self) -> None:
        pass


class World:
    """What the loop would do with what an explorer posts."""

    def __init__(self) -> None:
        self.looks = Looks()
        self.inbox: list[Inboxed] = []
        self.explorer = PortalExplorer(self.looks, self.inbox.append)
        self.settings: Settings = parse_settings(SETTINGS)
        self.phase = Phase.BLOCKED
        self.facts = Facts(links=(WLAN,), wifi={"wlan0": CAFE}, profiles={"office": profile_facts(OFFICE)})

    def follow(self) -> None:
        decision = decide(self.facts, self.settings, Intent(target=Target.PROTECTED))
        self.explorer.follow(self.facts, decision, self.phase, self.settings)

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not done():
                await asyncio.sleep(0.001)
                while self.inbox:
                    found = self.inbox.pop(0)
                    assert isinstance(found, Found)
                    if found.association == self.facts.links[0].association:
                        self.facts = found.change(self.facts)
                        self.follow()


def play(work: Callable[[World], Awaitable[None]]) -> None:
    async def inside() -> None:
        world = World()
        try:
            await work(world)
        finally:
            await world.explorer.abandon()

    asyncio.run(inside())


def test_a_look_through_our_own_closed_firewall_says_nothing() -> None:
    """Between an attempt's end and what comes next nothing passes: what was seen then is no word about the network."""

    async def work(world: World) -> None:
        world.follow()
        await world.until(lambda: world.looks.begun == 1)
        world.phase = Phase.DISCONNECTING
        world.follow()
        world.looks.ends.put_nowait(NOTHING)
        await world.until(lambda: world.looks.ends.empty())
        await asyncio.sleep(0.02)
        assert world.looks.begun == 1, "it waits until it may look again"
        assert not world.facts.internet
        world.phase = Phase.PORTAL
        world.follow()
        await world.until(lambda: world.looks.begun == 2)
        world.looks.ends.put_nowait(OPEN)
        await world.until(lambda: world.facts.internet == {"wlan0": OPEN})
        assert not world.facts.internet.get("wlan1")

    play(work)


def test_who_logs_in_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(portals, "PAUSES", dict.fromkeys(portals.PAUSES, (1000.0, 1.0, 1000.0)))
    monkeypatch.setattr(portals, "LOGIN_S", 0.02)

    async def work(world: World) -> None:
        world.follow()
        await world.until(lambda: world.looks.begun == 1)
        world.looks.ends.put_nowait(PORTAL)
        await world.until(lambda: world.facts.internet == {"wlan0": PORTAL} and not world.facts.probing)
        await asyncio.sleep(0.05)
        assert world.looks.begun == 1
        world.facts = replace(world.facts, login=frozenset({"wlan0"}))
        world.follow()
        await world.until(lambda: world.looks.begun == 2)
        world.looks.ends.put_nowait(PORTAL)
        await world.until(lambda: world.looks.begun == 3)

    play(work)


def test_what_an_earlier_association_left_is_put_right() -> None:
    async def work(world: World) -> None:
        world.follow()
        await world.until(lambda: world.looks.begun == 1)
        assert world.facts.probing == {"wlan0"}
        again = replace(WLAN, carrier_changes=99)
        world.facts = replace(world.facts, links=(again,), wifi={})  # being identified
        world.follow()
        await world.until(lambda: not world.facts.probing)
        assert world.looks.forgotten == [WLAN.ifindex] * 2

    play(work)


def test_the_hour_is_long_and_the_looks_grow_rare() -> None:
    """The real figures, which the fixture above replaces."""
    pause, factor, longest = PAUSES[Reach.NOTHING]
    pauses = []
    while sum(pauses) < portals.QUIET_S:
        pauses.append(pause)
        pause = min(longest, pause * factor)
    assert 10 < len(pauses) < 30 and pauses == sorted(pauses)
