"""The measurement against a device in memory: who is asked what, how often, and what is left afterwards."""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import replace
from ipaddress import ip_address

import pytest

from daemon.host import HostError, ServerProbe
from daemon.linux import server_probe
from daemon.linux.server_probe import ANSWER_S, WireGuardProbe
from daemon.linux.wireguard_device import PeerState, Unsupported
from policies.wireguard import WireGuardPeer, WireGuardProfile
from tests.daemon.linux.test_wireguard import PEER, PROFILE

CLOCK = 1000.0


class Device:
    """Answers each handshake after `after` seconds of the clock; a number below 0: never."""

    def __init__(self, after: dict[bytes, float], missing: bool = False) -> None:
        self.after, self.missing = after, missing
        self.there = False
        self.profiles: list[WireGuardProfile] = []
        self.renewed: list[WireGuardPeer] = []
        self.refuses = ""

    async def create(self) -> None:
        if self.missing:
            raise Unsupported("create", "not here")
        self.there = True

    async def configure(self, profile: WireGuardProfile) -> None:
        self.profiles.append(profile)

    async def set_keepalive(self, peer: bytes, seconds: int) -> None:
        raise AssertionError

    async def renew(self, peer: WireGuardPeer) -> None:
        if self.refuses == "renew":
            raise HostError("renew", "refused")
        self.renewed.append(peer)

    async def read(self) -> dict[bytes, PeerState]:
        if self.refuses == "read":
            await asyncio.Event().wait()
        return {
            peer.public_key: PeerState(handshake=CLOCK + after if after >= 0 else 0.0)
            for peer in self.renewed
            if (after := self.after[peer.public_key]) is not None
        }

    async def ended(self) -> str:
        return ""

    async def remove(self) -> None:
        self.there = False


def peer(number: int) -> WireGuardPeer:
    return replace(PEER, public_key=bytes([number] * 32), addresses=(ip_address(f"192.0.2.{number}"),))


@pytest.fixture(autouse=True)
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    async def nothing() -> None:
        return None

    monkeypatch.setattr(server_probe, "_switch_on", nothing)
    monkeypatch.setattr(server_probe, "_remove_link", nothing)
    monkeypatch.setattr(server_probe, "ANSWER_S", 0.05)
    monkeypatch.setattr(server_probe, "APART_S", 0.001)


def probe(*devices: Device) -> ServerProbe:
    return WireGuardProbe(devices, clock=lambda: CLOCK)


def test_seconds_by_key_and_nothing_for_silence() -> None:
    device = Device({bytes([1] * 32): 0.02, bytes([2] * 32): -1.0})
    found = asyncio.run(probe(device).measure(PROFILE, [peer(1), peer(2)], 3))
    assert found == {bytes([1] * 32): pytest.approx((0.02, 0.02, 0.02))}
    assert [each.public_key[0] for each in device.renewed] == [1, 2] * 3
    assert not device.there


def test_nothing_can_go_through_that_link() -> None:
    device = Device({bytes([1] * 32): 0.02})
    asyncio.run(probe(device).measure(PROFILE, [peer(1)], 1))
    assert device.profiles == [replace(PROFILE, peers=())]
    assert [each.allowed_ips for each in device.renewed] == [()]


def test_a_clock_that_was_set_meanwhile_makes_nobody_fast() -> None:
    device = Device({bytes([number] * 32): after for number, after in enumerate((3600.0, -0.0, 0.02), 1)})
    found = asyncio.run(probe(device).measure(PROFILE, [peer(number) for number in (1, 2, 3)], 1))
    assert found[bytes([1] * 32)] == found[bytes([2] * 32)] == (server_probe.ANSWER_S,)
    assert found[bytes([3] * 32)] == pytest.approx((0.02,))
    assert ANSWER_S > 0.02


def test_the_first_device_that_the_machine_has() -> None:
    missing, there = Device({}, missing=True), Device({bytes([1] * 32): 0.02})
    assert asyncio.run(probe(missing, there).measure(PROFILE, [peer(1)], 1))
    with pytest.raises(HostError, match="not here"):
        asyncio.run(probe(missing).measure(PROFILE, [peer(1)], 1))


@pytest.mark.parametrize("fault", ["renew", "cancelled"])
def test_nothing_is_left_whatever_happens(fault: str) -> None:
    async def check() -> None:
        device = Device({bytes([1] * 32): 0.02})
        device.refuses = "read" if fault == "cancelled" else fault
        task = asyncio.ensure_future(probe(device).measure(PROFILE, [peer(1)], 1))
        for _ in itertools.repeat(None, 20):
            await asyncio.sleep(0)
        if fault == "cancelled":
            assert device.there
            task.cancel()
        with pytest.raises((HostError, asyncio.CancelledError)):
            await task
        assert not device.there

    asyncio.run(check())


def test_one_that_was_cancelled_takes_nothing_away_from_the_next() -> None:
    """Whoever cancels one need not wait for its end, which takes a while."""

    class Slow(Device):
        """One removal takes its time, and takes away whatever is there at its end."""

        lasts, removing = 0.0, False

        async def create(self) -> None:
            assert not self.removing, "the link of the one before is still being removed"
            await super().create()

        async def remove(self) -> None:
            lasts, self.lasts = self.lasts, 0.0
            self.removing = self.removing or lasts > 0
            await asyncio.sleep(lasts)
            self.there = False
            if lasts:
                self.removing = False

    async def check() -> None:
        device = Slow({bytes([1] * 32): 0.02})
        asked = probe(device)
        device.refuses = "read"
        first = asyncio.ensure_future(asked.measure(PROFILE, [peer(1)], 1))
        for _ in itertools.repeat(None, 20):
            await asyncio.sleep(0)
        assert device.there
        device.lasts, device.refuses = 0.05, ""
        first.cancel()
        await asyncio.sleep(0.005)
        first.cancel()  # again, while it removes its link
        assert await asked.measure(PROFILE, [peer(1)], 1)
        assert first.cancelled() and not device.there

    asyncio.run(check())
