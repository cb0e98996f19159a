"""Evil twins in what the kernel says of the last scans, as raw nl80211 answers."""

from __future__ import annotations

import asyncio
import socket

import pytest

from daemon.host import HostError
from daemon.linux import nl80211, rtnetlink, twins
from daemon.linux.twins import Twins
from policies.facts import Evidence, Link, LinkKind, Security, WifiNetwork
from policies.hostile import Finding
from tests.daemon.linux.fake_nl80211 import BSSID, OTHER, PLAIN, RSN, SAE, FakeKernel, bss, name

LINK = Link(3, "wlan0", LinkKind.WIFI, up=True, carrier=True)
CAFE = WifiNetwork(b"Cafe", BSSID, Security.WPA2)
OPEN_TWIN = bss(name(b"Cafe"), capability=PLAIN, bssid=OTHER, status=None)


class Ear:
    """In place of the socket that hears of scans."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.theirs, self._ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._ours.setblocking(False)
        monkeypatch.setattr(nl80211, "_listening", self._listening)

    def _listening(self, protocol: int, group: int) -> socket.socket:
        assert (protocol, group) == (nl80211.NETLINK_GENERIC, 7)
        return self._ours.dup()

    def scanned(self) -> None:
        self.theirs.send(b"new results")

    def close(self) -> None:
        self.theirs.close()
        self._ours.close()


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> FakeKernel:
    kernel = FakeKernel()
    kernel.groups[b"scan"] = 7
    monkeypatch.setattr(rtnetlink, "open_socket", kernel)
    monkeypatch.setattr(twins, "APART_S", 0.0)
    return kernel


def found(
    kernel: FakeKernel, ear: Ear, *scans: list[bytes], network: WifiNetwork | None = CAFE, seconds: float = 0.3
) -> list[Finding]:
    """What is found in these scans, one after the other."""

    async def look() -> list[Finding]:
        told: list[Finding] = []

        async def listen() -> None:
            watch = Twins().watch(LINK)
            watch.follow(LINK, None)
            asyncio.get_running_loop().call_soon(watch.follow, LINK, network)  # it may be named later
            async for finding in watch.found():
                told.append(finding)

        kernel.scans[3] = scans[0]
        task = asyncio.create_task(listen())
        for scan in scans:
            kernel.scans[3] = scan
            ear.scanned()
            await asyncio.sleep(seconds / len(scans))
        assert not task.done() or task.exception() is None
        if not task.done():
            task.cancel()
        else:
            task.result()
        return told

    return asyncio.run(look())


@pytest.fixture
def ear(monkeypatch: pytest.MonkeyPatch) -> Ear:
    return Ear(monkeypatch)


JOINED = bss(name(b"Cafe") + RSN)


def test_a_twin_that_is_near_already(kernel: FakeKernel, ear: Ear) -> None:
    (finding,) = found(kernel, ear, [JOINED, bss(name(b"Other"), capability=PLAIN, bssid=OTHER), OPEN_TWIN])
    assert finding == Finding(Evidence.EVIL_TWIN, f"{BSSID.hex(':')} wpa2, {OTHER.hex(':')} open")
    ear.close()


def test_a_twin_that_comes_later_is_told_once(kernel: FakeKernel, ear: Ear) -> None:
    assert len(found(kernel, ear, [JOINED], [JOINED, OPEN_TWIN], [JOINED, OPEN_TWIN], [JOINED])) == 1
    ear.close()


@pytest.mark.parametrize(
    "near",
    [
        [bss(name(b"Cafe") + SAE, bssid=OTHER, status=None)],
        [bss(name(b"Cafe 2"), capability=PLAIN, bssid=OTHER, status=None)],
        [bss(name(b"x") + b"\xdd\x06" + name(b"Cafe"), capability=PLAIN, bssid=OTHER, status=None)],
        [bss(name(b"Cafe") + b"\x30\xff", capability=PLAIN, bssid=OTHER, status=None)],
        [bss(None, None, bssid=OTHER, status=None)],
        [],
    ],
    ids=["wpa3 beside", "another name", "the name elsewhere", "damaged", "nothing", "alone"],
)
def test_honest_air(kernel: FakeKernel, ear: Ear, near: list[bytes]) -> None:
    assert found(kernel, ear, [JOINED, *near]) == []
    assert nl80211.GET_SCAN in kernel.asked
    ear.close()


def test_without_a_network_or_wifi_there_is_nothing_to_find(kernel: FakeKernel, ear: Ear) -> None:
    assert found(kernel, ear, [JOINED, OPEN_TWIN], network=None) == []
    kernel.loaded = False
    assert found(kernel, ear, [JOINED, OPEN_TWIN]) == []
    assert nl80211.GET_SCAN not in kernel.asked
    ear.close()


def test_a_refusal_is_told(kernel: FakeKernel, ear: Ear) -> None:
    kernel.refuse[nl80211.GET_SCAN] = 1

    async def look() -> None:
        watch = Twins().watch(LINK)
        watch.follow(LINK, CAFE)
        async for _ in watch.found():
            raise AssertionError

    with pytest.raises(HostError, match="look at the networks near by"):
        asyncio.run(look())
    ear.close()
