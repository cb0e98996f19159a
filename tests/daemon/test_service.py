"""What callers may ask for, over a real loop and store in front of FakeHost."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from daemon import profile_service as module
from daemon.service import DaemonService
from daemon.store import StoreError
from ipc.access import Caller, Transport
from ipc.errors import Error, ServiceError
from policies.states import Phase
from tests.daemon.fake_host import CAFE
from tests.daemon.profiles_for_tests import CONFIG
from tests.daemon.test_loop import SETTINGS, Running, running

ROOT = Caller(0, frozenset({0}), 1, Transport.SOCKET)
Check = Callable[[Running, DaemonService], Coroutine[None, None, None]]


def run(folder: Path, check: Check, settings: str = SETTINGS, *, profile: bool = True) -> None:
    async def inside() -> None:
        async with running(folder, settings, profile=profile) as here:
            service = DaemonService(here.loop, "1.2.3")
            here.loop._on_change = service.publish
            await check(here, service)

    asyncio.run(inside())


@contextmanager
def refused(error: Error, text: str) -> Iterator[None]:
    with pytest.raises(ServiceError, match=text) as info:
        yield
    assert info.value.error is error


def test_connect_and_disconnect_return_when_the_status_says_so(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await here.at_home()
        await service.connect(ROOT, None)
        assert (await service.get_status(ROOT)).target == "protected"
        await here.until(Phase.CONNECTED)
        await here.turn()
        status = await service.get_status(ROOT)
        assert (status.protected, status.blocking, status.rx_bytes, status.tx_bytes) == (True, True, 7, 8)
        await service.disconnect(ROOT)
        assert (await service.get_status(ROOT)).target == "unprotected"
        await here.until(Phase.IDLE)

    run(tmp_path, check)


def test_what_is_not_possible_now_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await here.at_home()
        before = here.loop.intent
        with refused(Error.NO_SUCH_PROFILE, "no profile 'x' is stored"):
            await service.connect(ROOT, "x")
        with refused(Error.NO_SUCH_PROFILE, "none is stored"):
            await service.connect(ROOT, None)
        with refused(Error.NOT_NOW, "protection is not wanted"):
            await service.reconnect(ROOT)
        with refused(Error.NO_SUCH_PROFILE, "no profile '../x'"):
            await service.remove_profile(ROOT, "../x")
        with refused(Error.LOCKED, "fix it to off"):
            await service.set_lockdown(ROOT, True)
        with refused(Error.LOCKED, "stands in the administrator"):
            await service.add_known(ROOT, "Home", None, None, None, None)
        with refused(Error.LOCKED, "stands in the administrator"):
            await service.forget_known(ROOT, b"Home".hex())
        with refused(Error.NO_SUCH_NETWORK, "is not saved"):
            await service.forget_known(ROOT, "41")
        for bad in ("4", "zz", "00" * 33):
            with refused(Error.INVALID_ARGUMENT, "AddKnown: "):
                await service.add_known(ROOT, None, bad, None, None, None)
        with refused(Error.INVALID_ARGUMENT, "action"):
            await service.add_known(ROOT, "x", None, "open", "ignore", None)
        assert here.loop.intent == before
        assert here.loop.known == ()

    run(tmp_path, check, SETTINGS + "[protection]\nlockdown = false", profile=False)


def test_broken_settings_cannot_be_opened(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        here.loop.facts = replace(here.loop.facts, settings_broken=True)
        await here.at_the_cafe()
        with refused(Error.NOT_NOW, "the settings file has errors"):
            await service.disconnect(ROOT)
        assert not here.fake.leaks

    run(tmp_path, check)


@pytest.mark.parametrize("choice", ["connect", "disconnect"])
def test_a_choice_settles_a_damaged_store_for_good(tmp_path: Path, choice: str) -> None:
    (tmp_path / "state" / "profiles").mkdir(parents=True)
    (tmp_path / "state" / "tunwarden.db").write_bytes(b"garbage")

    async def check(here: Running, service: DaemonService) -> None:
        await here.at_the_cafe()
        status = await service.get_status(ROOT)
        assert (status.cause, status.blocking, len(status.warnings)) == ("store-broken", True, 1)
        await (service.connect(ROOT, None) if choice == "connect" else service.disconnect(ROOT))
        await here.until(Phase.CONNECTED if choice == "connect" else Phase.IDLE)
        assert (await service.get_status(ROOT)).warnings == ()

    async def again(here: Running, service: DaemonService) -> None:
        assert here.loop.store.trouble is None

    run(tmp_path, check)
    run(tmp_path, again)


def test_a_second_profile_takes_nothing_from_the_first(tmp_path: Path) -> None:
    """The only one was chosen by being the only one: a protected machine must not end up without a profile."""

    async def check(here: Running, service: DaemonService) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        await service.import_profile(ROOT, "second", CONFIG)
        assert here.loop.state.phase is Phase.CONNECTED
        assert {each.name: each.chosen for each in await service.list_profiles(ROOT)} == {
            "office": True, "second": False,
        }  # fmt: skip

    run(tmp_path, check)


def test_a_refused_import_stores_nothing_and_shows_no_key(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        folder = here.loop.store.folder / "profiles"
        for text in (CONFIG + "PostUp = id\n", CONFIG.replace("51820", "0"), "", CONFIG.replace("AQEC", "!!!!")):
            with pytest.raises(ServiceError) as err:
                await service.import_profile(ROOT, "bad", text)
            assert err.value.error is Error.PROFILE_REFUSED
            assert "IAECAwQF" not in str(err.value)
        for name in ("../x", "", "a b", "x\n"):
            with pytest.raises(ServiceError):
                await service.import_profile(ROOT, name, CONFIG)
        assert os.listdir(folder) == []
        assert await service.import_profile(ROOT, "good", CONFIG) == ()
        assert [profile.name for profile in await service.list_profiles(ROOT)] == ["good"]

    run(tmp_path, check, profile=False)


def test_names_are_resolved_within_one_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RESOLVE_S", 1.0)
    peer = CONFIG[CONFIG.index("[Peer]") :]
    text = CONFIG[: CONFIG.index("[Peer]")]
    for number in range(4):
        text += (
            peer.replace("AQEC", f"AQE{'DEFG'[number]}")
            .replace("198.51.100.7", f"host{number}.test")
            .replace("0.0.0.0/0, ::/0", f"10.{number}.0.0/16")
        )

    async def check(here: Running, service: DaemonService) -> None:
        asked = []

        async def silent(host: str, *args: object, **options: object) -> object:
            asked.append(host)
            await asyncio.sleep(0.6)
            return [(2, 2, 17, "", ("198.51.100.7", 1)), (10, 2, 17, "", ("fe80::1%wlan0", 1, 0, 3))]

        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", silent)
        with refused(Error.PROFILE_REFUSED, "cannot be resolved now"):
            await service.import_profile(ROOT, "many", text)
        assert 1 <= len(asked) <= 2, "a second has room for one answer of 0.6 s, and the next one is not waited for"
        assert os.listdir(here.loop.store.folder / "profiles") == []
        monkeypatch.setattr(module, "RESOLVE_S", 20.0)  # here time is no matter
        one = CONFIG.replace("198.51.100.7", "host.test")
        await service.import_profile(ROOT, "one", one)
        (profile,) = await service.list_profiles(ROOT)
        assert profile.servers == ("198.51.100.7:51820",), "a link-local answer is of no use"

    run(tmp_path, check, profile=False)


def test_a_full_disk_refuses_and_keeps_what_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        def full(*_: object) -> None:
            raise StoreError("disk full")

        await service.add_known(ROOT, "A", None, None, None, None)
        for name in ("save_profile", "remove_profile", "save_known", "forget_known"):
            monkeypatch.setattr(here.loop.store, name, full)
        with refused(Error.NOT_NOW, "disk full.*Nothing was changed"):
            await service.import_profile(ROOT, "another", CONFIG)
        with refused(Error.NOT_NOW, "disk full"):
            await service.remove_profile(ROOT, "office")
        with refused(Error.NOT_NOW, "disk full"):
            await service.add_known(ROOT, "x", None, None, None, None)
        with refused(Error.NOT_NOW, "disk full"):
            await service.forget_known(ROOT, "41")
        assert list(here.loop.profiles) == ["office"]
        assert [each.ssid for each in here.loop.known] == [b"A"]

    run(tmp_path, check)


def test_a_profile_in_use_stays_and_a_damaged_one_can_go(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        folder = here.loop.store.folder / "profiles"
        (folder / "broken.json").write_bytes(b"{")
        here.loop.configuration.load_profiles()
        await here.at_the_cafe()
        await service.connect(ROOT, "office")
        await here.until(Phase.CONNECTED)
        await here.turn()
        with refused(Error.NOT_NOW, "is in use"):
            await service.remove_profile(ROOT, "office")
        assert any("broken.json is damaged" in warning for warning in (await service.get_status(ROOT)).warnings)
        await service.remove_profile(ROOT, "broken")
        assert (await service.get_status(ROOT)).warnings == ()
        assert os.listdir(folder) == ["office.json"]

    run(tmp_path, check)


def test_the_network_joined_now_is_saved_as_strong_as_it_is(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await here.at_the_cafe()
        await here.until(Phase.CONNECTED)
        saved = await service.add_known(ROOT, None, None, None, "auto_connect", None)
        assert (saved.ssid_hex, saved.security, saved.source) == (CAFE.ssid.hex(), "open", "user")
        assert [each.source for each in await service.list_known(ROOT)] == ["settings", "user"]
        await service.forget_known(ROOT, CAFE.ssid.hex())
        assert here.loop.known == ()

    run(tmp_path, check)


def test_settings_are_checked_without_being_taken(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        assert await service.check_settings(ROOT, "version = 1") == ()
        (problem,) = await service.check_settings(ROOT, "\n[wired]\naction = 'x'")
        assert (problem.line, problem.key) == (3, "wired.action")

    run(tmp_path, check)


def test_a_clock_that_jumps_is_only_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        for now in (0.0, 4e9, 1e9):
            monkeypatch.setattr(time, "time", lambda now=now: now)
            await (here.at_the_cafe() if now else here.at_home())
            await here.until(Phase.CONNECTED if now else Phase.IDLE)
            await here.turn()
            if now == 4e9:
                assert (await service.get_status(ROOT)).since == int(now)
        monkeypatch.undo()

    run(tmp_path, check)
