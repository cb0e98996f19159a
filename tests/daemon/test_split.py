"""T8: who may put whom into a group, what the firewall is told before, and what outlives the daemon."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from daemon import split as module
from daemon.host import SplitTree
from daemon.service import DaemonService
from daemon.store import Store, StoreError
from ipc.access import Caller, Transport
from ipc.errors import Error, ServiceError
from policies.split import Group, Program
from policies.states import Phase
from tests.daemon.fake_host import SPLIT_DNS, FakeHost, FakeSplitGroups
from tests.daemon.test_loop import SETTINGS, Running, impatient, running

assert impatient

USER, OTHER, PID = 1000, 1001, 4711
PROGRAM = "/usr/bin/browser"


def caller(uid: int, process: int | None = None) -> Caller:
    return Caller(uid, frozenset({uid}), PID, Transport.SOCKET, process)


ROOT = caller(0)


class Place:
    """A daemon, and the processes 4711 (a user's), 4712 (another's) and 4713 (with a setuid bit)."""

    def __init__(self, here: Running) -> None:
        self.here, self.fake, self.loop = here, here.fake, here.loop
        self.groups = groups(here.fake)
        self.service = DaemonService(here.loop, "1")

    async def connected(self) -> None:
        await self.here.at_the_cafe()
        await self.here.until(Phase.CONNECTED)

    async def refused(self, error: Error, asked: Coroutine[None, None, None]) -> str:
        with pytest.raises(ServiceError) as raised:
            await asked
        assert raised.value.error is error, raised.value
        return str(raised.value)


def groups(fake: FakeHost) -> FakeSplitGroups:
    found = fake.host.split_groups
    assert isinstance(found, FakeSplitGroups)
    return found


@asynccontextmanager
async def placed(folder: Path, settings: str = SETTINGS, fake: FakeHost | None = None) -> AsyncIterator[Place]:
    fake = fake or FakeHost()
    groups(fake).owners |= {PID: frozenset({USER}), PID + 1: frozenset({OTHER}), PID + 2: frozenset({USER, 0})}
    async with running(folder, settings, fake=fake) as here:
        yield Place(here)


def run(folder: Path, check: Callable[[Place], Coroutine[None, None, None]], settings: str = SETTINGS) -> None:
    async def inside() -> None:
        async with placed(folder, settings) as place:
            await check(place)

    asyncio.run(inside())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.005)


def test_the_firewall_knows_before_anybody_is_in_it_and_forgets_after_the_last(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        await place.connected()
        told: list[bool] = []
        real = place.groups.add

        def watched(*given: object) -> object:
            told.append(all(each is not None and each.never for each in place.fake.kernel.values()))
            return real(*given)  # type: ignore[arg-type]

        place.groups.add = watched  # type: ignore[assignment,method-assign]
        await place.service.add_split(ROOT, "never", PID)
        assert told == [True]
        policy = place.loop.enforcer.enforced
        assert policy and policy.beside == {"wlan0"} and policy.beside_dns == SPLIT_DNS
        place.service.publish()
        assert (await place.service.get_status(ROOT)).outside == 1
        await place.service.remove_split(caller(USER), PID)
        policy = place.loop.enforcer.enforced
        assert policy and not policy.never and not policy.beside
        assert place.loop.splits.outside == 0

    run(tmp_path, check)


def test_who_has_ended_is_forgotten_by_itself(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        await place.connected()
        await place.service.add_split(ROOT, "only", PID)
        place.groups.inside.clear()
        await place.here.until(lambda loop: loop.enforcer.enforced is not None and not loop.enforcer.enforced.only)

    run(tmp_path, check)


def test_e8_nobody_names_processes_of_others(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        user, other, service = caller(USER), caller(OTHER), place.service
        await place.refused(Error.NOT_PERMITTED, service.add_split(user, "only", PID + 1))
        await place.refused(Error.NOT_PERMITTED, service.add_split(user, "only", PID + 2))  # more than one user's
        await place.refused(Error.NOT_NOW, service.add_split(user, "only", 1))
        assert "tunwarden.sock" in await place.refused(Error.NOT_NOW, service.add_split(user, "only", 0))
        assert place.groups.inside == []
        await service.add_split(caller(USER, process=7), "only", 0)  # its own, which the kernel has named
        await place.refused(Error.NOT_PERMITTED, service.remove_split(other, PID))
        assert await service.list_split(other) == ()
        (entry,) = await service.list_split(user)
        assert (entry.group, entry.pid, entry.uid) == ("only", PID, USER)
        await place.refused(Error.NOT_PERMITTED, service.add_split_program(user, "only", PROGRAM, OTHER))
        await place.refused(Error.INVALID_ARGUMENT, service.add_split_program(user, "only", "browser"))
        await service.remove_split(ROOT, PID)
        await place.refused(Error.NOT_NOW, service.remove_split(ROOT, PID))

    run(tmp_path, check)


def test_only_is_refused_where_the_kernel_has_not_confirmed_it(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        await place.connected()
        place.fake.refuses = {"firewall"}
        await place.refused(Error.NOT_NOW, place.service.add_split(ROOT, "only", PID))
        assert place.groups.inside == []

    run(tmp_path, check)


def test_names_are_asked_of_the_network_that_there_is(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        await place.service.add_split(ROOT, "never", PID)
        await place.connected()
        await place.here.until(lambda loop: place.groups.asked[-1] == (("wlan0",), ()))
        place.fake.links = ()
        await place.here.hint("links")
        await place.here.until(lambda loop: place.groups.asked[-1] == ((), ()))

    run(tmp_path, check)


def test_names_are_asked_through_the_tunnel_where_the_settings_say_so(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        await place.service.add_split(ROOT, "never", PID)
        await place.connected()
        await place.here.until(lambda loop: place.groups.asked[-1] == ((), ("10.9.0.1",)))
        assert all(links == () for links, _ in place.groups.asked), "and never of the network"

    run(tmp_path, check, SETTINGS.replace("[tunnel]", '[split]\nnames = "tunnel"\n[tunnel]'))


def test_a_start_takes_the_groups_over_before_its_first_decision(tmp_path: Path) -> None:
    async def check() -> None:
        async with placed(tmp_path) as place:
            await place.connected()
            await place.service.add_split(ROOT, "never", PID)
        fake = FakeHost(links=place.fake.links, wifi=place.fake.wifi)
        groups(fake).inside = place.groups.inside
        async with placed(tmp_path, fake=fake) as place:
            await place.here.until(Phase.CONNECTED)
            policies = [detail for what, detail in fake.asked if what in ("firewall", "routes")]
            assert policies and all(getattr(each, "never", False) for each in policies), "from the first one on"
            assert place.loop.splits.outside == 1

    asyncio.run(check())


def test_a_start_that_cannot_take_over_binds_who_is_bound(tmp_path: Path) -> None:
    async def check() -> None:
        fake = FakeHost()
        fake.refuses = {"take over"}
        groups(fake).inside = [SplitTree(Group.ONLY, PID, USER, "program", 1)]
        async with placed(tmp_path, fake=fake) as place:
            policy = place.loop.enforcer.enforced
            assert policy and policy.only
            assert "refused" in place.loop.warnings["split"]

    asyncio.run(check())


def test_programs_are_listed_for_good(tmp_path: Path) -> None:
    async def check() -> None:
        async with placed(tmp_path) as place:
            place.groups.runs |= {PID: PROGRAM, PID + 1: PROGRAM}
            await place.connected()
            await place.service.add_split_program(ROOT, "never", PROGRAM, USER)
            assert [tree.pid for tree in place.groups.inside] == [PID], "that user's alone"
            said = await place.refused(Error.NOT_NOW, place.service.remove_split(caller(USER), PID))
            assert f"--program {PROGRAM}" in said
            place.groups.owners[PID + 9], place.groups.runs[PID + 9] = frozenset({USER}), PROGRAM
            await place.here.until(lambda loop: loop.splits.outside == 2)
        async with placed(tmp_path) as place:
            policy = place.loop.enforcer.enforced
            assert policy and policy.never, "also before any runs"
            assert [entry.name for entry in await place.service.list_split(caller(USER))] == [PROGRAM]
            place.groups.runs[PID] = PROGRAM
            await place.here.until(lambda loop: loop.splits.outside == 1)
            await place.service.remove_split_program(caller(USER), PROGRAM)
            assert place.groups.inside == [] and await place.service.list_split(ROOT) == ()
            await place.refused(Error.NOT_NOW, place.service.remove_split_program(ROOT, PROGRAM, USER))
        assert Store(tmp_path / "state", lambda: 1.0).programs() == frozenset()

    asyncio.run(check())


def test_whoever_looks_for_programs_goes_on_after_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise a later process of a listed program would stay where it is, and nobody would be told."""
    real, failures = FakeSplitGroups.gather, [RuntimeError("of the test")]

    def gather(self: FakeSplitGroups, programs: Iterable[Program]) -> tuple[SplitTree, ...]:
        found = tuple(programs)
        if self.runs and failures:
            raise failures.pop()
        return real(self, found)

    monkeypatch.setattr(FakeSplitGroups, "gather", gather)

    async def check(place: Place) -> None:
        await place.connected()
        await place.service.add_split_program(caller(USER), "only", PROGRAM, -1)
        place.groups.runs[PID] = PROGRAM
        await place.here.until(lambda loop: place.groups.find(PID) is not None)
        assert not failures

    run(tmp_path, check)


def test_a_disk_that_refuses_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(place: Place) -> None:
        def full(programs: object) -> None:
            raise StoreError("the disk is full")

        monkeypatch.setattr(place.loop.store, "save_programs", full)
        place.groups.runs[PID] = PROGRAM
        await place.refused(Error.NOT_NOW, place.service.add_split_program(ROOT, "never", PROGRAM, USER))
        assert place.loop.splits.programs == frozenset() and place.groups.inside == []

    run(tmp_path, check)


def test_a_machine_that_is_left_open_keeps_programs_in_the_tunnel(tmp_path: Path) -> None:
    async def check() -> None:
        for group in ("never", "only"):
            async with placed(tmp_path / group) as place:
                await place.here.at_home()
                await place.here.until(Phase.IDLE)
                await place.service.add_split(ROOT, group, PID)
            firewall = place.fake.kernel["firewall"]
            assert (firewall is not None and firewall.only) is (group == "only")

    asyncio.run(check())


def test_excluded_networks_of_the_tunnel_are_told(tmp_path: Path) -> None:
    async def check(place: Place) -> None:
        await place.connected()
        assert "10.9.0.0/24" in place.loop.warnings["split subnets"]
        policy = place.loop.enforcer.enforced
        assert policy and [str(each) for each in policy.subnets] == ["203.0.113.0/24"]

    subnets = '[split]\nsubnets = ["203.0.113.0/24", "10.9.0.0/24"]\n[tunnel]'
    run(tmp_path, check, SETTINGS.replace("[tunnel]", subnets))
