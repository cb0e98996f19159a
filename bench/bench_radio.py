"""From the air to the rules: a password proven by a real access point -> the link cleared in the kernel, by nl80211.

In the virtual machine of the radio tier, where everything is some 20 times slower than outside: the ratio counts. The
moment of proof is when the kernel calls the port authorised; the moment of the rules is the last nftables transaction
before the daemon says that the network is cleared. Peer in the same run: the daemon's own rules for a known network,
given to libnftables and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable

from bench.common import report, title

INSIDE = "TUNWARDEN_RADIO"
ROUNDS = 21
TIME_LIMIT = 240.0  # seconds, for one round
NETLINK_NETFILTER, NFNLGRP_NFTABLES, NEWGEN = 12, 7, 0x0A0F  # <linux/netfilter/nfnetlink.h>, <nf_tables.h>
SETTINGS = """\
version = 1

[portal]
detect = false

[[known]]
ssid = "Home"
security = "wpa2"
action = "disconnect"
"""


class Transactions:
    """When the kernel told of each nftables transaction, by the monotonic clock."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self._ear = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
        self._ear.setsockopt(socket.SOL_SOCKET, 33, 4 << 20)  # SO_RCVBUFFORCE
        self._ear.bind((0, 0))
        self._ear.setsockopt(270, 1, NFNLGRP_NFTABLES)  # SOL_NETLINK, NETLINK_ADD_MEMBERSHIP
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self) -> None:
        while True:
            data = self._ear.recv(1 << 18)
            if int.from_bytes(data[4:6], sys.byteorder) == NEWGEN:
                self.times.append(time.monotonic())


def when(done: Callable[[], bool], timeout: float = TIME_LIMIT) -> float:
    deadline = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < deadline, "it took too long"
    return time.monotonic()


def inside() -> None:
    from daemon.linux import nl80211, rtnetlink
    from daemon.linux.libnftables import LibNft
    from daemon.linux.nft_render import render
    from lab.radio.laboratory import RadioLaboratory, RadioSubject
    from lab.radio.managers import Supplicant
    from lab.radio.networks import ACCESS_POINTS
    from policies.firewall import FirewallPolicy
    from policies.states import Phase

    with RadioLaboratory() as lab:
        subject = RadioSubject(lab, SETTINGS)
        subject.start()
        lab.load()
        transactions = Transactions()
        took, roams = [], []
        with Supplicant(lab) as supplicant, rtnetlink.open_socket(nl80211.NETLINK_GENERIC) as sock:
            family = nl80211.find_family(sock)
            assert family is not None
            ifindex = socket.if_nametoindex("wlan0")

            def authorised() -> bool:
                stations = list(nl80211._dump(sock, family, nl80211.GET_STATION, ifindex))
                return any(nl80211._authorised(station) for station in stations)

            def cleared() -> bool:
                networks = subject.status().networks
                return bool(networks) and all(network.cleared for network in networks)

            def measured() -> float:
                proven = when(authorised)
                subject.wait(lambda _: cleared(), TIME_LIMIT)
                return (transactions.times[-1] - proven) * 1e3

            for _ in range(ROUNDS):
                supplicant.ask("wpa2")
                took.append(measured())
                supplicant.leave()
                subject.wait(lambda status: not status.networks, TIME_LIMIT)
            here, there = (point for point, (_, names) in ACCESS_POINTS.items() if "wpa2" in names)
            supplicant.join("wpa2")
            supplicant.roam(there, "wpa2")
            for at in range(ROUNDS):
                supplicant.ask_to_roam(there if at % 2 else here, "wpa2")
                when(lambda: not authorised())
                roams.append(measured())

        text = str(render(FirewallPolicy(Phase.IDLE))).replace("tunwarden", "bench")

        async def bare() -> list[float]:
            library, values = LibNft(), []
            for _ in range(ROUNDS):
                begun = time.monotonic()
                await library.run(text)
                values.append((time.monotonic() - begun) * 1e3)
            return values

        peer = report("  peer: the bare transaction", asyncio.run(bare()), "ms")
        for what, values in (("password proven -> cleared", took), ("the same after a roam", roams)):
            report(what, values, "ms, 20 times slower than outside")
            print(f"  ratio {statistics.median(values) / peer:.1f}")


def main() -> None:
    if INSIDE in os.environ:
        inside()
        return
    from lab.radio.machine import RadioMachine, why_no_machine

    title("Wi-Fi on the air (in the virtual machine)")
    if why := why_no_machine():
        print(f"left out: {why}")
        return
    with RadioMachine(f"export {INSIDE}=1; python3 -m bench.bench_radio") as machine:
        status = machine.wait(3600)
        print(machine.read("output"), end="")
    sys.exit(status)


if __name__ == "__main__":
    main()
