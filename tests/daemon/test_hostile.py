"""Who looks for attackers, where and for how long (N13): the explorer, with lookouts that find what a test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from daemon import hostile
from daemon.host import HostError
from policies.facts import Evidence, Link, Security, WifiNetwork
from policies.hostile import Finding
from policies.states import Phase, Target
from tests.daemon.fake_host import CABLE, CAFE, GATEWAY, HOME, WLAN, FakeHost
from tests.daemon.test_loop import SETTINGS, Running, impatient, running

__all__ = ["impatient"]  # the fixture is for every test here too

OFFICE = WifiNetwork(b"Office", b"\x02\0\0\0\0\x07", Security.WPA2)  # secured, and unknown: left alone
MOVED = Finding(Evidence.GATEWAY_MOVED, "192.0.2.1 at 02:.. and 66:..")


@dataclass
class FakeLookout:
    """`refuses`: how often it cannot begin; `fails`: how often it ends with an error."""

    refuses: int = 0
    fails: int = 0
    begun: list[FakeWatch] = field(default_factory=list)

    def watch(self, link: Link) -> FakeWatch:
        if self.refuses:
            self.refuses -= 1
            raise HostError("listen", "refused")
        self.begun.append(FakeWatch(self, link))
        return self.begun[-1]

    @property
    def open(self) -> list[FakeWatch]:
        """Those that are listened to."""
        return [watch for watch in self.begun if watch.heard and not watch.closed]


@dataclass
class FakeWatch:
    lookout: FakeLookout
    link: Link
    network: WifiNetwork | None = None
    heard: bool = False
    closed: bool = False
    findings: asyncio.Queue[Finding] = field(default_factory=asyncio.Queue)

    def follow(self, link: Link, network: WifiNetwork | None) -> None:
        assert not self.closed
        self.link, self.network = link, network

    async def found(self) -> AsyncGenerator[Finding, None]:
        self.heard = True
        if self.lookout.fails:
            self.lookout.fails -= 1
            raise HostError("listen", "it talks nonsense")
        while True:
            yield await self.findings.get()

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def lookout(monkeypatch: pytest.MonkeyPatch) -> FakeLookout:
    monkeypatch.setattr(hostile, "AGAIN_FIRST_S", 0.01)
    return FakeLookout()


def play(
    folder: Path,
    lookout: FakeLookout,
    script: Callable[[Running], Coroutine[None, None, None]],
    settings: str = SETTINGS,
) -> None:
    async def run() -> None:
        fake = FakeHost()
        fake.host = replace(fake.host, lookouts=(lookout,))
        async with running(folder, settings, fake=fake) as here:
            await script(here)

    asyncio.run(run())
    assert all(watch.closed for watch in lookout.begun)


async def joined(here: Running, network: WifiNetwork, link: Link = WLAN) -> None:
    here.fake.links, here.fake.wifi = (link,), {link.ifname: network}
    await here.hint("links")
    await here.hint("wifi")
    await here.until(lambda loop: loop.facts.wifi.get(link.ifname) == network)


def test_evidence_protects_and_is_shown_and_kept(tmp_path: Path, lookout: FakeLookout) -> None:
    async def script(here: Running) -> None:
        await joined(here, OFFICE)
        await here.until(lambda _: bool(lookout.open))
        assert here.loop.decision.target is Target.UNPROTECTED
        lookout.open[0].findings.put_nowait(MOVED)
        await here.until(Phase.CONNECTED)
        assert here.loop.facts.evidence == {"wlan0": frozenset({Evidence.GATEWAY_MOVED})}
        lookout.open[0].findings.put_nowait(Finding(Evidence.EVIL_TWIN, ""))
        await here.until(lambda loop: len(loop.facts.evidence["wlan0"]) == 2)
        # Another address, another lease: it is the same association.
        here.fake.links = (replace(WLAN, gateways=()),)
        await here.hint("links")
        await here.until(lambda loop: loop.facts.links == here.fake.links)
        assert len(here.loop.facts.evidence["wlan0"]) == 2
        assert len(lookout.begun) == 1

    play(tmp_path, lookout, script)


def test_it_ends_with_the_association(tmp_path: Path, lookout: FakeLookout) -> None:
    async def script(here: Running) -> None:
        await joined(here, OFFICE)
        await here.until(lambda _: bool(lookout.open))
        lookout.open[0].findings.put_nowait(MOVED)
        await here.until(lambda loop: bool(loop.facts.evidence))
        await joined(here, OFFICE, replace(WLAN, carrier_changes=3))
        assert not here.loop.facts.evidence
        await here.until(lambda _: len(lookout.begun) == 2 and len(lookout.open) == 1)

    play(tmp_path, lookout, script)


def test_what_comes_late_is_about_another_association(tmp_path: Path, lookout: FakeLookout) -> None:
    async def script(here: Running) -> None:
        await joined(here, OFFICE)
        await here.until(lambda _: bool(lookout.open))
        lookout.open[0].findings.put_nowait(MOVED)
        here.fake.links = (replace(WLAN, carrier_changes=3),)
        await joined(here, OFFICE, replace(WLAN, carrier_changes=3))
        await here.until(lambda _: len(lookout.begun) == 2)
        assert not here.loop.facts.evidence

    play(tmp_path, lookout, script)


def test_a_roam_is_watched_anew_and_forgets_no_evidence(tmp_path: Path, lookout: FakeLookout) -> None:
    """Another access point of the network: its routers and servers are met anew."""

    async def script(here: Running) -> None:
        await joined(here, OFFICE)
        await here.until(lambda _: bool(lookout.open))
        lookout.open[0].findings.put_nowait(MOVED)
        await here.until(lambda loop: bool(loop.facts.evidence))
        await joined(here, replace(OFFICE, bssid=b"\x02\0\0\0\0\x08"))
        await here.until(lambda _: len(lookout.begun) == 2 and len(lookout.open) == 1)
        assert here.loop.facts.evidence

    play(tmp_path, lookout, script)


def test_the_watch_hears_of_gateways(tmp_path: Path, lookout: FakeLookout) -> None:
    async def script(here: Running) -> None:
        await joined(here, OFFICE, replace(WLAN, gateways=()))
        await here.until(lambda _: bool(lookout.open))
        await joined(here, OFFICE)
        await here.until(lambda _: lookout.open[0].link.gateways == (GATEWAY,))
        assert len(lookout.begun) == 1

    play(tmp_path, lookout, script)


@pytest.mark.parametrize("network", [CAFE, OFFICE, replace(OFFICE, malformed=True)], ids=["open", "secured", "unread"])
def test_strange_networks_are_watched(tmp_path: Path, lookout: FakeLookout, network: WifiNetwork) -> None:
    async def script(here: Running) -> None:
        await joined(here, network)
        await here.until(lambda _: bool(lookout.open))
        assert lookout.open[0].network == here.loop.facts.wifi["wlan0"]

    play(tmp_path, lookout, script)


def test_known_networks_cables_and_nothing_are_not_watched(tmp_path: Path, lookout: FakeLookout) -> None:
    async def script(here: Running) -> None:
        await joined(here, HOME)
        await here.until(Phase.IDLE)
        here.fake.links, here.fake.wifi = (CABLE,), {}
        await here.hint("links")
        await here.until(lambda loop: loop.facts.links == (CABLE,))
        here.fake.links = ()
        await here.hint("links")
        await here.until(lambda loop: not loop.facts.links)
        assert not any(watch.heard for watch in lookout.begun)

    play(tmp_path, lookout, script)


def test_it_listens_before_anybody_knows_the_network(tmp_path: Path, lookout: FakeLookout) -> None:
    """What a network assigns comes at once; its name may take a while."""

    async def script(here: Running) -> None:
        here.fake.links = (replace(WLAN, carrier=False, carrier_changes=0),)
        await here.hint("links")
        await here.until(lambda _: len(lookout.begun) == 1)
        here.fake.links = (WLAN,)
        await here.hint("links")
        await here.until(Phase.HELD)
        assert not lookout.open
        await joined(here, OFFICE)
        await here.until(lambda _: bool(lookout.open))
        assert len(lookout.begun) == 1
        here.fake.links = (replace(WLAN, carrier=False, carrier_changes=2),)
        await here.hint("links")
        await here.until(lambda _: len(lookout.begun) == 2 and lookout.begun[0].closed)
        # Another network in between, that nobody has seen: what came from it says nothing about this one.
        await joined(here, OFFICE, replace(WLAN, carrier_changes=5))
        await here.until(lambda _: len(lookout.begun) == 3 and lookout.begun[1].closed)

    play(tmp_path, lookout, script)


def test_a_source_that_is_silent_for_a_while(tmp_path: Path, lookout: FakeLookout) -> None:
    """As NetworkManager is on a busy machine: the same association is watched on."""

    async def script(here: Running) -> None:
        await joined(here, OFFICE)
        await here.until(lambda _: bool(lookout.open))
        here.fake.wifi = {}
        await here.hint("wifi")
        await here.until(Phase.HELD)
        await joined(here, OFFICE)
        await here.until(Phase.IDLE)
        assert len(lookout.begun) == len(lookout.open) == 1

    play(tmp_path, lookout, script)


def test_asleep_nobody_looks(tmp_path: Path, lookout: FakeLookout) -> None:
    async def script(here: Running) -> None:
        await joined(here, OFFICE)
        await here.until(lambda _: bool(lookout.open))
        here.fake.sleeps.put_nowait(True)
        await here.until(lambda _: not lookout.open)
        here.fake.sleeps.put_nowait(False)
        await here.until(lambda _: bool(lookout.open))

    play(tmp_path, lookout, script)


def test_it_is_tried_again(tmp_path: Path, lookout: FakeLookout) -> None:
    """A socket that is refused, a child that crashes: with growing delays, and the daemon goes on."""
    lookout.refuses, lookout.fails = 2, 3

    async def script(here: Running) -> None:
        await joined(here, OFFICE)
        await here.until(lambda _: bool(lookout.open) and not lookout.fails)
        lookout.open[0].findings.put_nowait(MOVED)
        await here.until(Phase.CONNECTED)
        assert len(lookout.begun) == 4

    play(tmp_path, lookout, script)
