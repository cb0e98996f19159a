"""The WireGuard tunnel: opens the link, waits for the first handshake, notices when the tunnel has died.

Routes are not set here (routes.py does), nor resolvers, nor rules: the link, its addresses and its peers only.

The probe. WireGuard has no notion of a connection: a dead server is silence, and so is a live one with nothing to say;
by itself it tells them apart after 15 s at the earliest. So when data went out and nothing came back, the peer is
removed and added again in one request, with the endpoint it has roamed to. A new peer starts a handshake at once, free
of the 5 s limit between two, and a live server answers within a round trip. Packets sent meanwhile wait in the new
peer's queue; lost are those that were under way *to* us, and none were, or there would be nothing to probe.

Also tried: taking the device's private key away and giving it back, which expires the keys for sending and loses
nothing. But a packet that is sent in that moment starts a second handshake within 20 ms of the first, which the server
must ignore, and the answer to the first is then void: under load, one of three tries stopped the tunnel for seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Coroutine, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from daemon.host import Counters, HostError, TunnelError
from daemon.linux.netlink import AsyncIPRoute, Group, NetlinkError, events, requests
from daemon.linux.wireguard_device import Device, PeerState, Unsupported
from daemon.linux.wireguard_go import WireGuardGo
from daemon.linux.wireguard_kernel import WireGuardKernel
from policies.facts import Interface, Tunnel
from policies.firewall import TUNNEL_IFNAME
from policies.profiles import WireGuardPeer, WireGuardProfile
from policies.states import Cause

log = structlog.get_logger()

MTU = 1420  # bytes: 1500 less the longest overhead, IPv6 40 + UDP 8 + WireGuard 32
MTU_LEAST = 1280  # bytes, where the tunnel has IPv6: below it the kernel takes IPv6 off the link (RFC 8200, 5)

# --- time, all in seconds ---------------------------------------------------------------------------------------------
CONNECT_LOOKS = (0.01, 0.02, 0.05)  # between looks for the first handshake, the last repeated; one takes 0.5 ms
CONNECT_RETRIES = (1.0, 2.0, 4.0)  # then once more: WireGuard itself waits 5 s after a lost packet, and right after
# joining a network the first is often lost (ARP). Growing, so that a slow answer is not cut off each time
IDLE_LOOK = 5.0  # between looks at the counters while nothing is sent: 0.2 wakeups a second
BUSY_LOOK = 1.0  # while data goes out
SILENCE = (
    3.0  # data went out and nothing came for so long: probe. It costs 240 bytes and, of one-way traffic, a millisecond
)
PROBE_TRIES = (0.4, 0.6, 1.0)  # waits for the answer; a single packet may be lost. Sum 2.0: slower is as good as dead
PROBE_LOOK = 0.05  # between looks meanwhile
KEY_LIFE = 180.0  # REJECT_AFTER_TIME of the protocol: with keepalives on, an older handshake means 60 s of failed ones
CONNECT_KEEPALIVE = 1  # for profiles that have none, until the first handshake: something must be sent to start it

KEEPALIVE_SIZE, INITIATION_SIZE = 32, 148  # bytes of these messages, in the counters and in the protocol

IFA_F_NODAD, IFA_F_NOPREFIXROUTE, IFF_UP = 0x02, 0x200, 0x1  # linux/if_addr.h, linux/if.h
ENODEV = 19


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
                device = await self._create()
                await device.configure(replace(profile, peers=tuple(peers.values())))
                ifindex, addresses = await _configure_link(profile)
        except BaseException:
            with contextlib.suppress(HostError):  # the first failure is the one to tell
                await self.close()
            raise
        self._tunnel = _Open(device, ifindex, peers[main], main.keepalive)
        return Tunnel(TUNNEL_IFNAME, addresses, profile.resolvers)

    async def _create(self) -> Device:
        missing = []
        for device in self._devices:
            try:
                await device.create()
            except Unsupported as err:
                missing.append(err.why)
            else:
                return device
        raise HostError("create the tunnel link", "; ".join(missing))

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
            await _delete_link()
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

    def __init__(self, device: Device, ifindex: int, peer: WireGuardPeer, keepalive: int) -> None:
        """`peer` is the one that is watched, as configured; `keepalive` what its profile wants in the end."""
        self._device, self._ifindex, self._peer, self._keepalive = device, ifindex, peer, keepalive
        self._past_rx = self._past_tx = 0  # of the peers that renewing it removed
        self._handshake = 0.0  # the last of those
        self._renewing = asyncio.Lock()  # nobody reads the counters between a removal and its account

    async def ended(self) -> str:
        return await self._device.ended()

    async def link_gone(self) -> str:
        """Returns when the link was removed or switched off. Events are hints: the kernel is asked each time."""
        while True:
            async with await events(Group.LINK) as news:
                # Subscribed first, then looked: nothing falls in between.
                while not (reason := await _link_fault(self._ifindex)):
                    try:
                        async for _ in news.get():
                            pass
                    except (OSError, NetlinkError):  # an overrun ends the socket: take a new one and look again
                        break
                else:
                    return reason

    async def answered_first(self) -> str:
        """Returns "" after the first handshake."""
        now = asyncio.get_running_loop().time
        looks, retries = _last_repeated(CONNECT_LOOKS), iter(CONNECT_RETRIES)
        again = now() + next(retries)
        while not (await self._read()).handshake:
            if now() >= again:
                await self._renew()
                again = now() + next(retries, float("inf"))
            await asyncio.sleep(next(looks))
        await self._settle()
        return ""

    async def silent(self) -> str:
        """Returns when data went out, nothing came back and the server did not answer the probe either."""
        now = asyncio.get_running_loop().time
        vigil = Vigil(now(), await self._read(), self._keepalive)
        while True:
            await asyncio.sleep(vigil.wait)
            vigil.look(now(), await self._read())
            if vigil.suspicious:
                if not await self.answers():
                    return f"the server {self._peer.host} answers nothing, not even a handshake"
                vigil = Vigil(now(), await self._read(), self._keepalive)

    async def answers(self) -> bool:
        """The probe: whether the server answers a handshake."""
        now = asyncio.get_running_loop().time
        for wait in PROBE_TRIES:
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


class Vigil:
    """Tells from the counters when to look again and when silence has become suspicious. No clock, no I/O."""

    def __init__(self, now: float, state: PeerState, keepalive: int) -> None:
        self._keepalive = keepalive
        self._last, self._last_at = state, now
        self._handshake_at = now  # when a handshake was last seen to be new; never compared with the wall clock
        self._unanswered_since: float | None = None
        self.wait = IDLE_LOOK
        self.suspicious = False

    def look(self, now: float, state: PeerState) -> None:
        last, last_at = self._last, self._last_at
        self._last, self._last_at = state, now
        sent = is_data(state.tx - last.tx)
        if state.handshake != last.handshake:
            self._handshake_at = now
        if state.rx != last.rx:
            self._unanswered_since = None
        elif sent and self._unanswered_since is None:
            self._unanswered_since = last_at  # it went out some time after the last look: suspect early, not late
        waiting = self._unanswered_since
        stale = self._keepalive > 0 and now - self._handshake_at > KEY_LIFE
        self.suspicious = stale or (waiting is not None and now - waiting >= SILENCE)
        self.wait = BUSY_LOOK if sent or waiting is not None else IDLE_LOOK


def is_data(sent: int) -> bool:
    """Whether so many bytes between two looks are more than the keepalive that WireGuard sends by itself.

    A keepalive is not answered, so its silence means nothing; a handshake initiation is, and counts.
    """
    return sent > 0 and sent != KEEPALIVE_SIZE


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
    usable = [address for address in peer.addresses if address.version == 4 or _has_ipv6()]
    if not usable:
        if not peer.host:
            raise HostError("open the tunnel", "the profile's peer has no endpoint to call")
        why = "its name was not resolved" if not peer.addresses else "it has IPv6 addresses only, and IPv6 is off here"
        raise HostError(f"open the tunnel to {peer.host}", why)
    keepalive = CONNECT_KEEPALIVE if main and peer.keepalive == 0 else peer.keepalive
    return replace(peer, addresses=(usable[0],), keepalive=keepalive)


def _has_ipv6(ifname: str = "all") -> bool:
    """Whether the kernel speaks IPv6 at all, or over one link."""
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6").read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False


def _no_link_local_address() -> None:
    """No fe80:: address, hence no router solicitations into the tunnel. The kernel's wireguard does so by itself."""
    with contextlib.suppress(OSError):
        Path(f"/proc/sys/net/ipv6/conf/{TUNNEL_IFNAME}/addr_gen_mode").write_text("1", encoding="ascii")


async def _configure_link(profile: WireGuardProfile) -> tuple[int, tuple[Interface, ...]]:
    """Give the link its addresses and MTU, then switch it on. Returns its index and the addresses it took."""
    _no_link_local_address()
    usable = tuple(one for one in profile.addresses if one.version == 4 or _has_ipv6(TUNNEL_IFNAME))
    if left_out := [str(one) for one in profile.addresses if one not in usable]:
        log.warning("IPv6 is off in this kernel: addresses of the tunnel left out", addresses=left_out)
    async with _netlink("configure the tunnel link") as ip:
        ifindex = await _find_link(ip)
        if ifindex is None:
            raise HostError("configure the tunnel link", f"{TUNNEL_IFNAME} is gone")
        mtu = profile.mtu or MTU
        await ip.link("set", index=ifindex, mtu=max(mtu, MTU_LEAST) if any(one.version == 6 for one in usable) else mtu)
        for address in usable:
            # NOPREFIXROUTE: the length stays as in the profile, but no route appears that is not routes.py's.
            flags = IFA_F_NOPREFIXROUTE | (IFA_F_NODAD if address.version == 6 else 0)
            length = address.network.prefixlen
            await ip.addr("add", index=ifindex, address=str(address.ip), prefixlen=length, flags=flags)
        await ip.link("set", index=ifindex, state="up")
    return ifindex, usable


async def _delete_link() -> None:
    """Remove the link by its name, which is ours. Idempotent."""
    async with _netlink("remove the tunnel link") as ip:
        ifindex = await _find_link(ip)
        if ifindex is not None:
            try:
                await ip.link("del", index=ifindex)
            except NetlinkError as err:
                if err.code != ENODEV:  # its process took it along in the same moment
                    raise


async def _link_fault(ifindex: int) -> str:
    """Why the link carries nothing, or "" when it does."""
    async with _netlink("look at the tunnel link") as ip:
        try:
            flags = [message["flags"] async for message in await ip.get_links(ifindex)]
        except NetlinkError as err:
            if err.code != ENODEV:
                raise
            flags = []
    if not flags:
        return f"the link {TUNNEL_IFNAME} was removed"
    return "" if flags[0] & IFF_UP else f"the link {TUNNEL_IFNAME} was switched off"


async def _find_link(ip: AsyncIPRoute) -> int | None:
    found = await ip.link_lookup(ifname=TUNNEL_IFNAME)
    return int(found[0]) if found else None


@contextlib.asynccontextmanager
async def _netlink(what: str) -> AsyncIterator[AsyncIPRoute]:
    """A socket for requests; the kernel's refusals become HostErrors."""
    try:
        async with requests() as ip:
            yield ip
    except NetlinkError as err:
        raise HostError(what, str(err.args[1] if len(err.args) > 1 else err)) from err
    except OSError as err:
        raise HostError(what, err.strerror or str(err)) from err


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
