"""A steady stream of datagrams from the laptop, for what lasts milliseconds: `with flood(lab) as count: ...`."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from lab.addresses import ECHO_PORT
from lab.topology import Laboratory

PERIOD_S = 0.001  # between two datagrams of one family: 2,000 a second in all


class Count:
    """How many were tried, refused ones included."""

    def __init__(self) -> None:
        self.tried = 0


@contextlib.contextmanager
def flood(lab: Laboratory) -> Iterator[Count]:
    """Some 2,000 datagrams a second to the internet, IPv4 and IPv6 by turns, from sockets that are bound to no link.

    What is late is made up for, up to a tenth of a second.
    """
    count, stop = Count(), threading.Event()
    senders = [
        (lab.laptop.socket(family, socket.SOCK_DGRAM), (str(target), ECHO_PORT))
        for family, target in ((socket.AF_INET, lab.plan.internet4), (socket.AF_INET6, lab.plan.internet6))
    ]

    def run() -> None:
        due = time.monotonic()
        while not stop.is_set():
            for sender, target in senders:
                with contextlib.suppress(OSError):
                    sender.sendto(b"flood", target)
                count.tried += 1
            due = max(due + PERIOD_S, time.monotonic() - 0.1)
            time.sleep(max(0.0, due - time.monotonic()))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield count
    finally:
        stop.set()
        thread.join()
        for sender, _ in senders:
            sender.close()
