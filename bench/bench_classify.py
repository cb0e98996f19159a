"""What a beacon costs until its verdict: parsing, and classifying among 10,000 known networks.

Beside it: scapy, which takes the same bytes apart (its 802.11 elements, RSN and WPA included), and looking at each
known network in turn, which is what a client with a list of names does.
"""

from __future__ import annotations

import fnmatch
import itertools
import logging
import random
import time
from collections.abc import Callable, Sequence

from bench.common import report, title
from bench.fuzz_elements import SEEDS
from policies.classify import classify
from policies.elements import PRIVACY, parse
from policies.facts import Security, WifiNetwork
from policies.known import Names, names
from policies.known_network import KnownNetwork
from policies.settings import Settings
from policies.settings_tables import WifiAction

logging.getLogger("scapy").setLevel(logging.ERROR)
KNOWN, ROUNDS, PER_ROUND = 10_000, 11, 400


def microseconds(work: Callable[[], object], times: int) -> float:
    """Of one call."""
    began = time.perf_counter_ns()
    for _ in itertools.repeat(None, times):
        work()
    return (time.perf_counter_ns() - began) / times / 1000


def compared(
    what: str, ours: Callable[[], object], peer_name: str, peer: Callable[[], object], goal: float, divisor: int = 1
) -> None:
    """Both in turn, so that what else the machine does meets both. `divisor`: how many things one call does."""
    fast, slow = [], []
    for _ in range(ROUNDS):
        fast.append(microseconds(ours, max(PER_ROUND // divisor if goal < 1000 else 1, 1)) / divisor)
        slow.append(microseconds(peer, 1) / divisor)
    mine = report(what, fast, "us", f"{goal:g} us")
    theirs = report(f"  {peer_name}", slow, "us")
    print(f"  ratio: {theirs / mine:.1f} times ours", flush=True)


def beacons() -> None:
    from scapy.layers.dot11 import Dot11Elt

    elements = [seed[4:] for seed in SEEDS]

    def ours() -> None:
        for each in elements:
            parse(each, PRIVACY)

    def scapys() -> None:
        for each in elements:
            Dot11Elt(each)

    compared("one beacon parsed", ours, "scapy", scapys, 15, len(elements))
    largest = elements[-1] + b"\xdd\x05\x00\x10\x18\x02\x00" * 303
    report(f"a beacon with {len(largest)} bytes of elements, as large as there can be", [
        microseconds(lambda: parse(largest, PRIVACY), 20) for _ in range(ROUNDS)
    ], "us")  # fmt: skip


def entries(kind: str) -> tuple[KnownNetwork, ...]:
    """Ten thousand of a kind, such as a company with many sites would have."""
    action, office = WifiAction.AUTO_CONNECT, Security.ENTERPRISE
    match kind:
        case "names":
            return tuple(KnownNetwork(ssid=b"Network %d" % number) for number in range(KNOWN))
        case "patterns":
            return tuple(
                KnownNetwork(ssid=b"Site %d-*" % number, pattern=True, minimum_security=office)
                for number in range(KNOWN)
            )
        case "patterns with exceptions":
            return tuple(
                KnownNetwork(
                    ssid=b"Site %d-*" % number, pattern=True, action=action, exceptions=(b"*-Guest", b"*-Lab?")
                )
                for number in range(KNOWN)
            )
        case _:  # nothing to look up by: the worst there is
            return tuple(KnownNetwork(ssid=b"*%d*" % number, pattern=True, action=action) for number in range(KNOWN))


def known(kind: str, asked: Sequence[bytes], goal: float) -> None:
    settings = Settings(known=entries(kind))
    networks = [WifiNetwork(name, b"\x02\0\0\0\0\1", Security.WPA2) for name in asked]
    for network in networks:
        classify(network, settings)

    def ours() -> None:
        for network in networks:
            classify(network, settings)

    def each_in_turn() -> None:
        for network in networks:
            text = network.ssid.decode()
            next((one for one in settings.known if fnmatch.fnmatchcase(text, one.ssid.decode())), None)

    compared(f"classified, {KNOWN} {kind}", ours, "each in turn, fnmatch", each_in_turn, goal, len(networks))
    report("  making the index, once for each change", [
        microseconds(lambda: Names(settings.known), 1) / 1000 for _ in range(5)
    ], "ms")  # fmt: skip
    assert names(settings.known) is names(settings.known)


def main() -> None:
    title("elements of beacons, and the verdict")
    beacons()
    rng = random.Random(4)
    numbers = [rng.randrange(KNOWN) for _ in range(9)]
    known("names", [*(b"Network %d" % number for number in numbers), b"a stranger's"], 50)
    known("patterns", [*(b"Site %d-Berlin" % number for number in numbers), b"a stranger's"], 50)
    known("patterns with exceptions", [*(b"Site %d-Guest" % number for number in numbers), b"a stranger's"], 50)
    known("patterns without a beginning or an end", [b"a stranger's", b"x1234x"], 5_000)


if __name__ == "__main__":
    main()
