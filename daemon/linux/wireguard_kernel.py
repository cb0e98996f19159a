"""WireGuard in the kernel, configured over generic netlink (linux/wireguard.h, family "wireguard", version 1).

Run by hand on Debian's 6.1.0-56-amd64 in an emulated machine: the tests of test_wireguard_live.py passed with it, and
the laboratory's story leaked nothing. Not run: on hardware, on other kernels. `make test` runs it only where the kernel
has WireGuard; elsewhere test_wireguard_kernel.py checks every byte of the requests and decodes replies built by hand.

pyroute2's `WireGuard.set` is not used: it knows neither the device's flags (replace_peers) nor several messages in one
send. Its message classes are; replies are decoded without the secret attributes, so no debug log of it can show them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import importlib
import socket
import struct
from base64 import b64encode
from collections.abc import AsyncIterator, Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from daemon.host import HostError
from daemon.linux.netlink import NetlinkError, requests
from daemon.linux.wireguard_device import PeerState, Unsupported
from policies.facts import Endpoint
from policies.firewall import MARK, TUNNEL_IFNAME
from policies.profiles import WireGuardPeer, WireGuardProfile

FAMILY, VERSION = "wireguard", 1  # linux/wireguard.h: WG_GENL_NAME, WG_GENL_VERSION
GET_DEVICE, SET_DEVICE = 0, 1  # enum wg_cmd
REPLACE_PEERS = 1  # enum wgdevice_flag
REMOVE, REPLACE_ALLOWED_IPS, UPDATE_ONLY = 1, 2, 4  # enum wgpeer_flag
AF_INET, AF_INET6 = 2, 10
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 0x1, 0x4, 0x300  # linux/netlink.h
# The attributes of a reply in their order, as pyroute2 wants them: "none" skips one. Skipped are the secrets, and the
# allowed networks, of which there may be thousands.
DEVICE_REPLY = (*((f"WGDEVICE_A_{number}", "none") for number in range(8)), ("WGDEVICE_A_PEERS", "*peer"))
PEER_REPLY = (
    ("WGPEER_A_UNSPEC", "none"),
    ("WGPEER_A_PUBLIC_KEY", "cdata"),
    ("WGPEER_A_PRESHARED_KEY", "none"),
    ("WGPEER_A_FLAGS", "none"),
    ("WGPEER_A_ENDPOINT", "cdata"),
    ("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", "none"),
    ("WGPEER_A_LAST_HANDSHAKE_TIME", "cdata"),
    ("WGPEER_A_RX_BYTES", "uint64"),
    ("WGPEER_A_TX_BYTES", "uint64"),
)
# A netlink attribute is 64 KiB at most and one allowed network takes up to 40 bytes of it: the rest goes into further
# messages, as the comment in linux/wireguard.h says.
NETWORKS_PER_MESSAGE = 1000
ANSWER_TIME = 5.0  # seconds; the kernel answers at once, unless it is removing peers under load


class WireGuardKernel:
    """The Device of wireguard_device.py on top of the kernel's own implementation."""

    def __init__(self, ifname: str = TUNNEL_IFNAME) -> None:
        self._ifname = ifname

    async def create(self) -> None:
        what = "create the tunnel link"
        try:
            async with requests() as ip:
                await ip.link("add", ifname=self._ifname, kind="wireguard")
        except NetlinkError as err:
            if err.code == errno.EOPNOTSUPP:
                raise Unsupported(what, "this kernel has no WireGuard") from err
            raise HostError(what, str(err)) from err
        except OSError as err:
            raise HostError(what, err.strerror or str(err)) from err

    async def configure(self, profile: WireGuardProfile) -> None:
        await self._set("configure the tunnel", list(configuration(profile)))

    async def set_keepalive(self, peer: bytes, seconds: int) -> None:
        change = {"public_key": peer, "flags": UPDATE_ONLY, "keepalive": seconds}
        await self._set("configure the tunnel", [{"peers": [change]}])

    async def renew(self, peer: WireGuardPeer) -> None:
        # In one message the kernel holds its lock from the removal to the addition: no reader finds the peer missing.
        # The rest of its networks comes in the same send, which the kernel works through whatever happens to us.
        first, *rest = _peer_changes(peer)
        first["peers"].insert(0, {"public_key": peer.public_key, "flags": REMOVE})
        await self._set("ask the VPN server for a handshake", [first, *rest])

    async def read(self) -> dict[bytes, PeerState]:
        what = "read the tunnel's counters"
        peers: dict[bytes, PeerState] = {}
        async with self._socket(what) as genl:
            request = _message(self._ifname, GET_DEVICE, {})
            reply = await genl.nlm_request(request, msg_type=genl.prid, msg_flags=NLM_F_REQUEST | NLM_F_DUMP)
            async for part in reply:
                # A peer with many networks goes on in the next part, there without its counters.
                peers = parse_peers(part) | peers
        return peers

    async def ended(self) -> str:
        await asyncio.get_running_loop().create_future()  # the kernel does not end
        raise AssertionError

    async def remove(self) -> None:
        """Nothing to do: the link goes with `ip link del`, which the driver does for every backend."""

    async def _set(self, what: str, changes: Sequence[dict[str, Any]]) -> None:
        async with self._socket(what) as genl:
            messages = [_message(self._ifname, SET_DEVICE, change) for change in changes]
            for message in messages:
                message["header"]["type"] = genl.prid
                message["header"]["flags"] = NLM_F_REQUEST | NLM_F_ACK
            async for _ in genl.nlm_request_batch(messages):
                pass

    @contextlib.asynccontextmanager
    async def _socket(self, what: str) -> AsyncIterator[Any]:
        """A generic netlink socket bound to the family. The kernel's refusals become HostErrors."""
        genl = _classes().socket(ext_ack=True)
        try:
            async with asyncio.timeout(ANSWER_TIME):
                await genl.bind(FAMILY, _classes().reply)
                yield genl
        except NetlinkError as err:
            raise HostError(what, f"the kernel refused: {err}") from err
        except TimeoutError as err:
            raise HostError(what, f"the kernel did not answer within {ANSWER_TIME:.0f} s") from err
        except OSError as err:
            raise HostError(what, err.strerror or str(err)) from err
        finally:
            genl.close()


def configuration(profile: WireGuardProfile) -> Iterator[dict[str, Any]]:
    """The changes that make a fresh link follow the profile, one message each."""
    yield {
        "private_key": profile.private_key,
        "listen_port": 0,
        "fwmark": MARK,
        "flags": REPLACE_PEERS,
    }
    for peer in profile.peers:
        yield from _peer_changes(peer)


def _peer_changes(peer: WireGuardPeer) -> Iterator[dict[str, Any]]:
    first, *rest = _portions(peer)
    one: dict[str, Any] = {"public_key": peer.public_key, "flags": REPLACE_ALLOWED_IPS, "networks": first}
    if peer.preshared_key is not None:
        one["preshared_key"] = peer.preshared_key
    if peer.endpoints:
        one["endpoint"] = peer.endpoints[0]
    yield {"peers": [one | {"keepalive": peer.keepalive}]}
    for portion in rest:
        yield {"peers": [{"public_key": peer.public_key, "flags": UPDATE_ONLY, "networks": portion}]}


def parse_peers(message: Any) -> dict[bytes, PeerState]:
    """The peers of one decoded reply by public key."""
    peers = {}
    for peer in message.get_attr("WGDEVICE_A_PEERS") or ():
        seconds, nanoseconds = struct.unpack("=qq", peer.get_attr("WGPEER_A_LAST_HANDSHAKE_TIME") or bytes(16))
        peers[bytes(peer.get_attr("WGPEER_A_PUBLIC_KEY"))] = PeerState(
            rx=peer.get_attr("WGPEER_A_RX_BYTES") or 0,
            tx=peer.get_attr("WGPEER_A_TX_BYTES") or 0,
            handshake=seconds + nanoseconds / 1e9,
            endpoint=_endpoint(peer.get_attr("WGPEER_A_ENDPOINT")),
        )
    return peers


def _endpoint(data: bytes | None) -> Endpoint | None:
    """A struct sockaddr_in or sockaddr_in6 (linux/in.h, linux/in6.h)."""
    if not data:
        return None
    (family,) = struct.unpack_from("=H", data)
    (port,) = struct.unpack_from("!H", data, 2)
    if family == AF_INET:
        return Endpoint(IPv4Address(data[4:8]), port)
    (scope,) = struct.unpack_from("=I", data, 24)
    address = IPv6Address(data[8:24])
    return Endpoint(IPv6Address(f"{address}%{scope}") if scope else address, port)


def _portions(peer: WireGuardPeer) -> list[tuple[IPv4Network | IPv6Network, ...]]:
    """The allowed networks, as many at a time as one message holds; one portion at least."""
    starts = range(0, max(1, len(peer.allowed_ips)), NETWORKS_PER_MESSAGE)
    return [peer.allowed_ips[start : start + NETWORKS_PER_MESSAGE] for start in starts]


def _message(ifname: str, command: int, change: dict[str, Any]) -> Any:
    """A request of the family. `change` holds raw keys; pyroute2 wants base64."""
    message = _classes().request()
    message["cmd"], message["version"] = command, VERSION
    attributes: list[list[Any]] = [["WGDEVICE_A_IFNAME", ifname]]
    if "private_key" in change:
        attributes.append(["WGDEVICE_A_PRIVATE_KEY", b64encode(change["private_key"])])
    for name in ("flags", "listen_port", "fwmark"):
        if name in change:
            attributes.append([f"WGDEVICE_A_{name.upper()}", change[name]])
    if "peers" in change:
        attributes.append(["WGDEVICE_A_PEERS", [{"attrs": _peer_attributes(peer)} for peer in change["peers"]]])
    message["attrs"] = attributes
    return message


def _peer_attributes(peer: dict[str, Any]) -> list[list[Any]]:
    attributes: list[list[Any]] = [
        ["WGPEER_A_PUBLIC_KEY", b64encode(peer["public_key"])],
        ["WGPEER_A_FLAGS", peer["flags"]],
    ]
    if "preshared_key" in peer:
        attributes.append(["WGPEER_A_PRESHARED_KEY", b64encode(peer["preshared_key"])])
    if "endpoint" in peer:
        attributes.append(["WGPEER_A_ENDPOINT", _socket_address(peer["endpoint"])])
    if "keepalive" in peer:
        attributes.append(["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", peer["keepalive"]])
    if "networks" in peer:
        networks = [{"attrs": _network_attributes(network)} for network in peer["networks"]]
        attributes.append(["WGPEER_A_ALLOWEDIPS", networks])
    return attributes


def _socket_address(endpoint: Endpoint) -> dict[str, str | int]:
    """As pyroute2 wants it. The scope of a link-local address is the number that `_endpoint` read."""
    address, _, scope = str(endpoint.address).partition("%")
    fields: dict[str, str | int] = {"addr": address, "port": endpoint.port}
    if scope:
        # pyroute2 packs it big-endian, but the kernel reads its own order (struct sockaddr_in6).
        fields["scope_id"] = socket.htonl(int(scope))
    return fields


def _network_attributes(network: IPv4Network | IPv6Network) -> list[list[Any]]:
    return [
        ["WGALLOWEDIP_A_FAMILY", AF_INET if network.version == 4 else AF_INET6],
        ["WGALLOWEDIP_A_IPADDR", network.network_address.packed],
        ["WGALLOWEDIP_A_CIDR_MASK", network.prefixlen],
    ]


class _Classes:
    """pyroute2's classes for the family, loaded when the kernel has it: other machines spare the import."""

    def __init__(self) -> None:
        generic = importlib.import_module("pyroute2.netlink.generic.wireguard")
        # A missing family is an answer of ours, not an error for the log.
        self.socket: Any = type("Socket", (generic.AsyncGenericNetlinkSocket,), {"module_err_level": "debug"})
        self.request: Any = generic.wgmsg
        # Not derived from wgmsg: pyroute2 compiles a class's map once and its children inherit the compiled one.
        peer = type("peer", (generic.nla,), {"nla_flags": generic.NLA_F_NESTED, "nla_map": PEER_REPLY})
        self.reply: Any = type("reply", (generic.genlmsg,), {"nla_map": DEVICE_REPLY, "peer": peer})


@functools.cache
def _classes() -> _Classes:
    return _Classes()
