"""S4: users' settings over the interface: what may change, what the administrator has locked, where each comes from."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path

import pytest

from daemon import settings_file
from daemon.service import DaemonService
from daemon.settings_keeper import SettingsKeeper
from daemon.store import StoreError
from ipc.errors import Error
from ipc.structs import Setting
from policies.states import Phase
from tests.daemon.test_loop import SETTINGS, Running, running
from tests.daemon.test_service import ROOT, refused

Check = Callable[[Running, DaemonService, SettingsKeeper], Coroutine[None, None, None]]
LOCKING = SETTINGS + "[protection]\nlockdown = true\nallow_lan = false\n"


def run(folder: Path, check: Check, settings: str = SETTINGS) -> None:
    file = folder / "etc/tunwarden.toml"
    file.parent.mkdir(exist_ok=True)
    if settings:
        file.write_text(settings)

    async def inside() -> None:
        async with running(folder, settings) as here:
            keeper = SettingsKeeper(here.loop, file)
            keeper.take(settings_file.load(here.loop.store, file))
            service = DaemonService(here.loop, "1", keeper)
            here.loop._on_change = service.publish
            await check(here, service, keeper)

    asyncio.run(inside())


async def listed(service: DaemonService) -> dict[str, Setting]:
    return {each.key: each for each in await service.list_settings(ROOT)}


def test_each_setting_says_where_it_comes_from(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService, keeper: SettingsKeeper) -> None:
        await here.at_home()
        before = await listed(service)
        assert (before["wifi.secured"].value, before["wifi.secured"].origin) == ("ignore", "default")
        await service.change_setting(ROOT, "wifi.criteria.wps", "true")
        await service.change_setting(ROOT, "tunnel.default_profile", "office")
        await service.change_setting(ROOT, "protection.kill_switch", "false")
        after = await listed(service)
        assert {key for key in after if after[key] != before[key]} == {
            "wifi.criteria.wps", "tunnel.default_profile", "protection.kill_switch",
        }  # fmt: skip
        assert all(after[key].origin == "user" for key in after if after[key] != before[key])
        assert (after["wifi.criteria.wps"].value, after["wifi.criteria.wps"].default) == ("true", "false")
        assert here.loop.settings.wifi.criteria.wps
        assert not (await service.get_status(ROOT)).kill_switch
        lockdown = after["protection.lockdown"]
        assert (lockdown.value, lockdown.origin, lockdown.own) == ("true", "administrator", None)
        line = LOCKING.splitlines().index("lockdown = true") + 1
        assert lockdown.place == f"{tmp_path}/etc/tunwarden.toml:{line}"

    run(tmp_path, check, LOCKING)


def test_what_the_administrator_says_is_locked_and_the_error_says_where(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService, keeper: SettingsKeeper) -> None:
        where = f"{tmp_path}/etc/tunwarden.toml:"
        intent, settings = here.loop.intent, here.loop.settings
        with refused(Error.LOCKED, f"protection.allow_lan is fixed to false in {where}"):
            await service.change_setting(ROOT, "protection.allow_lan", "true")
        with refused(Error.LOCKED, f"protection.lockdown is fixed to true in {where}"):
            await service.change_setting(ROOT, "protection.lockdown", "false")
        with refused(Error.LOCKED, where):
            await service.set_lockdown(ROOT, False)
        with refused(Error.LOCKED, "protection.allow_lan is fixed"):
            await service.import_settings(ROOT, "[wired]\naction = 'prompt'\n[protection]\nallow_lan = true")
        await service.change_setting(ROOT, "protection.allow_lan", "false")  # it is so already
        assert (here.loop.intent, here.loop.settings) == (intent, settings)
        assert here.loop.store.own_settings() == {}

    run(tmp_path, check, LOCKING)


@pytest.mark.parametrize(
    "key, value, error, text",
    [
        ("wifi.secure", "prompt", Error.INVALID_ARGUMENT, "no setting 'wifi.secure', did you mean wifi.secured"),
        ("known", "x", Error.INVALID_ARGUMENT, "there is no setting"),
        ("version", "1", Error.INVALID_ARGUMENT, "there is no setting"),
        ("wifi.secured", "disconnect", Error.INVALID_ARGUMENT, "only for"),
        ("wifi.secured", "maybe", Error.INVALID_ARGUMENT, "allowed: auto_connect, prompt, ignore"),
        ("wifi.unidentified", "ignore", Error.INVALID_ARGUMENT, "laxer than unsecured"),
        ("tunnel.retry_first", "5m", Error.INVALID_ARGUMENT, "retry_first is longer than"),
        ("tunnel.connect_timeout", "15", Error.INVALID_ARGUMENT, "not a time"),
        ("tunnel.default_profile", "nowhere", Error.NO_SUCH_PROFILE, "no profile 'nowhere'"),
        ("protection.lan_subnets", "8.8.8.0/24", Error.INVALID_ARGUMENT, "public addresses never count"),
    ],
)
def test_what_cannot_be_set(tmp_path: Path, key: str, value: str, error: Error, text: str) -> None:
    async def check(here: Running, service: DaemonService, keeper: SettingsKeeper) -> None:
        before = here.loop.settings
        with refused(error, text):
            await service.change_setting(ROOT, key, value)
        assert (here.loop.settings, here.loop.store.own_settings()) == (before, {})

    run(tmp_path, check, "")


def test_reset_one_and_all(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService, keeper: SettingsKeeper) -> None:
        for key, value in (("wifi.secured", "prompt"), ("wired.action", "prompt"), ("protection.lockdown", "true")):
            await service.change_setting(ROOT, key, value)
        with refused(Error.INVALID_ARGUMENT, "there is no setting"):
            await service.reset_settings(ROOT, "wifi")
        await service.reset_settings(ROOT, "wifi.secured")
        assert here.loop.store.own_settings() == {"wired.action": "prompt"}
        assert (here.loop.settings.wifi.secured, here.loop.settings.wired) == ("ignore", "prompt")
        await service.reset_settings(ROOT, None)
        assert all(each.origin == "default" for each in await service.list_settings(ROOT))
        assert not here.loop.intent.lockdown

    run(tmp_path, check, "")


def test_import_is_all_or_nothing_and_replaces(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService, keeper: SettingsKeeper) -> None:
        await service.change_setting(ROOT, "wired.action", "prompt")
        text = "[wifi]\nsecured = 'prompt'\nprompt_timeout = '120s'\n[protection]\nlockdown = true\n"
        assert await service.import_settings(ROOT, text) == 3
        assert here.loop.store.own_settings() == {"wifi.secured": "prompt", "wifi.prompt_timeout": "2m"}
        assert here.loop.intent.lockdown
        for wrong, told in (
            ("[wifi]\nsecured = 'auto_connect'\nunsecurd = 'x'", "line 3: wifi.unsecurd: unknown key"),
            ("[[known]]\nssid = 'x'", "known import"),
            ("[", "line 1: not TOML"),
        ):
            with refused(Error.INVALID_ARGUMENT, told):
                await service.import_settings(ROOT, wrong)
        assert here.loop.store.own_settings() == {"wifi.secured": "prompt", "wifi.prompt_timeout": "2m"}

    run(tmp_path, check, "")


def test_a_full_disk_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Running, service: DaemonService, keeper: SettingsKeeper) -> None:
        def full(own: object) -> None:
            raise StoreError("disk full")

        before = here.loop.settings
        monkeypatch.setattr(here.loop.store, "save_own_settings", full)
        with refused(Error.NOT_NOW, "disk full"):
            await service.change_setting(ROOT, "wifi.secured", "prompt")
        assert (here.loop.settings, keeper.loaded.own) == (before, {})

    run(tmp_path, check, "")


def test_while_the_files_are_broken_nothing_is_changed(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService, keeper: SettingsKeeper) -> None:
        for call in (
            service.change_setting(ROOT, "wifi.secured", "ignore"),
            service.reset_settings(ROOT, None),
            service.import_settings(ROOT, ""),
        ):
            with refused(Error.NOT_NOW, "the settings file has errors"):
                await call
        assert here.loop.facts.settings_broken

    async def inside() -> None:
        file = tmp_path / "tunwarden.toml"
        file.write_text("[")
        async with running(tmp_path, SETTINGS) as here:
            keeper = SettingsKeeper(here.loop, file)
            keeper.take(settings_file.load(here.loop.store, file))
            await check(here, DaemonService(here.loop, "1", keeper), keeper)

    asyncio.run(inside())


def test_an_administrator_who_locks_later_wins_and_gives_back(tmp_path: Path) -> None:
    """Read again, the files win over what users set; when they fall silent, the users' value counts again."""

    async def check(here: Running, service: DaemonService, keeper: SettingsKeeper) -> None:
        drop_in = tmp_path / "etc/tunwarden.d/lock.toml"
        await service.change_setting(ROOT, "wifi.secured", "prompt")
        drop_in.parent.mkdir()
        drop_in.write_text("[wifi]\nsecured = 'auto_connect'\n")
        keeper.reload()
        await here.until(lambda loop: loop.settings.wifi.secured == "auto_connect")
        found = (await listed(service))["wifi.secured"]
        assert (found.value, found.own, found.place) == ("auto_connect", "prompt", f"{drop_in}:2")
        with refused(Error.LOCKED, str(drop_in)):
            await service.change_setting(ROOT, "wifi.secured", "ignore")
        drop_in.unlink()
        keeper.reload()
        await here.until(lambda loop: loop.settings.wifi.secured == "prompt")

    run(tmp_path, check)


def test_settings_change_while_connected_and_nothing_leaves(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService, keeper: SettingsKeeper) -> None:
        await here.at_the_cafe()
        await service.connect(ROOT, None)
        await here.until(Phase.CONNECTED)
        for value in ("true", "false"):
            await service.change_setting(ROOT, "protection.allow_lan", value)
            assert here.loop.settings.protection.allow_lan is (value == "true")
        await service.change_setting(ROOT, "wifi.criteria.wps", "true")
        await service.reset_settings(ROOT, None)
        await here.turn()
        assert here.loop.state.phase is Phase.CONNECTED
        assert not here.fake.leaks

    run(tmp_path, check)
