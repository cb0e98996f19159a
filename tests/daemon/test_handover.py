"""The end of a daemon, and the start of the next one."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.store import Store
from policies.states import Cause, Phase
from tests.daemon.fake_host import FakeHost
from tests.daemon.test_loop import SETTINGS, Running, impatient, run

__all__ = ["impatient"]


@pytest.mark.parametrize(
    "settings, home, stays",
    [(SETTINGS, True, False), (SETTINGS, False, True), (SETTINGS + "[protection]\nlockdown = true", True, True)],
    ids=["idle opens", "protected stays", "lockdown stays"],
)
def test_handing_over(tmp_path: Path, settings: str, home: bool, stays: bool) -> None:
    fake: list[FakeHost] = []

    async def check(here: Running) -> None:
        fake.append(here.fake)
        await (here.at_home() if home else here.at_the_cafe())
        await here.until(lambda loop: loop.state.phase in (Phase.IDLE, Phase.CONNECTED, Phase.BLOCKED))

    run(tmp_path, check, settings)
    assert (fake[0].kernel["firewall"] is not None) is stays


def test_an_open_machine_that_cannot_be_reset_does_not_fail_the_end(tmp_path: Path) -> None:
    async def check(here: Running) -> None:
        await here.at_home()
        here.fake.refuses.add("reset")

    run(tmp_path, check)


def test_a_store_in_trouble_starts_closed(tmp_path: Path) -> None:
    (tmp_path / "state" / "profiles").mkdir(parents=True, mode=0o700)
    (tmp_path / "state").chmod(0o700)
    (tmp_path / "state" / "tunwarden.db").write_bytes(b"garbage")

    async def check(here: Running) -> None:
        await here.at_home()
        assert (here.loop.state.phase, here.loop.state.cause) == (Phase.BLOCKED, Cause.STORE_BROKEN)
        assert not here.fake.leaks
        assert "a copy is" in here.loop.warnings["trouble"]
        here.loop.choices.decide_anew()
        await here.turn()
        assert here.loop.state.phase is Phase.IDLE
        assert here.loop.warnings == {}

    run(tmp_path, check)


@pytest.mark.parametrize("damaged", [True, False])
def test_a_damaged_profile_keeps_a_machine_set_up(tmp_path: Path, damaged: bool) -> None:
    if damaged:
        store = Store(tmp_path / "state", lambda: 1.0)
        (store.folder / "profiles" / "office.json").write_bytes(b"{}")
        store.close()

    async def check(here: Running) -> None:
        await here.at_the_cafe()
        wanted = Cause.NO_PROFILE if damaged else None
        assert here.loop.state.cause is wanted
        assert here.fake.leaks is not damaged, "never set up: automation leaves it open"

    run(tmp_path, check, profile=False)
