"""Traffic that follows the routes, as most programs do: what either layer alone must hold (`lab.traffic` also sends
from sockets bound to a link, which routing alone cannot, see test_lesson_11.py)."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

from lab.addresses import ECHO_PORT, WEB_PORT
from lab.probes import A, dns_query
from lab.topology import Laboratory

PAUSE_S = 0.001


@contextlib.contextmanager
def chatter(lab: Laboratory) -> Iterator[list[int]]:
    """UDP, TCP and DNS of both families from fresh sockets, about a thousand a second; how many were tried so far."""
    tried, stop = [0], threading.Event()
    plan = lab.plan
    udp, tcp = socket.SOCK_DGRAM, socket.SOCK_STREAM
    kinds = [
        (family, kind, str(target), port)
        for family, far, resolver in (
            (socket.AF_INET, plan.internet4, plan.cafe.host4(1)),
            (socket.AF_INET6, plan.internet6, plan.cafe.host6(1)),
        )
        for kind, target, port in ((udp, far, ECHO_PORT), (tcp, far, WEB_PORT), (udp, resolver, 53))
    ]
    payload = dns_query("chatter.test", A)

    def talk() -> None:
        while not stop.wait(PAUSE_S):
            for family, kind, target, port in kinds:
                with socket.socket(family, kind) as sender, contextlib.suppress(OSError):
                    sender.setblocking(False)
                    sender.connect((target, port))
                    sender.send(payload)
                tried[0] += 1

    thread = threading.Thread(target=lambda: lab.laptop.inside(talk))
    thread.start()
    try:
        yield tried
        before = tried[0]
        while tried[0] < before + len(kinds):  # what happened last had its share of traffic too
            time.sleep(PAUSE_S)
    finally:
        stop.set()
        thread.join()
