"""The WireGuard tunnel: opens the link, waits for the first handshake, notices when the tunnel has died.

Routes are not set here (routes.py does), nor resolvers, nor rules: the link, its addresses and its peers only.

The probe. WireGuard has no notion of a connection: a dead server is silence, and so is a live one with nothing to say;
by itself it tells them apart after 15 s at the earliest. So when data went out and nothing came back, the peer is
removed and added again in one request, with the endpoint it has roamed to. A new peer starts a handshake at once, free
of the 5 s limit between two, and a live server answers within a round trip. Packets sent meanwhile wait in the new
peer's queue; lost are those that were under way *to* us, and none were, or there would be nothing to probe.
The kernel's WireGuard also refuses (ENOKEY) what is sent between the removal and the addition: 8 to 30 of some 3,000
datagrams in five probes on a busy emulated processor, none of 1,400 on an idle one. TCP sends them again.

Also tried: taking the device's private key away and giving it back, which expires the keys for sending and loses
nothing. But a packet that is sent in that moment starts a second handshake within 20 ms of the first, which the server
must ignore, and the answer to the first is then void: under load, one of three tries stopped the tunnel for seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Coroutine, Iterator, Sequence
from dataclasses import replace
from typing import Any

from daemon.host import Counters, HostError, TunnelError
from daemon.linux.watch_client import echo_sockets
from daemon.linux.wireguard_device import Device, PeerState, create_first
from daemon.linux.wireguard_echo import Echo
from daemon.linux.wireguard_go import WireGuardGo
from daemon.linux.wireguard_kernel import WireGuardKernel
from daemon.linux.wireguard_link import configure_link, delete_link, has_ipv6, link_gone
from daemon.linux.wireguard_vigil import (
    CONNECT_KEEPALIVE,
    CONNECT_LOOKS,
    CONNECT_RETRIES,
    DEAF,
    LAST_WORDS,
    PATIENCE,
    PROBE_LOOK,
    Vigil,
    probe_tries,
)
from policies.facts import Address, Tunnel
from policies.firewall import TUNNEL_IFNAME
from policies.states import Cause
from policies.wireguard import WireGuardPeer, WireGuardProfile


class WireGuard:
    """The TunnelDriver of daemon/host.py. One tunnel at a time; `open`, `established` and `dead` may be cancelled."""

    def __init__(self, devices: Sequence[Device] | None = None) -> None:
        """`devices` are the backends, best first: the first this machine supports is used, at each `open` anew."""
        self._devices: Sequence[Device] = (WireGuardKernel(), WireGuardGo()) if devices is None else devices
        self._tunnel: _Open | None = None

    async def open(self, profile: WireGuardProfile) -> Tunnel:
        """Create, configure, then switch on. Undone whole on any failure, also when cancelled. Raises TunnelError."""
        await self.close()
        try:
            with _as_tunnel_error(Cause.TUNNEL_FAILED):
                main = main_peer(profile)
                peers = {one: _connectable(one, one is main) for one in profile.peers}
                device = await create_first(self._devices, "create the tunnel link")
                await device.configure(replace(profile, peers=tuple(peers.values())))
                ifindex, addresses = await configure_link(profile)
        except BaseException:
            with contextlib.suppress(HostError):  # the first failure is the one to tell
                await self.close()
            raise
        self._tunnel = _Open(device, ifindex, peers[main], main.keepalive, profile.resolvers)
        return Tunnel(TUNNEL_IFNAME, addresses, profile.resolvers)

    async def established(self) -> None:
        """Returns when the server has answered the first handshake. The caller sets the time limit."""
        tunnel = self._running()
        with _as_tunnel_error(Cause.TUNNEL_FAILED):
            reason = await _first(tunnel.answered_first(), tunnel.ended(), tunnel.link_gone())
            if reason:
                raise HostError("connect to the VPN server", reason)

    async def dead(self) -> TunnelError:
        """Returns when the tunnel no longer works: the process ended, the link went, or the server fell silent."""
        tunnel = self._running()
        what = "keep the tunnel up"
        try:
            reason = await _first(tunnel.ended(), tunnel.link_gone(), tunnel.silent())
        except HostError as err:
            what, reason = err.what, err.why
        return TunnelError(Cause.TUNNEL_LOST, what, reason)

    def moved(self) -> None:
        """Probe at once. wireguard-go sends from the address that it was last answered at.

        Where that is gone, its packets stay here and are not even counted: Linux 6.18 says ENETUNREACH, and it forgets
        the address at EINVAL only. By itself it tries a new handshake after 15 s.
        """
        if self._tunnel is not None:
            self._tunnel.moved.set()

    async def close(self) -> None:
        """Remove the link and end its process, also what an earlier daemon left. Idempotent, at most some 5 s."""
        self._tunnel = None
        with _as_tunnel_error(Cause.TUNNEL_FAILED):
            failure: HostError | None = None
            for device in self._devices:
                try:
                    await device.remove()
                except HostError as err:
                    failure = failure or err
            # Last, and whatever happened above: without its link nothing goes through a tunnel.
            await delete_link()
            if failure is not None:
                raise failure

    async def counters(self) -> Counters | None:
        tunnel = self._tunnel
        if tunnel is None:
            return None
        with _as_tunnel_error(Cause.TUNNEL_LOST):
            return await tunnel.counters()

    def _running(self) -> _Open:
        if self._tunnel is None:
            raise TunnelError(Cause.TUNNEL_FAILED, "watch the tunnel", "it is not open")
        return self._tunnel


class _Open:
    """The tunnel that is open. Where a coroutine returns a reason, "" is a good end."""

    def __init__(
        self, device: Device, ifindex: int, peer: WireGuardPeer, keepalive: int, resolvers: Sequence[Address]
    ) -> None:
        """`peer` is the one that is watched, as configured; `keepalive` what its profile wants in the end."""
        self._device, self._ifindex, self._peer, self._keepalive = device, ifindex, peer, keepalive
        self._past_rx = self._past_tx = 0  # of the peers that renewing it removed
        self._handshake = 0.0  # the last of those
        self._took = 0.0  # seconds of the first one
        self._resolvers = resolvers
        self._rtt: float | None = None  # seconds that an echo takes; None: none is answered, for all we know
        self.moved = asyncio.Event()  # and not probed since
        self._renewing = asyncio.Lock()  # nobody reads the counters between a removal and its account

    async def ended(self) -> str:
        return await self._device.ended()

    async def link_gone(self) -> str:
        return await self._with_last_words(await link_gone(self._ifindex))

    async def _with_last_words(self, reason: str) -> str:
        """A link and its process take each other along; which was first, nobody knows, so both are told."""
        with contextlib.suppress(TimeoutError):
            return f"{reason}; {await asyncio.wait_for(self._device.ended(), LAST_WORDS)}"
        return reason

    async def answered_first(self) -> str:
        """Returns "" after the first handshake."""
        now = asyncio.get_running_loop().time
        looks, retries = _last_repeated(CONNECT_LOOKS), iter(CONNECT_RETRIES)
        begun = now()
        again = begun + next(retries)
        while not (await self._read()).handshake:
            if now() >= again:
                await self._renew()
                again = now() + next(retries, float("inf"))
            await asyncio.sleep(next(looks))
        self._took = now() - begun
        await self._settle()
        return ""

    async def silent(self) -> str:
        """Returns when data went out and nothing came back, or the way changed, and the server answers no probe."""
        with contextlib.closing(Echo(await echo_sockets(self._resolvers))) as echo:
            return await self._silent(echo)

    async def _silent(self, echo: Echo) -> str:
        now = asyncio.get_running_loop().time
        vigil, deaf = Vigil(now(), await self._read(), self._keepalive, rtt=self._rtt), 0
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(vigil.wait):
                    await self.moved.wait()
            if echo.rtt is not None:
                deaf, self._rtt = 0, echo.rtt
            vigil.look(now(), await self._read(), echo.sent, echo.rtt)
            echo.taken()
            if vigil.echo:
                echo.send()
            if self.moved.is_set() or vigil.suspicious:
                deaf += not self.moved.is_set()
                self.moved.clear()
                if not await self.answers():
                    return f"the server {self._peer.host} answers nothing, not even a handshake"
                self._rtt = None if deaf >= DEAF else self._rtt
                vigil = Vigil(now(), await self._read(), self._keepalive, PATIENCE, self._rtt)

    async def answers(self) -> bool:
        """The probe: whether the server answers a handshake."""
        now = asyncio.get_running_loop().time
        for wait in probe_tries(self._rtt, self._took):
            await self._renew()
            until = now() + wait
            while now() < until:
                await asyncio.sleep(PROBE_LOOK)
                if (await self._read()).handshake:
                    await self._settle()
                    return True
        return False

    async def counters(self) -> Counters:
        async with self._renewing:
            peers = (await self._device.read()).values()
            last = max([self._handshake, *(peer.handshake for peer in peers)])
            rx = self._past_rx + sum(peer.rx for peer in peers)
            tx = self._past_tx + sum(peer.tx for peer in peers)
        # The wall clock may have been set meanwhile: an age is never negative.
        return Counters(rx, tx, max(0.0, time.time() - last) if last else None)

    async def _renew(self) -> None:
        """Remove the peer and add it again, which starts a handshake."""
        async with self._renewing:
            before = await self._read()
            peer = replace(self._peer, keepalive=self._keepalive or CONNECT_KEEPALIVE)
            if before.endpoint is not None:
                peer = replace(peer, addresses=(before.endpoint.address,), port=before.endpoint.port)
            await self._device.renew(peer)
            self._past_rx += before.rx
            self._past_tx += before.tx
            self._handshake = max(self._handshake, before.handshake)

    async def _settle(self) -> None:
        """After a handshake: back to the keepalive of the profile."""
        if self._keepalive == 0:
            await self._device.set_keepalive(self._peer.public_key, 0)

    async def _read(self) -> PeerState:
        peers = await self._device.read()
        if self._peer.public_key not in peers:
            raise HostError("keep the tunnel up", "another program removed its peer")
        return peers[self._peer.public_key]


def main_peer(profile: WireGuardProfile) -> WireGuardPeer:
    """The peer that stands for the tunnel: the one that takes most of the traffic, the first of equals.

    Others (a site behind its own peer) may be away without the tunnel being dead. Raises HostError without peers.
    """
    if not profile.peers:
        raise HostError("open the tunnel", f"the profile {profile.name} has no peer")
    callable_peers = [peer for peer in profile.peers if peer.host] or profile.peers
    return min(callable_peers, key=lambda peer: min((net.prefixlen for net in peer.allowed_ips), default=129))


def _connectable(peer: WireGuardPeer, main: bool) -> WireGuardPeer:
    """The peer with one address this machine can use, and something to say. Raises HostError."""
    if not peer.host and not main:
        return peer  # it calls us, or nobody does
    usable = [address for address in peer.addresses if address.version == 4 or has_ipv6()]
    if not usable:
        if not peer.host:
            raise HostError("open the tunnel", "the profile's peer has no endpoint to call")
        why = "its name was not resolved" if not peer.addresses else "it has IPv6 addresses only, and IPv6 is off here"
        raise HostError(f"open the tunnel to {peer.host}", why)
    keepalive = CONNECT_KEEPALIVE if main and peer.keepalive == 0 else peer.keepalive
    return replace(peer, addresses=(usable[0],), keepalive=keepalive)


@contextlib.contextmanager
def _as_tunnel_error(cause: Cause) -> Iterator[None]:
    try:
        yield
    except TunnelError:
        raise
    except HostError as err:
        raise TunnelError(cause, err.what, err.why) from err


async def _first(*coroutines: Coroutine[Any, Any, str]) -> str:
    """The result of whichever ends first, the earlier in the list of two; the others are cancelled and waited for."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _last_repeated(values: Sequence[float]) -> Iterator[float]:
    yield from values
    while True:
        yield values[-1]
