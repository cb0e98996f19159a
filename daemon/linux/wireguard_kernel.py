"""WireGuard in the kernel, configured over generic netlink (linux/wireguard.h, family "wireguard", version 1).

Run by hand on Debian's 6.1.0-56-amd64 in an emulated machine: the tests of test_wireguard_live.py passed with it, and
the laboratory's story leaked nothing. Not run: on hardware, on other kernels. `make test` runs it only where the kernel
has WireGuard; elsewhere test_wireguard_kernel.py checks every byte of the requests and reads replies built by hand.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import struct
import sys
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from daemon.host import HostError
from daemon.linux import link_changes, rtnetlink
from daemon.linux.rtnetlink import NLA_F_NESTED, attribute, change, number
from daemon.linux.wireguard_device import PeerState, Unsupported
from policies.facts import Endpoint
from policies.firewall import MARK, TUNNEL_IFNAME
from policies.wireguard import WireGuardPeer, WireGuardProfile

# <linux/genetlink.h>, <asm-generic/socket.h>
NETLINK_GENERIC, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_ID, CTRL_ATTR_FAMILY_NAME = 16, 16, 3, 1, 2
SO_SNDBUFFORCE = 32
# <linux/wireguard.h>
FAMILY, VERSION = "wireguard", 1
GET_DEVICE, SET_DEVICE = 0, 1  # enum wg_cmd
DEVICE_IFNAME, DEVICE_PRIVATE_KEY, DEVICE_FLAGS, DEVICE_LISTEN_PORT, DEVICE_FWMARK, DEVICE_PEERS = 2, 3, 5, 6, 7, 8
REPLACE_PEERS = 1  # enum wgdevice_flag
PEER_PUBLIC_KEY, PEER_PRESHARED_KEY, PEER_FLAGS, PEER_ENDPOINT, PEER_KEEPALIVE = 1, 2, 3, 4, 5
PEER_LAST_HANDSHAKE, PEER_RX, PEER_TX, PEER_ALLOWED_IPS = 6, 7, 8, 9
REMOVE, REPLACE_ALLOWED_IPS, UPDATE_ONLY = 1, 2, 4  # enum wgpeer_flag
NETWORK_FAMILY, NETWORK_ADDRESS, NETWORK_LENGTH = 1, 2, 3  # enum wgallowedip_attribute
# A netlink attribute is 64 KiB at most and one allowed network takes up to 40 bytes of it: the rest goes into further
# messages, as the comment in linux/wireguard.h says.
NETWORKS_PER_MESSAGE = 1000

_GENL = struct.Struct("=BBH")  # genlmsghdr: command, version, nothing


class WireGuardKernel:
    """The Device of wireguard_device.py on top of the kernel's own implementation. Nothing here waits."""

    def __init__(self, ifname: str = TUNNEL_IFNAME) -> None:
        self._ifname = ifname

    async def create(self) -> None:
        what = "create the tunnel link"
        try:
            link_changes.create(self._ifname, "wireguard")
        except OSError as err:
            if err.errno == errno.EOPNOTSUPP:
                raise Unsupported(what, "this kernel has no WireGuard") from err
            raise HostError(what, err.strerror or str(err)) from err

    async def configure(self, profile: WireGuardProfile) -> None:
        self._set("configure the tunnel", configuration(profile))

    async def set_keepalive(self, peer: bytes, seconds: int) -> None:
        self._set("configure the tunnel", [_peers(_peer(peer, UPDATE_ONLY, keepalive=seconds))])

    async def renew(self, peer: WireGuardPeer) -> None:
        # In one message the kernel holds its lock from the removal to the addition: no reader finds the peer missing.
        # The rest of its networks comes in the same send, which the kernel works through whatever happens to us.
        first, *rest = _portions_of(peer)
        changes = [_peers(_peer(peer.public_key, REMOVE), first), *(_peers(each) for each in rest)]
        self._set("ask the VPN server for a handshake", changes)

    async def read(self) -> dict[bytes, PeerState]:
        peers: dict[bytes, PeerState] = {}
        with _talk("read the tunnel's counters") as (sock, family):
            for _, payload in rtnetlink.dump(sock, family, request(self._ifname, GET_DEVICE)):
                # A peer with many networks goes on in the next part, there without its counters.
                peers = parse_peers(payload) | peers
        return peers

    async def ended(self) -> str:
        await asyncio.get_running_loop().create_future()  # the kernel does not end
        raise AssertionError

    async def remove(self) -> None:
        """Nothing to do: the link goes with `ip link del`, which the driver does for every backend."""

    def _set(self, what: str, changes: Iterable[bytes]) -> None:
        with _talk(what) as (sock, family):
            requests = [(family, 0, request(self._ifname, SET_DEVICE, each)) for each in changes]
            room = sum(len(body) + 64 for _, _, body in requests)
            sock.setsockopt(socket.SOL_SOCKET, SO_SNDBUFFORCE, room)  # what does not fit is refused whole
            for refused in change(sock, requests):
                if refused is not None:
                    raise refused


@contextlib.contextmanager
def _talk(what: str) -> Iterator[tuple[socket.socket, int]]:
    """A generic netlink socket and the family's number. The kernel's refusals become HostErrors."""
    try:
        with rtnetlink.open_socket(NETLINK_GENERIC) as sock:
            name = attribute(CTRL_ATTR_FAMILY_NAME, FAMILY.encode() + b"\0")
            _, payload = rtnetlink.ask(sock, GENL_ID_CTRL, _GENL.pack(CTRL_CMD_GETFAMILY, 2, 0) + name)
            told = rtnetlink.attributes(payload[_GENL.size :])[CTRL_ATTR_FAMILY_ID]
            yield sock, int.from_bytes(told, sys.byteorder)
    except OSError as err:
        raise HostError(what, f"the kernel refused: {err.strerror or err}") from err
    except (struct.error, LookupError, ValueError) as err:
        raise HostError(what, "the kernel's answer cannot be read") from err


# --- requests ---------------------------------------------------------------------------------------------------------


def request(ifname: str, command: int, about: bytes = b"") -> bytes:
    """The body of a request of the family."""
    return _GENL.pack(command, VERSION, 0) + attribute(DEVICE_IFNAME, ifname.encode() + b"\0") + about


def configuration(profile: WireGuardProfile) -> Iterator[bytes]:
    """The changes that make a fresh link follow the profile, one message each."""
    yield (
        attribute(DEVICE_PRIVATE_KEY, profile.private_key)
        + number(DEVICE_FLAGS, REPLACE_PEERS)
        + attribute(DEVICE_LISTEN_PORT, struct.pack("=H", 0))
        + number(DEVICE_FWMARK, MARK)
    )
    for peer in profile.peers:
        for part in _portions_of(peer):
            yield _peers(part)


def _peers(*peers: bytes) -> bytes:
    return attribute(DEVICE_PEERS | NLA_F_NESTED, b"".join(attribute(NLA_F_NESTED, peer) for peer in peers))


def _portions_of(peer: WireGuardPeer) -> Iterator[bytes]:
    """The whole peer, with as many networks at a time as one message holds."""
    first, *rest = _portions(peer)
    about = attribute(PEER_PRESHARED_KEY, peer.preshared_key) if peer.preshared_key is not None else b""
    if peer.endpoints:
        about += attribute(PEER_ENDPOINT, _socket_address(peer.endpoints[0]))
    yield _peer(peer.public_key, REPLACE_ALLOWED_IPS, peer.keepalive, about + _networks(first))
    for portion in rest:
        yield _peer(peer.public_key, UPDATE_ONLY, None, _networks(portion))


def _peer(public_key: bytes, flags: int, keepalive: int | None = None, about: bytes = b"") -> bytes:
    found = attribute(PEER_PUBLIC_KEY, public_key) + number(PEER_FLAGS, flags)
    if keepalive is not None:
        found += attribute(PEER_KEEPALIVE, struct.pack("=H", keepalive))
    return found + about


def _socket_address(endpoint: Endpoint) -> bytes:
    """A struct sockaddr_in or sockaddr_in6 (linux/in.h, linux/in6.h)."""
    address = endpoint.address
    if isinstance(address, IPv4Address):
        return struct.pack("=H", socket.AF_INET) + struct.pack("!H4s8x", endpoint.port, address.packed)
    scope = struct.pack("=I", int(address.scope_id or 0))  # the number that `_endpoint` read
    return struct.pack("=H", socket.AF_INET6) + struct.pack("!HI16s", endpoint.port, 0, address.packed) + scope


def _networks(networks: Iterable[IPv4Network | IPv6Network]) -> bytes:
    every = (
        attribute(NETWORK_FAMILY, struct.pack("=H", socket.AF_INET if network.version == 4 else socket.AF_INET6))
        + attribute(NETWORK_ADDRESS, network.network_address.packed)
        + attribute(NETWORK_LENGTH, bytes([network.prefixlen]))
        for network in networks
    )
    return attribute(PEER_ALLOWED_IPS | NLA_F_NESTED, b"".join(attribute(NLA_F_NESTED, each) for each in every))


def _portions(peer: WireGuardPeer) -> list[tuple[IPv4Network | IPv6Network, ...]]:
    """The allowed networks, as many at a time as one message holds; one portion at least."""
    starts = range(0, max(1, len(peer.allowed_ips)), NETWORKS_PER_MESSAGE)
    return [peer.allowed_ips[start : start + NETWORKS_PER_MESSAGE] for start in starts]


# --- answers ----------------------------------------------------------------------------------------------------------


def parse_peers(payload: memoryview) -> dict[bytes, PeerState]:
    """The peers of one part of a device by public key. The secrets that are in it are left where they are."""
    peers = {}
    told = rtnetlink.attributes(payload[_GENL.size :]).get(DEVICE_PEERS, memoryview(b""))
    for _, each in rtnetlink.each(told):
        peer = rtnetlink.attributes(each)
        seconds, nanoseconds = struct.unpack("=qq", peer.get(PEER_LAST_HANDSHAKE, bytes(16)))
        peers[bytes(peer[PEER_PUBLIC_KEY])] = PeerState(
            rx=int.from_bytes(peer.get(PEER_RX, b""), sys.byteorder),
            tx=int.from_bytes(peer.get(PEER_TX, b""), sys.byteorder),
            handshake=seconds + nanoseconds / 1e9,
            endpoint=_endpoint(bytes(peer.get(PEER_ENDPOINT, b""))),
        )
    return peers


def _endpoint(data: bytes) -> Endpoint | None:
    """A struct sockaddr_in or sockaddr_in6 (linux/in.h, linux/in6.h)."""
    if not data:
        return None
    (family,) = struct.unpack_from("=H", data)
    (port,) = struct.unpack_from("!H", data, 2)
    if family == socket.AF_INET:
        return Endpoint(IPv4Address(data[4:8]), port)
    (scope,) = struct.unpack_from("=I", data, 24)
    address = IPv6Address(data[8:24])
    return Endpoint(IPv6Address(f"{address}%{scope}") if scope else address, port)
