"""The one place that imports pyroute2, and the sockets for rtnetlink made with it.

Requests and events never share a socket: acknowledgements would appear among the events, and an overrun of the event
queue (ENOBUFS) ends a pyroute2 object for good. Whoever watches events makes a new socket on OSError 105 and re-reads
everything; events are hints.

    async with requests() as ip:
        async for link in await ip.get_links(): ...      # dumps stream: never collect two thousand links into a list

    async with await events(Group.LINK | Group.IPV4_ADDRESS) as ip:
        async for message in ip.get(): ...               # ends after each batch: call it again, forever
"""

from __future__ import annotations

import asyncio  # noqa: F401  it must see the real `ssl`, or none
import contextlib
import importlib.util
import socket
import sys
from collections.abc import Iterator
from enum import IntFlag
from types import ModuleType

from daemon.linux import ports


def _stub_package() -> None:
    """Put an empty `pyroute2` into sys.modules whose submodules can still be imported.

    The real `__init__` imports 337 modules (NDB, ctypes fixtures ...): 60 ms and 5.5 MiB for nothing.
    This is not a promise of pyroute2, so pyproject pins `<0.10` and tests/daemon/linux/test_netlink.py checks it.
    """
    if "pyroute2" in sys.modules:
        return
    spec = importlib.util.find_spec("pyroute2")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("pyroute2 is not installed", name="pyroute2")
    stub = ModuleType("pyroute2")
    stub.__path__ = list(spec.submodule_search_locations)
    stub.__spec__ = spec
    sys.modules["pyroute2"] = stub


@contextlib.contextmanager
def _without(**stubs: ModuleType) -> Iterator[None]:
    """Empty modules in place of real ones while pyroute2 is imported. What is loaded already stays as it is."""
    absent = {name: module for name, module in stubs.items() if sys.modules.get(name) is None}
    before = {name: sys.modules[name] for name in absent if name in sys.modules}
    sys.modules.update(absent)
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
        sys.modules.update(before)


def _empty(name: str, **content: object) -> ModuleType:
    module = ModuleType(name)
    vars(module).update(content)
    return module


_stub_package()

# `unittest.mock` serves one attribute of a class that is not used here, and takes argparse and 6 ms along;
# `ssl` for asking a server as a network probe, and takes OpenSSL and 4 MiB along; `multiprocessing` for namespaces, and
# takes pickle and 1 MiB along.
with _without(
    unittest=_empty("unittest", mock=_empty("unittest.mock", Mock=object)),
    ssl=_empty("ssl"),
    multiprocessing=_empty("multiprocessing", Pipe=None, Queue=None, Process=object, shared_memory=None),
):
    from pyroute2.iproute.linux import AsyncIPRoute
    from pyroute2.netlink.exceptions import NetlinkError

__all__ = ["AsyncIPRoute", "Group", "NetlinkError", "events", "requests"]

SO_RCVBUFFORCE = 33  # asm-generic/socket.h; beyond net.core.rmem_max, needs CAP_NET_ADMIN
EVENT_QUEUE = 8 * 1024 * 1024  # bytes: 12,000 events in one burst fitted, 1 MiB lost 10,000 of them


class Group(IntFlag):
    """Multicast groups worth subscribing to (linux/rtnetlink.h, RTMGRP_*)."""

    LINK = 0x1
    IPV4_ADDRESS = 0x10
    IPV4_ROUTE = 0x40
    IPV4_RULE = 0x80
    IPV6_ADDRESS = 0x100
    IPV6_ROUTE = 0x400
    IPV6_RULE = 0x40000


def requests() -> AsyncIPRoute:
    """A socket for requests, without events. `ext_ack`: errors carry the kernel's own sentence.

    `strict_check`: the kernel applies the filters of a dump instead of ignoring those it does not know.
    """
    ip = AsyncIPRoute(ext_ack=True, strict_check=True)
    ip.socket.bind((0, 0))  # the kernel would do so at the first request; this way the port can be asked for
    ports.remember(socket.NETLINK_ROUTE, ip.socket.getsockname()[0])
    return ip


async def events(groups: Group) -> AsyncIPRoute:
    """A socket that receives the events of `groups` and nothing else. Do not send requests over it."""
    ip = AsyncIPRoute(groups=int(groups))
    try:
        with contextlib.suppress(PermissionError):  # then pyroute2's 1 MiB stays: overruns happen earlier, no harm
            ip.socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, EVENT_QUEUE)
        await ip.bind()
    except BaseException:
        ip.close()
        raise
    return ip
