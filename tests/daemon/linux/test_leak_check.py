"""K7: the light check that follows each connect, against real links, with leaks made on purpose."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from daemon.host import HostError
from daemon.linux.leak_check import FILTER, HOPS, Capture, LinuxLeakCheck, _control
from lab.hosts import Host

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[3]
CLOSED = """
table inet closed {
    chain output {
        type filter hook output priority 0; policy drop;
        oifname "lo" accept
        icmpv6 type { nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert, mld2-listener-report } accept
        reject with icmpx admin-prohibited
    }
}
"""
# Whoever makes packets look alike, as tethering tricks do, hides the number of hops.
SAME_HOPS = """
table inet mangle {
    chain postrouting {
        type filter hook postrouting priority mangle
        ip ttl set 64
        meta l4proto != icmpv6 ip6 hoplimit set 64
    }
}
"""
# Whoever sends all traffic to another address hides the target.
OTHER_TARGET = """
table inet nat {
    chain output {
        type nat hook output priority -100
        meta nfproto ipv4 meta l4proto { tcp, udp, icmp } dnat ip to 192.0.2.2
        meta nfproto ipv6 meta l4proto { tcp, udp } dnat ip6 to 2001:db8:1::2
    }
}
"""
ALL = {f"{kind} {way}" for kind in ("UDP", "TCP", "ICMP") for way in ("4", "6", "4 bound", "6 bound")}


@pytest.fixture
def laptop() -> Iterator[Host]:
    """A host with two links that have a router at the other end, and routes of both families over the first."""
    with Host("laptop") as host, Host("router") as router:
        for number in (0, 1):
            host.ip(f"link add name up{number} type veth peer name down{number} netns {router.pid}")
        host.ip(
            "link set lo up", "link set up0 up", "link set up1 up",
            "address add 192.0.2.1/24 dev up0", "address add 2001:db8:1::1/64 dev up0 nodad",
            "address add 198.51.100.1/24 dev up1", "address add 2001:db8:2::1/64 dev up1 nodad",
        )  # fmt: skip
        router.ip(
            "link set down0 up", "link set down1 up",
            "address add 192.0.2.2/24 dev down0", "address add 2001:db8:1::2/64 dev down0 nodad",
        )  # fmt: skip
        host.ip("route add default via 192.0.2.2", "route add default via 2001:db8:1::2")
        for number in (0, 1):  # the kernel announces a carrier a moment later
            while "state UP" not in host.run("ip", "link", "show", f"up{number}").stdout:
                time.sleep(0.01)
        yield host


def check(host: Host, *links: str) -> tuple[str, ...]:
    """The check, in the host's network."""
    return host.inside(lambda: asyncio.run(LinuxLeakCheck().check(links)))


def after(seconds: float, deed: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, deed)
    timer.start()
    return timer


def leaked(sentence: str) -> set[str]:
    """The probes that a sentence names."""
    inside = sentence[sentence.index("(") + 1 : sentence.index(")")]
    found = set()
    for part in inside.split("; "):
        kinds, way = part.split(" over IPv")
        found |= {f"{kind} {way.replace(', bound to the link', ' bound')}" for kind in kinds.split(", ")}
    return found


def test_what_leaves_is_found_with_evidence(laptop: Host) -> None:
    """Nothing blocks: every probe is seen. What is bound to the second link shows there, at least as a question."""
    first, second = sorted(check(laptop, "up0", "up1"))
    assert first.startswith("Test packets left over up0 outside the tunnel")
    assert leaked(first) == ALL
    assert second.startswith("Test packets left over up1 outside the tunnel")
    assert leaked(second) == {"UDP 4 bound", "TCP 4 bound", "ICMP 4 bound"}  # IPv6 has no way there without a route
    evidence = bytes.fromhex(first.rpartition(": ")[2].rstrip("."))
    assert (evidence[0], evidence[8], evidence[9]) == (0x45, HOPS, socket.IPPROTO_UDP)
    assert evidence[16:19] == bytes((203, 0, 113))
    assert b"tunwarden leak check" in evidence


def test_what_is_blocked_is_not_found(laptop: Host) -> None:
    laptop.run("nft", "-f", "-", input=CLOSED)
    assert check(laptop, "up0", "up1") == ()


@pytest.mark.parametrize(
    "hole", ['oifname "up0" meta l4proto tcp', "ip6 hoplimit 1 udp dport 33434", "ip protocol icmp"]
)
def test_a_small_hole_is_found(laptop: Host, hole: str) -> None:
    laptop.run("nft", "-f", "-", input=CLOSED)
    laptop.run("nft", "insert", "rule", "inet", "closed", "output", *hole.split(), "accept")
    found = " ".join(check(laptop, "up0", "up1"))
    kind = {"tcp": "TCP", "3434": "UDP", "icmp": "ICMP"}[hole[-4:].strip()]
    assert kind in found
    assert not {"UDP", "TCP", "ICMP"} - {kind} & set(found.replace(",", "").replace("(", "").split())


@pytest.mark.parametrize("rules", [SAME_HOPS, OTHER_TARGET], ids=["other hops", "other target"])
def test_packets_that_somebody_changes_are_found(laptop: Host, rules: str) -> None:
    """The filter in the kernel must not lose a probe because of one changed field."""
    laptop.run("nft", "-f", "-", input=rules)
    (first, *_) = sorted(check(laptop, "up0"))
    assert {"UDP 4", "TCP 4", "ICMP 4", "UDP 6", "TCP 6"} <= leaked(first)


def test_a_link_that_nobody_named_counts(laptop: Host) -> None:
    """A card that was plugged in after the connection: what leaves over it leaves."""
    found = check(laptop, "up1")
    assert any("over up0" in sentence for sentence in found)


def test_nothing_can_leave_over_what_is_not_there(laptop: Host) -> None:
    laptop.ip("link set up1 down")
    assert check(laptop, "up1", "nowhere") == ()
    assert check(laptop) == ()


def test_a_link_that_cannot_be_watched(laptop: Host) -> None:
    """Its queue swallows everything: the control frame is not seen, so silence would prove nothing."""
    laptop.run("tc", "qdisc", "replace", "dev", "up1", "root", "blackhole")
    with pytest.raises(HostError, match="what leaves over up1 cannot be seen"):
        check(laptop, "up0", "up1")


def test_a_link_that_was_blind_at_first(laptop: Host) -> None:
    """What it let out then, nobody saw: seeing again at the end is not enough."""
    laptop.run("tc", "qdisc", "replace", "dev", "up0", "root", "blackhole")
    sees = after(0.2, lambda: laptop.run("tc", "qdisc", "delete", "dev", "up0", "root"))
    with pytest.raises(HostError, match="what leaves over up0 cannot be seen"):
        check(laptop, "up0")
    sees.join()


def test_a_link_that_vanishes_with_the_control_frame(laptop: Host) -> None:
    async def look() -> None:
        with closing(Capture()) as capture:
            await _control(capture, {"up0": laptop_index, "nowhere": 99})

    laptop_index = laptop.inside(lambda: socket.if_nametoindex("up0"))
    laptop.inside(lambda: asyncio.run(look()))


def test_a_link_that_goes_blind_meanwhile(laptop: Host) -> None:
    blind = after(0.25, lambda: laptop.run("tc", "qdisc", "replace", "dev", "up0", "root", "blackhole"))
    with pytest.raises(HostError, match="what leaves over up0 cannot be seen"):
        check(laptop, "up0")
    blind.join()


@pytest.mark.parametrize("deed", ["link delete up1", "link set up1 down", "link set up1 name gone1"])
def test_a_link_that_vanishes_meanwhile(laptop: Host, deed: str) -> None:
    """The others are judged; the one that is gone lets nothing out any more."""
    laptop.run("nft", "-f", "-", input=CLOSED)
    if "name" in deed:
        laptop.ip("link set up1 down", "link set up1 up")  # the kernel renames running links since 6.2
    gone = after(0.2, lambda: laptop.ip(deed))
    assert check(laptop, "up0", "up1") == ()
    gone.join()
    laptop.run("nft", "flush", "ruleset")
    assert leaked(sorted(check(laptop, "up0", "up1"))[0]) == ALL


def test_twenty_links(laptop: Host) -> None:
    names = [f"more{number}" for number in range(20)]
    laptop.ip(*(f"link add name {name} type veth peer name to-{name}" for name in names))
    laptop.ip(*(f"link set {end}{name} up" for name in names for end in ("", "to-")))
    laptop.ip(*(f"address add 198.51.100.{number + 10}/32 dev {name}" for number, name in enumerate(names)))
    laptop.run("nft", "-f", "-", input=CLOSED)
    assert check(laptop, "up0", *names) == ()
    laptop.run("nft", "flush", "ruleset")
    found = check(laptop, "up0", *names)
    assert {name for name in names if any(f"over {name} outside" in sentence for sentence in found)} == set(names)


def test_a_busy_uplink_does_not_disturb(laptop: Host) -> None:
    """Some thousand other packets leave meanwhile: none is handed to us, so none of ours is lost among them."""
    stop = threading.Event()
    sent = [0]

    def flood() -> None:
        with laptop.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.connect(("192.0.2.2", 9))
            while not stop.is_set():
                try:
                    sender.send(bytes(1400))
                    sent[0] += 1
                except OSError:  # the router says that nobody listens
                    continue

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        found = check(laptop, "up0")
    finally:
        stop.set()
        thread.join()
    assert leaked(found[0]) == ALL
    assert sent[0] > 1000


def test_the_filter(laptop: Host) -> None:
    """What arrives, the loopback and other people's packets stay out; control frames and probes come through."""
    packet = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, bytes((192, 0, 2, 1)), bytes((192, 0, 2, 2)))
    probe = packet[:8] + bytes((HOPS,)) + packet[9:]
    target = packet[:16] + bytes((203, 0, 113, 9))
    frames = [(0x0800, packet), (0x0800, probe), (0x0800, target), (0x88B5, b"other"), (0x0806, b"arp")]

    def run() -> list[tuple[str, int, bytes]]:
        with closing(Capture()) as capture, socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM) as sender:
            capture.frames()
            for ethertype, data in frames:
                for link in ("up0", "lo"):
                    sender.sendto(data, (link, ethertype, 0, 0, b"\xff" * 6))
            deadline = time.monotonic() + 20
            found: list[tuple[str, int, bytes]] = []
            while len(found) < 3 and time.monotonic() < deadline:
                found += [frame for frame in capture.frames() if frame[1:] in frames]
            return found

    assert laptop.inside(run) == [("up0", *frames[1]), ("up0", *frames[2]), ("up0", *frames[4])]
    assert all(max(jt, jf) < len(FILTER) - at - 1 for at, (_, jt, jf, _) in enumerate(FILTER) if jt or jf)


def test_nothing_stays_open(laptop: Host) -> None:
    """Not when the check ends, and not when it is given up in the middle, as a lost tunnel does."""

    async def given_up() -> None:
        task = asyncio.create_task(LinuxLeakCheck().check(["up0"]))
        await asyncio.sleep(0.3)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    check(laptop, "up0")
    before = len(os.listdir("/proc/self/fd"))
    check(laptop, "up0")
    laptop.inside(lambda: asyncio.run(given_up()))
    assert len(os.listdir("/proc/self/fd")) == before


def test_without_the_capability() -> None:
    """It does not pretend to have looked."""
    script = (
        "import asyncio; from daemon.linux.leak_check import LinuxLeakCheck\n"
        "try: print(asyncio.run(LinuxLeakCheck().check(['lo'])))\n"
        "except Exception as err: print(type(err).__name__, err)"
    )
    drop = ("setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw")
    argv = ("unshare", "--net", "sh", "-c", 'ip link set lo up; exec "$@"', "-", *drop, sys.executable, "-c", script)
    ended = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    assert ended.stdout == "HostError check for leaks: the links cannot be watched: Operation not permitted\n"
