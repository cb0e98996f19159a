"""The loop beside the straight line: sleep, checks behind the rules, the early unit, a machine opened by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path

import pytest

from daemon import checks, panic
from daemon.service import DaemonService
from ipc.access import Caller, Transport
from policies.states import Phase, Target
from tests.daemon.fake_host import CABLE, CAFE, WLAN, FakeHost
from tests.daemon.test_loop import SETTINGS, Running, impatient, running

__all__ = ["impatient"]  # the fixture is for every test here too


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.Checks.leaks, "__defaults__", (0.0,))


def play(
    folder: Path, script: Callable[[Running], Coroutine[None, None, None]], *,
    fake: FakeHost | None = None, profile: bool = True, settings: str = SETTINGS,
) -> None:  # fmt: skip
    async def run() -> None:
        async with running(folder, settings, fake=fake, profile=profile) as here:
            await script(here)

    asyncio.run(run())


# --- sleep ------------------------------------------------------------------------------------------------------------


def test_everything_closes_before_sleep_and_only_then_may_it_begin(tmp_path: Path) -> None:
    """T5, N10: an unprotected machine too, for it may wake up on another network."""

    async def script(here: Running) -> None:
        await here.at_home()
        await here.until(Phase.IDLE)
        here.fake.sleeps.put_nowait(True)
        await here.until(lambda loop: ("ready", True) in here.fake.asked)
        assert here.loop.state.phase is Phase.HELD
        assert all(policy is not None and policy.closed for policy in here.fake.kernel.values())
        here.fake.sleeps.put_nowait(False)
        await here.until(Phase.IDLE)
        assert ("ready", False) in here.fake.asked

    play(tmp_path, script)


def test_it_wakes_up_somewhere_else(tmp_path: Path) -> None:
    """What was known of the network before sleep is forgotten, though nothing else tells of a new association."""

    async def script(here: Running) -> None:
        await here.at_home()
        await here.until(Phase.IDLE)
        here.fake.sleeps.put_nowait(True)
        await here.until(Phase.HELD)
        here.fake.wifi = {}  # its source has not woken up yet
        here.fake.sleeps.put_nowait(False)
        await here.turn()
        await here.turn()
        assert here.loop.state.phase is Phase.HELD
        here.fake.wifi = {"wlan0": CAFE}
        await here.hint("wifi")
        await here.until(Phase.CONNECTED)

    play(tmp_path, script)


def test_a_tunnel_is_made_anew_after_sleep(tmp_path: Path) -> None:
    async def script(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        attempt = here.loop.state.attempt
        here.fake.sleeps.put_nowait(True)
        await here.until(lambda loop: ("ready", True) in here.fake.asked)
        assert here.loop.state.phase is Phase.CONNECTED
        here.fake.sleeps.put_nowait(False)
        await here.until(lambda loop: loop.state.phase is Phase.CONNECTED and loop.state.attempt > attempt)

    play(tmp_path, script)


# --- checks behind the rules ------------------------------------------------------------------------------------------


def test_a_leak_that_a_probe_finds_is_an_alarm(tmp_path: Path) -> None:
    """K7: until a later check of another tunnel finds nothing."""

    async def script(here: Running) -> None:
        here.fake.leaked = ("A probe left over wlan0.",)
        await here.at_the_cafe()
        await here.until(lambda loop: loop.alarms.get("leak") == "A probe left over wlan0.")
        assert ("leak check", ("wlan0",)) in here.fake.asked
        here.fake.leaked = ()
        here.fake.sleeps.put_nowait(False)  # the quickest way to another tunnel
        await here.until(lambda loop: not loop.alarms)

    play(tmp_path, script)


def test_an_alarm_ends_by_itself_when_the_leak_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that cannot look does not end it; one that finds nothing does, also with the same tunnel."""
    monkeypatch.setattr(checks, "LOOK_AGAIN_S", 0.01)

    async def script(here: Running) -> None:
        here.fake.leaked = ("A probe left over wlan0.",)
        await here.at_the_cafe()
        await here.until(lambda loop: "leak" in loop.alarms)
        here.fake.refuses = {"leak check"}
        await here.until(lambda loop: "leak check" in loop.warnings)
        assert "leak" in here.loop.alarms
        here.fake.refuses, here.fake.leaked = set(), ()
        await here.until(lambda loop: not loop.alarms and "leak check" not in loop.warnings)

    play(tmp_path, script)


def test_without_a_promise_there_is_no_leak(tmp_path: Path) -> None:
    async def script(here: Running) -> None:
        here.fake.leaked = ("A probe left over wlan0.",)
        await here.at_the_cafe()
        await here.until(lambda loop: "leak" in loop.alarms)
        await here.at_home()  # where the settings want no protection
        await here.until(Phase.IDLE)
        assert not here.loop.alarms

    play(tmp_path, script)


def test_a_link_that_comes_later_is_looked_at_too(tmp_path: Path) -> None:
    async def script(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(lambda loop: ("leak check", ("wlan0",)) in here.fake.asked)
        here.fake.links = (*here.fake.links, CABLE)
        await here.hint("links")
        await here.until(lambda loop: ("leak check", ("eth0", "wlan0")) in here.fake.asked)
        assert here.loop.state.phase is Phase.CONNECTED

    play(tmp_path, script)


def test_a_check_that_cannot_look_says_so_and_is_no_alarm(tmp_path: Path) -> None:
    async def script(here: Running) -> None:
        here.fake.refuses = {"leak check"}
        await here.at_the_cafe()
        await here.until(lambda loop: "could not be checked" in loop.warnings.get("leak check", ""))
        assert not here.loop.alarms

    play(tmp_path, script)


def test_no_check_without_a_tunnel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Probes of a tunnel that has gone would tell of another state."""
    monkeypatch.setattr(checks.Checks.leaks, "__defaults__", (1000.0,))

    async def script(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(lambda loop: "leak" in loop._checks._tasks)
        waits = here.loop._checks._tasks["leak"]
        here.fake.links = ()
        await here.hint("links")
        await here.until(Phase.BLOCKED)
        await here.turn()
        assert waits.cancelled() and "leak" not in here.loop._checks._tasks

    play(tmp_path, script)


def test_what_breaks_the_tunnel_is_looked_for_and_named(tmp_path: Path) -> None:
    """K8: once the server is reached, the warning ends."""

    async def script(here: Running) -> None:
        here.fake.obstacles = ("Table inet other drops what the VPN sends.",)
        here.fake.refuses = {"established"}
        await here.at_the_cafe()
        await here.until(Phase.BLOCKED)
        assert "obstacle" not in here.loop.warnings  # the driver failed: nobody else is to blame
        here.fake.refuses, here.fake.answers = set(), False
        await here.until(lambda loop: loop.warnings.get("obstacle") == here.fake.obstacles[0])
        here.fake.answers = True
        await here.until(Phase.CONNECTED)
        assert "obstacle" not in here.loop.warnings

    play(tmp_path, script)


def test_e14_a_block_that_is_not_confirmed_is_an_alarm(tmp_path: Path) -> None:
    """E14, K3: until the kernel confirms it."""

    async def script(here: Running) -> None:
        here.fake.refuses = {"firewall"}
        await here.at_the_cafe()
        await here.until(lambda loop: "NOT blocked" in loop.alarms.get("blocking", ""))
        assert not here.loop.enforcer.blocking
        here.fake.refuses = set()
        await here.until(Phase.CONNECTED)
        assert not here.loop.alarms

    play(tmp_path, script)


def test_an_open_machine_is_no_alarm(tmp_path: Path) -> None:
    async def script(here: Running) -> None:
        await here.at_home()
        await here.until(Phase.IDLE)
        assert not here.loop.alarms

    play(tmp_path, script)


# --- the early unit ---------------------------------------------------------------------------------------------------


def test_a_fresh_install_leaves_the_next_boot_open(tmp_path: Path) -> None:
    """K2: it could only cut the machine off."""

    async def script(here: Running) -> None:
        await here.at_home()
        await here.until(Phase.IDLE)
        assert here.fake.boot is None

    play(tmp_path, script, profile=False)


def test_once_set_up_every_boot_is_closed_until_the_daemon_decides(tmp_path: Path) -> None:
    """N10: also that of an unprotected machine, for it may boot on another network."""

    async def script(here: Running) -> None:
        await here.at_home()
        await here.until(Phase.IDLE)
        assert here.fake.boot is not None
        assert here.fake.boot.closed

    play(tmp_path, script)


def test_an_early_unit_that_cannot_be_kept_is_said_and_harms_nothing(tmp_path: Path) -> None:
    async def script(here: Running) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        assert "next boot" in here.loop.warnings["lockdown"]
        here.fake.refuses = set()
        await here.turn()
        assert "lockdown" not in here.loop.warnings

    play(tmp_path, script, fake=FakeHost(refuses={"lockdown"}))


# --- opened by hand ---------------------------------------------------------------------------------------------------


def test_a_machine_that_was_opened_by_hand_stays_open_until_somebody_connects(tmp_path: Path) -> None:
    """K6: the administrator's word counts more than what was wanted before, here also a rule of the network."""

    def at_the_cafe() -> FakeHost:
        return FakeHost(links=(WLAN,), wifi={"wlan0": CAFE})

    async def script() -> None:
        async with running(tmp_path, fake=at_the_cafe()) as here:
            await here.until(Phase.CONNECTED)

    async def opened() -> None:
        async with running(tmp_path, fake=at_the_cafe(), opened_by_hand="2026-11-22 10:00 UTC") as here:
            assert here.loop.state.phase is Phase.IDLE
            assert here.loop.intent.target is Target.UNPROTECTED
            assert "2026-11-22 10:00 UTC" in here.loop.warnings["panic"]
            await here.at_home()
            here.fake.links, here.fake.wifi = (replace(WLAN, carrier_changes=11),), {"wlan0": CAFE}
            await here.hint("links", "wifi")
            await here.turn()
            assert here.loop.state.phase is Phase.IDLE

    async def later() -> None:
        async with running(tmp_path, fake=at_the_cafe()) as here:
            assert here.loop.state.phase is Phase.IDLE
            assert "opened by hand" in here.loop.warnings["panic"]
            await DaemonService(here.loop, "1.2.3").connect(Caller(0, frozenset({0}), 1, Transport.SOCKET), None)
            await here.until(Phase.CONNECTED)
            assert "panic" not in here.loop.warnings

    asyncio.run(script())
    asyncio.run(opened())
    asyncio.run(later())


def test_the_marker_is_taken_once_and_never_believed_blindly(tmp_path: Path) -> None:
    assert panic.taken(tmp_path) is None
    (tmp_path / panic.NAME).write_text("2026-11-22T10:00:00Z\n\x1b[31m" + "x" * 1000)
    said = panic.taken(tmp_path)
    assert said is not None
    assert said.startswith("2026-11-22T10:00:00Z")
    assert said.isprintable()
    assert len(said) <= panic.LONGEST
    assert panic.taken(tmp_path) is None
    (tmp_path / panic.NAME).mkdir()
    assert panic.taken(tmp_path) is None  # it could not be removed, and would open the machine at every start
    (tmp_path / panic.NAME).rmdir()
    (tmp_path / panic.NAME).touch()  # a power cut
    assert panic.taken(tmp_path) == "an unknown time"
