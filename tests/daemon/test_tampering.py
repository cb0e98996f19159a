"""Whoever touches our rules (K4): what is told of it, and when."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from daemon.host import Touch
from daemon.tampering import NOTICE_S
from policies.states import Phase
from tests.daemon.test_loop import Running, impatient, run

__all__ = ["impatient"]


@pytest.mark.parametrize("undone", [True, False], ids=["undone", "repaired before we heard"])
@pytest.mark.parametrize("foreign", [True, False], ids=["foreign", "perhaps ours"])
def test_tampering_is_told(tmp_path: Path, foreign: bool, undone: bool) -> None:
    """K4: what somebody else certainly did is told also where our own next policy was faster than the news of it."""

    async def check(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        sound = dict(here.fake.kernel)
        if undone:
            here.fake.kernel["firewall"] = None
        here.fake.touch = Touch("a routing rule was removed", foreign)
        await here.hint("tamper")
        assert here.fake.kernel == sound
        told = "Somebody else changed our rules: a routing rule was removed. They were put back."
        assert here.loop.warnings.get("tamper") == (told if foreign else None)
        await asyncio.sleep(2 * NOTICE_S)
        await here.turn()
        assert here.loop.warnings.get("tamper") == (told if undone or foreign else None)

    run(tmp_path, check)


def test_tampering_seen_before_its_notice_is_told_once_and_by_its_notice(tmp_path: Path) -> None:
    """A hint about a change of our own finds somebody else's deed: what our own change was is not to blame."""

    async def check(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        here.fake.kernel["routes"] = None
        here.fake.touch = Touch("a routing route was added", False)
        await here.hint("tamper")
        assert not here.fake.leaks and here.fake.kernel["routes"] is not None
        here.fake.touch = Touch("a routing rule was removed", True)
        await here.hint("tamper")
        await asyncio.sleep(2 * NOTICE_S)
        await here.turn()
        told = "Somebody else changed our rules: a routing rule was removed. They were put back."
        assert here.loop.warnings["tamper"] == told

    run(tmp_path, check)
