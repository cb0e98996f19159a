"""The loop against FakeHost: whatever refuses, nothing leaves, people are told, and it recovers by itself."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from daemon import accounting, reading, watchers
from daemon.actions import Actions
from daemon.host import HostError, QuotaSpent
from daemon.inbox import LinksHint, WifiHint, coalesced
from daemon.loop import Loop
from daemon.store import Store, StoreError
from policies.decision import Intent
from policies.settings import Settings, parse_settings
from policies.states import Cause, Changed, Event, Phase, Reconnect, Target
from tests.daemon.fake_host import CABLE, CAFE, HOME, WLAN, FakeHost
from tests.daemon.profiles_for_tests import OFFICE

SETTINGS = """
[wifi]
unsecured = "auto_connect"
identify_timeout = "100ms"
[tunnel]
retry_first = "100ms"
retry_longest = "1s"
connect_timeout = "1s"
[[known]]
ssid = "Home"
action = "disconnect"
"""


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchers, "AGAIN_S", 0.01)
    monkeypatch.setattr(accounting, "SOONEST_S", 0.01)
    monkeypatch.setattr(reading, "AGAIN_S", 0.01)
    monkeypatch.setattr(reading, "REREAD_S", 0.01)
    monkeypatch.setattr(Actions, "_delay", lambda self, failures: 0.01)


class Running:
    """The loop at work in front of a FakeHost."""

    def __init__(self, fake: FakeHost, loop: Loop) -> None:
        self.fake, self.loop = fake, loop
        self.published: list[Phase] = []

    async def until(self, wanted: Phase | Callable[[Loop], bool]) -> None:
        done = wanted if callable(wanted) else lambda loop: loop.state.phase is wanted
        async with asyncio.timeout(20):
            while not done(self.loop):
                await asyncio.sleep(0.001)
                self.never_leaks()

    def never_leaks(self) -> None:
        """Protection is wanted, so at no moment may both layers be open."""
        if self.loop.intent.target is Target.PROTECTED and self.loop.enforcer.enforced is not None:
            assert not self.fake.leaks, self.fake.kernel

    async def hint(self, *names: str) -> None:
        for name in names:
            self.fake.changed[name].set()
        while any(self.fake.changed[name].is_set() for name in names):  # noqa: ASYNC110 - until each watch has seen it
            await asyncio.sleep(0.001)
        await asyncio.sleep(0)
        await self.turn()

    async def turn(self) -> None:
        """Returns when everything before has been handled."""

        async def nothing() -> Event:
            return Changed()

        await self.loop.command(nothing)

    async def at_the_cafe(self) -> None:
        self.fake.links, self.fake.wifi = (WLAN,), {"wlan0": CAFE}
        await self.hint("links", "wifi")

    async def at_home(self) -> None:
        self.fake.links, self.fake.wifi = (replace(WLAN, carrier_changes=9),), {"wlan0": HOME}
        await self.hint("links", "wifi")


@asynccontextmanager
async def running(
    folder: Path,
    settings: str = SETTINGS,
    *,
    profile: bool = True,
    fake: FakeHost | None = None,
    opened_by_hand: str | None = None,
) -> AsyncIterator[Running]:
    store = Store(folder / "state", lambda: 1.0)
    if profile:
        store.save_profile(OFFICE)
    fake = fake or FakeHost()
    loop = Loop(fake.host, store, parse_settings(settings), lambda: None)
    loop.opened_by_hand = opened_by_hand
    task = asyncio.create_task(loop.run())
    try:
        await asyncio.wait({task, asyncio.create_task(loop.settled.wait())}, return_when=asyncio.FIRST_COMPLETED)
        yield Running(fake, loop)
        if task.done():
            await task
    finally:
        task.cancel()
        await asyncio.wait([task])
        await loop.leave()


Check = Callable[[Running], Coroutine[None, None, None]]


def run(folder: Path, check: Check, settings: str = SETTINGS, *, profile: bool = True) -> None:
    async def inside() -> None:
        async with running(folder, settings, profile=profile) as here:
            await check(here)

    asyncio.run(inside())


# --- the order of things ----------------------------------------------------------------------------------------------


def test_narrow_first_widen_last(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        fake = here.fake
        fake.links = (WLAN,)
        await here.hint("links")
        assert here.loop.state.phase is Phase.HELD
        fake.asked.clear()
        fake.wifi = {"wlan0": CAFE}
        await here.hint("wifi")
        await here.until(Phase.CONNECTED)
        await here.turn()
        steps = [(what, getattr(detail, "phase", detail)) for what, detail in fake.asked if what not in ("links",)]
        closed = steps.index(("firewall", Phase.CONNECTING))
        assert steps[closed + 1] == ("routes", Phase.CONNECTING), "narrowing: the firewall first"
        assert steps.index(("open", "office")) > closed + 1
        named = next(index for index, (what, _) in enumerate(steps) if what == "resolver")
        assert steps[named + 1 : named + 3] == [("routes", Phase.CONNECTED), ("firewall", Phase.CONNECTED)]
        fake.asked.clear()
        await here.at_home()
        await here.until(Phase.IDLE)
        order = [(what, getattr(detail, "phase", detail)) for what, detail in fake.asked]
        assert order.index(("firewall", Phase.DISCONNECTING)) < order.index(("close", None)), "closed before it goes"
        assert order.index(("restore", None)) < order.index(("routes", Phase.IDLE))
        assert order.index(("routes", Phase.IDLE)) < order.index(("firewall", Phase.IDLE)), "widening: it goes last"

    run(tmp_path, check)


def test_published_after_the_kernel_agreed(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        seen: list[tuple[Phase, Phase | None]] = []

        def publish() -> None:
            policy = here.fake.kernel["firewall"]
            seen.append((here.loop.state.phase, policy.phase if policy else None))

        here.loop._on_change = publish
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        await here.turn()
        assert seen and all(said is true for said, true in seen)
        here.fake.refuses.add("firewall")
        here.loop.post(Reconnect())
        await here.turn()
        assert not here.loop.enforcer.blocking, "what the kernel did not confirm is not said"

    run(tmp_path, check)


# --- what refuses -----------------------------------------------------------------------------------------------------

REFUSALS = {
    "firewall": (Cause.FIREWALL_FAILED, "firewall: refused"),
    "routes": (Cause.ROUTES_FAILED, "routes: refused"),
    "resolver": (Cause.RESOLVER_FAILED, "resolver: refused"),
    "open": (Cause.TUNNEL_FAILED, "open: refused"),
    "established": (Cause.TUNNEL_FAILED, "established: refused"),
}


@pytest.mark.parametrize("what", REFUSALS)
@pytest.mark.parametrize("moment", ["before", "connected"])
def test_whatever_refuses_it_blocks_tells_and_recovers(tmp_path: Path, what: str, moment: str) -> None:
    cause, told = REFUSALS[what]

    async def check(here: Running) -> None:
        if moment == "connected":
            await here.at_the_cafe()
            await here.until(Phase.CONNECTED)
            here.fake.refuses.add(what)
            here.loop.post(Reconnect())
        else:
            here.fake.refuses.add(what)
            await here.at_the_cafe()
        await here.until(lambda loop: loop.state.cause is cause)
        await here.until(lambda loop: any(told in warning for warning in loop.warnings.values()))
        assert here.loop.state.phase in (Phase.BLOCKED, Phase.CONNECTING, Phase.RECONNECTING)
        assert not here.fake.leaks
        for _ in range(20):
            await here.turn()
            assert not here.fake.leaks
        here.fake.refuses.clear()
        await here.until(Phase.CONNECTED)
        await here.turn()
        assert here.loop.warnings == {}, "what is well again is no longer complained of"
        assert here.loop.enforcer.blocking

    run(tmp_path, check)


def test_the_other_layer_is_set_when_one_refuses(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        here.fake.refuses = {"firewall"}
        await here.at_the_cafe()
        await here.until(lambda loop: loop.state.cause is Cause.FIREWALL_FAILED)
        routes = here.fake.kernel["routes"]
        assert routes is not None and routes.capture
        assert here.loop.enforcer.enforced is None

    run(tmp_path, check)


def test_a_tunnel_that_cannot_be_closed_is_no_dead_end(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        here.fake.refuses.add("close")
        await here.at_home()
        await here.until(Phase.IDLE)

    run(tmp_path, check)


def test_resolvers_that_cannot_be_given_back_are_no_reason_to_block(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        here.fake.refuses.add("restore")
        await here.at_home()
        await here.until(Phase.IDLE)
        assert "could not be given back" in here.loop.warnings["resolver"]
        here.fake.refuses.clear()
        await here.turn()
        assert here.loop.warnings == {}

    run(tmp_path, check)


def test_a_disk_that_refuses_is_told_and_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Running) -> None:
        def full(intent: Intent) -> None:
            raise StoreError("disk full")

        monkeypatch.setattr(here.loop.store, "save_intent", full)
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        assert "lost at the next start: disk full" in here.loop.warnings["store"]
        monkeypatch.undo()
        here.loop.choices.keep(replace(here.loop.intent, lockdown=True))
        assert "store" not in here.loop.warnings

    run(tmp_path, check)


def test_links_that_cannot_be_read_clear_nothing(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        here.fake.links = (CABLE,)
        await here.hint("links")
        assert here.fake.leaks, "the positive control: an ignored cable is open"
        here.fake.refuses.add("links")
        await here.hint("links")
        assert not any(policy and policy.cleared for policy in here.fake.kernel.values())
        assert "cannot be read" in here.loop.warnings["links"]
        here.fake.refuses.clear()
        await here.until(lambda loop: not loop.warnings)
        assert here.fake.leaks

    run(tmp_path, check)


@pytest.mark.parametrize("name", ["links", "wifi"])
def test_a_watch_that_ends_is_begun_again(tmp_path: Path, name: str) -> None:
    async def check(here: Running) -> None:
        here.fake.refuses.add(f"watch {name}")
        here.fake.changed[name].set()
        await asyncio.sleep(0.005)
        here.fake.refuses.clear()
        await asyncio.sleep(0.03)
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)

    run(tmp_path, check)


def test_what_others_undid_is_put_back_by_any_event(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        await here.turn()
        sound = dict(here.fake.kernel)
        here.fake.kernel.update(firewall=None, routes=None)
        here.fake.resolvers = None
        assert here.fake.leaks, "the positive control"
        await here.turn()
        assert here.fake.kernel == sound
        assert here.fake.resolvers is not None

    run(tmp_path, check)


def test_a_quota_that_is_spent_is_looked_at_before_the_next_reading(tmp_path: Path) -> None:
    """A2: what the kernel says of its own accord is no tampering, and people are told without waiting for it."""

    async def check(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        here.loop.accounting.on_reading = lambda: 3600.0
        here.loop.accounting.soon()  # from here on none would come for an hour
        await here.until(lambda loop: not loop.accounting._wanted.is_set())
        read: list[bool] = []
        here.loop.accounting.on_reading = lambda: read.append(True) or 3600.0  # type: ignore[func-returns-value]
        here.fake.touch = QuotaSpent()
        await here.hint("tamper")
        await here.until(lambda loop: bool(read))
        assert "tamper" not in here.loop.warnings

    run(tmp_path, check)


def test_a_look_that_was_due_anyway_does_not_take_the_place_of_the_one_after_the_association(tmp_path: Path) -> None:
    """Else the network would be held until somebody looks again."""
    assert coalesced([Changed(), WifiHint(), Changed(), LinksHint(), WifiHint()]) == [
        Changed(), LinksHint(), WifiHint(), Changed()
    ]  # fmt: skip

    async def check(here: Running) -> None:
        await here.at_home()
        here.fake.links = (replace(WLAN, carrier_changes=11),)
        for hint in (WifiHint(), LinksHint(), WifiHint()):
            here.loop.post(hint)
        await here.turn()
        assert here.loop.facts.wifi.keys() == {"wlan0"}

    run(tmp_path, check)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_what_a_command_raises_is_its_callers_alone(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        async def wrong() -> Event:
            raise ValueError("not so")

        with pytest.raises(ValueError, match="not so"):
            await here.loop.command(wrong)
        here.loop.post_command(wrong)
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)

    run(tmp_path, check)


def test_a_defect_while_acting_ends_the_daemon_and_leaves_the_rules(tmp_path: Path) -> None:
    """Half an action done in silence would be worse: the service manager starts it again, the kernel still blocks."""

    async def check(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)

        async def broken(policy: object) -> None:
            raise ZeroDivisionError

        here.fake.host.routes.set = broken  # type: ignore[method-assign]
        here.loop.post(Reconnect())
        await asyncio.sleep(0.02)
        assert not here.fake.leaks

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, check)


def test_the_host_error_says_what_and_why() -> None:
    assert str(HostError("apply the routes", "no memory")) == "apply the routes: no memory"
    assert Settings().wifi.identify_timeout > 0
