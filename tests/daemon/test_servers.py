"""T4 in the loop: which server is tried, when servers are asked, and what the firewall lets through meanwhile."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest

from daemon import servers as module
from daemon.service import DaemonService
from ipc.errors import Error
from policies.facts import Endpoint
from policies.firewall import FirewallPolicy
from policies.states import Cause, Phase
from tests.daemon.profiles_for_tests import CONFIG, OFFICE
from tests.daemon.test_loop import SETTINGS, Running, impatient, running
from tests.daemon.test_service import ROOT, Check, refused, run

__all__ = ["impatient"]  # the fixture is for every test here too

NAMES = ("a", "b", "c", "d")


def place(name: str) -> Endpoint:
    return Endpoint(ip_address(f"192.0.2.{ord(name)}"), 51820)


def text(names: Sequence[str] = NAMES, salt: int = 0) -> str:
    entries = [
        f'[[servers]]\nname = "{name}"\ncountry = "{"SE" if name in "ac" else "DE"}"\n'
        f'public_key = "{base64.b64encode(bytes([ord(name), salt] * 16)).decode()}"\n'
        f'endpoints = ["{place(name).address}:51820"]\n'
        for name in names
    ]
    return "version = 1\n" + "".join(entries)


def opened(here: Running) -> list[str]:
    """The servers of the attempts, by name."""
    names = {place(name): name for name in NAMES}
    return [names.get(profile.peers[0].endpoints[0], "?") for profile in here.fake.opened]


def measured(here: Running) -> list[object]:
    return [detail for what, detail in here.fake.asked if what == "measure"]


def listed(folder: Path, check: Check, settings: str = SETTINGS) -> None:
    """In the café, unprotected as long as nobody chooses; the profile has a list."""

    async def inside(here: Running, service: DaemonService) -> None:
        here.fake.speeds = {place(name).address: 0.01 * (5 - number) for number, name in enumerate(NAMES)}
        assert await service.import_servers(ROOT, "office", text()) == 4
        await here.at_home()
        await check(here, service)

    run(folder, inside, settings)


def test_one_by_its_name(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.connect_server(ROOT, None, "c")
        await here.until(Phase.CONNECTED)
        await here.turn()
        status = await service.get_status(ROOT)
        assert (status.server_name, status.server) == ("c", f"{place('c').address}:51820")
        assert opened(here) == ["c"]
        policies = [detail for _, detail in here.fake.asked if isinstance(detail, FirewallPolicy)]
        assert {server for policy in policies for server in policy.servers} == {place("c")}
        assert here.loop.store.intent().servers == (("office", "c"),)
        assert not measured(here)

    listed(tmp_path, check)


def test_in_turn_until_one_answers(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        here.fake.refuses.add("established")
        await service.connect_server(ROOT, None, "country:DE")
        await here.until(lambda _: len(opened(here)) >= 3)
        here.fake.refuses.clear()
        await here.until(Phase.CONNECTED)
        assert opened(here)[:3] == ["b", "d", "b"]
        assert not {"a", "c"} & set(opened(here))

    listed(tmp_path, check)


def test_the_fastest_is_asked_for_and_found(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.connect_server(ROOT, None, "fastest")
        await here.until(Phase.CONNECTED)
        assert opened(here) == ["d"]
        shown = {each.name: each for each in await service.list_servers(ROOT, None)}
        assert (shown["d"].latency_ms, shown["d"].loss_percent) == (20, 0)
        assert shown["d"].measured > 0
        assert [each.name for each in shown.values() if each.used] == ["d"]
        before = len(measured(here))
        assert before == 2, "all of them, and the best again"
        await service.connect_server(ROOT, None, "fastest:SE")
        await here.until(lambda _: opened(here)[-1] == "c")
        await here.until(Phase.CONNECTED)
        assert len(measured(here)) == before, "what was measured a moment ago is not asked again"

    listed(tmp_path, check)


def test_only_while_the_firewall_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FakeHost compares what is asked with what the firewall lets through: exactly that batch, in every call."""
    monkeypatch.setattr(module, "BATCH", 2)

    async def check(here: Running, service: DaemonService) -> None:
        await service.connect_server(ROOT, None, "fastest")
        await here.until(Phase.CONNECTED)
        assert measured(here)[:2] == [(place("a"), place("b")), (place("c"), place("d"))]
        policies = [detail for _, detail in here.fake.asked if isinstance(detail, FirewallPolicy)]
        assert max(len(policy.servers) for policy in policies) == 2
        assert here.fake.kernel["firewall"] is not None
        assert here.fake.kernel["firewall"].servers == (place("d"),)

    listed(tmp_path, check)


def test_whoever_does_not_answer_comes_last(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        here.fake.speeds = {place("b").address: 0.2}
        await service.connect_server(ROOT, None, "fastest")
        await here.until(Phase.CONNECTED)
        assert opened(here) == ["b"]
        shown = {each.name: each for each in await service.list_servers(ROOT, None)}
        assert (shown["a"].latency_ms, shown["a"].loss_percent) == (0, 100)

    listed(tmp_path, check)


def test_a_lost_packet_makes_nobody_slow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        speeds, calls = dict(here.fake.speeds), 0
        measure = here.loop.host.server_probe.measure

        async def lossy(*arguments: object) -> object:
            nonlocal calls
            calls += 1
            here.fake.speeds = {at: speed for at, speed in speeds.items() if calls > 1 or at != place("d").address}
            return await measure(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(here.loop.host.server_probe, "measure", lossy)
        await service.connect_server(ROOT, None, "fastest")
        await here.until(Phase.CONNECTED)
        assert opened(here) == ["d"]
        shown = {each.name: each for each in await service.list_servers(ROOT, None)}
        assert (shown["d"].loss_percent, shown["a"].loss_percent) == (20, 0)

    listed(tmp_path, check)


@pytest.mark.parametrize("fault", ["nobody answers", "cannot be measured"])
def test_without_answers_they_are_tried_as_listed(tmp_path: Path, fault: str) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        here.fake.speeds = {}
        if fault == "cannot be measured":
            here.fake.refuses.add("measure")
        await service.connect_server(ROOT, None, "fastest")
        await here.until(Phase.CONNECTED)
        assert opened(here) == ["a"]
        asked = len(measured(here))
        await service.connect_server(ROOT, None, "fastest")
        await here.until(lambda _: len(measured(here)) > asked)  # it said nothing of them, so they are asked again

    listed(tmp_path, check)


def test_a_network_that_is_left_ends_the_asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        held = _Held(here.loop.host.server_probe.measure)
        monkeypatch.setattr(here.loop.host.server_probe, "measure", held)
        await service.connect_server(ROOT, None, "fastest")
        await here.until(lambda loop: loop.state.cause is Cause.CHOOSING_SERVER and held.asked > 0)
        here.fake.links = ()
        await here.hint("links")
        await here.until(lambda loop: loop.state.cause is Cause.NO_NETWORK)
        assert here.fake.kernel["firewall"] is not None
        assert here.fake.kernel["firewall"].servers == ()
        held.go = True
        await here.at_home()
        await here.until(Phase.CONNECTED)
        assert opened(here) == ["d"]

    listed(tmp_path, check)


def test_another_list_while_its_servers_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        held = _Held(here.loop.host.server_probe.measure)
        monkeypatch.setattr(here.loop.host.server_probe, "measure", held)
        await service.connect_server(ROOT, None, "fastest")
        await here.until(lambda loop: loop.state.cause is Cause.CHOOSING_SERVER and held.asked > 0)
        held.go = True
        await service.import_servers(ROOT, "office", text("ab", salt=1))
        await here.until(Phase.CONNECTED)
        assert here.fake.opened[-1].peers[0].public_key == bytes([ord("b"), 1] * 16)

    listed(tmp_path, check)


class _Held:
    """A measurement that does not end until `go`."""

    def __init__(self, measure: Callable[..., Awaitable[object]]) -> None:
        self.measure, self.go, self.asked = measure, False, 0

    async def __call__(self, *arguments: object) -> object:
        self.asked += 1
        if not self.go:
            await asyncio.Event().wait()
        return await self.measure(*arguments)


def test_a_server_that_is_gone_blocks(tmp_path: Path) -> None:
    """Never another one silently."""

    async def check(here: Running, service: DaemonService) -> None:
        await service.connect_server(ROOT, None, "a")
        await here.until(Phase.CONNECTED)
        await service.import_servers(ROOT, "office", text("bcd"))
        await here.until(lambda loop: loop.state.cause is Cause.NO_SERVER)
        assert here.loop.enforcer.blocking
        with refused(Error.NO_SUCH_SERVER, "no a"):
            await service.connect_server(ROOT, None, "a")
        await service.connect_server(ROOT, None, "")
        await here.until(Phase.CONNECTED)
        assert opened(here) == ["a", "b"]

    listed(tmp_path, check)


def test_a_damaged_list_blocks(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        file = here.loop.store.folder / "profiles" / "office.servers"
        assert file.stat().st_mode & 0o777 == 0o600
        file.write_text(file.read_text().replace("192.0.2", "192.0.3", 1)[:-1])
        here.loop.facts = replace(here.loop.facts, picked=None)  # as after a start
        await service.connect(ROOT, None)
        await here.until(lambda loop: loop.state.cause is Cause.NO_SERVER)
        assert any("cannot be read" in warning for warning in here.loop.warnings.values())
        assert not opened(here)
        with refused(Error.NOT_NOW, "damaged"):
            await service.list_servers(ROOT, None)
        await service.remove_servers(ROOT, "office")
        await here.until(Phase.CONNECTED)
        assert not here.loop.store.listed()

    listed(tmp_path, check)


def test_another_configuration_ends_list_and_choice(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.connect_server(ROOT, None, "a")
        await here.until(Phase.CONNECTED)
        await service.import_profile(ROOT, "office", CONFIG)
        assert here.loop.store.listed() == {"office"}, "the same text again is none"
        await service.import_profile(ROOT, "office", CONFIG.replace("10.9.0.2", "10.9.0.3"))
        assert not here.loop.store.listed()
        assert here.loop.intent.servers == ()
        await here.until(lambda _: opened(here)[-1] == "?")

    listed(tmp_path, check)


def test_other_keys_of_the_server_in_use_make_a_new_tunnel(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.connect_server(ROOT, None, "a")
        await here.until(Phase.CONNECTED)
        await service.import_servers(ROOT, "office", text(salt=1))
        await here.until(lambda _: len(opened(here)) == 2)
        await here.until(Phase.CONNECTED)
        assert here.fake.opened[-1].peers[0].public_key == bytes([ord("a"), 1] * 16)
        await service.import_servers(ROOT, "office", text(salt=1))
        await here.turn()
        assert len(opened(here)) == 2, "the same list again changes nothing"

    listed(tmp_path, check)


def test_favourites(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        with refused(Error.NO_SUCH_SERVER, "no favourites"):
            await service.connect_server(ROOT, "office", "favourites")
        for name in ("d", "b"):
            await service.set_favourite(ROOT, "office", name, True)
        await service.set_favourite(ROOT, "office", "d", False)
        with refused(Error.NO_SUCH_SERVER, "no 'x'"):
            await service.set_favourite(ROOT, "office", "x", True)
        await service.connect_server(ROOT, "office", "favourites")
        await here.until(Phase.CONNECTED)
        assert opened(here) == ["b"]
        await service.import_servers(ROOT, "office", text("ab"))
        assert [each.name for each in await service.list_servers(ROOT, None) if each.favourite] == ["b"]

    listed(tmp_path, check)


def test_the_settings_of_a_network_and_of_everywhere(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.connect(ROOT, None)
        await here.until(Phase.CONNECTED)
        assert opened(here) == ["b"]
        with refused(Error.LOCKED, "wants the server"):
            await service.connect_server(ROOT, None, "a")
        await here.at_the_cafe()
        await here.until(lambda _: opened(here)[-1] == "c")

    rules = 'action = "auto_connect"\nserver = "b"'
    listed(
        tmp_path, check, SETTINGS.replace("[tunnel]", '[tunnel]\nserver = "c"').replace('action = "disconnect"', rules)
    )


def test_random_is_one_of_them_and_stays_until_chosen_anew(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.connect_server(ROOT, None, "random:SE")
        await here.until(Phase.CONNECTED)
        for _ in range(5):
            await here.turn()
        assert len(opened(here)) == 1
        assert opened(here)[0] in "ac"
        for _ in range(30):
            await service.connect_server(ROOT, None, "random:SE")
            await here.until(Phase.CONNECTED)
        assert set(opened(here)) == {"a", "c"}  # all 30 alike: once in half a thousand million

    listed(tmp_path, check)


def test_the_choice_outlives_the_daemon(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        await service.connect_server(ROOT, None, "country:DE")
        await here.until(Phase.CONNECTED)

    async def again() -> None:
        async with running(tmp_path, profile=False) as here:
            await here.at_home()
            await here.until(Phase.CONNECTED)
            assert opened(here) == ["b"]

    listed(tmp_path, check)
    asyncio.run(again())


def test_what_is_refused(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        with refused(Error.PROFILE_REFUSED, "number 1: country"):
            await service.import_servers(ROOT, "office", text().replace('"SE"', '"Sweden"'))
        with refused(Error.NO_SUCH_PROFILE, "'x'"):
            await service.import_servers(ROOT, "x", text())
        with refused(Error.INVALID_ARGUMENT, "no choice"):
            await service.connect_server(ROOT, None, "x; sh")
        with refused(Error.INVALID_ARGUMENT, "two capital letters"):
            await service.list_servers(ROOT, None, "se")
        with refused(Error.NO_SUCH_SERVER, "no country:NO"):
            await service.connect_server(ROOT, None, "country:NO")
        assert len(await service.list_servers(ROOT, None)) == 4
        await service.remove_servers(ROOT, "office")
        with refused(Error.NOT_NOW, "has no list"):
            await service.list_servers(ROOT, "office")
        assert here.loop.profiles["office"] == OFFICE

    listed(tmp_path, check)


def test_a_long_list_comes_in_pages(tmp_path: Path) -> None:
    async def check(here: Running, service: DaemonService) -> None:
        key = base64.b64encode(bytes([9] * 32)).decode()
        many = "version = 1\n" + "".join(
            f'[[servers]]\nname = "s{number}"\npublic_key = "{key}"\nendpoints = ["192.0.2.1:{number + 1}"]\n'
            for number in range(250)
        )
        await service.import_servers(ROOT, "office", many)
        pages = [len(await service.list_servers(ROOT, "office", None, start)) for start in (0, 100, 200, 300, -5)]
        assert pages == [100, 100, 50, 0, 100]

    listed(tmp_path, check)
