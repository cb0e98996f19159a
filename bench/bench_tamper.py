"""Somebody with root takes our rules away under 2,000 packets a second: what leaves, and the time until they are back.

Three attacks, each by one program that was ready for it: the whole nftables ruleset, our routing rules of both
families, and both at once (the rules first: nothing holds then). The laptop wants protection and has no server, so not
one packet may leave. The traffic is of sockets that are bound to no link: what is bound to the physical link passes the
routing layer by (lesson L11). Times are from the moment before the attack to the kernel's notice of the last repair, as
read by the benchmark: whatever makes it late makes them longer, never shorter.

The peer is wg-quick with the kill switch of its manual page (PostUp, iptables), under the same attacks and traffic. It
watches nothing, so what leaves within a second is counted, and whether anything is back by then.
Usage: python -m bench.bench_tamper [RUNS]
"""

from __future__ import annotations

import asyncio
import select
import socket
import struct
import sys
import threading
import time
from types import TracebackType

from bench.common import report, title
from daemon.linux.libnftables import LibNft
from daemon.linux.tamper import (
    NETLINK_NETFILTER,
    NFNLGRP_NFTABLES,
    FirewallEvents,
    received,
    routing_events,
    subscribed,
)
from daemon.linux.tamper import RTNLGRP_IPV4_RULE as RULE4
from daemon.linux.tamper import RTNLGRP_IPV6_RULE as RULE6
from lab.flood import flood
from lab.meter import Meter
from lab.processes import LabError
from lab.subject import SETTINGS, Subject
from lab.topology import Laboratory
from policies.firewall import MARK

ATTACKS = ("the firewall", "the routing rules", "both at once")
PEER, PEER_TABLE = "peer0", 51820
PEER_RUNS, PEER_S = 5, 1.0
KILL_SWITCH = (  # wg-quick(8)
    "%s OUTPUT ! -o %%i -m mark ! --mark $(wg show %%i fwmark) -m addrtype ! --dst-type LOCAL -j REJECT"
)
RTM_DELRULE, FRA_TABLE, REQUEST_AND_ACK = 33, 15, 5  # <linux/rtnetlink.h>, <linux/fib_rules.h>, <linux/netlink.h>


class Attacker:
    """A program with root in the laptop, with everything open that it needs."""

    def __init__(self, lab: Laboratory, table: int) -> None:
        self._nft = lab.laptop.inside(LibNft)
        self._routes = lab.laptop.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
        attribute = struct.pack("=HHI", 8, FRA_TABLE, table)
        self._requests = b"".join(
            struct.pack("=IHHII8BI", 36, RTM_DELRULE, REQUEST_AND_ACK, number, 0, family, *[0] * 7, 0) + attribute
            for number, family in enumerate((socket.AF_INET, socket.AF_INET6), 1)
        )

    def strike(self, what: str) -> None:
        """Raises LabError when there was nothing to take away."""
        if what != "the firewall":
            self._routes.send(self._requests)
        if what != "the routing rules":
            asyncio.run(self._nft.run("flush ruleset"))
        for _ in range(2 if what != "the firewall" else 0):
            (error,) = struct.unpack_from("=i", self._routes.recv(4096), 16)
            if error:
                raise LabError(f"the routing rules were not there to be removed (error {-error})")

    def close(self) -> None:
        self._routes.close()


class Notices:
    """The kernel's notices about our table and our rules, with the time each was read."""

    def __init__(self, lab: Laboratory) -> None:
        self._seen: list[tuple[float, str]] = []
        self._sockets = lab.laptop.inside(
            lambda: (
                subscribed(NETLINK_NETFILTER, (NFNLGRP_NFTABLES,)),
                subscribed(socket.NETLINK_ROUTE, (RULE4, RULE6)),
            )
        )
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def __enter__(self) -> Notices:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._end.set()
        self._thread.join()
        for sock in self._sockets:
            sock.close()

    def forget(self) -> None:
        self._seen.clear()

    def repaired_at(self, what: str, timeout: float = 15.0) -> float:
        """When the notice of the last repair of what was removed was read, as time.monotonic(). Raises LabError."""
        wanted = {
            "the firewall": {"table": 2},  # its removal, and its return
            "the routing rules": {"removed": 2, "added": 2},
            "both at once": {"table": 2, "removed": 2, "added": 2},
        }[what]
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            seen, found = list(self._seen), dict.fromkeys(wanted, 0)
            for at, kind in seen:
                found[kind] = found.get(kind, 0) + 1
                if all(found[each] >= count for each, count in wanted.items()):
                    return at
            time.sleep(0.002)
        raise LabError(f"{what}: not repaired: {[kind for _, kind in self._seen]}")

    def _read(self) -> None:
        events = FirewallEvents(lambda protocol, port: True)
        nft, routes = self._sockets
        while not self._end.is_set():
            ready, _, _ = select.select(self._sockets, [], [], 0.1)
            now = time.monotonic()
            if routes in ready:
                for data in received(routes):
                    for touch in routing_events(data, lambda protocol, port: True):
                        self._seen.append((now, touch.what.rpartition(" ")[2]))
            if nft in ready:
                for data in received(nft):
                    self._seen += [(now, "table") for _ in events.take(data)]


def ours(runs: int) -> None:
    settings = SETTINGS.replace('connect_timeout = "4s"', 'connect_timeout = "1s"')
    settings = settings.replace('retry_first = "500ms"', 'retry_first = "5m"').replace('= "2s"', '= "5m"')
    with Laboratory(46) as lab:
        subject = Subject(lab, settings)
        subject.start()
        subject.set_up()
        lab.block_server()
        lab.join("cafe")
        subject.wait(lambda status: status.cause == "server-unreachable", 30)
        attacker = Attacker(lab, MARK)
        with Notices(lab) as notices, lab.meter() as meter, flood(lab) as count:
            for what in ATTACKS:
                leaks, times = [], []
                begun, before = time.monotonic(), count.tried
                for _ in range(runs):
                    leaked, ms = strike(subject, attacker, notices, meter, what)
                    leaks.append(float(leaked))
                    times.append(ms)
                rate = (count.tried - before) / (time.monotonic() - begun)
                goal = "0" if what != "both at once" else ""
                report(f"tunwarden, {what} removed: packets that left", leaks, f"packets at {rate:.0f} a second", goal)
                report(f"tunwarden, {what} removed: back after", times, "ms")
            meter.positive_control()
        attacker.close()


def strike(subject: Subject, attacker: Attacker, notices: Notices, meter: Meter, what: str) -> tuple[int, float]:
    """Packets that left, and the time of the repair in milliseconds."""
    meter.reset()
    notices.forget()
    begun = time.monotonic()
    attacker.strike(what)
    ms = (notices.repaired_at(what) - begun) * 1000
    subject.wait(lambda status: status.blocking and any("Somebody else" in text for text in status.warnings))
    time.sleep(0.1)  # what the daemon has still to read of its own repair
    return len(meter.leaks()), ms


def wg_quick() -> None:
    with Laboratory(47, stand_in=False) as lab:
        lines = [line for line in lab.client_config().splitlines() if not line.startswith("DNS")]
        at = lines.index("") if "" in lines else len(lines)
        switch = [
            f"{when} = {KILL_SWITCH % f'{program} {option}'}"
            for when, option in (("PostUp", "-I"), ("PreDown", "-D"))
            for program in ("iptables", "ip6tables")
        ]
        lab.laptop.write(f"/etc/wireguard/{PEER}.conf", "\n".join(lines[:at] + switch + lines[at:]) + "\n", mode=0o600)
        lab.join("cafe")
        lab.block_server()
        for what in ATTACKS:
            leaks: list[float] = []
            back = 0
            for _ in range(PEER_RUNS):
                leaked, restored = struck(lab, what)
                leaks.append(float(leaked))
                back += restored
            report(f"wg-quick with its kill switch, {what} removed: left within {PEER_S:g} s", leaks, "packets")
            print(
                f"wg-quick with its kill switch, {what} removed: back after {PEER_S:g} s in {back} of {PEER_RUNS} runs"
            )


def struck(lab: Laboratory, what: str) -> tuple[int, bool]:
    """Packets that left within a second, and whether anything that was taken away is back."""
    lab.laptop.run("wg-quick", "up", PEER)
    attacker = Attacker(lab, PEER_TABLE)
    with lab.meter() as meter, flood(lab):
        before = standing(lab)
        attacker.strike(what)
        time.sleep(PEER_S)
        leaked, after = len(meter.leaks()), standing(lab)
        meter.positive_control()
    attacker.close()
    lab.laptop.run("wg-quick", "down", PEER, check=False)  # it complains of what is missing
    lab.laptop.run("ip", "link", "delete", PEER, check=False)
    for family in ("-4", "-6"):
        for rule in (("table", str(PEER_TABLE)), ("table", "main", "suppress_prefixlength", "0")):
            lab.laptop.run("ip", family, "rule", "delete", *rule, check=False)
    lab.laptop.run("nft", "flush", "ruleset")
    return leaked, after == before


def standing(lab: Laboratory) -> tuple[str, ...]:
    """The kill switch's chains and the routing rules."""
    asked = ("iptables -S OUTPUT", "ip6tables -S OUTPUT", "ip rule", "ip -6 rule")
    return tuple(lab.laptop.run(*command.split(), check=False).stdout for command in asked)


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 50
    title(f"{runs} removals each, 2,000 packets a second")
    ours(runs)
    wg_quick()


if __name__ == "__main__":
    main()
