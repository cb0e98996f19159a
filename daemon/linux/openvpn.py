"""The OpenVPN tunnel: a link of ours, an openvpn that carries its packets, and the end of both.

As with WireGuard, routes, resolvers and rules are set by others. An attempt is one process and one server; when it ends
for whatever reason, so does the tunnel, and the state machine tries anew. openvpn never gets to decide that.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import struct
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.host import Counters, HostError, TunnelError
from daemon.linux.openvpn_process import OpenVPNProcess
from daemon.linux.openvpn_said import Given
from daemon.linux.openvpn_vigil import silent
from daemon.linux.wireguard_device import PeerState
from daemon.linux.wireguard_link import configure_link, delete_link, has_ipv6, link_gone
from policies.facts import Address, Endpoint, Interface, Tunnel
from policies.firewall import TUNNEL_IFNAME
from policies.openvpn import OpenVPNProfile
from policies.states import Cause

# <linux/if_tun.h>
TUNSETIFF, TUNSETPERSIST, TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
IFF_TUN, IFF_NO_PI = 0x0001, 0x1000
DEVICE = Path("/dev/net/tun")
# Bytes: 1500 less IPv6 40, UDP 8, opcode and peer 4, packet number 4, tag 16 is 1428; with CBC and SHA-512 it is 1352.
# Larger packets would leave in pieces.
MTU_UDP, MTU_CBC = 1428, 1352


class OpenVPN:
    """The TunnelDriver of daemon/host.py for these profiles. One tunnel at a time."""

    def __init__(self) -> None:
        self._process = OpenVPNProcess()
        self._profile: OpenVPNProfile | None = None
        self._server: Endpoint | None = None
        self._ifindex = 0
        self._resolvers: tuple[Address, ...] = ()
        self._since = 0.0  # of the monotonic clock
        self._moved = asyncio.Event()

    async def open(self, profile: OpenVPNProfile) -> Tunnel:
        """Makes the link and starts openvpn; it has no addresses yet. Raises TunnelError."""
        await self.close()
        server = _usable(profile)
        try:
            with _as_tunnel_error():
                # The link while it starts and waits for our word: everybody who watches links has a look at a new one.
                await self._process.start(profile, server, _create_link)
        except BaseException:
            with contextlib.suppress(HostError):  # the first failure is the one to tell
                await self.close()
            raise
        self._profile, self._server = profile, server
        return Tunnel(TUNNEL_IFNAME, (), profile.resolvers)

    async def established(self) -> Tunnel:
        """Returns when the server has let us in, and said what the tunnel is like. Raises TunnelError."""
        profile, said = self._profile, self._process.said
        if profile is None or self._process.process is None:
            raise TunnelError(Cause.TUNNEL_FAILED, "connect to the VPN server", "openvpn does not run")
        while not said.connected:
            more = await self._process.more()
            if said.rejected or said.certificate or not more:
                why = said.why if more else await self._process.last_words()
                raise TunnelError(said.cause, "connect to the VPN server", why)
        if said.given is None:
            raise TunnelError(Cause.TUNNEL_FAILED, "set up the tunnel", "the server gave no address that can be used")
        with _as_tunnel_error():
            self._ifindex, addresses = await configure_link(_Link(said.given, self._mtu(profile, said.given)))
        self._since = time.monotonic()
        self._resolvers = tuple(dict.fromkeys(profile.resolvers or said.given.resolvers))
        return Tunnel(TUNNEL_IFNAME, addresses, self._resolvers)

    def _mtu(self, profile: OpenVPNProfile, given: Given) -> int:
        if self._server is None or self._server.protocol == "tcp":
            return given.mtu
        block = any(words[0].startswith("data-ciphers") and "-CBC" in words[1] for words in profile.options)
        return min(given.mtu, MTU_CBC if block else MTU_UDP)

    async def dead(self) -> TunnelError:
        """Returns when the tunnel no longer works: openvpn ended, the link went, or the way to the server changed."""
        process, what = self._process.process, "keep the tunnel up"
        if process is None:
            return TunnelError(Cause.TUNNEL_FAILED, what, "openvpn does not run")
        try:
            reason = await _first(self._ended(), link_gone(self._ifindex), self._silent())
        except HostError as err:
            return TunnelError(Cause.TUNNEL_LOST, err.what, err.why)
        cause = Cause.CREDENTIALS_REFUSED if self._process.said.rejected else Cause.TUNNEL_LOST
        return TunnelError(cause, what, reason)

    async def _ended(self) -> str:
        while await self._process.more():
            pass
        return await self._process.last_words()

    async def _silent(self) -> str:
        if self._server is not None and self._server.protocol == "tcp":
            # What is lost comes again, so silence is openvpn's to judge; but a connection keeps its addresses for life.
            await self._moved.wait()
            return "the way to the server has changed"
        return await silent(self._resolvers, _link_state, self._moved)

    def moved(self) -> None:
        """Over UDP the server takes our new address with the next packet; whether it did is asked."""
        self._moved.set()

    async def close(self) -> None:
        """Remove the link and end the process, also what an earlier daemon left. Idempotent."""
        self._profile = self._server = None
        self._moved.clear()
        with _as_tunnel_error():
            try:
                await self._process.end()
            finally:
                self._process = OpenVPNProcess()
                await delete_link()  # whatever happened above: without its link nothing goes through a tunnel

    async def counters(self) -> Counters | None:
        """The link's, which count what goes through the tunnel; the handshake is that of the connection."""
        if self._profile is None:
            return None
        state = _link_state()
        return Counters(state.rx, state.tx, time.monotonic() - self._since if self._since else None)


@dataclass(frozen=True, slots=True)
class _Link:
    given: Given
    mtu: int

    @property
    def addresses(self) -> tuple[Interface, ...]:
        return self.given.addresses


def _usable(profile: OpenVPNProfile) -> Endpoint:
    """The server of this attempt. Raises TunnelError."""
    what = "open the tunnel"
    if profile.login and (profile.user is None or profile.password is None):
        why = f"a user name and a password are needed: tunwarden profiles login {profile.name}"
        raise TunnelError(Cause.CREDENTIALS_MISSING, what, why)
    found = [each for remote in profile.remotes for each in remote.endpoints]
    for each in found:
        if each.address.version == 4 or has_ipv6():
            return each
    why = "it has IPv6 addresses only, and IPv6 is off here" if found else "the server's name was not resolved"
    raise TunnelError(Cause.TUNNEL_FAILED, what, why)


def _link_state() -> PeerState:
    """What has gone through the link. Raises HostError."""
    folder = Path(f"/sys/class/net/{TUNNEL_IFNAME}/statistics")
    try:
        rx, tx = (int((folder / f"{way}_bytes").read_text("ascii")) for way in ("rx", "tx"))
    except (OSError, ValueError) as err:
        raise HostError("read the tunnel's counters", str(err)) from err
    return PeerState(rx=rx, tx=tx)


def _create_link() -> None:
    """A lasting tun link, which root may attach to without a capability. Raises HostError."""
    try:
        device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(device, TUNSETIFF, struct.pack("=16sH22x", TUNNEL_IFNAME.encode(), IFF_TUN | IFF_NO_PI))
            fcntl.ioctl(device, TUNSETOWNER, os.geteuid())
            fcntl.ioctl(device, TUNSETPERSIST, 1)
        finally:
            os.close(device)
    except OSError as err:
        raise HostError("create the tunnel link", f"{err.filename or DEVICE}: {err.strerror}") from err


@contextlib.contextmanager
def _as_tunnel_error() -> Iterator[None]:
    try:
        yield
    except TunnelError:
        raise
    except HostError as err:
        raise TunnelError(Cause.TUNNEL_FAILED, err.what, err.why) from err


async def _first(*coroutines: Coroutine[Any, Any, str]) -> str:
    """The result of whichever ends first; the others are cancelled and waited for."""
    tasks = [asyncio.ensure_future(one) for one in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return next(task for task in tasks if task in done).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
