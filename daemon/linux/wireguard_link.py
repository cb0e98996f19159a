"""The link of the tunnel, over rtnetlink: addresses, MTU, up, gone. The same for every backend; no routes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

import structlog

from daemon.host import HostError
from daemon.linux import link_changes
from daemon.linux.link_hints import RTMGRP_LINK, hints
from policies.facts import Interface
from policies.firewall import TUNNEL_IFNAME

log = structlog.get_logger()

MTU = 1420  # bytes: 1500 less the longest overhead, IPv6 40 + UDP 8 + WireGuard 32
MTU_LEAST = 1280  # bytes, where the tunnel has IPv6: below it the kernel takes IPv6 off the link (RFC 8200, 5)


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
    with _as_host_error("configure the tunnel link"):
        ifindex = link_changes.find(TUNNEL_IFNAME)
        if ifindex is None:
            raise HostError("configure the tunnel link", f"{TUNNEL_IFNAME} is gone")
        mtu = profile.mtu or MTU
        link_changes.set_mtu(ifindex, max(mtu, MTU_LEAST) if any(one.version == 6 for one in usable) else mtu)
        for address in usable:  # the length stays as in the profile, but no route appears that is not routes.py's
            link_changes.add_address(ifindex, address)
        link_changes.switch_on(ifindex)
    return ifindex, usable


async def delete_link() -> None:
    """Remove the link by its name, which is ours. Idempotent."""
    with _as_host_error("remove the tunnel link"):
        link_changes.remove(TUNNEL_IFNAME)


async def link_gone(ifindex: int) -> str:
    """Returns, with the reason, when the link was removed or switched off. Raises HostError."""
    async with aclosing(hints(RTMGRP_LINK)) as news:
        async for _ in news:  # the first comes at once, and after it has subscribed: nothing falls in between
            with _as_host_error("look at the tunnel link"):
                up = link_changes.is_up(ifindex)
            if not up:
                return f"the link {TUNNEL_IFNAME} was {'removed' if up is None else 'switched off'}"
    raise AssertionError("hints never end")


@contextlib.contextmanager
def _as_host_error(what: str) -> Iterator[None]:
    """The kernel's refusals become HostErrors."""
    try:
        yield
    except OSError as err:
        raise HostError(what, err.strerror or str(err)) from err
