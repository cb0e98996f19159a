"""A user's choice that was made before the network had a name: it waits, and is about that network alone."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.service import DaemonService
from policies.decide import decide, intent_after
from policies.decision import Intent, Manual
from policies.facts import Facts
from policies.settings import parse_settings
from policies.states import Phase, Target
from tests.daemon.fake_host import CABLE, CAFE, HOME, WLAN, FakeHost
from tests.daemon.test_loop import SETTINGS, impatient, running
from tests.daemon.test_service import ROOT

__all__ = ["impatient"]

LATE = SETTINGS.replace('identify_timeout = "100ms"', 'identify_timeout = "60s"')


@pytest.mark.parametrize("restart", [False, True])
def test_disconnect_right_after_a_start_is_carried_out(tmp_path: Path, restart: bool) -> None:
    """The rule of this network would connect; whoever asked to disconnect meant this network, named or not."""

    async def work() -> None:
        fake = FakeHost(links=(WLAN,))
        async with running(tmp_path, LATE, fake=fake) as here:
            await here.until(Phase.HELD)
            await DaemonService(here.loop, "1.2.3").disconnect(ROOT)
            assert here.loop.state.phase is Phase.HELD, "nothing leaves before the network is judged"
            if not restart:
                fake.wifi = {"wlan0": CAFE}
                await here.hint("wifi")
                assert (here.loop.state.phase, here.loop.decision.target) == (Phase.IDLE, Target.UNPROTECTED)
                await here.hint("links", "wifi")
                assert here.loop.state.phase is Phase.IDLE
        if restart:
            fake = FakeHost(links=(WLAN,), wifi={"wlan0": CAFE})
            async with running(tmp_path, LATE, fake=fake, profile=False) as here:
                await here.until(Phase.IDLE)
                assert here.loop.profiles, "its rule would connect"

    asyncio.run(work())


def test_it_is_about_no_other_network(tmp_path: Path) -> None:
    async def work() -> None:
        fake = FakeHost(links=(WLAN,))
        async with running(tmp_path, LATE, fake=fake) as here:
            await here.until(Phase.HELD)
            await DaemonService(here.loop, "1.2.3").disconnect(ROOT)
            fake.links, fake.wifi = (replace(WLAN, carrier_changes=WLAN.carrier_changes + 2),), {"wlan0": CAFE}
            await here.hint("links", "wifi")
            await here.until(Phase.CONNECTED)
            assert here.loop.intent.manual is None

    asyncio.run(work())


WISH = Manual(Target.UNPROTECTED, f"wlan0/#{WLAN.carrier_changes}")


@pytest.mark.parametrize(
    "facts, manual, target",
    [
        (Facts((WLAN,)), WISH, Target.UNPROTECTED),
        (Facts((WLAN,), {"wlan0": CAFE}), "wlan0/636166e9/open", Target.UNPROTECTED),
        (Facts((WLAN,), {"wlan0": HOME}), "its name", Target.UNPROTECTED),
        (Facts(()), WISH, Target.UNPROTECTED),
        (Facts((replace(WLAN, carrier_changes=99),)), WISH, Target.PROTECTED),
        (Facts((replace(WLAN, carrier_changes=99),), {"wlan0": CAFE}), None, Target.PROTECTED),
        (Facts((CABLE,)), None, Target.PROTECTED),
    ],
    ids=["no name yet", "named", "another name", "away", "left before it had a name", "another", "a cable instead"],
)
def test_whose_name_it_takes(facts: Facts, manual: object, target: Target) -> None:
    intent = Intent(Target.PROTECTED, WISH)
    settings = parse_settings(LATE)
    decision = decide(facts, settings, intent)
    if isinstance(manual, str):
        assert decision.manual == Manual(Target.UNPROTECTED, decision.network)
    else:
        assert decision.manual == manual
    if facts.links:
        assert decision.target is target
    assert decide(facts, settings, intent_after(intent, decision)) == decision
