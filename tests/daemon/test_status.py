"""Truth in the status: nothing is said of the kernel that the kernel has not shown (issue 3, part 10)."""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.host import HostError
from daemon.service import DaemonService
from daemon.status import status
from policies.decide import decide
from policies.decision import Intent
from policies.facts import Facts, Tunnel
from policies.firewall import TUNNEL_IFNAME, FirewallPolicy
from policies.settings import Settings
from policies.states import Changed, Phase, Reconnect, State
from tests.daemon.fake_host import CAFE, WLAN
from tests.daemon.test_loop import SETTINGS, Running, impatient, running

__all__ = ["impatient"]  # the fixture is for every test here too

TUNNEL = Tunnel(TUNNEL_IFNAME, ())
CONNECTED = FirewallPolicy(Phase.CONNECTED, tunnel=TUNNEL, capture=True)


@pytest.mark.parametrize(
    ("phase", "enforced", "protected"),
    [
        (Phase.CONNECTED, CONNECTED, True),
        (Phase.CONNECTED, None, False),
        (Phase.CONNECTED, replace(CONNECTED, tunnel=None), False),
        (Phase.RECONNECTING, CONNECTED, False),
        (Phase.IDLE, FirewallPolicy(Phase.IDLE), False),
    ],
)
def test_protected_is_said_of_a_tunnel_that_the_kernel_lets_pass(
    phase: Phase, enforced: FirewallPolicy | None, protected: bool
) -> None:
    facts = Facts()
    told = status(
        State(phase), decide(facts, Settings(), Intent()), facts, enforced, False,
        since=0, warnings=(), alarm=None, lists=0, sequence=0, version="1",
    )  # fmt: skip
    assert told.protected is protected


def test_a_network_is_cleared_only_where_the_kernel_has_it_so() -> None:
    facts = Facts(links=(WLAN,), wifi={"wlan0": CAFE})
    decision = decide(facts, Settings(), Intent())
    for enforced, cleared in (
        (None, False),
        (FirewallPolicy(Phase.IDLE), False),
        (FirewallPolicy(Phase.IDLE, cleared=frozenset({"wlan0"})), True),
    ):
        told = status(
            State(Phase.IDLE), decision, facts, enforced, False,
            since=0, warnings=(), alarm=None, lists=0, sequence=0, version="1",
        )  # fmt: skip
        assert [network.cleared for network in told.networks] == [cleared]


@pytest.mark.parametrize("seed", range(12))
def test_e14_whatever_happens_no_published_status_is_better_than_the_kernel(tmp_path: Path, seed: int) -> None:
    """Layers that refuse, rules that others take away, networks that change, in any order; in the end all is well."""
    chance = random.Random(seed)
    said: list[bool] = []
    untrue: list[object] = []  # not asserted where it is seen: that would end the loop that everybody waits for

    async def check(here: Running) -> None:
        service = DaemonService(here.loop, "1")

        def publish() -> None:
            service.publish()
            told, rules = service.feed.status, here.fake.kernel["firewall"]
            if told.blocking and (rules is None or not rules.closed):
                untrue.append((told, rules))
            if not told.blocking and told.state != "idle" and told.alarm is None:
                untrue.append((told, "no alarm"))
            said.append(told.blocking)

        here.loop._on_change = publish
        for _ in range(60):
            match chance.randrange(7):
                case 0:
                    here.fake.refuses ^= {"firewall"}
                case 1:
                    here.fake.refuses ^= {"routes"}
                case 2:
                    here.fake.kernel[chance.choice(("firewall", "routes"))] = None
                    await here.hint("tamper")
                case 3:
                    await here.at_the_cafe()
                case 4:
                    await here.at_home()
                case 5:
                    here.loop.post(Reconnect())
                case 6:
                    here.loop.post(Changed())
            await here.turn()
        here.fake.refuses = set()
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        await here.turn()
        assert (service.feed.status.blocking, service.feed.status.alarm) == (True, None)

    play(tmp_path, check)
    assert untrue == []
    assert set(said) == {True, False}


def test_tampering_is_repaired_before_it_is_published_or_said(tmp_path: Path) -> None:
    """Between the deed and the repair nothing is published; where the repair fails, blocking is false at once."""

    async def check(here: Running) -> None:
        service = DaemonService(here.loop, "1")
        seen: list[tuple[bool, bool, str | None]] = []

        def publish() -> None:
            service.publish()
            told = service.feed.status
            seen.append((told.blocking, here.fake.kernel["firewall"] is not None, told.alarm))

        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        await here.turn()
        here.loop._on_change = publish
        here.fake.kernel["firewall"] = None
        await here.hint("tamper")
        assert seen and all(one == (True, True, None) for one in seen)
        seen.clear()
        here.fake.kernel["firewall"] = None
        here.fake.refuses = {"firewall"}
        await here.hint("tamper")
        assert seen
        for blocking, there, alarm in seen:
            assert not blocking and not there
            assert alarm is not None and "NOT blocked" in alarm
        here.fake.refuses = set()
        await here.until(lambda loop: loop.enforcer.blocking and loop.state.phase is Phase.CONNECTED)
        await here.turn()
        assert seen[-1] == (True, True, None)

    play(tmp_path, check)


def test_the_alarm_names_the_reason(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        async def refuse(policy: FirewallPolicy) -> None:
            raise HostError("apply the firewall", "Cannot allocate memory")

        here.fake.kernel["firewall"] = None
        here.fake.host.firewall.set = refuse  # type: ignore[method-assign]
        await here.at_the_cafe()
        await here.until(lambda loop: bool(loop.alarms))
        assert "apply the firewall: Cannot allocate memory" in here.loop.alarms["blocking"]

    play(tmp_path, check)


def play(folder: Path, check: object) -> None:
    async def inside() -> None:
        async with running(folder, SETTINGS) as here:
            await check(here)  # type: ignore[operator]

    asyncio.run(inside())
