"""How fast VPN servers answer: a handshake with each, from a WireGuard link of its own that carries nothing else.

A WireGuard server is silent to whoever has no key, so nothing less than a handshake asks it; and what answers a
handshake is a server that would let us in. An ICMP echo would say less, and needs a hole of its own. The link has no
address, its peers may send nothing through it, and it is removed after each measurement.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from daemon.host import HostError
from daemon.linux import link_changes
from daemon.linux.wireguard_device import Device, create_first
from daemon.linux.wireguard_go import WireGuardGo
from daemon.linux.wireguard_kernel import WireGuardKernel
from daemon.linux.wireguard_link import has_ipv6
from policies.firewall import PROBE_IFNAME
from policies.wireguard import WireGuardPeer, WireGuardProfile

PID_FILE = Path("/run/tunwarden/wireguard-go-probe.pid")
ANSWER_S = 1.0  # for the answers of one round
LOOK_S = 0.005
APART_S = 0.1  # between two handshakes with one server: it ignores those within 20 ms (WireGuard paper, 5.4.2)
KEEPALIVE = 120  # seconds: what makes a new peer begin a handshake; it is gone before a second one


class WireGuardProbe:
    """The ServerProbe of daemon/host.py. One measurement at a time."""

    def __init__(self, devices: Sequence[Device] | None = None, clock: Callable[[], float] = time.time) -> None:
        """`devices` are the backends, best first: the first that this machine supports is used."""
        own = (WireGuardKernel(PROBE_IFNAME), WireGuardGo(PROBE_IFNAME, pid_file=PID_FILE))
        self._devices: Sequence[Device] = own if devices is None else devices
        self._clock = clock
        self._one = asyncio.Lock()  # one that was cancelled would take away what the next one makes

    async def measure(
        self, profile: WireGuardProfile, peers: Sequence[WireGuardPeer], rounds: int
    ) -> Mapping[bytes, tuple[float, ...]]:
        async with self._one:
            return await self._measure(profile, peers, rounds)

    async def _measure(
        self, profile: WireGuardProfile, peers: Sequence[WireGuardPeer], rounds: int
    ) -> Mapping[bytes, tuple[float, ...]]:
        await self.tidy()  # one that was cancelled may not have come so far
        found: dict[bytes, list[float]] = {peer.public_key: [] for peer in peers}
        asked = [_asked(peer) for peer in peers if peer.addresses and (peer.addresses[0].version == 4 or has_ipv6())]
        try:
            device = await create_first(self._devices, "measure the VPN servers")
            await device.configure(replace(profile, peers=()))
            await _switch_on()
            for number in range(rounds):
                if number:
                    await asyncio.sleep(APART_S)
                for key, seconds in (await self._round(device, asked)).items():
                    found[key].append(seconds)
        finally:
            # Shielded: a link that is left would go on asking.
            tidying = asyncio.create_task(self.tidy())
            try:
                await asyncio.shield(tidying)
            except asyncio.CancelledError:
                await tidying
                raise
        return {key: tuple(times) for key, times in found.items() if times}

    async def tidy(self) -> None:
        failure: HostError | None = None
        for device in self._devices:
            try:
                await device.remove()
            except HostError as err:
                failure = failure or err
        await _remove_link()
        if failure is not None:
            raise failure

    async def _round(self, device: Device, peers: Sequence[WireGuardPeer]) -> dict[bytes, float]:
        """One handshake with each. The device tells when each was done, so our own looks need not be often."""
        begun: dict[bytes, float] = {}
        for peer in peers:
            begun[peer.public_key] = self._clock()
            await device.renew(peer)
        until = asyncio.get_running_loop().time() + ANSWER_S
        found: dict[bytes, float] = {}
        while len(found) < len(begun) and asyncio.get_running_loop().time() < until:
            await asyncio.sleep(LOOK_S)
            for key, state in (await device.read()).items():
                if state.handshake and key in begun and key not in found:
                    # The wall clock may have been set meanwhile: then it is not known.
                    seconds = state.handshake - begun[key]
                    found[key] = seconds if 0 < seconds <= ANSWER_S else ANSWER_S
        return found


def _asked(peer: WireGuardPeer) -> WireGuardPeer:
    """The peer that begins a handshake and carries nothing."""
    return replace(peer, allowed_ips=(), keepalive=KEEPALIVE)


def _without_ipv6() -> None:
    """Or the kernel would give the link an address, and ask for routers there."""
    with contextlib.suppress(OSError):  # a kernel without IPv6
        Path(f"/proc/sys/net/ipv6/conf/{PROBE_IFNAME}/disable_ipv6").write_text("1", encoding="ascii")


async def _switch_on() -> None:
    """Without an address."""
    _without_ipv6()
    try:
        ifindex = link_changes.find(PROBE_IFNAME)
        if ifindex is None:
            raise HostError("measure the VPN servers", f"{PROBE_IFNAME} is gone")
        link_changes.switch_on(ifindex)
    except OSError as err:
        raise HostError("measure the VPN servers", err.strerror or str(err)) from err


async def _remove_link() -> None:
    try:
        link_changes.remove(PROBE_IFNAME)
    except OSError as err:
        raise HostError("remove the link of the measurement", err.strerror or str(err)) from err
