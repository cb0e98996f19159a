"""The link of the tunnel, over rtnetlink: addresses, MTU, up, gone. The same for every backend; no routes."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

import structlog

from daemon.host import HostError
from daemon.linux.netlink import AsyncIPRoute, Group, NetlinkError, events, requests
from policies.facts import Interface
from policies.firewall import TUNNEL_IFNAME

log = structlog.get_logger()

MTU = 1420  # bytes: 1500 less the longest overhead, IPv6 40 + UDP 8 + WireGuard 32
MTU_LEAST = 1280  # bytes, where the tunnel has IPv6: below it the kernel takes IPv6 off the link (RFC 8200, 5)
IFA_F_NODAD, IFA_F_NOPREFIXROUTE, IFF_UP = 0x02, 0x200, 0x1  # linux/if_addr.h, linux/if.h


def has_ipv6(ifname: str = "all") -> bool:
    """Whether the kernel speaks IPv6 at all, or over one link."""
    try:
        return Path(f"/proc/sys/net/ipv6/conf/{ifname}/disable_ipv6").read_text(encoding="ascii").strip() == "0"
    except OSError:
        return False


def _no_link_local_address() -> None:
    """No fe80:: address, hence no router solicitations into the tunnel. The kernel's wireguard does so by itself."""
    with contextlib.suppress(OSError):
        Path(f"/proc/sys/net/ipv6/conf/{TUNNEL_IFNAME}/addr_gen_mode").write_text("1", encoding="ascii")


class Shape(Protocol):
    """What a link needs of a profile."""

    @property
    def addresses(self) -> tuple[Interface, ...]: ...

    @property
    def mtu(self) -> int | None: ...


async def configure_link(profile: Shape) -> tuple[int, tuple[Interface, ...]]:
    """Give the link its addresses and MTU, then switch it on. Returns its index and the addresses it took."""
    _no_link_local_address()
    usable = tuple(one for one in profile.addresses if one.version == 4 or has_ipv6(TUNNEL_IFNAME))
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


async def delete_link() -> None:
    """Remove the link by its name, which is ours. Idempotent."""
    async with _netlink("remove the tunnel link") as ip:
        ifindex = await _find_link(ip)
        if ifindex is not None:
            try:
                await ip.link("del", index=ifindex)
            except NetlinkError as err:
                if err.code != errno.ENODEV:  # its process took it along in the same moment
                    raise


async def link_gone(ifindex: int) -> str:
    """Returns, with the reason, when the link was removed or switched off. Raises HostError.

    Events are hints: the kernel is asked each time.
    """
    while True:
        try:
            async with await events(Group.LINK) as news:
                # Subscribed first, then looked: nothing falls in between.
                while not (reason := await _fault(ifindex)):
                    async for _ in news.get():
                        pass
                return reason
        except NetlinkError as err:
            raise HostError("watch the tunnel link", str(err)) from err
        except OSError as err:
            if err.errno != errno.ENOBUFS:
                raise HostError("watch the tunnel link", err.strerror or str(err)) from err
            # More events than fitted: that ends the socket, so take a new one and look again.


async def _fault(ifindex: int) -> str:
    """Why the link carries nothing, or "" when it does."""
    async with _netlink("look at the tunnel link") as ip:
        try:
            flags = [message["flags"] async for message in await ip.get_links(ifindex)]
        except NetlinkError as err:
            if err.code != errno.ENODEV:
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
