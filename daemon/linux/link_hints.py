"""rtnetlink events as hints: something may have changed. What an event says is never read: the kernel is asked instead.

So a flood of events costs no memory, and one that was lost costs nothing but another look.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncGenerator

import structlog

log = structlog.get_logger()

RTMGRP_LINK = 0x1  # <linux/rtnetlink.h>
SO_RCVBUFFORCE = 33  # <asm-generic/socket.h>
EVENT_QUEUE = 8 * 1024 * 1024  # bytes; 12,000 events in one burst fit
MOST_AT_ONCE = 1000  # events, before others get their turn


async def hints(groups: int, queue: int = EVENT_QUEUE) -> AsyncGenerator[None, None]:
    """Yields at once and then whenever something happened in `groups` (RTMGRP_*). Never ends. `queue`: bytes.

    All events that wait are taken together, the first is not delayed. An overrun (ENOBUFS) means lost events: a new
    socket takes over before the reader is told to look again.
    """
    loop = asyncio.get_running_loop()
    events: socket.socket | None = None
    delay = 0.1
    try:
        while True:
            try:
                if events is None:
                    events = _subscribe(groups, queue)  # before the yield: later changes are events
                else:
                    await loop.sock_recv(events, 1)  # a datagram is taken whole, its rest is dropped
                    if not _drain(events):
                        await asyncio.sleep(0)  # under a flood others get their turn
                delay = 0.1
            except OSError as err:
                log.warning("rtnetlink events lost, reading everything again", error=err.strerror)
                if events is not None:
                    events.close()
                    events = None
                if err.errno != errno.ENOBUFS:
                    await asyncio.sleep(delay)
                    delay = min(2 * delay, 5.0)
                continue
            yield
    finally:
        if events is not None:
            events.close()


def _subscribe(groups: int, queue: int) -> socket.socket:
    """A socket for these events and nothing else. Raises OSError."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    try:
        sock.setblocking(False)
        sock.bind((0, groups))
        try:
            sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, queue)
        except PermissionError:  # without CAP_NET_ADMIN up to net.core.rmem_max: overruns come earlier, no harm
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, queue)
    except BaseException:
        sock.close()
        raise
    return sock


def _drain(sock: socket.socket) -> bool:
    """Drop waiting events; False when there were more. Raises OSError on an overrun."""
    for _ in range(MOST_AT_ONCE):
        try:
            sock.recv(1)
        except BlockingIOError:
            return True
    return False
