"""The tunnel of whichever kind a profile is. What is OpenVPN's is loaded when it is needed: it takes memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from daemon.host import Counters, HostError, TunnelError
from daemon.linux.wireguard import WireGuard
from policies.facts import Tunnel
from policies.profiles import Profile
from policies.states import Cause
from policies.wireguard import WireGuardProfile

if TYPE_CHECKING:
    from daemon.linux.openvpn import OpenVPN

OPENVPN_PID = Path("/run/tunwarden/openvpn/pid")  # as openvpn_process.py writes it


class Tunnels:
    """The TunnelDriver of daemon/host.py. One tunnel at a time."""

    def __init__(self, wireguard: WireGuard | None = None) -> None:
        self._wireguard = wireguard or WireGuard()
        self._openvpn: OpenVPN | None = None
        self._used: WireGuard | OpenVPN = self._wireguard
        self._wireguard_left = True  # something of it may be there: ours, or what an earlier daemon left

    async def open(self, profile: Profile) -> Tunnel:
        """What is there is closed first, whichever kind it is of."""
        if profile.kind == "external":  # nobody asks: such a tunnel is guarded, and brought up by others
            raise TunnelError(Cause.TUNNEL_FAILED, "open the tunnel", "somebody else brings it up")
        if isinstance(profile, WireGuardProfile):
            if (openvpn := self._left()) is not None:
                await openvpn.close()
            self._used, self._wireguard_left = self._wireguard, True
            return await self._wireguard.open(profile)
        if self._wireguard_left:
            await self._wireguard.close()
            self._wireguard_left = False
        openvpn = self._needed()
        self._used = openvpn
        return await openvpn.open(profile)

    async def established(self) -> Tunnel | None:
        return await self._used.established()

    async def dead(self) -> TunnelError:
        return await self._used.dead()

    def moved(self) -> None:
        self._used.moved()

    async def close(self) -> None:
        failure: HostError | None = None
        for driver in (self._left(), self._wireguard):
            try:
                if driver is not None:
                    await driver.close()
            except HostError as err:
                failure = failure or err
        if failure is not None:
            raise failure

    async def counters(self) -> Counters | None:
        return await self._used.counters()

    def _needed(self) -> OpenVPN:
        if self._openvpn is None:
            from daemon.linux.openvpn import OpenVPN

            self._openvpn = OpenVPN()
        return self._openvpn

    def _left(self) -> OpenVPN | None:
        """Where this daemon, or an earlier one, has run openvpn."""
        return self._needed() if self._openvpn is not None or OPENVPN_PID.exists() else None
