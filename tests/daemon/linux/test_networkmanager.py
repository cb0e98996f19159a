"""The conversation with NetworkManager, over a real bus with its stand-in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace

import pytest
from dbus_fast import Variant
from structlog.testing import capture_logs

from daemon.linux.networkmanager import NetworkManager
from lab.air import AccessPoint, Air
from lab.bus import SOCKET
from lab.hosts import Host
from lab.networkmanager_stand_in import MANAGER, NAME, POINT, WIFI, WIRELESS, NetworkManagerStandIn
from policies.facts import Reach, Security, WifiNetwork

HOME = AccessPoint(b"home", "02:00:00:00:00:0a", Air.WPA2)
HOME_UPSTAIRS = AccessPoint(b"home", "02:00:00:00:00:0b", Air.WPA2)
CAFE = AccessPoint(b"cafe", "02:00:00:00:00:0c", Air.OPEN)
MACS = ("02:00:00:00:00:01", "02:00:00:00:00:02")


def network(point: AccessPoint, security: Security) -> dict[str, WifiNetwork]:
    return {"wlan0": WifiNetwork(point.ssid, bytes.fromhex(point.bssid.replace(":", "")), security)}


AT_HOME, UPSTAIRS = network(HOME, Security.WPA2), network(HOME_UPSTAIRS, Security.WPA2)
IN_CAFE = network(CAFE, Security.OPEN)


@pytest.fixture
def host() -> Iterator[Host]:
    with Host("laptop") as host:
        yield host


@pytest.fixture
def stand_in(host: Host) -> Iterator[NetworkManagerStandIn]:
    """The NetworkManager stand-in: python-dbusmock on the host's own system bus."""
    stand_in = NetworkManagerStandIn(host)
    stand_in.start()
    try:
        stand_in.ready(*MACS)
        yield stand_in
    finally:
        stand_in.close()


def address(host: Host) -> str:
    return f"unix:path={host.path(SOCKET)}"


class Watched:
    """NetworkManager's watch, iterated over as the daemon does, and its reads."""

    def __init__(self, source: NetworkManager) -> None:
        self.source = source
        self.hints: asyncio.Queue[None] = asyncio.Queue()
        self._pump = asyncio.create_task(self._run())

    async def _run(self) -> None:
        async for _ in self.source.watch():
            self.hints.put_nowait(None)

    async def until(self, wanted: Mapping[str, WifiNetwork], seconds: float = 20.0) -> None:
        """Read after each hint and never without one, until the answer is the wanted one."""
        found: object = None
        try:
            async with asyncio.timeout(seconds):
                while (found := await self.source.read()) != wanted:
                    await self.hints.get()
        except TimeoutError:
            raise AssertionError(f"still {found}, not {wanted}") from None

    async def quiet(self, seconds: float = 0.3) -> None:
        """Take the hints that wait, then assert that there come no more."""
        await asyncio.sleep(0.1)
        while not self.hints.empty():
            self.hints.get_nowait()
        await asyncio.sleep(seconds)
        assert self.hints.empty()

    async def close(self) -> None:
        self._pump.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._pump


@contextlib.asynccontextmanager
async def watching(host: Host, patience: float = 10.0) -> AsyncIterator[Watched]:
    watched = Watched(NetworkManager(address(host), patience=patience))
    try:
        async with asyncio.timeout(20):
            await watched.hints.get()  # at once
        yield watched
    finally:
        await watched.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(90):
            await work()

    asyncio.run(limited())


async def aside(call: Callable[..., object], *args: object) -> None:
    """Drive the stand-in, whose calls block, while the loop runs."""
    await asyncio.to_thread(call, *args)


def update(stand_in: NetworkManagerStandIn, path: str, interface: str, changed: dict[str, Variant]) -> None:
    stand_in._update(path, interface, changed)


def active_point(stand_in: NetworkManagerStandIn) -> str:
    get = "org.freedesktop.DBus.Properties.Get"
    return str(stand_in.client.call(NAME, WIFI, get, "ss", WIRELESS, "ActiveAccessPoint")[0].value)


@pytest.mark.netns
def test_a_network_is_there_from_ip_config_on_and_gone_when_it_is_left(
    host: Host, stand_in: NetworkManagerStandIn
) -> None:
    async def work() -> None:
        async with watching(host) as watched:
            await watched.until({})
            await aside(stand_in.associating)
            await watched.until({})
            await aside(stand_in.associated, HOME)
            await watched.until(AT_HOME)
            await aside(stand_in.activated)
            await watched.until(AT_HOME)
            await aside(stand_in.gone)
            await watched.until({})
            await aside(stand_in.associating)
            await aside(stand_in.associated, CAFE)
            await watched.until(IN_CAFE)

    run(work)


@pytest.mark.netns
def test_a_network_that_was_joined_before_we_came(host: Host, stand_in: NetworkManagerStandIn) -> None:
    stand_in.associating()
    stand_in.associated(HOME)

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)

    run(work)


JOINED = {70, 80, 90, 100}


@pytest.mark.netns
def test_only_in_joined_states_is_a_network_told(host: Host, stand_in: NetworkManagerStandIn) -> None:
    """Whether the state is read (nothing is signalled here) or heard of."""
    stand_in.associating()
    stand_in.associated(HOME)

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)
            for state in (0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120, 71, 255):
                device = f"{NAME}.Device"
                await aside(update, stand_in, WIFI, device, {"State": Variant("u", state)})
                assert await watched.source.read() == (AT_HOME if state in JOINED else {}), state

    run(work)


@pytest.mark.netns
def test_closing_believes_the_signal_and_does_not_wait_for_an_answer(
    host: Host, stand_in: NetworkManagerStandIn
) -> None:
    stand_in.associating()
    stand_in.associated(HOME)

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)
            # The property still says "activated" when the signal says that the device is going down.
            body = [Variant("u", value) for value in (110, 100, 0)]
            emit = "org.freedesktop.DBus.Mock.EmitSignal"
            await aside(stand_in.client.call, NAME, WIFI, emit, "sssav", f"{NAME}.Device", "StateChanged", "uuu", body)
            await watched.until({})
            assert await watched.source.read() == {}
            body = [Variant("u", value) for value in (70, 50, 0)]
            await aside(stand_in.client.call, NAME, WIFI, emit, "sssav", f"{NAME}.Device", "StateChanged", "uuu", body)
            await watched.until(AT_HOME)

    run(work)


@pytest.mark.netns
@pytest.mark.parametrize("mode", [0, 1, 3, 4])
def test_a_hotspot_of_our_own_and_ad_hoc_are_no_networks_we_joined(
    host: Host, stand_in: NetworkManagerStandIn, mode: int
) -> None:
    stand_in.associating()
    stand_in.associated(HOME)

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)
            await aside(update, stand_in, WIFI, WIRELESS, {"Mode": Variant("u", mode)})
            await watched.until({})

    run(work)


@pytest.mark.netns
def test_roaming_to_another_access_point(host: Host, stand_in: NetworkManagerStandIn) -> None:
    stand_in.associating()
    stand_in.associated(HOME)

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)
            for _ in range(5):
                await aside(stand_in.associated, HOME_UPSTAIRS)
                await watched.until(UPSTAIRS)
                await aside(stand_in.associated, HOME)
                await watched.until(AT_HOME)

    run(work)


@pytest.mark.netns
@pytest.mark.parametrize(
    ("metered", "connectivity", "told"),
    [
        (0, 0, (None, None)), (1, 4, (True, Reach.INTERNET)), (2, 2, (False, Reach.PORTAL)),
        (3, 1, (True, Reach.NOTHING)), (4, 3, (False, None)), (77, 99, (None, None)),
    ],
)  # fmt: skip
def test_what_it_knows_beside_the_network(
    host: Host,
    stand_in: NetworkManagerStandIn,
    metered: int,
    connectivity: int,
    told: tuple[bool | None, Reach | None],
) -> None:
    """N2: metered and connectivity, as they become known; numbers of a newer NetworkManager say nothing."""
    stand_in.associating()
    stand_in.associated(HOME)
    at_home = AT_HOME["wlan0"]

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)
            await aside(lambda: stand_in.found_out(metered=metered, connectivity=connectivity))
            await watched.until({"wlan0": replace(at_home, metered=told[0], connectivity=told[1])})

    run(work)


@pytest.mark.netns
def test_reading_while_access_points_come_and_go_never_mixes_them(host: Host, stand_in: NetworkManagerStandIn) -> None:
    stand_in.associating()
    allowed: list[Mapping[str, WifiNetwork]] = [{}, AT_HOME, IN_CAFE]

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until({})
            seen: list[Mapping[str, WifiNetwork]] = []

            async def read_on() -> None:
                while True:
                    seen.append(await watched.source.read())
                    await asyncio.sleep(0)

            reader = asyncio.create_task(read_on())
            rounds = 0
            while rounds < 10 or len(seen) <= 100 or IN_CAFE not in seen:  # more of them on a busy machine
                await aside(stand_in.associated, HOME)
                await aside(stand_in.associated, CAFE)
                rounds += 1
            reader.cancel()
            await asyncio.wait([reader])
            assert all(found in allowed for found in seen)
            await watched.until(IN_CAFE)

    run(work)


@pytest.mark.netns
def test_the_access_point_in_use_changes_its_flags(host: Host, stand_in: NetworkManagerStandIn) -> None:
    stand_in.associating()
    stand_in.associated(HOME)

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)
            point = active_point(stand_in)
            await watched.quiet()
            await aside(update, stand_in, point, POINT, {"RsnFlags": Variant("u", 0), "Flags": Variant("u", 0)})
            await watched.until(network(HOME, Security.OPEN))

    run(work)


@pytest.mark.netns
def test_what_changes_all_the_time_is_no_hint(host: Host, stand_in: NetworkManagerStandIn) -> None:
    stand_in.associating()
    stand_in.associated(HOME)
    stand_in.activated()

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)
            point = active_point(stand_in)
            await watched.quiet()
            await aside(update, stand_in, point, POINT, {"Strength": Variant("y", 7), "LastSeen": Variant("i", 99)})
            await aside(update, stand_in, WIFI, WIRELESS, {"Bitrate": Variant("u", 1), "LastScan": Variant("x", 2)})
            wired = f"{MANAGER}/Devices/2"
            await aside(stand_in.activated, wired)
            await watched.quiet()

    run(work)


@pytest.mark.netns
def test_an_access_point_without_an_address_is_a_guess(host: Host, stand_in: NetworkManagerStandIn) -> None:
    stand_in.associating()
    stand_in.associated(AccessPoint(b"hidden", "", Air.WPA2))

    async def work() -> None:
        async with watching(host) as watched:
            await watched.quiet()
            assert await watched.source.read() == {}
            await aside(stand_in.associated, HOME)
            await watched.until(AT_HOME)

    run(work)


@pytest.mark.netns
def test_an_access_point_that_vanished(host: Host, stand_in: NetworkManagerStandIn) -> None:
    stand_in.associating()
    stand_in.associated(HOME)
    update(stand_in, WIFI, WIRELESS, {"ActiveAccessPoint": Variant("o", f"{MANAGER}/AccessPoint/4711")})

    async def work() -> None:
        async with watching(host) as watched:
            await watched.quiet()
            with capture_logs() as logs:
                assert await watched.source.read() == {}
            assert logs == []

    run(work)


@pytest.mark.netns
def test_a_second_card_that_is_plugged_in_and_out(host: Host, stand_in: NetworkManagerStandIn) -> None:
    stand_in.associating()
    stand_in.associated(HOME)
    second = f"{MANAGER}/Devices/9"
    mock = "org.freedesktop.DBus.Mock"

    def plug_in() -> None:
        client, point = stand_in.client, active_point(stand_in)
        client.call(NAME, "/org/freedesktop", f"{mock}.AddWiFiDevice", "ssi", "9", "wlan1", 100)
        client.call(
            NAME, second, f"{mock}.AddProperties", "sa{sv}", WIRELESS, {"ActiveAccessPoint": Variant("o", point)}
        )
        update(stand_in, second, WIRELESS, {"ActiveAccessPoint": Variant("o", point)})

    def pull_out() -> None:
        client = stand_in.client
        client.call(NAME, "/org/freedesktop", f"{mock}.RemoveObject", "s", second)
        gone = [Variant("o", second)]
        client.call(NAME, MANAGER, f"{mock}.EmitSignal", "sssav", NAME, "DeviceRemoved", "o", gone)

    async def work() -> None:
        async with watching(host) as watched:
            await watched.until(AT_HOME)
            await aside(plug_in)
            await watched.until({**AT_HOME, "wlan1": AT_HOME["wlan0"]})
            await aside(pull_out)
            await watched.until(AT_HOME)

    run(work)
