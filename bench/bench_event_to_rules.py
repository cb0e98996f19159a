"""From an event to rules in the kernel: a link that loses its carrier, and an access point that becomes known.

The clock starts when the kernel announces the link (rtnetlink), or when NetworkManager's stand-in is told to publish the
state that makes the access point count; it stops when the kernel announces the new ruleset (NFNLGRP_NFTABLES).
Peer: `nft -f -` as a program, replacing the same table on the same machine.
"""

from __future__ import annotations

import select
import socket
import time
from concurrent.futures import ThreadPoolExecutor

from bench.common import report
from lab.networkmanager_stand_in import IP_CONFIG, WIFI, NetworkManagerStandIn
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory

ROUNDS = 40
NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
RTMGRP_LINK, NFNLGRP_NFTABLES = 1, 7
SOL_NETLINK, NETLINK_ADD_MEMBERSHIP = 270, 1


def drain(sock: socket.socket) -> None:
    while select.select([sock], [], [], 0)[0]:
        sock.recv(1 << 16)


def await_any(sock: socket.socket) -> float:
    """The time of the next message."""
    if not select.select([sock], [], [], 10)[0]:
        raise TimeoutError("the kernel announced nothing")
    return time.monotonic()


class Timed(NetworkManagerStandIn):
    """Notes when the state is published that makes the access point count."""

    published = 0.0

    def _device_state(self, path: str, state: int) -> None:
        if (path, state) == (WIFI, IP_CONFIG):
            self.published = time.monotonic()
        super()._device_state(path, state)


def main() -> None:
    with Laboratory(42, stand_in=False) as lab:
        timed = lab.networkmanager = Timed(lab.laptop)
        timed.start()
        timed.ready(lab.plan.mac("wlan0"), lab.plan.mac("eth0"))
        subject = Subject(lab, SETTINGS)
        subject.start()
        subject.set_up()
        rules = lab.laptop.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        rules.bind((0, 0))
        rules.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, NFNLGRP_NFTABLES)
        links = lab.laptop.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        links.bind((0, RTMGRP_LINK))
        known, gone = [], []
        with rules, links, ThreadPoolExecutor(2) as watchers:
            for _ in range(ROUNDS):
                lab.networkmanager.associating()
                lab.associate(lab.networks["home"])
                subject.wait("held")
                drain(rules)
                timed.associated(lab.networks["home"].point)
                known.append((await_any(rules) - timed.published) * 1000)
                subject.wait("idle")
                drain(rules)
                drain(links)
                begun, done = watchers.submit(await_any, links), watchers.submit(await_any, rules)
                lab.air.ip("link set air-wlan0 down")
                gone.append((done.result() - begun.result()) * 1000)
                lab.leave()
                subject.wait(lambda status: not status.networks)
        text = lab.laptop.run("nft", "list", "table", "inet", "tunwarden").stdout
        peer = []
        for _ in range(ROUNDS):
            begun = time.monotonic()
            lab.laptop.run("nft", "-f", "-", input=f"table inet tunwarden\ndelete table inet tunwarden\n{text}")
            peer.append((time.monotonic() - begun) * 1000)
    a = report("access point published -> rules in the kernel", known, "ms", "10 ms")
    report("carrier lost -> rules in the kernel", gone, "ms", "10 ms")
    b = report("peer: the program nft -f - replacing the same table", peer, "ms")
    print(f"ratio to the peer: {a / b:.2f}")


if __name__ == "__main__":
    main()
