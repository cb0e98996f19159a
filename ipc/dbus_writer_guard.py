"""A guard around dbus-fast's writer, which takes a full socket for a broken one.

`_MessageWriter.write_callback` (dbus-fast 5.2.0) treats every exception of `send` as the end of the connection, and
EAGAIN is one: a client that pipelines 500 calls with 30 kB replies, or a few hundred signals in one turn of the loop,
would disconnect the service. When `send` says instead that nothing was sent, the writer waits until there is room.
`tests/ipc/test_dbus_flood.py` fails without this.
"""

from __future__ import annotations

import socket
from typing import Protocol, cast

from dbus_fast.aio import MessageBus


class _Sender:
    """The part of a socket that the writer uses."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def send(self, data: bytes | memoryview) -> int:
        try:
            return self._sock.send(data)
        except BlockingIOError:
            return 0

    # sendmsg is missing on purpose: it passes file descriptors, which we never negotiate.


class _Writer(Protocol):
    sock: socket.socket | _Sender


def guard(bus: MessageBus) -> None:
    """Make a connected bus survive a full socket."""
    assert bus._writer is not None
    assert bus._sock is not None
    cast(_Writer, bus._writer).sock = _Sender(bus._sock)
