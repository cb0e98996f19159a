"""Several Wi-Fi sources as one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from daemon.linux import wifi
from daemon.linux.wifi import LinuxWifi
from policies.facts import Reach, Security, WifiNetwork, WifiSource

HOME = WifiNetwork(b"home", b"\x02\0\0\0\0\x0a", Security.WPA2, source=WifiSource.NL80211)
CAFE = WifiNetwork(b"cafe", b"\x02\0\0\0\0\x0c", Security.OPEN, source=WifiSource.NETWORKMANAGER)


class Source:
    """What a test says is there; `hint` makes its watch yield, `fail` makes watch and read raise."""

    def __init__(self, **networks: WifiNetwork | None) -> None:
        self.networks: Mapping[str, WifiNetwork | None] = networks
        self.unchecked: bool | None = False
        self.failure: Exception | None = None
        self.watches = 0
        self._changed = asyncio.Event()

    def hint(self) -> None:
        self._changed.set()

    def fail(self, failure: Exception) -> None:
        self.failure = failure
        self._changed.set()

    async def read(self) -> Mapping[str, WifiNetwork | None]:
        if self.failure:
            raise self.failure
        return self.networks

    async def server_unchecked(self, ifname: str) -> bool | None:
        return self.unchecked

    async def watch(self) -> AsyncIterator[None]:
        self.watches += 1
        try:
            yield
            while True:
                await self._changed.wait()
                self._changed.clear()
                if self.failure:
                    failure, self.failure = self.failure, None
                    raise failure
                yield
        finally:
            self.watches -= 1


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(wifi, "RETRY_FIRST", 0.01)
    yield


def run(work: Callable[[], Awaitable[None]]) -> None:
    async def limited() -> None:
        async with asyncio.timeout(20):
            await work()

    asyncio.run(limited())


@contextlib.asynccontextmanager
async def watching(*sources: wifi.Source) -> AsyncIterator[asyncio.Queue[None]]:
    """The hints of all sources together, those of the beginning already taken."""
    hints: asyncio.Queue[None] = asyncio.Queue()

    async def pump() -> None:
        async for _ in LinuxWifi(sources).watch():
            hints.put_nowait(None)

    task = asyncio.create_task(pump())
    try:
        await hints.get()
        await asyncio.sleep(0.05)
        while not hints.empty():
            hints.get_nowait()
        yield hints
    finally:
        task.cancel()
        await asyncio.wait([task])


def test_the_first_source_that_knows_a_link_wins() -> None:
    async def work() -> None:
        first, second = Source(wlan0=HOME), Source(wlan0=CAFE, wlan1=CAFE)
        assert await LinuxWifi((first, second)).read() == {"wlan0": HOME, "wlan1": CAFE}
        assert await LinuxWifi((second, first)).read() == {"wlan0": CAFE, "wlan1": CAFE}
        assert await LinuxWifi(()).read() == {}

    run(work)


def test_what_the_first_source_calls_not_associated_is_not_taken_from_the_second() -> None:
    """NetworkManager may lag behind the kernel; where the kernel knows nothing of a link, it is believed."""

    async def work() -> None:
        kernel, manager = Source(wlan0=None), Source(wlan0=CAFE, wlan1=CAFE)
        assert await LinuxWifi((kernel, manager)).read() == {"wlan1": CAFE}
        assert await LinuxWifi((manager, kernel)).read() == {"wlan0": CAFE, "wlan1": CAFE}
        kernel.networks = {}
        assert await LinuxWifi((kernel, manager)).read() == {"wlan0": CAFE, "wlan1": CAFE}

    run(work)


def test_the_second_source_adds_what_only_it_can_know() -> None:
    """N2: of the same network alone, and never a word about its security."""
    hints = {"metered": True, "connectivity": Reach.PORTAL}

    async def work() -> None:
        manager = Source(wlan0=replace(HOME, security=Security.OPEN, source=WifiSource.NETWORKMANAGER, **hints))
        assert await LinuxWifi((Source(wlan0=HOME), manager)).read() == {"wlan0": replace(HOME, **hints)}
        manager.networks = {"wlan0": replace(CAFE, **hints)}
        assert await LinuxWifi((Source(wlan0=HOME), manager)).read() == {"wlan0": HOME}

    run(work)


CAMPUS = WifiNetwork(b"campus", b"\x02\0\0\0\0\x0e", Security.ENTERPRISE, source=WifiSource.NL80211)
UNCHECKED = replace(CAMPUS, server_unchecked=True)


@pytest.mark.parametrize(("first", "second"), [(True, False), (False, True), (True, True), (None, True), (True, None)])
def test_any_source_may_add_that_the_server_is_not_checked(first: bool | None, second: bool | None) -> None:
    """N4: the kernel's word on the network, NetworkManager's on how it signs in."""

    async def work() -> None:
        kernel, manager = Source(wlan0=CAMPUS, wlan1=HOME), Source()
        kernel.unchecked, manager.unchecked = first, second
        assert await LinuxWifi((kernel, manager)).read() == {"wlan0": UNCHECKED, "wlan1": HOME}

    run(work)


def test_a_sign_in_that_nobody_knows_yet_is_a_network_that_nobody_knows_yet() -> None:
    async def work() -> None:
        kernel, manager = Source(wlan0=CAMPUS, wlan1=HOME), Source()
        both = LinuxWifi((kernel, manager))
        manager.unchecked = None
        assert await both.read() == {"wlan1": HOME}  # its security is another: it was not even asked
        manager.unchecked = False
        assert await both.read() == {"wlan0": CAMPUS, "wlan1": HOME}
        manager.unchecked = None
        assert await both.read() == {"wlan1": HOME}

    run(work)


@pytest.mark.parametrize("after", [False, None])
def test_what_was_unchecked_stays_so_until_it_is_left(after: bool | None) -> None:
    """NetworkManager ends, and the card stays on the network."""

    async def work() -> None:
        kernel, manager = Source(wlan0=CAMPUS), Source()
        both = LinuxWifi((kernel, manager))
        manager.unchecked = True
        assert await both.read() == {"wlan0": UNCHECKED}
        manager.unchecked = after
        assert await both.read() == {"wlan0": UNCHECKED}
        kernel.networks = {"wlan0": None}
        assert await both.read() == {}
        kernel.networks = {"wlan0": CAMPUS}
        assert await both.read() == ({"wlan0": CAMPUS} if after is False else {})

    run(work)


def test_a_failure_is_logged_once_until_it_ends_or_changes() -> None:
    async def work() -> None:
        source = Source(wlan0=HOME)
        both = LinuxWifi((source,))
        with capture_logs() as logs:
            for failure in (RuntimeError("a"), RuntimeError("a"), RuntimeError("b"), None, RuntimeError("b")):
                source.failure = failure
                await both.read()
        assert [entry["error"] for entry in logs] == ["RuntimeError('a')", "RuntimeError('b')", "RuntimeError('b')"]

    run(work)


def test_a_source_that_cannot_read_knows_nothing() -> None:
    async def work() -> None:
        broken, well = Source(wlan0=HOME), Source(wlan0=CAFE)
        broken.failure = RuntimeError("broken")
        with capture_logs() as logs:
            assert await LinuxWifi((broken, well)).read() == {"wlan0": CAFE}
        assert [(entry["source"], entry["log_level"]) for entry in logs] == [("Source", "error")]

    run(work)


def test_it_yields_at_once_also_without_sources() -> None:
    async def work() -> None:
        async with watching():
            pass

    run(work)


def test_hints_of_every_source_are_passed_on() -> None:
    async def work() -> None:
        first, second = Source(), Source()
        async with watching(first, second) as hints:
            for source in (first, second, first):
                source.hint()
                await hints.get()
                assert hints.empty()

    run(work)


def test_hints_at_the_same_time_are_one() -> None:
    async def work() -> None:
        sources = [Source() for _ in range(3)]
        async with watching(*sources) as hints:
            for source in sources:
                source.hint()
            await hints.get()
            await asyncio.sleep(0.05)
            assert hints.empty()

    run(work)


def test_a_source_whose_watch_fails_is_watched_again_and_the_others_go_on() -> None:
    async def work() -> None:
        broken, well = Source(), Source()
        with capture_logs() as logs:
            async with watching(broken, well) as hints:
                broken.fail(RuntimeError("broken"))
                well.hint()
                await hints.get()
                await hints.get()  # the new watch yields at once
                broken.hint()
                await hints.get()
        assert [entry["error"] for entry in logs] == ["RuntimeError('broken')"]

    run(work)


def test_closing_ends_every_watch() -> None:
    async def work() -> None:
        sources = Source(), Source()
        async with watching(*sources):
            assert [source.watches for source in sources] == [1, 1]
        for _ in range(5):
            await asyncio.sleep(0)
        assert [source.watches for source in sources] == [0, 0]

    run(work)


def test_the_sources_of_this_system() -> None:
    async def work() -> None:
        assert [type(source).__name__ for source in wifi.sources()] == ["Nl80211", "NetworkManager"]

    run(work)
