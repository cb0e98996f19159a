"""What the driver needs of a WireGuard device, whoever implements the protocol: the kernel or wireguard-go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from daemon.host import HostError
from policies.facts import Endpoint
from policies.wireguard import WireGuardPeer, WireGuardProfile


class Unsupported(HostError):
    """This machine does not have that backend: take the next."""


@dataclass(frozen=True, slots=True)
class PeerState:
    """What a device tells about one peer. Never a key that is secret."""

    rx: int = 0  # bytes since the peer was configured, handshakes and keepalives included
    tx: int = 0
    handshake: float = 0.0  # wall clock of the last one, seconds since 1970; 0.0: never
    endpoint: Endpoint | None = None  # where it was heard last: a server may move


class Device(Protocol):
    """One WireGuard link. Every method raises HostError; none puts a key into an argument, a log or an exception."""

    async def create(self) -> None:
        """Make the link; it exists afterwards, is down and knows no key. Raises Unsupported."""
        ...

    async def configure(self, profile: WireGuardProfile) -> None:
        """Set keys, mark and peers, replacing all peers. Uses the first address of each peer."""
        ...

    async def set_keepalive(self, peer: bytes, seconds: int) -> None:
        """Change the persistent keepalive of the peer with that public key; from 0 to more, one is sent at once."""
        ...

    async def renew(self, peer: WireGuardPeer) -> None:
        """Remove the peer and add it in one request. With a keepalive, a handshake starts at once."""
        ...

    async def read(self) -> dict[bytes, PeerState]:
        """The peers by public key."""
        ...

    async def ended(self) -> str:
        """Returns, with the reason, when whatever drives the link has ended. The kernel never does."""
        ...

    async def remove(self) -> None:
        """End what `create` started and what an earlier daemon left of it. Bounded in time, idempotent."""
        ...


async def create_first(devices: Sequence[Device], action: str) -> Device:
    """The first that this machine has, created. Raises HostError, of `action` where it has none."""
    missing = []
    for device in devices:
        try:
            await device.create()
        except Unsupported as err:
            missing.append(err.why)
        else:
            return device
    raise HostError(action, "; ".join(missing))
